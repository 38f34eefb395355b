//! `/proc/PID/fdinfo/FD`: what the kernel tells of a descriptor.

use super::text::ParseError;

/// One target of an epoll, as a `tfd:` line describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpollLine {
    /// The number under which it was added.
    pub fd: i32,
    /// `EPOLL*` bits.
    pub events: u32,
    /// The caller's value.
    pub data: u64,
    /// Position of the file.
    pub position: u64,
    /// Its inode.
    pub inode: u64,
    /// Its device, in kernel encoding.
    pub device: u32,
}

/// The setting of a timerfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerfdLines {
    /// `CLOCK_*`.
    pub clock: u32,
    /// Expirations nobody has read yet.
    pub ticks: u64,
    /// `TFD_TIMER_*` of the last setting.
    pub settime_flags: u32,
    /// Time left: seconds, nanoseconds.
    pub value: (u64, u64),
    /// Period: seconds, nanoseconds.
    pub interval: (u64, u64),
}

impl TimerfdLines {
    /// Whether it is periodic and stands still until somebody asks for what it has counted.
    #[must_use]
    pub fn is_due(self) -> bool {
        self.value == (0, 0) && self.interval != (0, 0)
    }
}

/// A file by the handle that `name_to_handle_at(2)` gives, as `fhandle-` fields describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandleFields {
    /// The type of the handle.
    pub kind: u32,
    /// The handle itself.
    pub bytes: Vec<u8>,
}

/// A watch of an inotify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InotifyLine {
    /// Its number.
    pub watch: u32,
    /// The inode that is watched.
    pub inode: u64,
    /// Its device, in kernel encoding.
    pub device: u32,
    /// `IN_*` bits.
    pub mask: u32,
    /// Bits that are ignored.
    pub ignored_mask: u32,
    /// The file.
    pub handle: HandleFields,
}

/// What a mark of a fanotify is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FanotifyTarget {
    /// One file.
    Inode {
        /// Its inode.
        inode: u64,
        /// Its device, in kernel encoding.
        device: u32,
        /// The file.
        handle: HandleFields,
    },
    /// A mount.
    Mount {
        /// The number that `mountinfo` gives it.
        mount: u32,
    },
    /// A whole file system.
    FileSystem {
        /// Its device, in kernel encoding.
        device: u32,
    },
}

/// A mark of a fanotify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanotifyLine {
    /// What it is on.
    pub target: FanotifyTarget,
    /// `FAN_MARK_*` bits.
    pub flags: u32,
    /// Events.
    pub mask: u32,
    /// Events that are ignored.
    pub ignored_mask: u32,
}

/// What fdinfo tells of a fanotify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FanotifyLines {
    /// Flags of `fanotify_init(2)`.
    pub flags: u32,
    /// Open flags of the files in its events.
    pub event_flags: u32,
    /// Its marks.
    pub marks: Vec<FanotifyLine>,
}

/// What a kind of file adds to the common lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// `eventfd-count`.
    pub eventfd_count: Option<u64>,
    /// `eventfd-id`: a number no other eventfd has, since Linux 5.2.
    pub eventfd_id: Option<u64>,
    /// `eventfd-semaphore`, since Linux 6.5.
    pub eventfd_semaphore: bool,
    /// `sigmask` of a signalfd, bit n-1 for signal n.
    pub sigmask: Option<u64>,
    /// Targets of an epoll.
    pub epoll: Vec<EpollLine>,
    /// A timerfd.
    pub timerfd: Option<TimerfdLines>,
    /// Watches of an inotify.
    pub inotify: Vec<InotifyLine>,
    /// A fanotify.
    pub fanotify: Option<FanotifyLines>,
    /// The process that a pidfd names, in our pid namespace; -1 for one that was reaped.
    pub pid: Option<i32>,
    /// `lock:` lines, as they are.
    pub locks: Vec<Vec<u8>>,
    /// Lines of other kinds, as they are.
    pub others: Vec<Vec<u8>>,
}

/// The content of a fdinfo file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fdinfo {
    /// Position in bytes.
    pub position: u64,
    /// Open flags, `O_CLOEXEC` being that of the descriptor.
    pub flags: u32,
    /// The mount it was opened on.
    pub mount: u64,
    /// The inode, since Linux 5.14.
    pub inode: Option<u64>,
    /// What depends on the kind of file.
    pub extras: Extras,
}

