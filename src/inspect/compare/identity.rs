//! Which thing of one folder is which thing of the other.
//!
//! Every number of an image that stands for something gets an *identity*: equal ones in both folders for
//! what is the same. Two things are the same if they are found at the same places; of several
//! candidates the one wins with which most places are common.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message as _;

use crate::image::catalogue::Kind;
use crate::image::memory::status;
use crate::image::proto;
use crate::inspect::defect::Defects;
use crate::inspect::describe;
use crate::inspect::folder::{Body, Entry, Folder, Task, read_entries};
use crate::inspect::sharing::Table;

/// What a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Space {
    /// Tasks and threads.
    Task,
    /// What tasks hold: address spaces, descriptor tables and so on.
    Held(Table),
    /// Namespaces.
    Namespace,
    /// Sets of cgroups.
    CgroupSet,
    /// Seccomp filters.
    Filter,
    /// Open files.
    File,
    /// Pipes.
    Pipe,
    /// Sockets, by their inodes.
    Socket,
    /// Pieces of nameless shared memory, as they are numbered in their image.
    Memfd,
    /// Shared memory, as its pagemaps are named.
    Segment,
    /// Terminals.
    Terminal,
    /// Deleted files.
    Ghost,
}

/// What a thing is to the one that refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Role {
    Holder,
    Descriptor,
    Folder,
    Root,
    Program,
    Mapping,
    Part,
}

/// Where a reference stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    /// The identity of who refers.
    of: usize,
    role: Role,
    /// Which of several: a descriptor, an address.
    at: u64,
}

/// A thing that is referred to.
#[derive(Debug, Default)]
struct Found {
    places: Vec<Place>,
    /// Only things of one kind and of a kin are the same.
    kind: i32,
    /// Where there is one, they need no place in common.
    kin: String,
}

type AllFound = [BTreeMap<u64, Found>; 2];

/// What a number stands for, in words.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// What it is called.
    pub(super) text: String,
    /// Whether it belongs to nobody but tasks of which the other folder has none.
    pub(super) is_alien: bool,
}

/// All identities of two folders.
#[derive(Debug)]
pub(super) struct Names {
    known: [HashMap<(Space, u64), usize>; 2],
    identities: Vec<Identity>,
    /// Open files that say what one before them says, and that no descriptor leads to.
    copies: [HashSet<u64>; 2],
    /// Tasks in both folders, by place.
    pairs: Vec<(usize, usize)>,
    by_place: bool,
}

impl Names {
    pub(super) fn of(folders: [&Folder; 2], defects: &mut [Defects; 2]) -> Self {
        let mut names = Self {
            known: Default::default(),
            identities: Vec::new(),
            copies: Default::default(),
            pairs: Vec::new(),
            by_place: false,
        };
        names.tasks(folders);
        names.holders(folders);
        names.files(folders);
        names.behind_files(folders);
        names.segments(folders);
        names.ghosts(folders, defects);
        names
    }

    /// Tasks in both folders, by place.
    pub(super) fn pairs(&self) -> &[(usize, usize)] {
        &self.pairs
    }

    /// Whether an open file is one that another entry tells of already.
    pub(super) fn is_copy(&self, side: usize, file: u64) -> bool {
        self.copies[side].contains(&file)
    }

    /// Whether the folders have no pid in common.
    pub(super) fn by_place(&self) -> bool {
        self.by_place
    }

    /// The identity behind a number, if it stands for something.
    pub(super) fn identity(&self, side: usize, space: Space, id: u64) -> Option<usize> {
        self.known[side].get(&(space, id)).copied()
    }

    pub(super) fn told(&self, identity: usize) -> &Identity {
        &self.identities[identity]
    }

    /// The identity of a task that both folders have.
    pub(super) fn task_pair(&self, side: usize, pid: u32) -> Option<usize> {
        let identity = self.identity(side, Space::Task, pid.into())?;
        (!self.identities[identity].is_alien).then_some(identity)
    }

