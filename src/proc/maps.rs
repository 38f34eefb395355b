//! `/proc/PID/maps`: the mappings of an address space, one a line.

use super::device::Device;
use super::text::{Line, ParseError, lines, unescape};

/// One mapping, as a line of `maps` or the head of a paragraph of `smaps` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: u64,
    /// The address behind the last.
    pub end: u64,
    /// What may be done with it.
    pub access: Access,
    /// Where it begins in the file, in bytes.
    pub offset_bytes: u64,
    /// The device of the file; 0:0 without one.
    pub device: Device,
    /// The inode of the file; 0 without one.
    pub inode: u64,
    /// The path of the file, or a name in brackets, or nothing.
    ///
    /// Any bytes. The kernel appends ` (deleted)` to what has no name any more; a file may
    /// be named so, too. A newline arrives as `\012`, which is put back, but a name that holds
    /// those four characters looks the same: `map_files` has the name beyond doubt.
    pub path: Vec<u8>,
}

/// The permissions of a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `PROT_READ`
    pub read: bool,
    /// `PROT_WRITE`
    pub write: bool,
    /// `PROT_EXEC`
    pub execute: bool,
    /// `MAP_SHARED` as opposed to `MAP_PRIVATE`.
    pub shared: bool,
}

impl Mapping {
    /// The size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it is private memory without a file: heap, stack or mmap.
    #[must_use]
    pub fn is_private_anonymous(&self) -> bool {
        let named_by_user = self.path.starts_with(b"[anon:");
        let known = matches!(self.path.as_slice(), b"" | b"[heap]" | b"[stack]");
        !self.access.shared && self.inode == 0 && (known || named_by_user)
    }

    /// Whether it is private code that the task can read and run but not write.
    ///
    /// The `[vsyscall]` page at the end of all addresses is not: nobody can write there.
    #[must_use]
    pub fn is_private_text(&self) -> bool {
        let Access {
            read,
            write,
            execute,
            shared,
        } = self.access;
        read && execute && !write && !shared && self.path != b"[vsyscall]"
    }

    /// Whether it is the code that the kernel provides.
    #[must_use]
    pub fn is_vdso(&self) -> bool {
        self.path == b"[vdso]"
    }

    /// Eats a whole line.
    pub(super) fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        let before = *line;
        let (start, end) = line.convert("start-end", range)?;
        if start >= end {
            return Err(before.error("start before end"));
        }
        let access = line.convert("permissions like rw-p", Access::parse)?;
        let offset_bytes = line.hex("an offset")?;
        let device = line.convert("major:minor", |word| Device::parse(word, 16))?;
        let inode = line.unsigned("an inode")?;
        // Blanks at the end belong to the path.
        let path = match line.is_empty() {
            true => Vec::new(),
            false => unescape(line.rest(), b"\n"),
        };
        Ok(Self {
            start,
            end,
            access,
            offset_bytes,
            device,
            inode,
            path,
        })
    }
}

impl Access {
    fn parse(word: &[u8]) -> Option<Self> {
        let [read, write, execute, sharing] = word else {
            return None;
        };
        let flag = |letter: u8, set: u8| match letter {
            b'-' => Some(false),
            letter if letter == set => Some(true),
            _ => None,
        };
        Some(Self {
            read: flag(*read, b'r')?,
            write: flag(*write, b'w')?,
            execute: flag(*execute, b'x')?,
            shared: match sharing {
                b's' => true,
                b'p' => false,
                _ => return None,
            },
        })
    }
}

fn range(word: &[u8]) -> Option<(u64, u64)> {
    let dash = word.iter().position(|byte| *byte == b'-')?;
    let address = |digits| super::text::unsigned(digits, 16);
    Some((address(&word[..dash])?, address(&word[dash + 1..])?))
}

/// Parses the content of a `maps` file: mappings, ascending.
///
/// # Errors
/// Any line that is not what the kernel documents, or out of order.
///
/// # Sources
/// proc_pid_maps(5); fs/proc/task_mmu.c, `show_map_vma`.
pub fn parse_maps(text: &[u8]) -> Result<Vec<Mapping>, ParseError> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for mut line in lines(text) {
        let before = line;
        let mapping = Mapping::parse(&mut line)?;
        if mappings.last().is_some_and(|last| mapping.start < last.end) {
            return Err(before.error("ascending addresses"));
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &[u8]) -> Mapping {
        let mut mappings = parse_maps(line).unwrap();
        assert_eq!(mappings.len(), 1);
        mappings.remove(0)
    }

    #[test]
    fn every_column_lands_in_its_field() {
        let line = b"7f0000001000-7f0000003000 r-xs 0001f000 fe:10a 18446744073709551615 \
                     /lib/a b\n";
        let expected = Mapping {
            start: 0x7f00_0000_1000,
            end: 0x7f00_0000_3000,
            access: Access {
                read: true,
                write: false,
                execute: true,
                shared: true,
            },
            offset_bytes: 0x1f000,
            device: Device {
                major: 0xfe,
                minor: 0x10a,
            },
            inode: u64::MAX,
            path: b"/lib/a b".to_vec(),
        };
        assert_eq!(one(line), expected);
        assert_eq!(expected.size_bytes(), 0x2000);
    }

    #[test]
    fn paths_may_hold_anything() {
        let head = b"1000-2000 ---p 00000000 00:01 7                          ".to_vec();
        let cases: [(&[u8], &[u8]); 8] = [
            (b"", b""),
            (b"[heap]", b"[heap]"),
            (b"/a (deleted)", b"/a (deleted)"),
            (b"/a\\012b (deleted)", b"/a\nb (deleted)"),
            (b"/\xff\xfe", b"/\xff\xfe"),
            (b"/trailing  ", b"/trailing  "),
            (b"/back\\134slash\\", b"/back\\134slash\\"),
            (b"/tab\t\r", b"/tab\t\r"),
        ];
        for (written, path) in cases {
            let line = [&head[..], written, b"\n"].concat();
            assert_eq!(one(&line).path, path);
        }
    }

    #[test]
    fn addresses_of_the_upper_half() {
        let line = b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]\n";
        let mapping = one(line);
        assert_eq!(mapping.start, 0xffff_ffff_ff60_0000);
        assert!(!mapping.access.read && mapping.access.execute);
    }

    #[test]
    fn strange_lines_are_refused() {
        for bad in [
            &b"1000-2000 rw-p 0 00:00\n"[..],
            b"1000 rw-p 0 00:00 0\n",
            b"2000-1000 rw-p 0 00:00 0\n",
            b"1000-1000 rw-p 0 00:00 0\n",
            b"1000-2000 rw-q 0 00:00 0\n",
            b"1000-2000 xwrp 0 00:00 0\n",
            b"1000-2000 rw-px 0 00:00 0\n",
            b"1000-2000 rw-p 0 0000 0\n",
            b"1000-2000 rw-p 0 00:00 0x1\n",
            b"1000-2000 rw-p 0 00:00 0\n\n",
            b"1000-3000 rw-p 0 00:00 0\n2000-4000 rw-p 0 00:00 0\n",
        ] {
            assert!(parse_maps(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
