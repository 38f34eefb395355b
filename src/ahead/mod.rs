//! A look at the tree before the freeze, so that the freeze only has to confirm.
//!
//! Everything here is read while the tree runs, and may be out of date when it stands still.
//! Nothing of it is believed: each use says how the frozen tree confirms it, and what is not
//! confirmed is read anew. Nothing here can fail either; what cannot be read is left out.
//!
//! No open file of a task is held meanwhile: a socket that the task closes must be closed, a
//! lock that it gives up must be free. What is held are files of `/proc`, which keep nothing
//! alive, and are shown as of the moment they are read.

mod table;

use std::collections::{HashMap, HashSet};

pub use table::{AheadFd, FdinfoNow, TableAhead};

use crate::ids::{Fd, Pid};
use crate::kcmp::FileTree;
use crate::proc::ProcDir;
use crate::proc::children::parse_children;

/// What was seen of a tree before the freeze.
#[derive(Debug, Default)]
pub struct LookAhead {
    tables: HashMap<Pid, TableAhead>,
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
        let processes = processes_below(root);
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let limit = limit.map_or(0, |(soft, _)| usize::try_from(soft).unwrap_or(MOST));
        let mut left = limit
            .saturating_sub(KEPT + KEPT_FOR_EACH * processes.len())
            .min(MOST);
        let mut tables: HashMap<Pid, TableAhead> = HashMap::with_capacity(processes.len());
        let mut files = FileTree::new();
        for (pid, parent, proc_dir) in &processes {
            let inherited = parent.and_then(|parent| Some((parent, tables.get(&parent)?)));
            if let Some(mut table) = TableAhead::of(*pid, proc_dir, inherited, &mut left) {
                table.identify(*pid, &mut files);
                tables.insert(*pid, table);
            }
        }
        let ranks = files.ranks();
        for table in tables.values_mut() {
            table.rank(&ranks);
        }
        Self { tables }
    }

    /// Whether nothing was looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The descriptor table of a process.
    #[must_use]
    pub fn table(&self, pid: Pid) -> Option<&TableAhead> {
        self.tables.get(&pid)
    }

    /// The numbers of the open descriptors of a process, if there are `count` now and there
    /// were as many. They are the same ones if each of them is found to be open.
    #[must_use]
    pub fn descriptors(&self, pid: Pid, count: usize) -> Option<&[Fd]> {
        let fds = self.tables.get(&pid)?.descriptors();
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