    fn add(&mut self, text: String, is_alien: bool) -> usize {
        self.identities.push(Identity { text, is_alien });
        self.identities.len() - 1
    }

    fn tasks(&mut self, folders: [&Folder; 2]) {
        let [before, after] = folders;
        let by_pid: HashMap<u32, usize> = (0..)
            .zip(&after.tasks)
            .map(|(place, task)| (task.pid, place))
            .collect();
        let pairs = before.tasks.iter().enumerate();
        self.pairs = pairs
            .filter_map(|(place, task)| Some((place, *by_pid.get(&task.pid)?)))
            .collect();
        if self.pairs.is_empty() && !before.tasks.is_empty() && !after.tasks.is_empty() {
            self.by_place = true;
            self.pairs = places_in_common(before, after);
        }
        for (one, other) in self.pairs.clone() {
            let (one, other) = (&before.tasks[one], &after.tasks[other]);
            let text = match (one.pid, other.pid) {
                (pid, same) if pid == same => pid.to_string(),
                (pid, now) => format!("{pid}/{now}"),
            };
            let identity = self.add(text.clone(), false);
            self.known[0].insert((Space::Task, one.pid.into()), identity);
            self.known[1].insert((Space::Task, other.pid.into()), identity);
            self.threads([one, other], &text);
        }
        for (side, folder) in folders.into_iter().enumerate() {
            for task in &folder.tasks {
                if self.identity(side, Space::Task, task.pid.into()).is_none() {
                    for thread in &task.threads {
                        let identity = self.add(thread.tid.to_string(), true);
                        let key = (Space::Task, thread.tid.into());
                        self.known[side].entry(key).or_insert(identity);
                    }
                }
            }
        }
    }

    /// Threads of a task that both folders have.
    fn threads(&mut self, tasks: [&Task; 2], text: &str) {
        for (place, thread) in tasks[0].threads.iter().enumerate().skip(1) {
            let others = &tasks[1].threads;
            let same = if self.by_place {
                others.get(place)
            } else {
                others.iter().find(|other| other.tid == thread.tid)
            };
            let identity = self.add(format!("{} of {text}", thread.tid), false);
            self.known[0].insert((Space::Task, thread.tid.into()), identity);
            if let Some(same) = same {
                self.known[1].insert((Space::Task, same.tid.into()), identity);
            }
        }
        for thread in &tasks[1].threads {
            let key = (Space::Task, thread.tid.into());
            if !self.known[1].contains_key(&key) {
                let identity = self.add(format!("{} of {text}", thread.tid), false);
                self.known[1].insert(key, identity);
            }
        }
    }

    /// Finds out which of the things in a space are the same, and names all.
    fn pair(&mut self, space: Space, found: AllFound) {
        let [before, after] = &found;
        let mut at: HashMap<Place, u64> = HashMap::new();
        for (id, one) in after {
            for place in &one.places {
                at.entry(*place).or_insert(*id);
            }
        }
        // How many places two things have in common, and the first of these.
        let mut common: HashMap<(u64, u64), (usize, Place)> = HashMap::new();
        for (id, one) in before {
            let mut seen = HashSet::new();
            for place in one.places.iter().filter(|place| seen.insert(**place)) {
                let is_alike = |other: &Found| (other.kind, &other.kin) == (one.kind, &one.kin);
                let other = at.get(place).filter(|other| is_alike(&after[*other]));
                if let Some(other) = other {
                    let (count, first) = common.entry((*id, *other)).or_insert((0, *place));
                    *count += 1;
                    *first = (*first).min(*place);
                }
            }
        }
        let mut common: Vec<_> = common.into_iter().collect();
        common.sort_by_key(|(ids, (count, place))| (std::cmp::Reverse(*count), *place, *ids));
        let mut pairs: BTreeMap<u64, u64> = BTreeMap::new();
        let mut taken = HashSet::new();
        for ((one, other), _) in common {
            if !pairs.contains_key(&one) && taken.insert(other) {
                pairs.insert(one, other);
            }
        }
        let mut by_kin: HashMap<&str, Vec<u64>> = HashMap::new();
        let free = after.iter().rev().filter(|(id, _)| !taken.contains(*id));
        for (id, one) in free.filter(|(_, one)| !one.kin.is_empty()) {
            by_kin.entry(&one.kin).or_default().push(*id);
        }
        for (id, one) in before {
            if !pairs.contains_key(id)
                && let Some(other) = by_kin.get_mut(one.kin.as_str()).and_then(Vec::pop)
            {
                pairs.insert(*id, other);
            }
        }
        let partners: HashMap<u64, u64> = pairs.iter().map(|(one, other)| (*other, *one)).collect();
        for (id, one) in before {
            let identity = self.name(one, pairs.contains_key(id));
            self.known[0].insert((space, *id), identity);
        }
        for (id, one) in after {
            let known = partners.get(id).and_then(|id| self.identity(0, space, *id));
            let identity = known.unwrap_or_else(|| self.name(one, false));
            self.known[1].insert((space, *id), identity);
        }
    }

