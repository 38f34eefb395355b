//! The process tree, and beside it what its tasks share.
//!
//! ```text
//!   TASK            THREADS  VM  FS  FILES  SIGHAND       OWN    SHARED  DESCRIPTORS
//!   4120 pool             2   2   2      2        2  1.2 MiB  16.3 MiB  5: 3 REG, 2 PIPE
//!   ├─ 4127 pool          1   3   3     =2        3  0.9 MiB  16.3 MiB  (those of 4120)
//!   └─ 4128 pool          1   4   4      4        4  0.9 MiB  16.3 MiB  5: 3 REG, 2 PIPE
//! ```
//!
//! Equal numbers are one kernel object; `=` marks what a task above has, too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use comfy_table::ColumnConstraint;
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::columns::{headed, print};
use super::describe;
use super::folder::{Folder, Task, kind_name};
use super::sharing::{PageUses, Split, Table, descriptors, holders};
use crate::collect::memory::PAGE_BYTES;
use crate::error::Result;
use crate::image::proto::VmaEntry;

/// What to draw besides the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Every descriptor of every task.
    pub fds: bool,
    /// Every mapping of every task.
    pub maps: bool,
}

/// A tree, ready to be drawn.
#[derive(Debug)]
pub struct Tree {
    folder: Folder,
    uses: PageUses,
    /// Who has which vm, fs, files, sighand.
    holders: BTreeMap<(Table, u32), Vec<u32>>,
    /// Which descriptors lead to each open file.
    descriptors: HashMap<u32, Vec<(u32, u32)>>,
}

/// Reads the tree of a folder.
///
/// # Errors
/// A folder that cannot be opened.
pub fn tree(path: &Path) -> Result<Tree> {
    let folder = Folder::read(path)?;
    Ok(Tree {
        uses: PageUses::of(&folder),
        holders: holders(&folder),
        descriptors: descriptors(&folder),
        folder,
    })
}

impl Tree {
    /// What is wrong with the images, as far as drawing came across it.
    pub fn defects(&self) -> impl Iterator<Item = String> {
        self.folder.defects.found().iter().map(ToString::to_string)
    }

    /// Tasks in the order in which they are drawn, each with the lines in front of it.
    fn rows(&self) -> Vec<(&Task, String)> {
        let tasks = &self.folder.tasks;
        let mut rows = Vec::new();
        // Whose turn it is, what stands in front of it, and of what is below it.
        let mut waiting: Vec<(usize, String, String)> = Vec::new();
        let roots = tasks.iter().enumerate().rev();
        for (place, _) in roots.filter(|(_, task)| task.parent.is_none()) {
            waiting.push((place, String::new(), String::new()));
        }
        while let Some((place, own, below)) = waiting.pop() {
            let task = &tasks[place];
            rows.push((task, own));
            for (number, &child) in task.children.iter().rev().enumerate() {
                let (here, further) = if number == 0 {
                    ("└─ ", "   ")
                } else {
                    ("├─ ", "│  ")
                };
                // Nobody sees what is that far to the right.
                let deeper = if below.chars().count() < 3 * 60 {
                    format!("{below}{further}")
                } else {
                    below.clone()
                };
                waiting.push((child, format!("{below}{here}"), deeper));
            }
        }
        rows
    }

    fn split(&self, task: &Task) -> Option<Split> {
        let memory = task.memory.as_ref()?;
        Some(self.uses.split(&self.folder, memory))
    }

    /// The first task that has the same, if that is another one.
    fn first_holder(&self, task: &Task, table: Table) -> Option<u32> {
        let id = table.id(task.ids.as_ref()?);
        let first = *self.holders.get(&(table, id))?.first()?;
        (first != task.pid).then_some(first)
    }

