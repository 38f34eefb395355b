//! The dumper's own side of what collecting compares with.

use super::cgroups::CgroupSets;
use super::lost::Inheritance;
use std::path::Path;

use nix::sys::stat::stat;

use super::namespaces::OwnNamespaces;
use crate::error::{Result, ResultExt, Target};
use crate::options::DumpOptions;
use crate::proc::locks::{OpenFilesLock, locks_of_open_files};
use crate::sys::fcntl;

/// What is the same for all tasks, looked at before the freeze.
#[derive(Debug)]
pub struct Here {
    /// The namespaces in which a tree must be.
    pub namespaces: OwnNamespaces,
    /// The device that files of shared memory are on.
    pub shmem_device: u64,
    /// Locks of open files, of everybody who can be seen from here, if locks are dumped. The
    /// kernel takes 10 ms for that list.
    pub locks: Vec<OpenFilesLock>,
    /// The device of `/proc`.
    pub proc_device: u64,
    /// The device of `/dev/pts`; 0 without terminals.
    pub terminals_device: u64,
    /// The sets of cgroups, of which the first is the dumper's.
    pub cgroups: CgroupSets,
    /// What tasks have from whoever restores them.
    pub inheritance: Inheritance,
}

impl Here {
    /// Looks.
    ///
    /// # Errors
    /// Settings of cgroups that make no sense; reading `/proc/self`; memfd_create(2), sched_getaffinity(2), ioprio_get(2).
    pub fn look(options: &DumpOptions) -> Result<Self> {
        Ok(Self {
            namespaces: OwnNamespaces::read()?,
            cgroups: CgroupSets::start(&options.cgroups)?,
            inheritance: Inheritance::own()?,
            shmem_device: fcntl::shmem_device().on("memfd_create", Target::Here)?,
            locks: match options.files.file_locks {
                true => locks_of_open_files(&std::fs::read("/proc/locks").unwrap_or_default()),
                false => Vec::new(),
            },
            proc_device: stat("/proc/self")
                .on("stat", Path::new("/proc/self"))?
                .st_dev,
            terminals_device: stat("/dev/pts").map_or(0, |found| found.st_dev),
        })
    }
}