    fn name(&mut self, found: &Found, in_both: bool) -> usize {
        let told = |place: &Place| &self.identities[place.of];
        let mut places = found.places.iter();
        let is_alien = !in_both && !found.places.is_empty() && places.all(|p| told(p).is_alien);
        let text = found.places.iter().min().map_or_else(String::new, |place| {
            let (of, at) = (&told(place).text, place.at);
            match place.role {
                Role::Holder | Role::Part => of.clone(),
                Role::Descriptor => format!("fd {at} of {of}"),
                Role::Folder => format!("working folder of {of}"),
                Role::Root => format!("root of {of}"),
                Role::Program => format!("program of {of}"),
                Role::Mapping => format!("mapping {at:#x} of {of}"),
            }
        });
        self.add(text, is_alien)
    }

    /// What tasks and threads hold.
    fn holders(&mut self, folders: [&Folder; 2]) {
        let mut all: BTreeMap<Space, AllFound> = BTreeMap::new();
        for (side, folder) in folders.into_iter().enumerate() {
            for task in &folder.tasks {
                for thread in &task.threads {
                    let Some(of) = self.identity(side, Space::Task, thread.tid.into()) else {
                        continue;
                    };
                    let mut add = |space: Space, id: u32, at: u64| {
                        let role = Role::Holder;
                        let found = &mut all.entry(space).or_default()[side];
                        let places = &mut found.entry(id.into()).or_default().places;
                        places.push(Place { of, role, at });
                    };
                    let ids = match thread.tid == task.pid {
                        true => task.ids.as_ref(),
                        false => thread.ids.as_ref(),
                    };
                    if let Some(ids) = ids {
                        for table in Table::ALL {
                            add(Space::Held(table), table.id(ids), 0);
                        }
                        for (at, id) in (0..).zip(namespaces(ids)) {
                            if let Some(id) = id {
                                add(Space::Namespace, id, at);
                            }
                        }
                    }
                    if let Some(core) = &thread.core {
                        let own = core.thread_core.as_ref();
                        let set = own.and_then(|own| own.cg_set);
                        let set = set.or(core.tc.as_ref().and_then(|tc| tc.cg_set));
                        if let Some(set) = set {
                            add(Space::CgroupSet, set, 0);
                        }
                        if let Some(filter) = own.and_then(|own| own.seccomp_filter) {
                            add(Space::Filter, filter, 0);
                        }
                    }
                }
            }
        }
        for (space, found) in all {
            self.pair(space, found);
        }
    }

