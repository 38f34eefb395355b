//! Large address spaces as they are before the freeze.

use crate::proc::ProcDir;
use crate::proc::maps::Mapping;
use crate::proc::smaps::{Vma, parse_smaps};
use crate::proc::status::parse_status;

/// The mappings of an address space before the freeze, with their flags. To list them the
/// kernel counts every page, which takes milliseconds for each hundred MiB.
///
/// What confirms them: `maps`, which is read in the freeze and does not count, has the same
/// mappings; as much memory is locked as before; and a snapshot of the memory, which inherits
/// all other flags, shows the same ones when the tree runs again.
#[derive(Debug)]
pub struct SpaceAhead {
    vmas: Vec<Vma>,
    locked_kib: u64,
}

impl SpaceAhead {
    /// Reads the mappings of a process, if that takes long.
    pub(super) fn of(proc_dir: &ProcDir) -> Option<Self> {
        /// Below this, reading it in the freeze takes less than 0.3 ms.
        const LARGE_KIB: u64 = 16 * 1024;
        let status = parse_status(&proc_dir.read("status").ok()?).ok()?;
        if status.private_kib < LARGE_KIB {
            return None;
        }
        Some(Self {
            vmas: parse_smaps(&proc_dir.read("smaps").ok()?).ok()?,
            locked_kib: status.locked_kib,
        })
    }

    /// The mappings, if these are the same ones, with as much locked memory. Their flags still
    /// are to be confirmed by the snapshot.
    #[must_use]
    pub fn vmas(&self, now: &[Mapping], locked_kib: u64) -> Option<&[Vma]> {
        let same = self.locked_kib == locked_kib
            && self.vmas.len() == now.len()
            && self
                .vmas
                .iter()
                .zip(now)
                .all(|(vma, now)| vma.mapping == *now);
        same.then_some(&self.vmas)
    }
}
