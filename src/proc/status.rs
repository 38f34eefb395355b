//! `/proc/PID/status`: a task in words.

use super::text::{Line, ParseError, lines};

/// What `/proc/PID/status` (or `/proc/PID/task/TID/status`) tells of a task, as far as it goes
/// into images or decides about them.
///
/// Signal sets have bit n - 1 for signal n; capability sets bit n for capability n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name (`comm`), up to 15 bytes of any kind.
    pub name: Vec<u8>,
    /// The file mode creation mask; `None` for a task that has no working folder any more.
    pub umask: Option<u32>,
    /// The process, in the pid namespace of the `/proc` that was read.
    pub process: i32,
    /// The thread.
    pub tid: i32,
    /// The tracing task, 0 for none.
    pub tracer: i32,
    /// User ids.
    pub uids: CredentialIds,
    /// Group ids.
    pub gids: CredentialIds,
    /// Slots of the descriptor table: it grows and never shrinks.
    pub descriptor_slots: u32,
    /// Supplementary groups, ascending.
    pub groups: Vec<u32>,
    /// The tid in each pid namespace from that of `/proc` inwards; since Linux 4.1.
    pub tid_in_namespaces: Vec<i32>,
    /// Whether it is a kernel thread; since Linux 6.8.
    pub is_kernel_thread: Option<bool>,
    /// Whether transparent huge pages are allowed; only with an address space, since Linux 5.0.
    pub huge_pages_allowed: Option<bool>,
    /// Private memory in frames and in swap, in KiB.
    pub private_kib: u64,
    /// Locked into memory (`mlock`), in KiB.
    pub locked_kib: u64,
    /// Threads of the process.
    pub threads: u32,
    /// Signals pending for this thread.
    pub signals_pending: u64,
    /// Signals pending for the process.
    pub signals_shared_pending: u64,
    /// Signals blocked.
    pub signals_blocked: u64,
    /// Signals ignored.
    pub signals_ignored: u64,
    /// Signals with a handler.
    pub signals_caught: u64,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Whether exec may no longer grant privileges.
    pub no_new_privileges: bool,
    /// How system calls are filtered.
    pub seccomp: Seccomp,
    /// Filters in force; since Linux 5.9.
    pub seccomp_filters: Option<u32>,
}

/// The four ids of one kind that a task has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CredentialIds {
    /// Real.
    pub real: u32,
    /// Effective.
    pub effective: u32,
    /// Saved.
    pub saved: u32,
    /// For access to files.
    pub filesystem: u32,
}

/// The five capability sets of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Kept over exec of a file that has them, too.
    pub inheritable: u64,
    /// May be made effective.
    pub permitted: u64,
    /// In force.
    pub effective: u64,
    /// The most that exec can grant.
    pub bounding: u64,
    /// Kept over exec of any file.
    pub ambient: u64,
}

/// A seccomp mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// Not filtered.
    #[default]
    Disabled,
    /// Only read, write, exit and sigreturn.
    Strict,
    /// Filtered by programs.
    Filter,
    /// Ended by strict mode or a filter; only what is left of the task shows this.
    Dead,
}

/// Parses the content of a `status` file.
///
/// Lines it does not know are passed over: every other kernel adds some.
///
/// # Errors
/// A line that is missing although the kernel always writes it; a value that is not what the
/// kernel documents.
///
/// # Sources
/// proc_pid_status(5); fs/proc/array.c, `proc_pid_status`.
pub fn parse_status(text: &[u8]) -> Result<Status, ParseError> {
    let mut found = Found::default();
    for mut line in lines(text) {
        let key = line.until(b':', "a key and a colon")?;
        found.take(key, &mut line)?;
    }
    found.complete()
}