/// Parses the content of a fdinfo file.
///
/// # Errors
/// A missing `pos`, `flags` or `mnt_id`, or a value that is no number.
///
/// # Sources
/// proc_pid_fdinfo(5); fs/proc/fd.c, fs/eventfd.c, fs/eventpoll.c, fs/signalfd.c, fs/timerfd.c.
pub fn parse_fdinfo(text: &[u8]) -> Result<Fdinfo, ParseError> {
    let mut info = Fdinfo::default();
    let (mut has_flags, mut has_mount) = (false, false);
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (key, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let number = |radix: u32, what: &'static str| {
            unsigned(value, radix).ok_or_else(|| ParseError::new(index + 1, what, line))
        };
        let extras = &mut info.extras;
        match key {
            b"pos" => info.position = number(10, "pos: a number")?,
            b"flags" => {
                info.flags = u32::try_from(number(8, "flags: an octal number")?).unwrap_or(0);
                has_flags = true;
            }
            b"mnt_id" => {
                info.mount = number(10, "mnt_id: a number")?;
                has_mount = true;
            }
            b"ino" => info.inode = Some(number(10, "ino: a number")?),
            b"eventfd-count" => {
                extras.eventfd_count = Some(number(16, "eventfd-count: a hex number")?)
            }
            b"eventfd-id" => extras.eventfd_id = Some(number(10, "eventfd-id: a number")?),
            b"eventfd-semaphore" => {
                extras.eventfd_semaphore = number(10, "eventfd-semaphore: 0 or 1")? != 0
            }
            b"sigmask" => extras.sigmask = Some(number(16, "sigmask: a hex number")?),
            b"tfd" => {
                let target = epoll_line(line).ok_or_else(|| {
                    ParseError::new(
                        index + 1,
                        "tfd: … events: … data: … pos: … ino: … sdev: …",
                        line,
                    )
                })?;
                extras.epoll.push(target);
            }
            b"clockid" => {
                timerfd(extras).clock = u32::try_from(number(10, "clockid: a number")?).unwrap_or(0)
            }
            b"ticks" => timerfd(extras).ticks = number(10, "ticks: a number")?,
            b"settime flags" => {
                timerfd(extras).settime_flags =
                    u32::try_from(number(8, "settime flags: an octal number")?).unwrap_or(0)
            }
            b"it_value" => {
                timerfd(extras).value = pair(value)
                    .ok_or_else(|| ParseError::new(index + 1, "it_value: (s, ns)", line))?
            }
            b"it_interval" => {
                timerfd(extras).interval = pair(value)
                    .ok_or_else(|| ParseError::new(index + 1, "it_interval: (s, ns)", line))?
            }
            b"inotify wd" => {
                let watch = inotify_line(line).ok_or_else(|| {
                    ParseError::new(index + 1, "inotify wd:… ino:… sdev:… mask:…", line)
                })?;
                extras.inotify.push(watch);
            }
            b"fanotify flags" => {
                let flags = |name| hex_field(line, name);
                let fanotify = extras.fanotify.get_or_insert_default();
                (fanotify.flags, fanotify.event_flags) = flags(" flags:")
                    .zip(flags(" event-flags:"))
                    .ok_or_else(|| {
                        ParseError::new(index + 1, "fanotify flags:… event-flags:…", line)
                    })?;
            }
            b"fanotify mnt_id" | b"fanotify ino" | b"fanotify sdev" => {
                let mark = fanotify_line(line).ok_or_else(|| {
                    ParseError::new(index + 1, "fanotify …: mflags:… mask:…", line)
                })?;
                extras.fanotify.get_or_insert_default().marks.push(mark);
            }
            b"Pid" => {
                let number = std::str::from_utf8(value)
                    .ok()
                    .and_then(|word| word.parse().ok());
                extras.pid =
                    Some(number.ok_or_else(|| ParseError::new(index + 1, "Pid: a number", line))?);
            }
            b"lock" => extras.locks.push(value.to_vec()),
            _ => extras.others.push(line.to_vec()),
        }
    }
    if has_flags && has_mount {
        Ok(info)
    } else {
        Err(ParseError::new(0, "flags and mnt_id", text))
    }
}