    /// The tree as text.
    #[must_use]
    pub fn text(&self, details: Details) -> String {
        let mut columns = headed([
            "TASK",
            "THREADS",
            "VM",
            "FS",
            "FILES",
            "SIGHAND",
            "OWN",
            "SHARED",
            "EARLIER",
            "DESCRIPTORS",
        ]);
        let rows = self.rows();
        let mut has_earlier = false;
        for (task, lines) in &rows {
            let mut cells = vec![format!("{lines}{} {}", task.pid, task.name())];
            if task.is_zombie() {
                cells.extend(std::iter::repeat_n(String::new(), 8));
                cells.push("(zombie)".to_owned());
                columns.add_row(cells);
                continue;
            }
            cells.push(task.threads.len().to_string());
            for table in Table::ALL {
                let id = task.ids.as_ref().map(|ids| table.id(ids));
                let mark = if self.first_holder(task, table).is_some() {
                    "="
                } else {
                    ""
                };
                cells.push(id.map_or_else(|| "?".to_owned(), |id| format!("{mark}{id}")));
            }
            let split = self.split(task).unwrap_or_default();
            has_earlier |= split.earlier_pages > 0;
            for pages in [split.own_pages, split.shared_pages, split.earlier_pages] {
                cells.push(size(pages));
            }
            cells.push(self.descriptors_of(task));
            columns.add_row(cells);
        }
        // The column of earlier dumps only where there is something in it.
        if !has_earlier && let Some(column) = columns.column_mut(8) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
        let mut text = String::new();
        print(&mut text, &mut columns, 1..9);
        self.threads(&mut text);
        self.shared(&mut text);
        for (task, _) in rows.iter().filter(|(task, _)| !task.is_zombie()) {
            if details.fds {
                self.fds(task, &mut text);
            }
            if details.maps {
                self.maps(task, &mut text);
            }
        }
        for note in self.folder.notes() {
            let _ = writeln!(text, "note: {note}");
        }
        text
    }

    fn descriptors_of(&self, task: &Task) -> String {
        if let Some(first) = self.first_holder(task, Table::Files) {
            return format!("(those of {first})");
        }
        let table = task
            .ids
            .as_ref()
            .and_then(|ids| self.folder.tables.get(&ids.files_id));
        let table = table.map_or(&[][..], Vec::as_slice);
        if table.is_empty() {
            return "none".to_owned();
        }
        let kinds: Vec<String> = describe::kinds(&self.folder, table)
            .into_iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        format!("{}: {}", table.len(), kinds.join(", "))
    }

    /// Threads that do not have everything from their process.
    fn threads(&self, text: &mut String) {
        for task in &self.folder.tasks {
            let Some(ids) = &task.ids else { continue };
            for thread in &task.threads {
                let Some(own) = thread.ids.as_ref().filter(|_| thread.tid != task.pid) else {
                    continue;
                };
                for table in Table::ALL {
                    if table.id(own) != table.id(ids) {
                        let (name, id) = (table.name(), table.id(own));
                        let (tid, pid) = (thread.tid, task.pid);
                        let _ = writeln!(text, "thread {tid} of {pid} has its own {name} {id}");
                    }
                }
            }
        }
    }

    /// What several tasks have in common, as a list.
    fn shared(&self, text: &mut String) {
        for ((table, id), tids) in self.holders.iter().filter(|(_, tids)| tids.len() > 1) {
            let _ = writeln!(text, "shared {} {id}: {}", table.name(), numbers(tids));
        }
        let many = |places: &Vec<(u32, u32)>| {
            let tables: HashSet<u32> = places.iter().map(|(table, _)| *table).collect();
            tables.len() > 1
        };
        let files = self.descriptors.values().filter(|places| many(places));
        let (files, references) = files.fold((0_usize, 0_usize), |(files, references), places| {
            (files + 1, references + places.len())
        });
        if files > 0 {
            let _ = writeln!(
                text,
                "shared open files: {files}, to which {references} descriptors of several tables lead"
            );
        }
        for segment in &self.folder.segments {
            let inode = segment.entry.as_ref().map(|one| one.inode_id);
            let mappers = self.mappers(segment.shmid, inode);
            let openers = self.openers(inode);
            let pages = segment
                .memory
                .as_ref()
                .map_or(0, super::pagemaps::Memory::pages);
            let _ = writeln!(
                text,
                "shared memory {}: {} saved, mapped by {}{}",
                segment.shmid,
                BinaryBytes(pages * PAGE_BYTES),
                if mappers.is_empty() {
                    "nobody".to_owned()
                } else {
                    numbers(&mappers)
                },
                if openers.is_empty() {
                    String::new()
                } else {
                    format!(", open in {}", numbers(&openers))
                }
            );
        }
    }

