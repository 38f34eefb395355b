//! `/proc/PID/mountinfo`: the mounts of a task's mount namespace.

use super::device::Device;
use super::text::{ParseError, lines, unescape};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The number that fdinfo calls `mnt_id`.
    pub id: u32,
    /// The mount it is mounted on; itself or one outside for the root.
    pub parent: u32,
    /// The device of its files; some file systems give their files others.
    pub device: Device,
    /// The folder of the file system that is its root.
    pub root: Vec<u8>,
    /// Where it is mounted, seen from the task's root folder.
    pub mount_point: Vec<u8>,
    /// Options of the mount, separated by commas.
    pub options: Vec<u8>,
    /// How mounts spread: `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub propagation: Vec<Vec<u8>>,
    /// The type of the file system.
    pub file_system: Vec<u8>,
    /// What is mounted, as far as the file system says.
    pub source: Vec<u8>,
    /// Options of the file system, separated by commas.
    pub file_system_options: Vec<u8>,
}

/// The bytes that are escaped in names.
const ESCAPED: &[u8] = b" \t\n\\#";

/// Parses the content of a `mountinfo` file, in the kernel's order.
///
/// # Errors
/// Any line that is not what the kernel documents.
///
/// # Sources
/// proc_pid_mountinfo(5); fs/proc_namespace.c, `show_mountinfo`.
pub fn parse_mountinfo(text: &[u8]) -> Result<Vec<Mount>, ParseError> {
    lines(text)
        .map(|mut line| {
            let id = line.unsigned("a mount id")?;
            let parent = line.unsigned("a parent mount id")?;
            let device = line.convert("major:minor", |word| Device::parse(word, 10))?;
            let root = unescape(line.word("a root")?, ESCAPED);
            let mount_point = unescape(line.word("a mount point")?, ESCAPED);
            let options = line.word("mount options")?.to_vec();
            let mut propagation = Vec::new();
            loop {
                match line.word("a dash")? {
                    b"-" => break,
                    field => propagation.push(field.to_vec()),
                }
            }
            // A file system may show no source at all, which leaves two blanks in a row.
            let rest = line.rest().strip_prefix(b" ").unwrap_or_default();
            let mut fields = rest.splitn(3, |byte| *byte == b' ');
            let mut field = || {
                fields
                    .next()
                    .ok_or_else(|| line.error("type, source, options"))
            };
            Ok(Mount {
                id,
                parent,
                device,
                root,
                mount_point,
                options,
                propagation,
                file_system: unescape(field()?, ESCAPED),
                source: unescape(field()?, ESCAPED),
                file_system_options: field()?.to_vec(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_lands_in_its_field() {
        let text = b"36 35 98:0 /a\\040b /mnt\\0112\\134040\xff rw,noatime shared:1 master:2 - \
                     fuse.x\\040y /dev/root\\011 rw,errors=continue\n";
        let expected = Mount {
            id: 36,
            parent: 35,
            device: Device {
                major: 98,
                minor: 0,
            },
            root: b"/a b".to_vec(),
            mount_point: b"/mnt\t2\\040\xff".to_vec(),
            options: b"rw,noatime".to_vec(),
            propagation: vec![b"shared:1".to_vec(), b"master:2".to_vec()],
            file_system: b"fuse.x y".to_vec(),
            source: b"/dev/root\t".to_vec(),
            file_system_options: b"rw,errors=continue".to_vec(),
        };
        assert_eq!(parse_mountinfo(text), Ok(vec![expected]));
    }

    #[test]
    fn no_propagation_and_no_source() {
        let mounts = parse_mountinfo(b"1 1 0:1 / / rw - rootfs  rw\n2 1 0:2 / /p rw - p p rw\n");
        let mounts = mounts.unwrap();
        assert!(mounts[0].propagation.is_empty() && mounts[0].source.is_empty());
        assert_eq!(mounts[1].source, b"p");
        assert_eq!(mounts[1].file_system_options, b"rw");
    }

    #[test]
    fn strange_lines_are_refused() {
        for bad in [
            &b"1 1 0:1 / / rw rootfs none rw\n"[..],
            b"1 1 0:1 / / rw - rootfs none\n",
            b"1 1 01 / / rw - rootfs none rw\n",
            b"x 1 0:1 / / rw - rootfs none rw\n",
            b"\n",
        ] {
            assert!(parse_mountinfo(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
