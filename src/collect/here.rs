//! The dumper's own side of what collecting compares with.

use super::cgroups::CgroupSets;
use super::lost::Inheritance;
use super::namespaces::OwnNamespaces;
use crate::error::{Result, ResultExt, Target};
use crate::options::CgroupChoices;
use crate::sys::fcntl;

/// What is the same for all tasks, looked at before the freeze.
#[derive(Debug)]
pub struct Here {
    /// The namespaces in which a tree must be.
    pub namespaces: OwnNamespaces,
    /// The device that files of shared memory are on.
    pub shmem_device: u64,
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
    pub fn look(cgroups: &CgroupChoices) -> Result<Self> {
        Ok(Self {
            namespaces: OwnNamespaces::read()?,
            cgroups: CgroupSets::start(cgroups)?,
            inheritance: Inheritance::own()?,
            shmem_device: fcntl::shmem_device().on("memfd_create", Target::Here)?,
        })
    }
}