    /// Who maps a piece of shared memory.
    fn mappers(&self, shmid: u64, inode: Option<u64>) -> Vec<u32> {
        use super::folder::Body;
        use crate::image::memory::status;
        let shows = |vma: &VmaEntry| {
            if vma.status & (status::ANON_SHARED | status::SYSVIPC) != 0 {
                return vma.shmid == shmid;
            }
            let is_memfd = vma.status & status::MEMFD != 0;
            let file = u32::try_from(vma.shmid)
                .ok()
                .and_then(|id| self.folder.file(id));
            match file.map(|file| &file.body) {
                Some(Body::Memfd(memfd)) if is_memfd => Some(u64::from(memfd.inode_id)) == inode,
                _ => false,
            }
        };
        let tasks = self.folder.tasks.iter();
        let maps = tasks.filter(|task| task.mm.iter().any(|mm| mm.vmas.iter().any(shows)));
        maps.map(|task| task.pid).collect()
    }

    /// Who has a piece of shared memory open, by its inode.
    fn openers(&self, inode: Option<u64>) -> Vec<u32> {
        use super::folder::Body;
        let files = self.folder.files.iter().filter(|file| match &file.body {
            Body::Memfd(memfd) => Some(u64::from(memfd.inode_id)) == inode,
            _ => false,
        });
        let places = files.filter_map(|file| self.descriptors.get(&file.id));
        let holders = places
            .flatten()
            .filter_map(|(table, _)| self.holders.get(&(Table::Files, *table)));
        holders.flatten().copied().collect()
    }

    /// Others who reach an open file, as `PID:FD`.
    fn others(&self, id: u32, table: u32, fd: u32) -> Vec<String> {
        let places = self.descriptors.get(&id).into_iter().flatten();
        let others = places.filter(|place| **place != (table, fd));
        others
            .filter_map(|(table, fd)| {
                let holders = self.holders.get(&(Table::Files, *table))?;
                Some(format!("{}:{fd}", holders.first()?))
            })
            .collect()
    }