    fn files(&mut self, folders: [&Folder; 2]) {
        let mut all = AllFound::default();
        for (side, folder) in folders.into_iter().enumerate() {
            for file in &folder.files {
                let found = all[side].entry(file.id.into()).or_default();
                found.kind = file.kind;
                if let Body::Reg(_) | Body::Fifo(_) = &file.body {
                    found.kin = format!("{} {}", file.kind, describe::file(folder, file));
                }
            }
            for task in &folder.tasks {
                self.file_places(side, folder, task, &mut all[side]);
            }
        }
        let originals = [0, 1].map(|side| merge_copies(folders[side], &mut all[side]));
        self.pair(Space::File, all);
        for (side, originals) in originals.into_iter().enumerate() {
            for (copy, original) in originals {
                if let Some(identity) = self.identity(side, Space::File, original) {
                    self.known[side].insert((Space::File, copy), identity);
                    self.copies[side].insert(copy);
                }
            }
        }
    }

    fn file_places(
        &self,
        side: usize,
        folder: &Folder,
        task: &Task,
        found: &mut BTreeMap<u64, Found>,
    ) {
        let mut add = |tid: u32, role: Role, at: u64, id: u64| {
            let of = self.identity(side, Space::Task, tid.into());
            if let Some(of) = of.filter(|_| id != 0) {
                let places = &mut found.entry(id).or_default().places;
                places.push(Place { of, role, at });
            }
        };
        for (tid, id) in tables(task) {
            for one in folder.tables.get(&id).into_iter().flatten() {
                add(tid, Role::Descriptor, one.fd.into(), one.id.into());
            }
        }
        let leader = task.fs.iter().map(|fs| (task.pid, fs));
        let others = task.threads.iter().skip(1);
        let others = others.filter_map(|thread| Some((thread.tid, thread.fs.as_ref()?)));
        for (tid, fs) in leader.chain(others) {
            add(tid, Role::Folder, 0, fs.cwd_id.into());
            add(tid, Role::Root, 0, fs.root_id.into());
        }
        if let Some(mm) = &task.mm {
            add(task.pid, Role::Program, 0, mm.exe_file_id.into());
            for vma in &mm.vmas {
                if vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0 {
                    add(task.pid, Role::Mapping, vma.start, vma.shmid);
                }
            }
        }
    }

    /// What open files lead to.
    fn behind_files(&mut self, folders: [&Folder; 2]) {
        let mut all: BTreeMap<Space, AllFound> = BTreeMap::new();
        for (side, folder) in folders.into_iter().enumerate() {
            for file in &folder.files {
                let (space, id) = match &file.body {
                    Body::Pipe(pipe) => (Space::Pipe, pipe.pipe_id),
                    Body::Fifo(fifo) => (Space::Pipe, fifo.pipe_id),
                    Body::Unix(socket) => (Space::Socket, socket.ino),
                    Body::Inet(socket) => (Space::Socket, socket.ino),
                    Body::Netlink(socket) => (Space::Socket, socket.ino),
                    Body::Memfd(memfd) => (Space::Memfd, memfd.inode_id),
                    Body::Tty(tty) => (Space::Terminal, tty.tty_info_id),
                    _ => continue,
                };
                let Some(of) = self.identity(side, Space::File, file.id.into()) else {
                    continue;
                };
                let role = Role::Part;
                let found = &mut all.entry(space).or_default()[side];
                let places = &mut found.entry(id.into()).or_default().places;
                places.push(Place { of, role, at: 0 });
            }
        }
        for (space, found) in all {
            self.pair(space, found);
        }
    }

    fn segments(&mut self, folders: [&Folder; 2]) {
        let mut all = AllFound::default();
        for (side, folder) in folders.into_iter().enumerate() {
            for segment in &folder.segments {
                let found = all[side].entry(segment.shmid).or_default();
                let inode = segment.entry.as_ref().map(|entry| entry.inode_id);
                let of = inode.and_then(|inode| self.identity(side, Space::Memfd, inode));
                let role = Role::Part;
                found.places.extend(of.map(|of| Place { of, role, at: 0 }));
            }
            for task in &folder.tasks {
                let Some(of) = self.identity(side, Space::Task, task.pid.into()) else {
                    continue;
                };
                for vma in task.mm.iter().flat_map(|mm| &mm.vmas) {
                    if vma.status & (status::ANON_SHARED | status::SYSVIPC) != 0 {
                        let (role, at) = (Role::Mapping, vma.start);
                        let found = all[side].entry(vma.shmid).or_default();
                        found.places.push(Place { of, role, at });
                    }
                }
            }
        }
        self.pair(Space::Segment, all);
    }

