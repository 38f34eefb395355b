//! `/proc/PID/smaps`: the mappings of an address space, a paragraph each, with the kernel's flags.

use std::fmt;
use std::io::BufRead;
use std::path::PathBuf;

use super::maps::Mapping;
use super::text::{Line, ParseError, lines};
use crate::error::{IoResultExt, Result};

/// One mapping with what the kernel knows about its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vma {
    /// Addresses, access, file.
    pub mapping: Mapping,
    /// The kernel's flags.
    pub flags: VmFlags,
    /// The size of its pages in bytes; more than 4096 for hugetlb.
    pub page_bytes: u64,
    /// Present in memory, in bytes, hugetlb pages not counted.
    pub resident_bytes: u64,
    /// Present and anonymous: what a private mapping of a file has of its own.
    pub anonymous_bytes: u64,
    /// Swapped out, in bytes.
    pub swapped_bytes: u64,
    /// Present in hugetlb pages, in bytes.
    pub huge_bytes: u64,
}

/// Declares [`VmFlag`] together with the two letters of each flag.
macro_rules! vm_flags {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// A flag of a mapping, by the letters of the `VmFlags` line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum VmFlag { $($(#[$doc])* $name,)* }

        impl VmFlag {
            const ALL: &[VmFlag] = &[$(VmFlag::$name,)*];

            /// The flag's two letters.
            #[must_use]
            pub fn code(self) -> &'static [u8; 2] {
                match self { $(VmFlag::$name => $code,)* }
            }

            fn of(code: &[u8]) -> Option<Self> {
                VmFlag::ALL.iter().copied().find(|flag| flag.code() == code)
            }
        }
    };
}

vm_flags! {
    /// Readable.
    Read = b"rd",
    /// Writable.
    Write = b"wr",
    /// Executable.
    Execute = b"ex",
    /// Shared.
    Shared = b"sh",
    /// May be made readable.
    MayRead = b"mr",
    /// May be made writable.
    MayWrite = b"mw",
    /// May be made executable.
    MayExecute = b"me",
    /// May be shared: set for private mappings of files opened for writing, too.
    MayShare = b"ms",
    /// Grows down like a stack.
    GrowsDown = b"gd",
    /// Bare frame numbers without pages behind.
    PfnMap = b"pf",
    /// May hold guard regions; since Linux 6.19.
    MaybeGuard = b"gu",
    /// Denied writes to its file; until Linux 5.15.
    DenyWrite = b"dw",
    /// Locked in memory.
    Locked = b"lo",
    /// Locked in memory once touched.
    LockOnFault = b"lf",
    /// Memory of a device.
    Io = b"io",
    /// `MADV_SEQUENTIAL`
    SequentialRead = b"sr",
    /// `MADV_RANDOM`
    RandomRead = b"rr",
    /// `MADV_DONTFORK`
    DontCopy = b"dc",
    /// Cannot grow by mremap.
    DontExpand = b"de",
    /// Counted against the commit limit.
    Account = b"ac",
    /// `MAP_NORESERVE`
    NoReserve = b"nr",
    /// hugetlb pages.
    HugeTlb = b"ht",
    /// `MAP_SYNC`
    Sync = b"sf",
    /// Special to the architecture; on x86 memory with caching of its own.
    Arch1 = b"ar",
    /// `MADV_WIPEONFORK`
    WipeOnFork = b"wf",
    /// `MADV_DONTDUMP`
    DontDump = b"dd",
    /// Soft-dirty.
    SoftDirty = b"sd",
    /// Frame numbers mixed with pages.
    MixedMap = b"mm",
    /// `MADV_HUGEPAGE`
    HugePage = b"hg",
    /// `MADV_NOHUGEPAGE`
    NoHugePage = b"nh",
    /// `MADV_MERGEABLE`
    Mergeable = b"mg",
    /// Missing pages go to a userfaultfd.
    UffdMissing = b"um",
    /// Writes go to a userfaultfd.
    UffdWriteProtect = b"uw",
    /// Pages in the page cache only go to a userfaultfd.
    UffdMinor = b"ui",
    /// A shadow stack.
    ShadowStack = b"ss",
    /// `MAP_DROPPABLE`
    Droppable = b"dp",
    /// Sealed by mseal.
    Sealed = b"sl",
}

/// The set of flags of a mapping; codes this version does not know are kept as they are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct VmFlags {
    known: u64,
    unknown: Vec<Vec<u8>>,
}

impl VmFlags {
    /// Whether the flag is set.
    #[must_use]
    pub fn contains(&self, flag: VmFlag) -> bool {
        self.known & (1 << flag as u32) != 0
    }

    /// The flags that are set, without the unknown.
    pub fn iter(&self) -> impl Iterator<Item = VmFlag> + '_ {
        let all = VmFlag::ALL.iter().copied();
        all.filter(|flag| self.contains(*flag))
    }

    /// Codes that are set and that this version does not know; `??` for what the kernel does
    /// not name either.
    #[must_use]
    pub fn unknown(&self) -> &[Vec<u8>] {
        &self.unknown
    }

    fn insert(&mut self, code: &[u8]) {
        match VmFlag::of(code) {
            Some(flag) => self.known |= 1 << flag as u32,
            None => self.unknown.push(code.to_vec()),
        }
    }
}

