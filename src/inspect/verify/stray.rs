//! Images that belong to nobody.

use std::collections::HashSet;

use super::Check;
use crate::image::catalogue::Kind;
use crate::image::memory::status;
use crate::inspect::defect::Effect;
use crate::inspect::level::Role;

impl Check<'_> {
    pub(super) fn strays(&mut self) {
        let folder = self.folder;
        let number = |number: &u32| u64::from(*number);
        let pids: HashSet<u64> = folder.tasks.iter().map(|task| number(&task.pid)).collect();
        let threads = folder.tasks.iter().flat_map(|task| &task.threads);
        let tids: HashSet<u64> = threads.clone().map(|thread| number(&thread.tid)).collect();
        let of_tasks = folder.tasks.iter().filter_map(|task| task.ids.as_ref());
        let of_threads = threads.filter_map(|thread| thread.ids.as_ref());
        let tables: HashSet<u64> = of_tasks
            .chain(of_threads)
            .map(|ids| number(&ids.files_id))
            .collect();
        let shared: HashSet<u64> = folder
            .segments
            .iter()
            .filter(|segment| segment.entry.is_some())
            .map(|segment| segment.shmid)
            .chain(self.mapped_segments())
            .collect();
        for (name, facts) in &folder.top().files {
            let Some((kind, id)) = Kind::of_file_name(name) else {
                continue;
            };
            if !facts.is_regular {
                self.defects
                    .add(name, "", "it is no plain file", Effect::RestoreFails);
                continue;
            }
            let owner = match kind {
                _ if kind.file_name(id) != *name => Some("its number is not written as usual"),
                Kind::Core if !tids.contains(&id) => Some("there is no such thread"),
                Kind::Ids | Kind::Fs if !tids.contains(&id) => Some("there is no such thread"),
                Kind::Mm | Kind::Pagemap if !pids.contains(&id) => Some("there is no such task"),
                Kind::Fdinfo if !tables.contains(&id) => Some("no task has this table"),
                Kind::ShmemPagemap if !shared.contains(&id) => Some("nobody maps it"),
                _ => None,
            };
            if let Some(what) = owner {
                self.defects.add(name, "", what, Effect::Unused);
            }
        }
        self.stray_pages();
    }

    /// Shared memory that is mapped without a file.
    fn mapped_segments(&self) -> impl Iterator<Item = u64> {
        let spaces = self.folder.tasks.iter().filter_map(|task| task.mm.as_ref());
        let vmas = spaces.flat_map(|mm| &mm.vmas);
        vmas.filter(|vma| vma.status & (status::ANON_SHARED | status::SYSVIPC) != 0)
            .map(|vma| vma.shmid)
    }

    /// Pages files that no pagemap names, in the folder and in the one of common pages.
    fn stray_pages(&mut self) {
        let folder = self.folder;
        for (depth, level) in folder.levels.iter().enumerate() {
            if level.role == Role::Earlier {
                break;
            }
            let tasks = folder.tasks.iter().filter_map(|task| task.memory.as_ref());
            let segments = folder.segments.iter().filter_map(|one| one.memory.as_ref());
            let pagemaps = tasks
                .chain(segments)
                .filter_map(|memory| memory.pagemaps.get(depth));
            let named: HashSet<u64> = pagemaps.map(|one| u64::from(one.pages_id)).collect();
            for name in level.files.keys() {
                if let Some((Kind::Pages, id)) = Kind::of_file_name(name)
                    && !named.contains(&id)
                {
                    let shown = level.shown(Kind::Pages, id);
                    let what = "no pagemap names it";
                    self.defects.add(shown, "", what, Effect::Unused);
                }
            }
        }
    }
}
