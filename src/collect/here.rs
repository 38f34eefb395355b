//! The dumper's own side of what collecting compares with.

use std::path::Path;

use nix::sys::stat::stat;

use super::namespaces::OwnNamespaces;
use crate::error::{Result, ResultExt, Target};
use crate::sys::fcntl;

/// What is the same for all tasks, looked at before the freeze.
#[derive(Clone, Debug)]
pub struct Here {
    /// The namespaces in which a tree must be.
    pub namespaces: OwnNamespaces,
    /// The device that files of shared memory are on.
    pub shmem_device: u64,
    /// The device of `/proc`.
    pub proc_device: u64,
    /// The device of `/dev/pts`; 0 without terminals.
    pub terminals_device: u64,
}

impl Here {
    /// Looks.
    ///
    /// # Errors
    /// Reading `/proc/self`; memfd_create(2).
    pub fn look() -> Result<Self> {
        Ok(Self {
            namespaces: OwnNamespaces::read()?,
            shmem_device: fcntl::shmem_device().on("memfd_create", Target::Here)?,
            proc_device: stat("/proc/self")
                .on("stat", Path::new("/proc/self"))?
                .st_dev,
            terminals_device: stat("/dev/pts").map_or(0, |found| found.st_dev),
        })
    }
}