fn timerfd(extras: &mut Extras) -> &mut TimerfdLines {
    extras.timerfd.get_or_insert_default()
}

fn unsigned(word: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(word).ok()?, radix).ok()
}

fn pair(value: &[u8]) -> Option<(u64, u64)> {
    let inner = value.strip_prefix(b"(")?.strip_suffix(b")")?;
    let mut words = inner.split(|byte| *byte == b',');
    let (seconds, rest) = (words.next()?, words.next()?);
    Some((
        unsigned(seconds.trim_ascii(), 10)?,
        unsigned(rest.trim_ascii(), 10)?,
    ))
}

/// `tfd: 5 events: 19 data: 5  pos:0 ino:61 sdev:7`, blanks as the kernel likes.
fn epoll_line(line: &[u8]) -> Option<EpollLine> {
    let text = std::str::from_utf8(line).ok()?;
    let field = |key: &str| text.split_once(key)?.1.split_ascii_whitespace().next();
    Some(EpollLine {
        fd: field("tfd:")?.parse().ok()?,
        events: u32::from_str_radix(field("events:")?, 16).ok()?,
        data: u64::from_str_radix(field("data:")?, 16).ok()?,
        position: field("pos:")?.parse().ok()?,
        inode: u64::from_str_radix(field("ino:")?, 16).ok()?,
        device: u32::from_str_radix(field("sdev:")?, 16).ok()?,
    })
}

/// A hexadecimal field in the middle of a line, as in ` sdev:fe01`.
fn hex_field<T: TryFrom<u64>>(line: &[u8], name: &str) -> Option<T> {
    let text = std::str::from_utf8(line).ok()?;
    let word = text.split_once(name)?.1.split_ascii_whitespace().next()?;
    T::try_from(u64::from_str_radix(word, 16).ok()?).ok()
}

/// ` fhandle-bytes:8 fhandle-type:1 f_handle:3aef0e0036c13f9f`; left out by file systems that
/// have no handles.
fn handle_fields(line: &[u8]) -> Option<HandleFields> {
    let text = std::str::from_utf8(line).ok()?;
    let Some((_, rest)) = text.split_once(" f_handle:") else {
        return Some(HandleFields::default());
    };
    let digits = rest.split_ascii_whitespace().next().unwrap_or_default();
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    let bytes = bytes?;
    let length: usize = hex_field(line, " fhandle-bytes:")?;
    (bytes.len() == length).then_some(HandleFields {
        kind: hex_field(line, " fhandle-type:")?,
        bytes,
    })
}

fn inotify_line(line: &[u8]) -> Option<InotifyLine> {
    Some(InotifyLine {
        watch: hex_field(line, " wd:")?,
        inode: hex_field(line, " ino:")?,
        device: hex_field(line, " sdev:")?,
        mask: hex_field(line, " mask:")?,
        ignored_mask: hex_field(line, " ignored_mask:")?,
        handle: handle_fields(line)?,
    })
}

