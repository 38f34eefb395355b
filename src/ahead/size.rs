//! How much a running tree would write, so that a full disk is met before anything is frozen.

use super::processes_below;
use crate::ids::Pid;
use crate::proc::smaps::parse_private_share;
use crate::proc::status::parse_status;
use crate::sys::kcmp::{Order, Resource, kcmp};

/// As much private memory of the tree below `root`, in bytes, is at most written: what is in
/// frames or in swap. Pages of zeros count, although they are not written.
///
/// With more than `enough`, pages that several tasks have count as shares, which takes the
/// kernel longer to tell.
#[must_use]
pub fn private_bytes(root: Pid, enough: u64) -> u64 {
    let processes = processes_below(root);
    let mut sizes = Vec::with_capacity(processes.len());
    for (pid, parent, proc_dir) in &processes {
        let has_parents_memory = parent.is_some_and(|parent| {
            kcmp(parent.leader(), pid.leader(), Resource::Vm) == Ok(Order::Equal)
        });
        let status = proc_dir.read("status").ok();
        let status = status.and_then(|text| parse_status(&text).ok());
        if let Some(status) = status.filter(|_| !has_parents_memory) {
            sizes.push((proc_dir, status.private_kib * 1024));
        }
    }
    let bytes = sizes.iter().map(|(_, bytes)| bytes).sum();
    if bytes <= enough {
        return bytes;
    }
    let shares = sizes.iter().map(|(proc_dir, bytes)| {
        let rollup = proc_dir.read("smaps_rollup").ok();
        let share = rollup.and_then(|text| parse_private_share(&text).ok());
        share.unwrap_or(*bytes)
    });
    shares.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_when_it_is_touched() {
        let own = Pid(std::process::id().cast_signed());
        let before = private_bytes(own, u64::MAX);
        let touched = vec![1_u8; 64 << 20];
        for enough in [0, u64::MAX] {
            let now = private_bytes(own, enough);
            assert!(now > before + (48 << 20), "{before} {now} {}", touched[7]);
        }
    }
}