/// The lines met so far.
#[derive(Default)]
struct Found {
    name: Option<Vec<u8>>,
    umask: Option<u32>,
    process: Option<i32>,
    tid: Option<i32>,
    tracer: Option<i32>,
    uids: Option<CredentialIds>,
    gids: Option<CredentialIds>,
    descriptor_slots: Option<u32>,
    groups: Option<Vec<u32>>,
    tid_in_namespaces: Vec<i32>,
    is_kernel_thread: Option<bool>,
    huge_pages_allowed: Option<bool>,
    private_kib: u64,
    locked_kib: u64,
    threads: Option<u32>,
    signals_pending: Option<u64>,
    signals_shared_pending: Option<u64>,
    signals_blocked: Option<u64>,
    signals_ignored: Option<u64>,
    signals_caught: Option<u64>,
    inheritable: Option<u64>,
    permitted: Option<u64>,
    effective: Option<u64>,
    bounding: Option<u64>,
    ambient: Option<u64>,
    no_new_privileges: Option<bool>,
    seccomp: Seccomp,
    seccomp_filters: Option<u32>,
}

impl Found {
    fn take(&mut self, key: &[u8], line: &mut Line<'_>) -> Result<(), ParseError> {
        match key {
            b"Name" => {
                self.name = Some(name(line.rest().strip_prefix(b"\t").unwrap_or(line.rest())));
                return Ok(());
            }
            b"Umask" => self.umask = Some(line.convert("an octal mask", octal)?),
            b"Tgid" => self.process = Some(line.signed("a pid")?),
            b"Pid" => self.tid = Some(line.signed("a tid")?),
            b"TracerPid" => self.tracer = Some(line.signed("a pid")?),
            b"Uid" => self.uids = Some(four(line, "four user ids")?),
            b"Gid" => self.gids = Some(four(line, "four group ids")?),
            b"FDSize" => self.descriptor_slots = Some(line.unsigned("a table size")?),
            b"Groups" => self.groups = Some(all(line, |line| line.unsigned("a group"))?),
            b"NSpid" => self.tid_in_namespaces = all(line, |line| line.signed("a tid"))?,
            b"Kthread" => self.is_kernel_thread = Some(flag(line)?),
            b"THP_enabled" => self.huge_pages_allowed = Some(flag(line)?),
            b"RssAnon" | b"VmSwap" => {
                self.private_kib += line.unsigned::<u64>("a size")?;
                line.skip(1, "a unit")?;
            }
            b"VmLck" => {
                self.locked_kib = line.unsigned("a size")?;
                line.skip(1, "a unit")?;
            }
            b"Threads" => self.threads = Some(line.unsigned("a count")?),
            b"SigPnd" => self.signals_pending = Some(set(line)?),
            b"ShdPnd" => self.signals_shared_pending = Some(set(line)?),
            b"SigBlk" => self.signals_blocked = Some(set(line)?),
            b"SigIgn" => self.signals_ignored = Some(set(line)?),
            b"SigCgt" => self.signals_caught = Some(set(line)?),
            b"CapInh" => self.inheritable = Some(set(line)?),
            b"CapPrm" => self.permitted = Some(set(line)?),
            b"CapEff" => self.effective = Some(set(line)?),
            b"CapBnd" => self.bounding = Some(set(line)?),
            b"CapAmb" => self.ambient = Some(set(line)?),
            b"NoNewPrivs" => self.no_new_privileges = Some(flag(line)?),
            b"Seccomp" => self.seccomp = line.convert("a seccomp mode", seccomp)?,
            b"Seccomp_filters" => self.seccomp_filters = Some(line.unsigned("a count")?),
            _ => return Ok(()),
        }
        line.end()
    }

