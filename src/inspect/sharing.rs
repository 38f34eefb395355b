//! Who has what in common with whom.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::folder::{Folder, Task};
use super::pagemaps::Memory;
use crate::collect::memory::PAGE_BYTES;
use crate::image::proto::TaskKobjIdsEntry;

/// Names a pages file: how far down the chain, and its number there.
type PagesFile = (usize, u32);

/// A part of a pages file, and how many address spaces use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: u64,
    end: u64,
    users: u32,
}

/// How many address spaces use each saved page.
#[derive(Debug, Default)]
pub struct PageUses {
    parts: HashMap<PagesFile, Vec<Part>>,
}

/// Pages of an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Of nobody else.
    pub own_pages: u64,
    /// Also of other address spaces, in this folder.
    pub shared_pages: u64,
    /// In an earlier dump, whoever else has them.
    pub earlier_pages: u64,
}

impl Split {
    /// All of them.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.own_pages + self.shared_pages + self.earlier_pages
    }
}

impl PageUses {
    /// Of the tasks of a folder.
    #[must_use]
    pub fn of(folder: &Folder) -> Self {
        let mut changes: HashMap<PagesFile, Vec<(u64, i32)>> = HashMap::new();
        for task in spaces(folder) {
            for run in task.memory.iter().flat_map(|memory| &memory.stored) {
                let file = changes.entry((run.level, run.pages_id)).or_default();
                file.push((run.offset, 1));
                file.push((run.offset + (run.end - run.start), -1));
            }
        }
        let parts = changes.into_iter();
        Self {
            parts: parts
                .map(|(file, changes)| (file, swept(changes)))
                .collect(),
        }
    }

    /// What of a memory is its own, and what is not.
    #[must_use]
    pub fn split(&self, folder: &Folder, memory: &Memory) -> Split {
        let mut split = Split::default();
        for run in &memory.stored {
            if folder.is_earlier(run.level) {
                split.earlier_pages += run.pages();
                continue;
            }
            let (from, to) = (run.offset, run.offset + (run.end - run.start));
            let parts = self.parts.get(&(run.level, run.pages_id));
            let parts = parts.map_or(&[][..], Vec::as_slice);
            let first = parts.partition_point(|part| part.end <= from);
            for part in parts[first..].iter().take_while(|part| part.start < to) {
                let pages = (part.end.min(to) - part.start.max(from)) / PAGE_BYTES;
                if part.users > 1 {
                    split.shared_pages += pages;
                } else {
                    split.own_pages += pages;
                }
            }
        }
        split
    }
}

/// Parts out of places where users begin (1) and end (-1).
fn swept(mut changes: Vec<(u64, i32)>) -> Vec<Part> {
    changes.sort_unstable();
    let mut parts: Vec<Part> = Vec::new();
    let (mut start, mut users) = (0, 0_i32);
    for (offset, change) in changes {
        if offset > start && users > 0 {
            parts.push(Part {
                start,
                end: offset,
                users: users.unsigned_abs(),
            });
        }
        start = offset;
        users += change;
    }
    parts
}

/// The first task of each address space.
pub fn spaces(folder: &Folder) -> impl Iterator<Item = &Task> {
    let mut seen = HashSet::new();
    folder.tasks.iter().filter(move |task| {
        let pagemap = task
            .memory
            .as_ref()
            .and_then(|memory| memory.pagemaps.first());
        pagemap.is_some_and(|pagemap| seen.insert(pagemap.inode))
    })
}

/// A kind of kernel object that tasks have ids of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Address spaces.
    Vm,
    /// Working folder, root, umask.
    Fs,
    /// Descriptor tables.
    Files,
    /// Signal handlers.
    Sighand,
}

impl Table {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Vm, Self::Fs, Self::Files, Self::Sighand];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Fs => "fs",
            Self::Files => "files",
            Self::Sighand => "sighand",
        }
    }

    /// The id of one.
    #[must_use]
    pub fn id(self, ids: &TaskKobjIdsEntry) -> u32 {
        match self {
            Self::Vm => ids.vm_id,
            Self::Fs => ids.fs_id,
            Self::Files => ids.files_id,
            Self::Sighand => ids.sighand_id,
        }
    }
}

/// Who has which of these objects: processes, and threads that do not have their process's.
#[must_use]
pub fn holders(folder: &Folder) -> BTreeMap<(Table, u32), Vec<u32>> {
    let mut holders: BTreeMap<(Table, u32), Vec<u32>> = BTreeMap::new();
    for task in &folder.tasks {
        let Some(ids) = &task.ids else { continue };
        for table in Table::ALL {
            let id = table.id(ids);
            holders.entry((table, id)).or_default().push(task.pid);
            for thread in &task.threads {
                let own = thread.ids.as_ref().map(|ids| table.id(ids));
                if let Some(own) = own.filter(|own| *own != id) {
                    holders.entry((table, own)).or_default().push(thread.tid);
                }
            }
        }
    }
    holders
}

/// Which descriptors lead to each open file: table and number.
#[must_use]
pub fn descriptors(folder: &Folder) -> HashMap<u32, Vec<(u32, u32)>> {
    let mut found: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
    for (table, descriptors) in &folder.tables {
        for one in descriptors {
            found.entry(one.id).or_default().push((*table, one.fd));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_know_how_many_use_them() {
        let changes = vec![(0, 1), (3, -1), (1, 1), (2, -1), (5, 1), (6, -1)];
        let parts = swept(changes).into_iter();
        let parts: Vec<_> = parts
            .map(|part| (part.start, part.end, part.users))
            .collect();
        assert_eq!(parts, [(0, 1, 1), (1, 2, 2), (2, 3, 1), (5, 6, 1)]);
    }
}
