//! Namespaces: a host tree lives in those of the dumper, all of them.

use std::os::unix::fs::MetadataExt;

use crate::error::{Error, IoResultExt, Result};
use crate::ids::Pid;
use crate::proc::ProcDir;

/// The kinds of namespace, in the order in which the images number them from 1.
pub const KINDS: [&str; 8] = ["pid", "net", "ipc", "uts", "time", "mnt", "user", "cgroup"];

/// The dumper's own namespaces, by inode number.
#[derive(Clone, Debug)]
pub struct OwnNamespaces {
    inodes: [Option<u64>; KINDS.len()],
}

impl OwnNamespaces {
    /// Reads `/proc/self/ns`.
    ///
    /// # Errors
    /// When it cannot be read; a kind the kernel lacks is no error.
    pub fn read() -> Result<Self> {
        let mut inodes = [None; KINDS.len()];
        for (inode, kind) in inodes.iter_mut().zip(KINDS) {
            let path = format!("/proc/self/ns/{kind}");
            *inode = match std::fs::metadata(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                answer => Some(answer.at("stat", path)?.ino()),
            };
        }
        Ok(Self { inodes })
    }

    /// Checks that a process shares every namespace with the dumper, but for that of time: criu
    /// puts every tree that it restores into a new one. Returns that one, by inode number.
    ///
    /// # Errors
    /// [`Error::Blocked`] with one entry per namespace of its own.
    pub fn check(&self, pid: Pid, proc_dir: &ProcDir) -> Result<Option<u64>> {
        let mut blockers = Vec::new();
        let mut time = None;
        for (own, kind) in self.inodes.iter().zip(KINDS) {
            let Some(own) = own else { continue };
            let theirs = proc_dir.stat(&format!("ns/{kind}"))?.st_ino;
            if kind == "time" {
                time = Some(theirs);
                if proc_dir.stat("ns/time_for_children")?.st_ino != theirs {
                    blockers.push(Error::unsupported(
                        pid,
                        "a process whose children will be in another time namespace",
                        "the image format has no place for it",
                    ));
                }
            } else if theirs != *own {
                blockers.push(Error::unsupported(
                    pid,
                    format!("a process in another {kind} namespace (inode {theirs}, the dumper's is {own})"),
                    "run dedump inside that namespace; containers are not supported",
                ));
            }
        }
        if blockers.is_empty() {
            Ok(time)
        } else {
            Err(Error::Blocked(blockers))
        }
    }

    /// Whether paths, users or sockets of a process are not those that go by the same name
    /// here, so that looking at them tells nothing.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn names_differ_in(&self, proc_dir: &ProcDir) -> Result<bool> {
        for (own, kind) in self.inodes.iter().zip(KINDS) {
            if let Some(own) = own
                && ["pid", "net", "mnt", "user"].contains(&kind)
                && proc_dir.stat(&format!("ns/{kind}"))?.st_ino != *own
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
