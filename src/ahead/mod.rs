//! A look at the tree before the freeze, so that the freeze only has to confirm.
//!
//! Everything here is read while the tree runs, and may be out of date when it stands still.
//! Nothing of it is believed: each use says how the frozen tree confirms it, and what is not
//! confirmed is read anew. Nothing here can fail either; what cannot be read is left out.
//!
//! No open file of a task is held meanwhile: a socket that the task closes must be closed, a
//! lock that it gives up must be free. What is held are files of `/proc`, which keep nothing
//! alive, and are shown as of the moment they are read.

mod size;
mod space;
mod table;

use std::collections::{HashMap, HashSet};

pub use size::private_bytes;
pub use space::SpaceAhead;
pub use table::{AheadFd, FdinfoNow, TableAhead};

use crate::ids::{Fd, Pid};
use crate::kcmp::FileTree;
use crate::proc::ProcDir;
use crate::proc::children::parse_children;
use crate::proc::locks::LockedInodes;
use crate::sys::kcmp::{Order, Resource, kcmp};
use table::{Countdown, Room};

/// What was seen of a tree before the freeze.
#[derive(Debug, Default)]
pub struct LookAhead {
    tables: HashMap<Pid, TableAhead>,
    spaces: HashMap<Pid, SpaceAhead>,
    uses_duplicates: bool,
}

impl LookAhead {
    /// Looks at everything below `root`.
    #[must_use]
    pub fn of(root: Pid) -> Self {
        /// Descriptors of our own that the dump itself needs, and for each process.
        const KEPT: usize = 1024;
        const KEPT_FOR_EACH: usize = 8;
        /// The kernel keeps a page for each open fdinfo.
        const MOST: usize = 65_536;
        /// Up to here, the list of all locks costs more than it saves.
        const FEW: usize = 1000;
        let processes = processes_below(root);
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let limit = limit.map_or(0, |(soft, _)| usize::try_from(soft).unwrap_or(MOST));
        let left = limit.saturating_sub(KEPT + KEPT_FOR_EACH * processes.len());
        let room = Room {
            left: Countdown::from(left.min(MOST)),
            few: Countdown::from(FEW),
        };
        let mut tables: HashMap<Pid, TableAhead> = HashMap::with_capacity(processes.len());
        let mut files = FileTree::new();
        for (pid, parent, proc_dir) in &processes {
            let inherited = parent.and_then(|parent| Some((parent, tables.get(&parent)?)));
            if let Some(mut table) = TableAhead::of(*pid, proc_dir, inherited, &room) {
                table.identify(*pid, &mut files);
                tables.insert(*pid, table);
            }
        }
        let spaces = processes.iter().filter_map(|(pid, _, proc_dir)| {
            let space = SpaceAhead::of(proc_dir)?;
            Some((*pid, space))
        });
        let spaces = spaces.collect();
        let ranks = files.ranks();
        for table in tables.values_mut() {
            table.rank(&ranks);
        }
        let uses_duplicates = room.few.is_used_up();
        if uses_duplicates {
            // The kernel lets nobody lock files while it lists locks. To get there takes it
            // milliseconds, and no time at all if it was done just before.
            let _ = LockedInodes::read();
        }
        Self {
            tables,
            spaces,
            uses_duplicates,
        }
    }

    /// Whether there are so many descriptors of which duplicates tell everything but locks,
    /// that a list of all locks pays.
    #[must_use]
    pub fn uses_duplicates(&self) -> bool {
        self.uses_duplicates
    }

    /// The address space of a process, if it is large.
    #[must_use]
    pub fn space(&self, pid: Pid) -> Option<&SpaceAhead> {
        self.spaces.get(&pid)
    }

    /// The descriptor table of a process.
    #[must_use]
    pub fn table(&self, pid: Pid) -> Option<&TableAhead> {
        self.tables.get(&pid)
    }

    /// The numbers of the open descriptors of a process, ascending, if there are `count` now
    /// and there were about as many. They are the right ones if each of them is found to be
    /// open.
    #[must_use]
    pub fn descriptors(&self, pid: Pid, count: usize) -> Option<Vec<Fd>> {
        /// As many more are looked for where the kernel opens new ones: the lowest free numbers.
        const MORE: usize = 4;
        let mut fds = self.tables.get(&pid)?.descriptors().to_vec();
        let more = count.checked_sub(fds.len()).filter(|more| *more <= MORE)?;
        if more > 0 {
            let mut next = 0;
            let mut taken = fds.iter().peekable();
            let mut free = std::iter::from_fn(|| {
                while taken.next_if(|fd| fd.0 == next).is_some() {
                    next += 1;
                }
                next += 1;
                Some(Fd(next - 1))
            });
            let is_open = |fd: &Fd| {
                kcmp(pid.leader(), pid.leader(), Resource::File(*fd, *fd)) == Ok(Order::Equal)
            };
            let new: Vec<Fd> = free.by_ref().take(2 * MORE).filter(is_open).collect();
            fds.extend(new);
            fds.sort_unstable();
        }
        (fds.len() == count).then_some(fds)
    }
}

/// The processes of a tree, each once, parents first.
fn processes_below(root: Pid) -> Vec<(Pid, Option<Pid>, ProcDir)> {
    let mut known = HashSet::from([root]);
    let mut found: Vec<(Pid, Option<Pid>, ProcDir)> = Vec::new();
    found.extend(ProcDir::open(root).ok().map(|dir| (root, None, dir)));
    let mut next = 0;
    while let Some((pid, _, proc_dir)) = found.get(next) {
        let pid = *pid;
        let mut children = Vec::new();
        for thread in proc_dir.numbers("task").unwrap_or_default() {
            let text = proc_dir.read(&format!("task/{thread}/children"));
            children.extend(parse_children(&text.unwrap_or_default()).unwrap_or_default());
        }
        for child in children.into_iter().filter(|child| known.insert(*child)) {
            found.extend(ProcDir::open(child).ok().map(|dir| (child, Some(pid), dir)));
        }
        next += 1;
    }
    found
}
