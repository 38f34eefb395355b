//! The tree, its tasks, their threads.

use std::collections::{HashMap, HashSet};

use super::Check;
use crate::image::catalogue::Kind;
use crate::image::memory::status;
use crate::image::proto;
use crate::inspect::defect::Effect;
use crate::inspect::folder::{Task, Thread};
use crate::sys::sched::RESET_ON_FORK_BIT;

/// `CoreEntry.mtype` of x86-64.
const X86_64: i32 = 1;
/// Bytes of a queued signal.
const SIGINFO_BYTES: usize = 128;
/// All signals but the two that have no handler.
const HANDLERS: usize = 62;
const MOST_SIGNALS: u32 = 64;

impl Check<'_> {
    pub(super) fn tasks(&mut self) {
        self.tree();
        let filters = self.filters();
        for task in &self.folder.tasks {
            self.leader(task);
            for thread in &task.threads {
                self.thread(task, thread, filters);
            }
            if !task.is_zombie() {
                self.ids(task);
                self.space(task);
                if task.fs.is_none() && !self.has(Kind::Fs, task.pid) {
                    let image = (Kind::Fs, u64::from(task.pid));
                    self.add(image, "", "it is missing", Effect::RestorerCrashes);
                }
            }
        }
        self.shared();
    }

    fn has(&self, kind: Kind, number: u32) -> bool {
        self.folder.top().facts(kind, u64::from(number)).is_some()
    }

    fn tree(&mut self) {
        let image = (Kind::Pstree, 0);
        let folder = self.folder;
        let Some(root) = folder.tasks.first() else {
            let is_there = folder.top().facts(Kind::Pstree, 0).is_some();
            let what = if is_there {
                "no task stands in it"
            } else {
                "it is missing"
            };
            return self.add(image, "", what, Effect::RestoreFails);
        };
        let mut tids = HashSet::new();
        for (place, task) in folder.tasks.iter().enumerate() {
            let entry = &task.entry;
            let which = format!("task {}", task.pid);
            let mut wrong = |what: String| self.add(image, &which, what, Effect::RestoreFails);
            if entry.pid == 0 || i32::try_from(entry.pid).is_err() {
                wrong("that is no pid".to_owned());
            }
            match (place, entry.ppid, task.parent) {
                (0, 0, _) => {}
                (0, ..) => wrong("the first task has a parent".to_owned()),
                (_, 0, _) => wrong("it is a second root".to_owned()),
                (_, parent, None) => {
                    wrong(format!("its parent {parent} does not stand before it"));
                }
                (_, _, Some(parent)) if folder.tasks[parent].is_zombie() => {
                    wrong("its parent is a zombie".to_owned());
                }
                _ => {}
            }
            let threads: &[u32] = if task.is_zombie() {
                &[task.pid]
            } else {
                &entry.threads
            };
            if threads.first() != Some(&task.pid) {
                wrong("its first thread is not its own".to_owned());
            }
            for tid in threads {
                if !tids.insert(*tid) {
                    wrong(format!("thread {tid} is named twice"));
                }
            }
            let sid = entry.sid;
            let mut above = std::iter::successors(Some(place), |&one| folder.tasks[one].parent);
            let is_known = sid == root.entry.sid || above.any(|one| folder.tasks[one].pid == sid);
            if !is_known && sid != 0 && task.parent != Some(0) {
                wrong(format!("its session {sid} is led by none of its ancestors"));
            }
        }
    }

    /// How many seccomp filters there are.
    fn filters(&mut self) -> usize {
        let folder = self.folder;
        let image = (Kind::Seccomp, 0);
        let entry: Option<proto::SeccompEntry> =
            super::super::folder::read_single(folder.top(), image.0, image.1, &mut self.defects);
        let filters = entry.map(|entry| entry.seccomp_filters).unwrap_or_default();
        for (place, filter) in filters.iter().enumerate() {
            let which = format!("filter {place}");
            if filter.filter.is_empty() || filter.filter.len() % 8 != 0 {
                let what = format!("{} bytes are no whole instructions", filter.filter.len());
                self.add(image, &which, what, Effect::RestoreFails);
            }
            // Restore follows the links until there is none.
            let next = filter.prev.map(|next| next as usize);
            if next.is_some_and(|next| next >= filters.len()) {
                let what = "it leads to a filter that is not there";
                self.add(image, &which, what, Effect::RestoreFails);
            }
        }
        // Whose walk came by first; a walk that meets itself goes round in circles.
        let mut walked_by = vec![None; filters.len()];
        for start in 0..filters.len() {
            let mut at = Some(start);
            while let Some(place) = at.filter(|place| *place < filters.len()) {
                if let Some(walk) = walked_by[place] {
                    if walk == start {
                        let what = "its chain leads back to itself";
                        self.add(
                            image,
                            format!("filter {start}"),
                            what,
                            Effect::RestorerCrashes,
                        );
                    }
                    break;
                }
                walked_by[place] = Some(start);
                at = filters[place].prev.map(|next| next as usize);
            }
        }
        filters.len()
    }

    fn leader(&mut self, task: &Task) {
        let image = (Kind::Core, u64::from(task.pid));
        let Some(core) = task.threads.first().and_then(|one| one.core.as_ref()) else {
            return;
        };
        let Some(tc) = &core.tc else {
            return self.add(image, "", "it tells no task (tc)", Effect::RestoreFails);
        };
        let is_x86 = core.mtype == X86_64;
        let mut wrong = |what: &str| self.add(image, "tc", what, Effect::RestoreFails);
        if !matches!(tc.task_state, 1..=3) {
            wrong(&format!("task_state {} is unknown", tc.task_state));
        }
        if tc.comm.len() > 16 {
            wrong("its name is longer than 16 bytes");
        }
        if task.is_zombie() {
            return;
        }
        if tc.timers.is_none() {
            wrong("it has no timers");
        }
        match &tc.rlimits {
            None => wrong("it has no rlimits"),
            Some(limits) if limits.rlimits.len() > 16 => wrong("it has more than 16 rlimits"),
            Some(_) => {}
        }
        if is_x86 && tc.sigactions.len() != HANDLERS {
            let what = format!("{} sigactions where 62 belong", tc.sigactions.len());
            wrong(&what);
        }
        if tc.stop_signo.is_some_and(|signal| signal > MOST_SIGNALS) {
            wrong("stop_signo is no signal");
        }
        let queue = tc.signals_s.iter().flat_map(|queue| &queue.signals);
        if queue.clone().any(|one| one.siginfo.len() != SIGINFO_BYTES) {
            wrong("a queued signal is not 128 bytes long");
        }
    }

    fn thread(&mut self, task: &Task, thread: &Thread, filters: usize) {
        let image = (Kind::Core, u64::from(thread.tid));
        let Some(core) = &thread.core else {
            if !self.has(Kind::Core, thread.tid) {
                self.add(image, "", "it is missing", Effect::RestoreFails);
            }
            return;
        };
        let mut wrong = |entry: &str, what: &str| {
            self.add(image, entry, what, Effect::RestoreFails);
        };
        if !(1..=8).contains(&core.mtype) {
            wrong("", &format!("machine {} is unknown", core.mtype));
        }
        if thread.tid != task.pid && (core.tc.is_some() || core.ids.is_some()) {
            wrong("", "it tells of a task, and its thread leads none");
        }
        if task.is_zombie() {
            return;
        }
        if core.mtype == X86_64 {
            match &core.thread_info {
                None => wrong("", "it has no registers (thread_info)"),
                Some(info) => {
                    if let Some(what) = wrong_size(&info.fpregs) {
                        wrong("thread_info.fpregs", &what);
                    }
                }
            }
        }
        let Some(own) = &core.thread_core else {
            return wrong("", "it tells no thread (thread_core)");
        };
        let entry = "thread_core";
        match &own.creds {
            None => wrong(entry, "it has no credentials"),
            Some(creds) => {
                for (name, set) in [
                    ("cap_inh", &creds.cap_inh),
                    ("cap_prm", &creds.cap_prm),
                    ("cap_eff", &creds.cap_eff),
                    ("cap_bnd", &creds.cap_bnd),
                ] {
                    if set.len() != 2 {
                        wrong("thread_core.creds", &format!("{name} is not two words"));
                    }
                }
            }
        }
        if own.pdeath_sig.is_some_and(|signal| signal > MOST_SIGNALS) {
            wrong(entry, "pdeath_sig is no signal");
        }
        let queue = own.signals_p.iter().flat_map(|queue| &queue.signals);
        if queue.clone().any(|one| one.siginfo.len() != SIGINFO_BYTES) {
            wrong(entry, "a queued signal is not 128 bytes long");
        }
        // SCHED_FIFO and SCHED_RR have a priority, the others none.
        let policy = own
            .sched_policy
            .map(|policy| policy & !(1 << RESET_ON_FORK_BIT));
        let is_real_time = matches!(policy, Some(1 | 2));
        let priorities = if is_real_time { 1..=99 } else { 0..=0 };
        if own.sched_prio.is_some_and(|one| !priorities.contains(&one)) {
            wrong(entry, "sched_prio does not go with sched_policy");
        }
        if own.seccomp_mode == Some(2) {
            let first = own.seccomp_filter.unwrap_or(0) as usize;
            if first >= filters {
                wrong(
                    entry,
                    &format!("seccomp filter {first} is not in seccomp.img"),
                );
            }
        }
    }

    fn ids(&mut self, task: &Task) {
        let image = (Kind::Ids, u64::from(task.pid));
        let Some(ids) = &task.ids else {
            if !self.has(Kind::Ids, task.pid) {
                self.add(image, "", "it is missing", Effect::RestoreFails);
            }
            return;
        };
        if [ids.vm_id, ids.files_id, ids.fs_id, ids.sighand_id].contains(&0) {
            self.add(image, "", "an id is 0", Effect::RestoreFails);
        }
        if ids.mnt_ns_id.is_none() {
            let what = "it tells no mount namespace (mnt_ns_id)";
            self.add(image, "", what, Effect::RestorerCrashes);
        }
        let inventory = self.folder.inventory.as_ref();
        let Some(root) = inventory.and_then(|inventory| inventory.root_ids.as_ref()) else {
            return;
        };
        if task.parent.is_none() && ids.files_id == root.files_id {
            let what = "the root has the descriptor table of the dumper";
            self.add(image, "files_id", what, Effect::RestoreFails);
        }
        for (name, id, outside, kind) in [
            ("net_ns_id", ids.net_ns_id, root.net_ns_id, Kind::Netns),
            ("ipc_ns_id", ids.ipc_ns_id, root.ipc_ns_id, Kind::IpcVar),
            ("uts_ns_id", ids.uts_ns_id, root.uts_ns_id, Kind::Utsns),
            ("mnt_ns_id", ids.mnt_ns_id, root.mnt_ns_id, Kind::Mnts),
            ("user_ns_id", ids.user_ns_id, root.user_ns_id, Kind::Userns),
            ("time_ns_id", ids.time_ns_id, root.time_ns_id, Kind::Timens),
        ] {
            let Some(id) = id.filter(|id| *id != 0 && Some(*id) != outside) else {
                continue;
            };
            if !self.has(kind, id) {
                let missing = kind.file_name(u64::from(id));
                let what = format!("a namespace of its own, {id}, and {missing} is missing");
                self.add(image, name, what, Effect::RestoreFails);
            }
        }
    }

    /// Ids that tasks have in common: only parent and child may share, and only descriptors.
    fn shared(&mut self) {
        let folder = self.folder;
        let notes: HashSet<(&str, i32)> = folder
            .manifest
            .iter()
            .flat_map(|manifest| &manifest.notes)
            .flat_map(|note| note.tids.iter().map(|tid| (note.kind.as_str(), *tid)))
            .collect();
        for (field, note, effect, id_of) in SHARED {
            let mut first: HashMap<u32, u32> = HashMap::new();
            for task in &folder.tasks {
                let Some(id) = task.ids.as_ref().map(id_of).filter(|id| *id != 0) else {
                    continue;
                };
                let holder = *first.entry(id).or_insert(task.pid);
                let parent = task.parent.map(|parent| &folder.tasks[parent]);
                let of_parent = parent.and_then(|parent| parent.ids.as_ref()).map(id_of);
                let is_allowed = *field == "files_id" && of_parent == Some(id);
                let is_noted = notes.contains(&(*note, task.pid.cast_signed()));
                if holder != task.pid && !is_allowed && !is_noted {
                    let what =
                        format!("task {holder} has the same: restore cannot have them share");
                    let image = (Kind::Ids, u64::from(task.pid));
                    self.add(image, *field, what, *effect);
                }
            }
        }
    }

    fn space(&mut self, task: &Task) {
        let image = (Kind::Mm, u64::from(task.pid));
        let Some(mm) = &task.mm else {
            if !self.has(Kind::Mm, task.pid) {
                self.add(image, "", "it is missing", Effect::RestoreFails);
            }
            return;
        };
        let mut wrong = |entry: String, what: &str| {
            self.add(image, entry, what, Effect::RestoreFails);
        };
        if mm.mm_saved_auxv.len() > 44 {
            wrong("mm_saved_auxv".to_owned(), "it has more than 44 words");
        }
        for (name, start, end) in [
            ("code", mm.mm_start_code, mm.mm_end_code),
            ("data", mm.mm_start_data, mm.mm_end_data),
            ("brk", mm.mm_start_brk, mm.mm_brk),
            ("arg", mm.mm_arg_start, mm.mm_arg_end),
            ("env", mm.mm_env_start, mm.mm_env_end),
        ] {
            if start > end {
                wrong(name.to_owned(), "it ends before it starts");
            }
        }
        let mut last_end = 0;
        for vma in &mm.vmas {
            let which = format!("vma {:x}-{:x}", vma.start, vma.end);
            if vma.start >= vma.end {
                wrong(which.clone(), "it ends before it starts");
            }
            if vma.start % 4096 != 0 || vma.end % 4096 != 0 {
                wrong(which.clone(), "it has half a page");
            }
            if vma.fd != -1 {
                wrong(which.clone(), "its fd is not -1");
            }
            if vma.status & NEVER_IN_IMAGES != 0 {
                let what = format!("status {:#x} has bits that no image has", vma.status);
                wrong(which.clone(), &what);
            }
            if vma.status & status::GUARD != 0 {
                continue;
            }
            if vma.start < last_end {
                wrong(which, "it begins before the one in front of it ends");
            }
            last_end = vma.end;
        }
    }
}

