//! `/proc/PID/cgroup`: where a task is in each hierarchy of control groups.

use super::text::{ParseError, lines};

/// The place of a task in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPlace {
    /// The number of the hierarchy; 0 is the unified one (version 2).
    pub hierarchy: u32,
    /// Its controllers or its name, as `cpu,cpuacct` or `name=systemd`; empty for version 2.
    pub controllers: Vec<u8>,
    /// The path from the root of the reader's cgroup namespace; it ends in ` (deleted)` when
    /// the group was removed.
    pub path: Vec<u8>,
}

/// Parses the content of a `cgroup` file, in the kernel's order.
///
/// # Errors
/// Any line that is not what the kernel documents.
///
/// # Sources
/// cgroups(7); kernel/cgroup/cgroup.c, `proc_cgroup_show`.
pub fn parse_cgroup(text: &[u8]) -> Result<Vec<CgroupPlace>, ParseError> {
    lines(text)
        .map(|mut line| {
            let before = line;
            let digits = line.until(b':', "hierarchy:controllers:path")?;
            let hierarchy = super::text::unsigned(digits, 10)
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| before.error("the number of a hierarchy"))?;
            // A name of a hierarchy cannot hold a colon, a path can.
            let controllers = line.until(b':', "controllers:path")?.to_vec();
            let path = line.rest().to_vec();
            match path.starts_with(b"/") {
                true => Ok(CgroupPlace {
                    hierarchy,
                    controllers,
                    path,
                }),
                false => Err(line.error("a path")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(hierarchy: u32, controllers: &[u8], path: &[u8]) -> CgroupPlace {
        CgroupPlace {
            hierarchy,
            controllers: controllers.to_vec(),
            path: path.to_vec(),
        }
    }

    #[test]
    fn both_versions_and_odd_paths() {
        let text = b"12:cpu,cpuacct:/\n1:name=systemd:/a b:c\xff (deleted)\n0::/../x\\012\n";
        let expected = [
            place(12, b"cpu,cpuacct", b"/"),
            place(1, b"name=systemd", b"/a b:c\xff (deleted)"),
            place(0, b"", b"/../x\\012"),
        ];
        assert_eq!(parse_cgroup(text).unwrap(), expected);
        assert_eq!(parse_cgroup(b""), Ok(vec![]));
    }

    #[test]
    fn strange_lines_are_refused() {
        for bad in [
            &b"0:/\n"[..],
            b"x::/\n",
            b"-1::/\n",
            b"0::\n",
            b"0::a\n",
            b"\n",
        ] {
            let text = [b"0::/\n", bad].concat();
            assert_eq!(parse_cgroup(&text).unwrap_err().line, 2);
        }
    }
}
