//! Seccomp filters as an image: `seccomp`, and what the `core-` of a thread says of them.
//!
//! The image is one list. A thread names its oldest filter, and each filter the next newer
//! one, in the order in which a restorer installs them.

use std::collections::HashMap;

use super::proto;
use crate::collect::seccomp::Filter;
use crate::collect::task::Living;
use crate::ids::Tid;
use crate::proc::status::Seccomp;

const STRICT: i32 = 1;
const FILTER: i32 = 2;
/// `SECCOMP_FILTER_FLAG_TSYNC`.
const ALL_THREADS: u32 = 1;

/// The filters of a tree, and who has which.
#[derive(Debug, Default)]
pub(super) struct Filters {
    entry: proto::SeccompEntry,
    /// Mode of a thread, and the place of its oldest filter.
    threads: HashMap<Tid, (i32, Option<u32>)>,
    /// Where the chains that are in the list start.
    chains: HashMap<Vec<Filter>, u32>,
}

impl Filters {
    /// Of all living processes.
    pub(super) fn of<'a>(processes: impl Iterator<Item = &'a Living>) -> Self {
        let mut filters = Self::default();
        for process in processes {
            filters.add(process);
        }
        filters
    }

    /// What all threads of a process have alike is noted once, to be installed for all of them
    /// at once: only so are they one branch for the kernel, to which the program may add.
    fn add(&mut self, process: &Living) {
        let mut threads = process.threads.iter();
        let Some(leader) = threads.next() else { return };
        let chain = &leader.capture.filters;
        let alike = process.threads.len() > 1
            && !chain.is_empty()
            && threads.all(|thread| thread.capture.filters == *chain);
        if alike {
            let synchronized = chain.iter().cloned().map(|filter| Filter {
                flags: filter.flags | ALL_THREADS,
                ..filter
            });
            let first = self.chain(synchronized.collect());
            self.threads.insert(leader.capture.tid, (FILTER, first));
            return;
        }
        for thread in &process.threads {
            let state = match thread.status.seccomp {
                Seccomp::Disabled | Seccomp::Dead => continue,
                Seccomp::Strict => (STRICT, None),
                Seccomp::Filter => (FILTER, self.chain(thread.capture.filters.clone())),
            };
            self.threads.insert(thread.capture.tid, state);
        }
    }

    /// The place of a chain in the list, where it is put unless it is there.
    fn chain(&mut self, chain: Vec<Filter>) -> Option<u32> {
        if let Some(first) = self.chains.get(&chain) {
            return Some(*first);
        }
        let list = &mut self.entry.seccomp_filters;
        let first = u32::try_from(list.len()).ok()?;
        let last = chain.len().checked_sub(1)?;
        for (index, filter) in chain.iter().enumerate() {
            let next = u32::try_from(list.len() + 1).ok()?;
            list.push(proto::SeccompFilter {
                filter: filter.instructions.clone(),
                prev: (index < last).then_some(next),
                flags: (filter.flags != 0).then_some(filter.flags),
            });
        }
        self.chains.insert(chain, first);
        Some(first)
    }

    /// Notes mode and filters of a thread in its `core-` entry.
    pub(super) fn note(&self, tid: Tid, core: &mut proto::CoreEntry) {
        if let (Some((mode, first)), Some(thread)) = (self.threads.get(&tid), &mut core.thread_core)
        {
            thread.seccomp_mode = Some(*mode);
            thread.seccomp_filter = *first;
        }
    }

    /// The entry of `seccomp.img`; `None` where there are no filters.
    pub(super) fn entry(&self) -> Option<&proto::SeccompEntry> {
        (!self.entry.seccomp_filters.is_empty()).then_some(&self.entry)
    }
}
