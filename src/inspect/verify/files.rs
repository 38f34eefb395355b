//! Open files: every reference leads to exactly one, and every one is referred to.

use std::collections::{HashMap, HashSet};

use super::Check;
use crate::image::catalogue::Kind;
use crate::image::memory::status;
use crate::image::proto;
use crate::inspect::defect::Effect;
use crate::inspect::folder::{Body, Entry, OpenFile, kind_name, read_entries};

const REG: i32 = 1;
const PACKET: i32 = 10;
const EXT: i32 = 16;
const MEMFD: i32 = 18;
/// `FdinfoEntry.type` of a controlling terminal, and of the pipe of an automounter.
const NOT_A_FILE: [i32; 2] = [65534, 65535];

/// Where a reference stands: image, its number, place in it.
type Referrer = (Kind, u64, String);

impl Check<'_> {
    pub(super) fn files(&mut self) {
        self.file_entries();
        let mut used = self.references();
        self.queues(&mut used);
        self.remaps(&mut used);
        self.pipes();
        self.segments();
        self.streams();
        self.watches();
        self.terminals();
        self.locks();
        for file in &self.folder.files {
            if !used.contains(&file.id) {
                let what = format!("file {} belongs to nobody", file.id);
                self.add((Kind::Files, 0), entry(file), what, Effect::Unused);
            }
        }
    }

    /// Each entry for itself.
    fn file_entries(&mut self) {
        let image = (Kind::Files, 0);
        let folder = self.folder;
        let needs_files = folder.tasks.iter().any(|task| !task.is_zombie());
        if needs_files && folder.top().facts(image.0, image.1).is_none() {
            return self.add(image, "", "it is missing", Effect::RestoreFails);
        }
        let mut seen = HashSet::new();
        for file in &folder.files {
            let mut wrong = |what: String| self.add(image, entry(file), what, Effect::RestoreFails);
            if file.id == 0 {
                wrong("its id is 0".to_owned());
            }
            if !seen.insert(file.id) {
                wrong(format!("file {} stands there twice", file.id));
            }
            if !(1..=20).contains(&file.kind) {
                wrong(format!("kind {} is unknown", file.kind));
            }
            match file.body.id() {
                Some(id) if id != file.id => wrong(format!("file {} calls itself {id}", file.id)),
                None => wrong(format!("file {} does not tell what it is", file.id)),
                _ => {}
            }
        }
    }

    /// One reference; `kinds` are those it may lead to, if it is particular.
    fn refer(&mut self, used: &mut HashSet<u32>, from: &Referrer, id: u32, kinds: &[i32]) {
        let image = (from.0, from.1);
        match self.folder.file(id) {
            None => {
                let what = format!("file {id} is not in files.img");
                self.add(image, &from.2, what, Effect::RestoreFails);
            }
            Some(file) if !kinds.is_empty() && !kinds.contains(&file.kind) => {
                let what = format!("file {id} is of kind {}", kind_name(file.kind));
                self.add(image, &from.2, what, Effect::RestoreFails);
            }
            Some(_) => {}
        }
        used.insert(id);
    }

    /// The references of tasks, and of files to each other. Yields the ids that they name.
    fn references(&mut self) -> HashSet<u32> {
        let folder = self.folder;
        let mut used = HashSet::new();
        for (table, descriptors) in &folder.tables {
            let mut seen = HashSet::new();
            for one in descriptors {
                let from = (Kind::Fdinfo, u64::from(*table), format!("fd {}", one.fd));
                if !seen.insert(one.fd) {
                    let what = "it stands there twice";
                    self.add((from.0, from.1), &from.2, what, Effect::RestoreFails);
                }
                if !NOT_A_FILE.contains(&one.r#type) {
                    self.refer(&mut used, &from, one.id, &[one.r#type]);
                }
            }
        }
        for task in &folder.tasks {
            let pid = u64::from(task.pid);
            let own = task.fs.iter().map(|fs| (pid, fs));
            let private = task.threads.iter().filter_map(|thread| {
                let fs = thread.fs.as_ref().filter(|_| thread.tid != task.pid)?;
                Some((u64::from(thread.tid), fs))
            });
            for (number, fs) in own.chain(private) {
                for (name, id) in [("cwd_id", fs.cwd_id), ("root_id", fs.root_id)] {
                    let from = (Kind::Fs, number, name.to_owned());
                    self.refer(&mut used, &from, id, &[REG]);
                }
            }
            let Some(mm) = &task.mm else { continue };
            let from = (Kind::Mm, pid, "exe_file_id".to_owned());
            self.refer(&mut used, &from, mm.exe_file_id, &[REG]);
            for vma in &mm.vmas {
                if vma.status & (status::FILE_PRIVATE | status::FILE_SHARED | status::SOCKET) == 0 {
                    continue;
                }
                let from = (Kind::Mm, pid, format!("vma {:x}-{:x}", vma.start, vma.end));
                let kinds: &[i32] = if vma.status & status::SOCKET != 0 {
                    &[PACKET]
                } else if vma.status & status::MEMFD != 0 {
                    &[MEMFD]
                } else {
                    &[REG, EXT]
                };
                // An id that does not fit is none.
                let id = u32::try_from(vma.shmid).unwrap_or(0);
                self.refer(&mut used, &from, id, kinds);
            }
        }
        let sockets: HashMap<u32, u32> = folder
            .files
            .iter()
            .filter_map(|file| match &file.body {
                Body::Unix(socket) => Some((socket.ino, file.id)),
                _ => None,
            })
            .collect();
        for file in &folder.files {
            let from = (Kind::Files, 0, entry(file));
            match &file.body {
                Body::Fifo(fifo) => {
                    if let Some(id) = fifo.regf_id {
                        self.refer(&mut used, &from, id, &[REG]);
                    }
                }
                Body::Tty(tty) => {
                    if let Some(id) = tty.regf_id {
                        self.refer(&mut used, &from, id, &[REG]);
                    }
                }
                Body::Unix(socket) if socket.peer != 0 => match sockets.get(&socket.peer) {
                    Some(peer) => {
                        used.insert(*peer);
                    }
                    None if socket.uflags == 0 => {
                        let what = format!("socket {}, its peer, is not there", socket.peer);
                        self.add((from.0, from.1), &from.2, what, Effect::RestoreFails);
                    }
                    None => {}
                },
                _ => {}
            }
        }
        used
    }

    /// What waits in sockets.
    fn queues(&mut self, used: &mut HashSet<u32>) {
        let folder = self.folder;
        let mut references = Vec::new();
        let with = |entry: Entry<proto::SkPacketEntry>| {
            let place = format!("entry {}", entry.number);
            references.push((place.clone(), entry.message.id_for, true));
            let rights = entry.message.scm.iter().flat_map(|one| &one.rights);
            references.extend(rights.map(|id| (place.clone(), *id, false)));
        };
        let image = (Kind::SkQueues, 0);
        read_entries(folder.top(), image, with, &mut self.defects);
        for (place, id, is_receiver) in references {
            // A socket that only lies in a queue is referred to by that queue's file.
            let mut scratch = HashSet::new();
            let into = if is_receiver {
                &mut scratch
            } else {
                &mut *used
            };
            self.refer(into, &(image.0, image.1, place), id, &[]);
        }
    }

    /// Paths that need help, and deleted files.
    fn remaps(&mut self, used: &mut HashSet<u32>) {
        const LINKED: i32 = 0;
        const GHOST: i32 = 1;
        let folder = self.folder;
        let image = (Kind::RemapFpath, 0);
        let mut remaps = Vec::new();
        let with = |entry: Entry<proto::RemapFilePathEntry>| {
            remaps.push((format!("entry {}", entry.number), entry.message));
        };
        read_entries(folder.top(), image, with, &mut self.defects);
        let mut ghosts = HashSet::new();
        let mut seen = HashSet::new();
        for (place, remap) in remaps {
            if !seen.insert(remap.orig_id) {
                let what = format!("file {} is remapped twice", remap.orig_id);
                self.add(image, &place, what, Effect::RestoreFails);
            }
            let mut scratch = HashSet::new();
            let from = (image.0, image.1, place.clone());
            self.refer(&mut scratch, &from, remap.orig_id, &[]);
            match remap.remap_type.unwrap_or(LINKED) {
                LINKED => self.refer(used, &from, remap.remap_id, &[REG]),
                GHOST => {
                    let ghost = (Kind::GhostFile, u64::from(remap.remap_id));
                    if folder.top().facts(ghost.0, ghost.1).is_none() {
                        let what = format!("{} is missing", ghost.0.file_name(ghost.1));
                        self.add(image, place, what, Effect::RestoreFails);
                    }
                    ghosts.insert(ghost.1);
                }
                2 => {}
                other => {
                    let what = format!("remap_type {other} is unknown");
                    self.add(image, place, what, Effect::RestoreFails);
                }
            }
        }
        for ghost in folder.numbers_of(Kind::GhostFile) {
            if !ghosts.contains(&ghost) {
                let what = "no path leads to it";
                self.add((Kind::GhostFile, ghost), "", what, Effect::Unused);
            }
        }
    }

    /// What waits in pipes and FIFOs.
    fn pipes(&mut self) {
        let folder = self.folder;
        for image in [(Kind::PipesData, 0), (Kind::FifoData, 0)] {
            let pipes: HashSet<u32> = folder
                .files
                .iter()
                .filter_map(|file| match (&file.body, image.0) {
                    (Body::Pipe(pipe), Kind::PipesData) => Some(pipe.pipe_id),
                    (Body::Fifo(fifo), Kind::FifoData) => Some(fifo.pipe_id),
                    _ => None,
                })
                .collect();
            let mut contents = Vec::new();
            let with = |entry: Entry<proto::PipeDataEntry>| {
                contents.push((format!("entry {}", entry.number), entry.message.pipe_id));
            };
            read_entries(folder.top(), image, with, &mut self.defects);
            let mut seen = HashSet::new();
            for (place, pipe) in contents {
                if !seen.insert(pipe) {
                    let what = format!("the content of pipe {pipe} stands there twice");
                    self.add(image, &place, what, Effect::WrongContent);
                }
                if !pipes.contains(&pipe) {
                    let what = format!("pipe {pipe} is not in files.img");
                    self.add(image, place, what, Effect::Unused);
                }
            }
        }
    }

    /// Shared memory.
    fn segments(&mut self) {
        let folder = self.folder;
        let image = (Kind::MemfdInode, 0);
        let mut wanted: HashMap<u64, usize> = HashMap::new();
        for file in &folder.files {
            if let Body::Memfd(memfd) = &file.body {
                *wanted.entry(u64::from(memfd.inode_id)).or_default() += 1;
            }
        }
        let mut known = HashSet::new();
        for segment in &folder.segments {
            let Some(entry) = &segment.entry else {
                continue;
            };
            let place = format!("inode {}", entry.inode_id);
            if !known.insert(entry.inode_id) {
                self.add(image, &place, "it stands there twice", Effect::RestoreFails);
            }
            if !wanted.contains_key(&entry.inode_id) {
                self.add(image, &place, "no file shows it", Effect::Unused);
            }
            let pagemap = (Kind::ShmemPagemap, segment.shmid);
            if entry.size > 0 && folder.top().facts(pagemap.0, pagemap.1).is_none() {
                let what = format!("{} is missing", pagemap.0.file_name(pagemap.1));
                self.add(image, place, what, Effect::RestoreFails);
            }
        }
        for inode in wanted.keys().filter(|inode| !known.contains(*inode)) {
            let what = "it is missing, and a file shows it";
            self.add(image, format!("inode {inode}"), what, Effect::RestoreFails);
        }
    }

    /// TCP connections.
    fn streams(&mut self) {
        const TCP: u32 = 6;
        const CLOSED: u32 = 7;
        let folder = self.folder;
        let inventory = folder.inventory.as_ref();
        let are_closed = inventory.and_then(|one| one.tcp_close).unwrap_or(false);
        let mut connected = HashSet::new();
        for file in &folder.files {
            let Body::Inet(socket) = &file.body else {
                continue;
            };
            // Restore reads one for every socket with a peer, also when the connection is over.
            if socket.proto != TCP || socket.dst_port == 0 {
                continue;
            }
            let image = (Kind::TcpStream, u64::from(socket.ino));
            connected.insert(image.1);
            if !are_closed
                && socket.state != CLOSED
                && folder.top().facts(image.0, image.1).is_none()
            {
                self.add(image, "", "it is missing", Effect::RestoreFails);
            }
        }
        for inode in folder.numbers_of(Kind::TcpStream) {
            let image = (Kind::TcpStream, inode);
            if !connected.contains(&inode) {
                self.add(image, "", "no connection has it", Effect::Unused);
            }
            let mut has_unsent = true;
            let with = |entry: Entry<proto::TcpStreamEntry>| {
                has_unsent = entry.message.unsq_len.is_some();
            };
            read_entries(folder.top(), image, with, &mut self.defects);
            if !has_unsent {
                let what = "it does not tell how much is not sent yet (unsq_len)";
                self.add(image, "", what, Effect::RestoreFails);
            }
        }
    }

    /// Terminals, and what waits in them.
    fn terminals(&mut self) {
        let folder = self.folder;
        let wanted: HashSet<u32> = folder
            .files
            .iter()
            .filter_map(|file| match &file.body {
                Body::Tty(tty) => Some(tty.tty_info_id),
                _ => None,
            })
            .collect();
        let mut known = Vec::new();
        let with = |entry: Entry<proto::TtyInfoEntry>| known.push(entry.message.id);
        let image = (Kind::TtyInfo, 0);
        read_entries(folder.top(), image, with, &mut self.defects);
        let mut seen = HashSet::new();
        for id in known {
            let place = format!("terminal {id}");
            if !seen.insert(id) {
                self.add(image, &place, "it stands there twice", Effect::RestoreFails);
            }
            if !wanted.contains(&id) {
                self.add(image, place, "no file shows it", Effect::Unused);
            }
        }
        for id in wanted.difference(&seen) {
            let what = "it is missing, and a file shows it";
            self.add(image, format!("terminal {id}"), what, Effect::RestoreFails);
        }
    }

    /// Whoever holds a lock is there, and so is its descriptor.
    fn locks(&mut self) {
        let folder = self.folder;
        let mut locks = Vec::new();
        let with = |entry: Entry<proto::FileLockEntry>| {
            locks.push((format!("entry {}", entry.number), entry.message));
        };
        let image = (Kind::FileLocks, 0);
        read_entries(folder.top(), image, with, &mut self.defects);
        for (place, lock) in locks {
            let task = u32::try_from(lock.pid)
                .ok()
                .and_then(|pid| folder.task(pid));
            let Some(task) = task else {
                let what = format!("its task {} is not in the tree", lock.pid);
                self.add(image, place, what, Effect::RestoreFails);
                continue;
            };
            let table = task
                .ids
                .as_ref()
                .and_then(|ids| folder.tables.get(&ids.files_id));
            let fds = table.into_iter().flatten().map(|one| one.fd);
            if !fds
                .into_iter()
                .any(|fd| i64::from(fd) == i64::from(lock.fd))
            {
                let what = format!("task {} has no descriptor {}", lock.pid, lock.fd);
                self.add(image, place, what, Effect::RestoreFails);
            }
        }
    }

    /// What an epoll waits for has to be a descriptor beside it.
    fn watches(&mut self) {
        let folder = self.folder;
        let epolls: HashMap<u32, &OpenFile> = folder
            .files
            .iter()
            .filter(|file| matches!(file.body, Body::Epoll(_)))
            .map(|file| (file.id, file))
            .collect();
        let mut best: HashMap<u32, Vec<u32>> = HashMap::new();
        for descriptors in folder.tables.values() {
            let mut fds = None;
            for one in descriptors {
                let Some(file) = epolls.get(&one.id) else {
                    continue;
                };
                let Body::Epoll(epoll) = &file.body else {
                    continue;
                };
                let fds = fds.get_or_insert_with(|| {
                    descriptors.iter().map(|one| one.fd).collect::<HashSet<_>>()
                });
                let targets = epoll.tfd.iter().map(|target| target.tfd);
                let missing: Vec<u32> = targets.filter(|fd| !fds.contains(fd)).collect();
                let known = best.entry(file.id).or_insert_with(|| missing.clone());
                if missing.len() < known.len() {
                    *known = missing;
                }
            }
        }
        for (id, missing) in best {
            for fd in missing {
                let what = format!("epoll {id} waits for fd {fd}, which is not open beside it");
                self.add(
                    (Kind::Files, 0),
                    entry(epolls[&id]),
                    what,
                    Effect::RestoreFails,
                );
            }
        }
    }
}

fn entry(file: &OpenFile) -> String {
    format!("entry {}", file.number)
}