impl FromIterator<VmFlag> for VmFlags {
    fn from_iter<I: IntoIterator<Item = VmFlag>>(flags: I) -> Self {
        let known = flags
            .into_iter()
            .fold(0, |set, flag| set | 1 << flag as u32);
        Self {
            known,
            unknown: Vec::new(),
        }
    }
}

/// The letters, as in the kernel's line.
impl fmt::Debug for VmFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.iter().map(|flag| flag.code().as_slice());
        let codes = known.chain(self.unknown.iter().map(Vec::as_slice));
        f.debug_set()
            .entries(codes.map(|code| String::from_utf8_lossy(code)))
            .finish()
    }
}

/// Parses the content of an `smaps` file: mappings, ascending.
///
/// Counters it does not know are passed over, flags are not: each is part of what a mapping is.
///
/// # Errors
/// Any line that is not what the kernel documents, or mappings out of order.
///
/// # Sources
/// proc_pid_smaps(5); fs/proc/task_mmu.c, `show_smap`.
pub fn parse_smaps(text: &[u8]) -> Result<Vec<Vma>, ParseError> {
    let mut paragraphs = Paragraphs::default();
    for line in lines(text) {
        paragraphs.take(line)?;
    }
    paragraphs.finish()
}

/// [`parse_smaps`] of a file too long to be held in memory: 65,000 mappings are 45 MB of text.
///
/// # Errors
/// Those of reading, and those of [`parse_smaps`], with the path.
pub fn read_smaps(mut file: impl BufRead, path: impl Into<PathBuf>) -> Result<Vec<Vma>> {
    let path = path.into();
    let mut paragraphs = Paragraphs::default();
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        if file.read_until(b'\n', &mut text).at("read", &path)? == 0 {
            break;
        }
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        let taken = paragraphs.take(Line::new(number, text));
        taken.map_err(|error| error.at(&path))?;
    }
    paragraphs.finish().map_err(|error| error.at(path))
}

/// Parses `/proc/PID/smaps_rollup`: private memory in frames and in swap, in bytes, where a page
/// that `n` tasks have counts as its `n`th part. Since Linux 5.9.
///
/// # Errors
/// What the kernel does not write.
pub fn parse_private_share(text: &[u8]) -> Result<u64, ParseError> {
    let mut share = 0;
    let mut is_told = false;
    for mut line in lines(text).skip(1) {
        match line.until(b':', "a key and a colon")? {
            b"Pss_Anon" => {
                share += bytes(&mut line)?;
                is_told = true;
            }
            b"SwapPss" => share += bytes(&mut line)?,
            _ => {}
        }
    }
    if is_told {
        Ok(share)
    } else {
        Err(ParseError::new(0, "Pss_Anon", b""))
    }
}

/// The paragraphs read so far; the last may still be missing its flags.
#[derive(Default)]
struct Paragraphs {
    vmas: Vec<Vma>,
    unfinished: bool,
}