    /// Deleted files, by the files that they are opened as.
    fn ghosts(&mut self, folders: [&Folder; 2], defects: &mut [Defects; 2]) {
        let mut all = AllFound::default();
        for (side, folder) in folders.into_iter().enumerate() {
            let with = |entry: Entry<proto::RemapFilePathEntry>| {
                let remap = entry.message;
                if remap.remap_type() != proto::RemapType::Ghost {
                    return;
                }
                if let Some(of) = self.identity(side, Space::File, remap.orig_id.into()) {
                    let role = Role::Part;
                    let found = all[side].entry(remap.remap_id.into()).or_default();
                    found.places.push(Place { of, role, at: 0 });
                }
            };
            let image = (Kind::RemapFpath, 0);
            read_entries(folder.top(), image, with, &mut defects[side]);
        }
        self.pair(Space::Ghost, all);
    }
}

/// A path that is held without a descriptor (a working folder, a mapping) is the same for all who hold
/// it. Some dumpers write an entry for each of them: all but the first go, and their places are the
/// first one's. Yields which were copies of which.
fn merge_copies(folder: &Folder, found: &mut BTreeMap<u64, Found>) -> Vec<(u64, u64)> {
    let mut copies = Vec::new();
    let mut originals: HashMap<Vec<u8>, u64> = HashMap::new();
    for file in &folder.files {
        let id = u64::from(file.id);
        let Body::Reg(path) = &file.body else {
            continue;
        };
        let is_open = |place: &Place| place.role == Role::Descriptor;
        if found
            .get(&id)
            .is_none_or(|one| one.places.iter().any(is_open))
        {
            continue;
        }
        let mut path = path.clone();
        path.id = 0;
        let original = *originals.entry(path.encode_to_vec()).or_insert(id);
        if original != id
            && let Some(copy) = found.remove(&id)
        {
            let places = &mut found.entry(original).or_default().places;
            places.extend(copy.places);
            copies.push((id, original));
        }
    }
    copies
}

/// The descriptor tables of a task and of those of its threads that have their own.
pub(super) fn tables(task: &Task) -> impl Iterator<Item = (u32, u32)> {
    let own = task.ids.as_ref().map(|ids| ids.files_id);
    let threads = task.threads.iter().skip(1);
    let private = threads.filter_map(move |thread| {
        let id = thread.ids.as_ref()?.files_id;
        (Some(id) != own).then_some((thread.tid, id))
    });
    own.map(|id| (task.pid, id)).into_iter().chain(private)
}

fn namespaces(ids: &proto::TaskKobjIdsEntry) -> [Option<u32>; 8] {
    [
        ids.pid_ns_id,
        ids.net_ns_id,
        ids.ipc_ns_id,
        ids.uts_ns_id,
        ids.mnt_ns_id,
        ids.user_ns_id,
        ids.cgroup_ns_id,
        ids.time_ns_id,
    ]
}

/// Tasks at the same place of both trees: the n-th child of the n-th child and so on.
fn places_in_common(before: &Folder, after: &Folder) -> Vec<(usize, usize)> {
    let roots = |folder: &Folder| -> Vec<usize> {
        let tasks = folder.tasks.iter().enumerate();
        let roots = tasks.filter(|(_, task)| task.parent.is_none());
        roots.map(|(place, _)| place).collect()
    };
    let mut pairs: Vec<(usize, usize)> = roots(before).into_iter().zip(roots(after)).collect();
    let mut next = 0;
    while let Some((one, other)) = pairs.get(next).copied() {
        let children = before.tasks[one].children.iter();
        let children = children.zip(&after.tasks[other].children);
        pairs.extend(children.map(|(one, other)| (*one, *other)));
        next += 1;
    }
    pairs
}
