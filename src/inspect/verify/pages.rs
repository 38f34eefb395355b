//! Pages: pagemaps fit address spaces, pages files fit pagemaps, and no page is missing.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Check;
use crate::image::catalogue::Kind;
use crate::image::memory::status;
use crate::image::proto::VmaEntry;
use crate::inspect::defect::Effect;
use crate::inspect::folder::Task;
use crate::inspect::level::{Level, Role};
use crate::inspect::pagemaps::{Memory, Pagemap};
use crate::sys::seek::holes;

/// Files whose checksum is right: how far down the chain, and the name there.
pub(super) type Intact = HashSet<(usize, String)>;

impl Check<'_> {
    /// Everything about pages; `intact` are files that are as they were written.
    pub(super) fn pages(&mut self, intact: &Intact) {
        let folder = self.folder;
        for task in &folder.tasks {
            self.task_pages(task);
        }
        for segment in &folder.segments {
            let Some(memory) = &segment.memory else {
                continue;
            };
            let image = (Kind::ShmemPagemap, segment.shmid);
            self.ascending(image, memory);
            self.complete(image, memory);
            let size = segment.entry.as_ref().map(|entry| entry.size);
            let last = memory.stored.last().map_or(0, |run| run.end);
            if size.is_some_and(|size| last > size.next_multiple_of(4096)) {
                let what = "it has pages behind the end of the memory";
                self.add(image, "", what, Effect::RestoreFails);
            }
        }
        self.pages_files();
        self.holes(intact);
    }

    fn task_pages(&mut self, task: &Task) {
        let folder = self.folder;
        let image = (Kind::Pagemap, u64::from(task.pid));
        if task.is_zombie() {
            return;
        }
        let Some(memory) = &task.memory else {
            if folder.top().facts(image.0, image.1).is_none() {
                self.add(image, "", "it is missing", Effect::RestoreFails);
            }
            return;
        };
        let top = &memory.pagemaps[0];
        if top.lines.is_empty() {
            let what = "it names no page";
            self.add(image, "", what, Effect::RestorerCrashes);
        }
        self.ascending(image, memory);
        self.complete(image, memory);
        let Some(mm) = &task.mm else { return };
        let private: Vec<&VmaEntry> = mm.vmas.iter().filter(|vma| is_private(vma)).collect();
        // Only where mappings are in order can be told what lies in them.
        if !private.is_sorted_by(|one, next| one.end <= next.start) {
            return;
        }
        for (number, line) in (1..).zip(&top.lines) {
            let mut at = line.start;
            let first = private.partition_point(|vma| vma.end <= at);
            for vma in &private[first..] {
                if vma.start > at || at >= line.end {
                    break;
                }
                at = vma.end;
            }
            if at < line.end {
                let what = format!("page {at:#x} is in no private mapping");
                self.add(image, format!("entry {number}"), what, Effect::RestoreFails);
            }
        }
        for vma in private.iter().filter(|vma| vma.status & status::VDSO != 0) {
            let there: u64 = memory
                .within(vma.start, vma.end)
                .map(|run| run.pages())
                .sum();
            let wanted = (vma.end - vma.start) / 4096;
            if there < wanted {
                let what = format!(
                    "{} of {wanted} pages of the vdso are missing",
                    wanted - there
                );
                self.add(image, "", what, Effect::RestoreFails);
            }
        }
    }

    /// The pagemap of the folder itself goes up.
    fn ascending(&mut self, image: (Kind, u64), memory: &Memory) {
        let mut last_end = 0;
        for (number, line) in (1..).zip(&memory.pagemaps[0].lines) {
            if line.start < last_end {
                let what = format!("page {:#x} comes too late: they have to ascend", line.start);
                self.add(image, format!("entry {number}"), what, Effect::RestoreFails);
            }
            last_end = line.end;
        }
    }

    /// Pages that are said to be further down are there.
    fn complete(&mut self, image: (Kind, u64), memory: &Memory) {
        for (start, end, level) in &memory.missing {
            let pages = (end - start) / 4096;
            let name = &memory.pagemaps[*level].name;
            let what = format!("{pages} pages from {start:#x} on are in no earlier folder");
            let what = if *level == 0 {
                what
            } else {
                format!("{what} although {name} says so")
            };
            self.add(image, "", what, Effect::RestoreFails);
        }
    }

    /// Every pages file is exactly as long as its pagemaps say.
    fn pages_files(&mut self) {
        let folder = self.folder;
        let mut users: BTreeMap<(usize, u32), Vec<&Pagemap>> = BTreeMap::new();
        let tasks = folder.tasks.iter().filter_map(|task| task.memory.as_ref());
        let segments = folder.segments.iter().filter_map(|one| one.memory.as_ref());
        let mut seen = HashSet::new();
        for memory in tasks.chain(segments) {
            for (depth, pagemap) in memory.pagemaps.iter().enumerate() {
                if seen.insert((depth, pagemap.inode)) {
                    let pages = (depth, pagemap.pages_id);
                    users.entry(pages).or_default().push(pagemap);
                }
            }
        }
        for ((depth, id), pagemaps) in users {
            let level = &folder.levels[depth];
            let name = level.shown(Kind::Pages, u64::from(id));
            let facts = level.facts(Kind::Pages, u64::from(id));
            for pagemap in &pagemaps {
                self.pages_file(level, &name, pagemap, facts.map(|facts| facts.size_bytes));
            }
            // Copying a folder may have made two files of a pagemap that two tasks have in common.
            let first = pagemaps[0];
            let other = pagemaps.iter().find(|one| one.lines != first.lines);
            if let Some(other) = other.filter(|_| level.role != Role::Common) {
                let what = format!("{} and {} both name it", first.name, other.name);
                self.defects.add(name, "", what, Effect::WrongContent);
            }
        }
    }

    fn pages_file(&mut self, level: &Level, name: &str, pagemap: &Pagemap, size: Option<u64>) {
        let wanted = pagemap.pages_bytes;
        let effect = Effect::RestoreFails;
        match size {
            None if wanted == 0 => {}
            None => {
                let what = format!("it is missing, and {} names it", pagemap.name);
                self.defects.add(name, "", what, effect);
            }
            Some(size) if size < wanted => {
                let what = format!(
                    "it is cut short: {size} bytes where {} has {wanted} (a full disk does this)",
                    pagemap.name
                );
                self.defects.add(name, "", what, effect);
            }
            // In an earlier folder others may have had pages in it.
            Some(size) if size > wanted && level.role != Role::Earlier => {
                let what = format!(
                    "it has {size} bytes where {} has {wanted}: its pages are not at their places",
                    pagemap.name
                );
                self.defects.add(name, "", what, Effect::WrongContent);
            }
            Some(_) => {}
        }
    }

    /// Pages that somebody needs lie in no hole.
    fn holes(&mut self, intact: &Intact) {
        let folder = self.folder;
        /// Pages in a hole: the first task or memory that needs one, and how many.
        struct Punched {
            whose: String,
            pages: u64,
        }
        let mut punched: BTreeMap<(usize, u32), Punched> = BTreeMap::new();
        let mut known: HashMap<(usize, u32), Vec<(u64, u64)>> = HashMap::new();
        let tasks = folder.tasks.iter().map(|task| {
            let whose = format!("task {}", task.pid);
            (whose, task.memory.as_ref())
        });
        let segments = folder.segments.iter().map(|one| {
            let whose = format!("shared memory {}", one.shmid);
            (whose, one.memory.as_ref())
        });
        let mut seen = HashSet::new();
        for (whose, memory) in tasks.chain(segments) {
            for run in memory.iter().flat_map(|memory| &memory.stored) {
                let file = (run.level, run.pages_id);
                let holes = known.entry(file).or_insert_with(|| {
                    let name = Kind::Pages.file_name(u64::from(run.pages_id));
                    if intact.contains(&(run.level, name.clone())) {
                        return Vec::new();
                    }
                    let level = &folder.levels[run.level];
                    let opened = level.file(&name);
                    opened
                        .ok()
                        .and_then(|file| holes(&file).ok())
                        .unwrap_or_default()
                });
                let (from, to) = (run.offset, run.offset + (run.end - run.start));
                let first = holes.partition_point(|(_, end)| *end <= from);
                for (start, end) in holes[first..].iter().take_while(|(start, _)| *start < to) {
                    let (start, end) = ((*start).max(from), (*end).min(to));
                    if seen.insert((file, start, end)) {
                        let one = punched.entry(file).or_insert_with(|| Punched {
                            whose: whose.clone(),
                            pages: 0,
                        });
                        one.pages += (end - start).div_ceil(4096);
                    }
                }
            }
        }
        for ((depth, id), Punched { whose, pages }) in punched {
            let name = folder.levels[depth].shown(Kind::Pages, u64::from(id));
            let what = format!(
                "{pages} pages, some of {whose}, are a hole (criu dedup and criu restore --auto-dedup \
                 punch holes into files that others need)"
            );
            self.defects.add(name, "", what, Effect::WrongContent);
        }
    }
}

/// Whether restore fills the mapping from the pagemap.
fn is_private(vma: &VmaEntry) -> bool {
    let has = |bit| vma.status & bit != 0;
    has(status::REGULAR) && (has(status::ANON_PRIVATE) || has(status::FILE_PRIVATE))
        || has(status::AIO_RING)
}