impl Paragraphs {
    fn take(&mut self, mut line: Line<'_>) -> Result<(), ParseError> {
        // A paragraph begins with an address, in lower case; keys begin with a capital.
        if !line.rest().first().is_some_and(u8::is_ascii_uppercase) {
            return self.begin(line);
        }
        let Some(vma) = self.vmas.last_mut() else {
            return Err(line.error("start-end of a mapping"));
        };
        match line.until(b':', "a key and a colon")? {
            b"VmFlags" => {
                while !line.is_empty() {
                    vma.flags.insert(line.word("a flag")?);
                }
                self.unfinished = false;
            }
            b"KernelPageSize" => vma.page_bytes = bytes(&mut line)?,
            b"Rss" => vma.resident_bytes = bytes(&mut line)?,
            b"Anonymous" => vma.anonymous_bytes = bytes(&mut line)?,
            b"Swap" => vma.swapped_bytes = bytes(&mut line)?,
            b"Shared_Hugetlb" | b"Private_Hugetlb" => vma.huge_bytes += bytes(&mut line)?,
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, mut line: Line<'_>) -> Result<(), ParseError> {
        if self.unfinished {
            return Err(line.error("VmFlags before the next mapping"));
        }
        let before = line;
        let mapping = Mapping::parse(&mut line)?;
        let last = self.vmas.last().map(|last| last.mapping.end);
        if last.is_some_and(|end| mapping.start < end) {
            return Err(before.error("ascending addresses"));
        }
        self.vmas.push(Vma {
            mapping,
            flags: VmFlags::default(),
            page_bytes: 0,
            resident_bytes: 0,
            anonymous_bytes: 0,
            swapped_bytes: 0,
            huge_bytes: 0,
        });
        self.unfinished = true;
        Ok(())
    }

    fn finish(self) -> Result<Vec<Vma>, ParseError> {
        match self.unfinished {
            false => Ok(self.vmas),
            true => Err(ParseError::new(0, "VmFlags", b"the end of the file")),
        }
    }
}

fn bytes(line: &mut Line<'_>) -> Result<u64, ParseError> {
    let before = *line;
    let kib: u64 = line.unsigned("a size")?;
    match line.word("kB")? {
        b"kB" => line.end()?,
        _ => return Err(before.error("a size in kB")),
    }
    kib.checked_mul(1024).ok_or_else(|| before.error("a size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAGRAPH: &str = "\
7f0000000000-7f0000200000 rw-p 00001000 00:10 77                         /dev/hugepages/a b
Size:               2048 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
Rss:                  12 kB
Pss:                   3 kB
Pss_Dirty:             0 kB
Anonymous:             8 kB
KSM:                   0 kB
Swap:                  4 kB
SwapPss:               0 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:    4096 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd wr mr mw me de ht zz sd ??\u{20}
";
    const VSYSCALL: &str = "\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex
";

    #[test]
    fn every_counter_lands_in_its_field() {
        let text = [PARAGRAPH, VSYSCALL].concat();
        let vmas = parse_smaps(text.as_bytes()).unwrap();
        assert_eq!(vmas.len(), 2);
        let vma = &vmas[0];
        assert_eq!(vma.mapping.path, b"/dev/hugepages/a b");
        assert_eq!(vma.page_bytes, 2 << 20);
        assert_eq!(vma.resident_bytes, 12 << 10);
        assert_eq!(vma.anonymous_bytes, 8 << 10);
        assert_eq!(vma.swapped_bytes, 4 << 10);
        assert_eq!(vma.huge_bytes, 6 << 20);
        assert!(vma.flags.contains(VmFlag::HugeTlb) && !vma.flags.contains(VmFlag::Shared));
        assert_eq!(vma.flags.unknown(), [b"zz", b"??"]);
        assert_eq!(
            format!("{:?}", vma.flags),
            r#"{"rd", "wr", "mr", "mw", "me", "de", "ht", "sd", "zz", "??"}"#
        );
        assert_eq!(vmas[1].flags, [VmFlag::Execute].into_iter().collect());
        assert_eq!(vmas[1].mapping.path, b"[vsyscall]");
    }

    #[test]
    fn each_flag_has_a_bit_and_letters_of_its_own() {
        assert!(VmFlag::ALL.len() <= 64);
        for (position, flag) in VmFlag::ALL.iter().enumerate() {
            assert_eq!(VmFlag::of(flag.code()), Some(*flag));
            assert_eq!(*flag as usize, position);
            let only: VmFlags = [*flag].into_iter().collect();
            assert_eq!(only.iter().collect::<Vec<_>>(), [*flag]);
        }
    }

    #[test]
    fn reading_and_parsing_agree() {
        let text = [PARAGRAPH, VSYSCALL].concat();
        let read = read_smaps(text.as_bytes(), "/proc/1/smaps").unwrap();
        assert_eq!(Ok(read), parse_smaps(text.as_bytes()));
        let error = read_smaps(&b"x"[..], "/proc/1/smaps").unwrap_err();
        assert!(
            error.to_string().starts_with("/proc/1/smaps:1: "),
            "{error}"
        );
    }

    #[test]
    fn strange_paragraphs_are_refused() {
        let without_flags = PARAGRAPH.split("VmFlags").next().unwrap();
        for (bad, line) in [
            (VSYSCALL.split_once('\n').unwrap().1.to_owned(), 1),
            (without_flags.to_owned(), 0),
            ([without_flags, VSYSCALL].concat(), 16),
            ([VSYSCALL, PARAGRAPH].concat(), 3),
            (PARAGRAPH.replace("12 kB", "12 MB"), 5),
            (PARAGRAPH.replace("12 kB", "12"), 5),
            (PARAGRAPH.replace("Swap:  ", "Swap -5"), 10),
            (PARAGRAPH.replace("   12 kB", "99999999999999999 kB"), 5),
            (PARAGRAPH.replace("Pss:", "\nPss:"), 6),
        ] {
            let error = parse_smaps(bad.as_bytes()).unwrap_err();
            assert_eq!(error.line, line, "{error:?}\n{bad}");
        }
    }

    #[test]
    fn a_private_share_is_summed_up() {
        let text = "1000-2000 ---p 00000000 00:00 0   [rollup]\nRss: 9 kB\nPss_Anon:    3 kB\n\
                    Pss_File:  7 kB\nSwapPss:    2 kB\n";
        assert_eq!(parse_private_share(text.as_bytes()), Ok(5 << 10));
        let older = text.replace("Pss_Anon", "Pss");
        assert!(parse_private_share(older.as_bytes()).is_err());
    }

    #[test]
    fn no_mappings_at_all() {
        assert_eq!(parse_smaps(b""), Ok(vec![]));
    }
}