    fn complete(self) -> Result<Status, ParseError> {
        Ok(Status {
            name: self.name.ok_or_else(|| missing("Name"))?,
            umask: self.umask,
            process: self.process.ok_or_else(|| missing("Tgid"))?,
            tid: self.tid.ok_or_else(|| missing("Pid"))?,
            tracer: self.tracer.ok_or_else(|| missing("TracerPid"))?,
            uids: self.uids.ok_or_else(|| missing("Uid"))?,
            gids: self.gids.ok_or_else(|| missing("Gid"))?,
            descriptor_slots: self.descriptor_slots.ok_or_else(|| missing("FDSize"))?,
            groups: self.groups.ok_or_else(|| missing("Groups"))?,
            tid_in_namespaces: self.tid_in_namespaces,
            is_kernel_thread: self.is_kernel_thread,
            huge_pages_allowed: self.huge_pages_allowed,
            private_kib: self.private_kib,
            locked_kib: self.locked_kib,
            threads: self.threads.ok_or_else(|| missing("Threads"))?,
            signals_pending: self.signals_pending.ok_or_else(|| missing("SigPnd"))?,
            signals_shared_pending: self
                .signals_shared_pending
                .ok_or_else(|| missing("ShdPnd"))?,
            signals_blocked: self.signals_blocked.ok_or_else(|| missing("SigBlk"))?,
            signals_ignored: self.signals_ignored.ok_or_else(|| missing("SigIgn"))?,
            signals_caught: self.signals_caught.ok_or_else(|| missing("SigCgt"))?,
            capabilities: Capabilities {
                inheritable: self.inheritable.ok_or_else(|| missing("CapInh"))?,
                permitted: self.permitted.ok_or_else(|| missing("CapPrm"))?,
                effective: self.effective.ok_or_else(|| missing("CapEff"))?,
                bounding: self.bounding.ok_or_else(|| missing("CapBnd"))?,
                ambient: self.ambient.ok_or_else(|| missing("CapAmb"))?,
            },
            no_new_privileges: self
                .no_new_privileges
                .ok_or_else(|| missing("NoNewPrivs"))?,
            seccomp: self.seccomp,
            seccomp_filters: self.seccomp_filters,
        })
    }
}

fn missing(key: &'static str) -> ParseError {
    ParseError::new(0, key, b"no such line")
}

/// What the kernel has escaped, so that a newline in a name fakes no line.
fn name(escaped: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                other => other.copied().unwrap_or(b'\\'),
            },
            byte => *byte,
        });
    }
    name
}

fn octal(word: &[u8]) -> Option<u32> {
    u32::try_from(super::text::unsigned(word, 8)?).ok()
}

fn seccomp(word: &[u8]) -> Option<Seccomp> {
    match word {
        b"0" => Some(Seccomp::Disabled),
        b"1" => Some(Seccomp::Strict),
        b"2" => Some(Seccomp::Filter),
        b"3" => Some(Seccomp::Dead),
        _ => None,
    }
}

fn flag(line: &mut Line<'_>) -> Result<bool, ParseError> {
    line.convert("0 or 1", |word| match word {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    })
}

fn set(line: &mut Line<'_>) -> Result<u64, ParseError> {
    line.hex("a set of bits")
}

fn four(line: &mut Line<'_>, expected: &'static str) -> Result<CredentialIds, ParseError> {
    Ok(CredentialIds {
        real: line.unsigned(expected)?,
        effective: line.unsigned(expected)?,
        saved: line.unsigned(expected)?,
        filesystem: line.unsigned(expected)?,
    })
}