fn fanotify_line(line: &[u8]) -> Option<FanotifyLine> {
    let target = if let Some(mount) = hex_field(line, " mnt_id:") {
        FanotifyTarget::Mount { mount }
    } else if let Some(inode) = hex_field(line, " ino:") {
        FanotifyTarget::Inode {
            inode,
            device: hex_field(line, " sdev:")?,
            handle: handle_fields(line)?,
        }
    } else {
        FanotifyTarget::FileSystem {
            device: hex_field(line, " sdev:")?,
        }
    };
    Some(FanotifyLine {
        target,
        flags: hex_field(line, " mflags:")?,
        mask: hex_field(line, " mask:")?,
        ignored_mask: hex_field(line, " ignored_mask:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_of_inotify_and_marks_of_fanotify() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t11\ninotify wd:1a ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d\ninotify wd:1 ino:2 sdev:3 mask:4 ignored_mask:0 \n";
        let watches = parse_fdinfo(text).expect("parses").extras.inotify;
        assert_eq!(
            (
                watches[0].watch,
                watches[0].inode,
                watches[0].device,
                watches[0].mask
            ),
            (26, 0x9e7e, 0x80_0013, 0x800_afce)
        );
        assert_eq!(
            watches[0].handle.bytes,
            [0x7e, 0x9e, 0, 0, 0x64, 0x0d, 0x1b, 0x6d]
        );
        assert_eq!(watches[1].handle, HandleFields::default());

        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t11\nfanotify flags:3 event-flags:8002\nfanotify mnt_id:12 mflags:40 mask:38 ignored_mask:1\nfanotify ino:4f969 sdev:800013 mflags:0 mask:3b ignored_mask:40000000 fhandle-bytes:8 fhandle-type:1 f_handle:69f90400c275b5b4\nfanotify sdev:800013 mflags:0 mask:1 ignored_mask:0\n";
        let fanotify = parse_fdinfo(text)
            .expect("parses")
            .extras
            .fanotify
            .expect("one");
        assert_eq!((fanotify.flags, fanotify.event_flags), (3, 0x8002));
        assert_eq!(
            fanotify.marks[0].target,
            FanotifyTarget::Mount { mount: 0x12 }
        );
        assert_eq!(
            (fanotify.marks[0].flags, fanotify.marks[0].ignored_mask),
            (0x40, 1)
        );
        assert!(matches!(
            fanotify.marks[1].target,
            FanotifyTarget::Inode { inode: 0x4f969, .. }
        ));
        let whole = FanotifyTarget::FileSystem { device: 0x80_0013 };
        assert_eq!(fanotify.marks[2].target, whole);

        for bad in [
            &b"inotify wd:1 ino:2 sdev:3 mask:4 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e"[..],
            b"inotify wd:1 ino:2 sdev:3 mask:x",
            b"fanotify flags:3",
            b"fanotify sdev:1",
            b"Pid:\tx",
        ] {
            let text = [b"pos:\t0\nflags:\t02\nmnt_id:\t15\n", bad].concat();
            assert!(parse_fdinfo(&text).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn pidfds() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t11\nPid:\t-1\nNSpid:\t-1\n";
        assert_eq!(parse_fdinfo(text).expect("parses").extras.pid, Some(-1));
    }

    #[test]
    fn the_common_lines() {
        let info =
            parse_fdinfo(b"pos:\t17\nflags:\t02100002\nmnt_id:\t15\nino:\t9\n").expect("parses");
        assert_eq!(
            (info.position, info.flags, info.mount, info.inode),
            (17, 0o210_0002, 15, Some(9))
        );
    }

    #[test]
    fn an_epoll_with_its_targets() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t11\ntfd:        5 events:       19 data:     ffffffff00000005  pos:0 ino:3d sdev:f\n";
        let info = parse_fdinfo(text).expect("parses");
        let target = info.extras.epoll[0];
        assert_eq!(
            (target.fd, target.events, target.inode, target.device),
            (5, 0x19, 0x3d, 15)
        );
        assert_eq!(target.data, 0xffff_ffff_0000_0005);
    }

    #[test]
    fn an_eventfd() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t11\neventfd-count:               2a\neventfd-id: 7\neventfd-semaphore: 1\n";
        let extras = parse_fdinfo(text).expect("parses").extras;
        assert_eq!(
            (
                extras.eventfd_count,
                extras.eventfd_id,
                extras.eventfd_semaphore
            ),
            (Some(42), Some(7), true)
        );
    }

    #[test]
    fn a_timerfd() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nclockid: 1\nticks: 3\nsettime flags: 01\nit_value: (1, 500)\nit_interval: (0, 7)\n";
        let timer = parse_fdinfo(text)
            .expect("parses")
            .extras
            .timerfd
            .expect("a timer");
        assert_eq!(
            (
                timer.clock,
                timer.ticks,
                timer.settime_flags,
                timer.value,
                timer.interval
            ),
            (1, 3, 1, (1, 500), (0, 7))
        );
    }

    #[test]
    fn what_is_missing_or_odd_is_an_error_or_kept() {
        assert!(parse_fdinfo(b"pos:\t0\n").is_err());
        assert!(parse_fdinfo(b"pos:\tx\nflags:\t0\nmnt_id:\t1\n").is_err());
        let info = parse_fdinfo(b"pos:\t0\nflags:\t0\nmnt_id:\t1\nnew-thing: 1\n").expect("parses");
        assert_eq!(info.extras.others, [b"new-thing: 1".to_vec()]);
    }
}
