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

use std::collections::HashMap;

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
        /// Descriptors of our own that may be used for it, at most half of what we may have.
        const MOST_DESCRIPTORS: usize = 65_536;
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let half = limit.map_or(0, |(soft, _)| usize::try_from(soft / 2).unwrap_or(0));
        let mut left = half.min(MOST_DESCRIPTORS);
        let mut tables: HashMap<Pid, TableAhead> = HashMap::new();
        let mut files = FileTree::new();
        let mut level = vec![(root, None)];
        while !level.is_empty() {
            let mut next = Vec::new();
            for (pid, parent) in level {
                let Ok(proc_dir) = ProcDir::open(pid) else {
                    continue;
                };
                for thread in proc_dir.numbers("task").unwrap_or_default() {
                    let text = proc_dir.read(&format!("task/{thread}/children"));
                    let children = parse_children(&text.unwrap_or_default());
                    next.extend(
                        children
                            .unwrap_or_default()
                            .into_iter()
                            .map(|child| (child, Some(pid))),
                    );
                }
                let inherited = parent.and_then(|parent| Some((parent, tables.get(&parent)?)));
                let table = TableAhead::of(pid, &proc_dir, inherited, &mut left);
                if tables.contains_key(&pid) {
                    continue;
                }
                let mut table = table.unwrap_or_default();
                table.identify(pid, &mut files);
                tables.insert(pid, table);
            }
            level = next;
        }
        let ranks = files.ranks();
        for table in tables.values_mut() {
            table.rank(&ranks);
        }
        Self { tables }
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