fn all<T>(
    line: &mut Line<'_>,
    mut next: impl FnMut(&mut Line<'_>) -> Result<T, ParseError>,
) -> Result<Vec<T>, ParseError> {
    let mut values = Vec::new();
    while !line.is_empty() {
        values.push(next(line)?);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\ta\\nPid:\t1) (\nUmask:\t0027\nState:\tt (tracing stop)\nTgid:\t41\n\
        Ngid:\t0\nPid:\t42\nPPid:\t1\nTracerPid:\t77\nUid:\t1\t2\t3\t4294967295\n\
        Gid:\t5\t6\t7\t8\nFDSize:\t256\nGroups:\t4 20 4294967294 \nNStgid:\t41\t3\n\
        NSpid:\t42\t7\t2\nNSpgid:\t41\nNSsid:\t1\nKthread:\t0\nVmPeak:\t    3060 kB\n\
        VmLck:\t       8 kB\n\
        RssAnon:\t     300 kB\nVmSwap:\t      45 kB\n\
        CoreDumping:\t0\nTHP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\nThreads:\t2\n\
        SigQ:\t0/96365\nSigPnd:\t0000000000000001\nShdPnd:\t8000000000000000\n\
        SigBlk:\t0000000000000004\nSigIgn:\t0000000000001000\nSigCgt:\t0000000180014a07\n\
        CapInh:\t0000000000000010\nCapPrm:\t000001fffeffffff\nCapEff:\t000001fffefffffe\n\
        CapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000020\nNoNewPrivs:\t1\nSeccomp:\t2\n\
        Seccomp_filters:\t3\nSpeculation_Store_Bypass:\tvulnerable\n\
        Invented_tomorrow:\tx: y\nvoluntary_ctxt_switches:\t0\n";

    fn without(key: &str) -> String {
        let keep = |line: &&str| !line.starts_with(&format!("{key}:"));
        TEXT.split_inclusive('\n').filter(keep).collect()
    }

    #[test]
    fn every_line_lands_in_its_field() {
        let expected = Status {
            name: b"a\nPid:\t1) (".to_vec(),
            umask: Some(0o27),
            process: 41,
            tid: 42,
            tracer: 77,
            uids: CredentialIds {
                real: 1,
                effective: 2,
                saved: 3,
                filesystem: u32::MAX,
            },
            gids: CredentialIds {
                real: 5,
                effective: 6,
                saved: 7,
                filesystem: 8,
            },
            descriptor_slots: 256,
            groups: vec![4, 20, 4_294_967_294],
            tid_in_namespaces: vec![42, 7, 2],
            is_kernel_thread: Some(false),
            huge_pages_allowed: Some(true),
            private_kib: 345,
            locked_kib: 8,
            threads: 2,
            signals_pending: 1,
            signals_shared_pending: 1 << 63,
            signals_blocked: 4,
            signals_ignored: 0x1000,
            signals_caught: 0x1_8001_4a07,
            capabilities: Capabilities {
                inheritable: 0x10,
                permitted: 0x1ff_feff_ffff,
                effective: 0x1ff_feff_fffe,
                bounding: 0x1ff_feff_ffff,
                ambient: 0x20,
            },
            no_new_privileges: true,
            seccomp: Seccomp::Filter,
            seccomp_filters: Some(3),
        };
        assert_eq!(parse_status(TEXT.as_bytes()), Ok(expected));
    }

    #[test]
    fn older_kernels_and_zombies_have_fewer_lines() {
        for key in [
            "Umask",
            "NSpid",
            "Kthread",
            "THP_enabled",
            "Seccomp",
            "Seccomp_filters",
        ] {
            let text = without(key);
            assert!(text.len() < TEXT.len());
            assert!(parse_status(text.as_bytes()).is_ok(), "{key}");
        }
    }

    #[test]
    fn a_missing_line_is_named() {
        for key in [
            "Tgid",
            "Pid",
            "TracerPid",
            "Uid",
            "Gid",
            "FDSize",
            "Groups",
            "Threads",
            "SigPnd",
            "ShdPnd",
            "SigBlk",
            "SigIgn",
            "SigCgt",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
        ] {
            let error = parse_status(without(key).as_bytes()).unwrap_err();
            assert_eq!((error.line, error.expected), (0, key));
        }
    }

    #[test]
    fn no_groups_is_an_empty_list() {
        let text = TEXT.replace("4 20 4294967294 ", " ");
        assert!(parse_status(text.as_bytes()).unwrap().groups.is_empty());
    }

    #[test]
    fn strange_values_are_refused_with_their_line() {
        for (good, bad) in [
            ("0027", "0089"),
            ("Tgid:\t41", "Tgid:\t41 2"),
            ("1\t2\t3\t4294967295", "1\t2\t3"),
            ("Seccomp:\t2", "Seccomp:\t4"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\tyes"),
            ("SigIgn:\t00000", "SigIgn:\txyz"),
        ] {
            let text = TEXT.replacen(good, bad, 1);
            assert_ne!(text, TEXT);
            let before = &TEXT[..TEXT.find(good).unwrap()];
            let line = 1 + before.matches('\n').count();
            assert_eq!(
                parse_status(text.as_bytes()).unwrap_err().line,
                line,
                "{bad}"
            );
        }
    }
}