/// Bits of `VmaEntry.status` that only a restorer uses.
const NEVER_IN_IMAGES: u32 = 1 << 1 | 1 << 4 | 0xff << 18;

type IdOf = fn(&proto::TaskKobjIdsEntry) -> u32;

/// Field, kind of note in the manifest, what restore makes of it, and the id.
const SHARED: &[(&str, &str, Effect, IdOf)] = &[
    ("vm_id", "shared-vm", Effect::RestorerCrashes, |ids| {
        ids.vm_id
    }),
    ("files_id", "shared-files", Effect::RestoreFails, |ids| {
        ids.files_id
    }),
    ("fs_id", "shared-fs", Effect::Lost, |ids| ids.fs_id),
    ("sighand_id", "shared-sighand", Effect::Lost, |ids| {
        ids.sighand_id
    }),
];

/// Which part of the registers is not as long as restore wants it.
fn wrong_size(registers: &proto::UserX86FpregsEntry) -> Option<String> {
    let mut parts = vec![
        ("st_space", registers.st_space.len(), 32),
        ("xmm_space", registers.xmm_space.len(), 64),
    ];
    if let Some(xsave) = &registers.xsave {
        let optional = [
            ("xsave.ymmh_space", xsave.ymmh_space.len(), 64),
            ("xsave.bndreg_state", xsave.bndreg_state.len(), 8),
            ("xsave.bndcsr_state", xsave.bndcsr_state.len(), 8),
            ("xsave.opmask_reg", xsave.opmask_reg.len(), 8),
            ("xsave.zmm_upper", xsave.zmm_upper.len(), 64),
            ("xsave.hi16_zmm", xsave.hi16_zmm.len(), 128),
            ("xsave.pkru", xsave.pkru.len(), 2),
        ];
        parts.extend(optional.into_iter().filter(|(_, len, _)| *len != 0));
    }
    let wrong = parts.into_iter().find(|(_, len, right)| len != right);
    wrong.map(|(name, len, right)| format!("{name} has {len} words where {right} belong"))
}
