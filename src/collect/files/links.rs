//! Links that are made so that restore can open a file that has lost its name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use tracing::warn;

use super::{FileKind, Files, OpenFile, Regular, Sight};
use crate::error::{Result, ResultExt};
use crate::ids::ObjectId;
use crate::kcmp::FileTree;
use crate::sys::fcntl::Owner;

/// A way from the path of an entry to what shall be opened instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remap {
    /// The path of another entry.
    Linked {
        /// The entry whose path is gone.
        entry: ObjectId,
        /// The entry of the link.
        link: ObjectId,
    },
    /// A file of `/proc` that belongs to a process which has ended: restore has one of that
    /// number ready.
    DeadProcess {
        /// The entry whose path it is.
        entry: ObjectId,
        /// The process.
        pid: u32,
    },
}

/// Links on file systems of the machine; dropping this removes them.
#[derive(Debug, Default)]
pub struct Links {
    made: Vec<PathBuf>,
}

impl Links {
    /// Leaves the links where they are, for restore.
    pub fn keep(mut self) {
        self.made.clear();
    }

    /// Makes a link to what `from` leads to, in the folder of `path` or, if that is gone, in the
    /// nearest one above that is left.
    fn make(&mut self, from: &Path, path: &Path, name: &str) -> Result<PathBuf> {
        let mut attempt = 0;
        let mut folder = path.parent();
        while let Some(here) = folder {
            let mut file_name = OsString::from(name);
            if attempt > 0 {
                file_name.push(format!(".{attempt}"));
            }
            let link = here.join(file_name);
            match linkat(AT_FDCWD, from, AT_FDCWD, &link, AtFlags::AT_SYMLINK_FOLLOW) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => folder = here.parent(),
                // Another dump of the same tree, which waits for its restore, or was killed.
                Err(Errno::EEXIST) => {
                    warn!(
                        "{}: left by an earlier dump; remove it if nothing is to be restored from that",
                        link.display()
                    );
                    attempt += 1;
                }
                answer => {
                    answer.on("link", link.as_path())?;
                    self.made.push(link.clone());
                    return Ok(link);
                }
            }
        }
        Err(Errno::ENOENT).on("link", path)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for link in &self.made {
            if let Err(error) = std::fs::remove_file(link) {
                warn!("the link {} stays: {error}", link.display());
            }
        }
    }
}

impl Files {
    /// Makes a link for an entry whose path is gone, or takes the one that was made for the same
    /// file.
    pub(super) fn link(
        &mut self,
        sight: &Sight<'_>,
        from: &Path,
        entry: ObjectId,
        tree: &mut FileTree,
    ) -> Result<()> {
        let inode = (sight.stat.st_dev, sight.stat.st_ino);
        let link = match self.linked.get(&inode) {
            Some(link) => *link,
            None => {
                let claim = tree.claim_fresh()?;
                let link = claim.id();
                let name = format!("link_remap.{}", link.number());
                let path = self.links.make(from, sight.link, &name)?;
                self.open.push(OpenFile {
                    claim,
                    flags: 0,
                    position: 0,
                    owner: Owner::default(),
                    kind: FileKind::Regular(Regular {
                        path,
                        mode: sight.stat.st_mode,
                        size_bytes: None,
                        is_external: false,
                    }),
                });
                self.linked.insert(inode, link);
                link
            }
        };
        self.remaps.push(Remap::Linked { entry, link });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn links_are_made_near_by_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        std::fs::write(&other, "x").unwrap();
        let gone = dir.path().join("gone/too/file");
        let mut links = Links::default();
        let first = links.make(&other, &gone, "link_remap.7").unwrap();
        let second = links.make(&other, &gone, "link_remap.7").unwrap();
        assert_eq!(first, dir.path().join("link_remap.7"));
        assert_eq!(second, dir.path().join("link_remap.7.1"));
        assert_eq!(std::fs::metadata(&other).unwrap().nlink(), 3);
        drop(links);
        assert_eq!(std::fs::metadata(&other).unwrap().nlink(), 1);

        let mut links = Links::default();
        let kept = links.make(&other, &gone, "link_remap.8").unwrap();
        links.keep();
        assert!(kept.exists());
    }
}