    fn fds(&self, task: &Task, text: &mut String) {
        let _ = writeln!(text, "\ndescriptors of {} {}", task.pid, task.name());
        if let Some(first) = self.first_holder(task, Table::Files) {
            let _ = writeln!(text, "  those of {first}");
            return;
        }
        let Some(id) = task.ids.as_ref().map(|ids| ids.files_id) else {
            return;
        };
        for one in self.folder.tables.get(&id).into_iter().flatten() {
            let file = self.folder.file(one.id);
            let kind = kind_name(file.map_or(one.r#type, |file| file.kind));
            let what = file.map_or_else(
                || "not in files.img".to_owned(),
                |file| describe::file(&self.folder, file),
            );
            let _ = write!(text, "  {:>4} {kind:<9} {what}", one.fd);
            if one.flags & 1 != 0 {
                text.push_str(" (close on exec)");
            }
            let others = self.others(one.id, id, one.fd);
            if !others.is_empty() {
                let shown = others.iter().take(8).cloned().collect::<Vec<_>>().join(" ");
                let more = others.len().saturating_sub(8);
                let _ = write!(text, "  = {shown}");
                if more > 0 {
                    let _ = write!(text, " and {more} more");
                }
            }
            text.push('\n');
        }
    }

    fn maps(&self, task: &Task, text: &mut String) {
        let _ = writeln!(text, "\nmappings of {} {}", task.pid, task.name());
        if let Some(first) = self.first_holder(task, Table::Vm) {
            let _ = writeln!(text, "  those of {first}");
            return;
        }
        for vma in task.mm.iter().flat_map(|mm| &mm.vmas) {
            let split = self.split_of(task, vma);
            let _ = write!(
                text,
                "  {:012x}-{:012x} {} {}",
                vma.start,
                vma.end,
                describe::protection(vma),
                describe::mapping(&self.folder, vma)
            );
            if split.pages() > 0 {
                let _ = write!(text, "  saved: {} own", size(split.own_pages));
                for (pages, what) in [
                    (split.shared_pages, "shared"),
                    (split.earlier_pages, "in an earlier dump"),
                ] {
                    if pages > 0 {
                        let _ = write!(text, ", {} {what}", size(pages));
                    }
                }
            }
            text.push('\n');
        }
    }

    /// The saved pages of one mapping.
    fn split_of(&self, task: &Task, vma: &VmaEntry) -> Split {
        let Some(memory) = &task.memory else {
            return Split::default();
        };
        let part = super::pagemaps::Memory {
            stored: memory.within(vma.start, vma.end).collect(),
            ..Default::default()
        };
        self.uses.split(&self.folder, &part)
    }

    /// The tree for Graphviz: a node for each task, and one for each thing that several share.
    #[must_use]
    pub fn dot(&self) -> String {
        let mut text = String::from(
            "digraph tree {\n  node [fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\"];\n",
        );
        for task in &self.folder.tasks {
            let split = self.split(task).unwrap_or_default();
            let label = format!(
                "{} {}\\n{} own, {} shared",
                task.pid,
                quoted(&task.name()),
                size(split.own_pages),
                size(split.shared_pages)
            );
            let _ = writeln!(text, "  t{} [shape=box, label=\"{label}\"];", task.pid);
            if let Some(parent) = task.parent {
                let parent = self.folder.tasks[parent].pid;
                let _ = writeln!(text, "  t{parent} -> t{};", task.pid);
            }
        }
        for ((table, id), tids) in self.holders.iter().filter(|(_, tids)| tids.len() > 1) {
            let name = table.name();
            let _ = writeln!(text, "  {name}{id} [shape=ellipse, label=\"{name} {id}\"];");
            for pid in tids {
                let _ = writeln!(text, "  t{pid} -> {name}{id} [style=dashed, dir=none];");
            }
        }
        let mut files: Vec<_> = self.descriptors.iter().collect();
        files.sort();
        for (id, places) in files.into_iter().filter(|(_, places)| places.len() > 1) {
            let Some(file) = self.folder.file(*id) else {
                continue;
            };
            let what = quoted(&describe::file(&self.folder, file));
            let kind = kind_name(file.kind);
            let _ = writeln!(text, "  f{id} [shape=note, label=\"{kind}\\n{what}\"];");
            for (table, fd) in places {
                let holders = self.holders.get(&(Table::Files, *table));
                if let Some(first) = holders.and_then(|holders| holders.first()) {
                    let _ = writeln!(
                        text,
                        "  t{first} -> f{id} [style=dotted, dir=none, label=\"{fd}\"];"
                    );
                }
            }
        }
        for segment in &self.folder.segments {
            let id = segment.shmid;
            let _ = writeln!(
                text,
                "  m{id} [shape=cylinder, label=\"shared memory {id}\"];"
            );
            let inode = segment.entry.as_ref().map(|one| one.inode_id);
            let mappers = self.mappers(id, inode);
            let mut openers = self.openers(inode);
            openers.retain(|pid| !mappers.contains(pid));
            openers.dedup();
            for pid in mappers {
                let _ = writeln!(text, "  t{pid} -> m{id} [style=dashed, dir=none];");
            }
            for pid in openers {
                let _ = writeln!(text, "  t{pid} -> m{id} [style=dotted, dir=none];");
            }
        }
        for (name, pids) in self.families() {
            let _ = writeln!(
                text,
                "  \"{name}\" [shape=folder, label=\"pages in {name}\"];"
            );
            for pid in pids {
                let _ = writeln!(text, "  t{pid} -> \"{name}\" [style=dashed, dir=none];");
            }
        }
        text.push_str("}\n");
        text
    }

    /// Pages files that several tasks read.
    fn families(&self) -> BTreeMap<String, Vec<u32>> {
        let mut users: BTreeMap<(usize, u32), Vec<u32>> = BTreeMap::new();
        for task in &self.folder.tasks {
            let runs = task.memory.iter().flat_map(|memory| &memory.stored);
            let files: HashSet<(usize, u32)> = runs.map(|run| (run.level, run.pages_id)).collect();
            for file in files {
                users.entry(file).or_default().push(task.pid);
            }
        }
        let shared = users.into_iter().filter(|(_, pids)| pids.len() > 1);
        shared
            .map(|((level, id), pids)| {
                let kind = crate::image::catalogue::Kind::Pages;
                (self.folder.levels[level].shown(kind, u64::from(id)), pids)
            })
            .collect()
    }

    /// The tree for programs.
    #[must_use]
    pub fn json(&self, details: Details) -> Value {
        let tasks = self
            .folder
            .tasks
            .iter()
            .map(|task| self.task_json(task, details));
        let shared = self.holders.iter().filter(|(_, tids)| tids.len() > 1);
        let shared = shared
            .map(|((table, id), tids)| json!({ "kind": table.name(), "id": id, "tasks": tids }));
        let families = self.families().into_iter();
        let families =
            families.map(|(name, pids)| json!({ "kind": "pages", "id": name, "tasks": pids }));
        json!({
            "tasks": tasks.collect::<Vec<_>>(),
            "shared": shared.chain(families).collect::<Vec<_>>(),
            "notes": self.folder.notes().collect::<Vec<_>>(),
        })
    }

    fn task_json(&self, task: &Task, details: Details) -> Value {
        let split = self.split(task).unwrap_or_default();
        let ids = task.ids.as_ref();
        let table_id = ids.map(|ids| ids.files_id);
        let table = table_id.and_then(|id| self.folder.tables.get(&id));
        let table = table.map_or(&[][..], Vec::as_slice);
        let kinds = describe::kinds(&self.folder, table).into_iter();
        let mut value = json!({
            "pid": task.pid,
            "ppid": task.entry.ppid,
            "pgid": task.entry.pgid,
            "sid": task.entry.sid,
            "name": task.name(),
            "zombie": task.is_zombie(),
            "threads": task.threads.iter().map(|thread| thread.tid).collect::<Vec<_>>(),
            "memory": {
                "own_bytes": split.own_pages * PAGE_BYTES,
                "shared_bytes": split.shared_pages * PAGE_BYTES,
                "earlier_bytes": split.earlier_pages * PAGE_BYTES,
            },
            "descriptors": kinds.map(|(kind, count)| (kind, json!(count))).collect::<serde_json::Map<_, _>>(),
        });
        for table in Table::ALL {
            value[format!("{}_id", table.name())] = json!(ids.map(|ids| table.id(ids)));
        }
        if details.fds {
            let fds = table.iter().map(|one| {
                let file = self.folder.file(one.id);
                json!({
                    "fd": one.fd,
                    "file": one.id,
                    "kind": kind_name(file.map_or(one.r#type, |file| file.kind)),
                    "what": file.map(|file| describe::file(&self.folder, file)),
                    "close_on_exec": one.flags & 1 != 0,
                    "same_as": self.others(one.id, table_id.unwrap_or(0), one.fd),
                })
            });
            value["fds"] = fds.collect();
        }
        if details.maps {
            let vmas = task.mm.iter().flat_map(|mm| &mm.vmas);
            let maps = vmas.map(|vma| {
                let split = self.split_of(task, vma);
                json!({
                    "start": format!("{:#x}", vma.start),
                    "end": format!("{:#x}", vma.end),
                    "protection": describe::protection(vma),
                    "what": describe::mapping(&self.folder, vma),
                    "own_bytes": split.own_pages * PAGE_BYTES,
                    "shared_bytes": split.shared_pages * PAGE_BYTES,
                    "earlier_bytes": split.earlier_pages * PAGE_BYTES,
                })
            });
            value["maps"] = maps.collect();
        }
        value
    }
}

fn size(pages: u64) -> String {
    BinaryBytes(pages.saturating_mul(PAGE_BYTES)).to_string()
}

/// Numbers, as ranges where there are many.
pub(super) fn numbers(all: &[u32]) -> String {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs = sorted.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    let runs = runs.map(|run| match run {
        [one] => one.to_string(),
        [one, other] => format!("{one} {other}"),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(" ")
}

/// Text inside a quoted string of Graphviz.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_a_range() {
        assert_eq!(numbers(&[7, 5, 6, 9, 10, 20]), "5-7 9 10 20");
        assert_eq!(numbers(&[u32::MAX]), "4294967295");
    }

    #[test]
    fn quotes_do_not_end_a_label() {
        assert_eq!(quoted(r#"a"b\c"#), r#"a\"b\\c"#);
    }
}
