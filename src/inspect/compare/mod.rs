//! What differs between two dumps.
//!
//! Numbers in images are unrelated from dump to dump: what is file 7 here may be file 9 there.
//! Things are therefore compared by what they are to the tasks: tasks by their pids, descriptors by
//! their numbers in a task, mappings by their addresses, open files by the descriptors, mappings
//! and folders that they are, pipes and sockets by the open files that lead to them. Where the folders have
//! no pid in common, tasks are the same if they have the same place in the tree.
//!
//! A field that is not there counts as its default. What tells of a dump and not of the tree (the
//! manifest, statistics, clocks, pages left out because they are zeros) makes no difference.

mod draw;
mod entries;
mod identity;
mod pages;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::defect::Defects;
use super::folder::{Folder, Task};
use super::size::kinds;
use crate::error::Result;
use identity::Names;
pub use pages::{PageChange, PageCount};

/// A task that only one of the folders has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskName {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// How many threads it has.
    pub threads: usize,
    /// How many pages of it are saved.
    pub pages: u64,
}

impl TaskName {
    fn of(task: &Task) -> Self {
        Self {
            pid: task.pid,
            name: task.name(),
            threads: task.threads.len(),
            pages: task
                .memory
                .as_ref()
                .map_or(0, super::pagemaps::Memory::pages),
        }
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Only the first folder has it.
    Removed,
    /// Only the second folder has it.
    Added,
    /// Both have it, and it says something else.
    Changed,
}

/// A field that differs; `None` where it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    /// Its name, with those of the messages that it stands in.
    pub name: String,
    /// What the first folder has.
    pub before: Option<String>,
    /// What the second folder has.
    pub after: Option<String>,
}

/// An entry that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChange {
    /// What became of it.
    pub fate: Fate,
    /// The kind of image it stands in, as a file name with N for a number.
    pub image: String,
    /// Which one it is, in words.
    pub entry: String,
    /// What is in it, in a few words, as far as that is more than its fields.
    pub what: String,
    /// The fields that differ; none of an entry that came or went.
    pub fields: Vec<FieldChange>,
}

/// The bytes of one kind of image in both folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeChange {
    /// The name of such a file, with N for a number.
    pub name: String,
    /// Bytes in the first folder.
    pub before_bytes: u64,
    /// Bytes in the second folder.
    pub after_bytes: u64,
}

/// What differs between two folders.
#[derive(Debug)]
pub struct Comparison {
    /// The two folders.
    pub paths: [PathBuf; 2],
    /// How many tasks both have.
    pub tasks_in_both: usize,
    /// Whether tasks are told by their places in the tree, because no pid is in both folders.
    pub by_place: bool,
    /// Tasks that only the first one has.
    pub gone: Vec<TaskName>,
    /// Tasks that only the second one has.
    pub come: Vec<TaskName>,
    /// How many entries of tasks in both folders were compared.
    pub entries_compared: usize,
    /// Entries that differ. Those of tasks that came or went are left out.
    pub entries: Vec<EntryChange>,
    /// Pages of tasks in both folders, all together.
    pub pages: PageCount,
    /// Mappings and shared memory with pages that differ.
    pub changed_pages: Vec<PageChange>,
    /// Every kind of image that one of the folders has.
    pub sizes: Vec<SizeChange>,
    /// What restorers cannot bring back as it was, of either folder.
    pub notes: [Vec<String>; 2],
    /// What could not be read, of either folder.
    pub defects: [Defects; 2],
}

impl Comparison {
    /// Whether both folders hold the same tasks in the same state. How much room that takes does not
    /// matter.
    #[must_use]
    pub fn is_same(&self) -> bool {
        let pages = self.pages;
        self.gone.is_empty()
            && self.come.is_empty()
            && self.entries.is_empty()
            && pages.changed + pages.new + pages.gone == 0
    }
}

/// Compares two folders of images, by dedump or by criu.
///
/// # Errors
/// A folder that cannot be opened; pages that cannot be read. What is damaged inside a folder is in
/// [`Comparison::defects`].
///
/// # Examples
/// ```no_run
/// use dedump::inspect::compare::compare;
///
/// let comparison = compare("monday".as_ref(), "tuesday".as_ref())?;
/// println!("{} tasks came", comparison.come.len());
/// # Ok::<(), dedump::error::Error>(())
/// ```
pub fn compare(before: &Path, after: &Path) -> Result<Comparison> {
    let mut folders = [Folder::read(before)?, Folder::read(after)?];
    let mut defects = folders
        .each_mut()
        .map(|folder| std::mem::take(&mut folder.defects));
    let folders = folders.each_ref();
    let names = Names::of(folders, &mut defects);
    let (entries, entries_compared) = entries::compare(folders, &names, &mut defects);
    let (pages, changed_pages) = pages::compare(folders, &names, &mut defects)?;
    let lonely = |side: usize| {
        let tasks = folders[side].tasks.iter();
        let lonely = tasks.filter(|task| names.task_pair(side, task.pid).is_none());
        lonely.map(TaskName::of).collect::<Vec<_>>()
    };
    Ok(Comparison {
        paths: [before.to_owned(), after.to_owned()],
        tasks_in_both: names.pairs().len(),
        by_place: names.by_place(),
        gone: lonely(0),
        come: lonely(1),
        entries_compared,
        entries,
        pages,
        changed_pages,
        sizes: sizes(folders),
        notes: folders.map(|folder| folder.notes().map(str::to_owned).collect()),
        defects,
    })
}

fn sizes(folders: [&Folder; 2]) -> Vec<SizeChange> {
    let mut bytes: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for (side, folder) in folders.into_iter().enumerate() {
        for kind in kinds(folder) {
            bytes.entry(kind.name).or_default()[side] += kind.bytes;
        }
    }
    let mut sizes: Vec<SizeChange> = bytes
        .into_iter()
        .map(|(name, [before_bytes, after_bytes])| SizeChange {
            name,
            before_bytes,
            after_bytes,
        })
        .collect();
    sizes.sort_by_key(|one| std::cmp::Reverse(one.before_bytes.abs_diff(one.after_bytes)));
    sizes
}
