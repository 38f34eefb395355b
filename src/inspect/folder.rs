//! A folder of images as a whole: tasks, what they hold, and where their pages are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use prost::Message;

use super::defect::{Defects, Effect};
use super::level::{Inode, Level, Role, reason};
use super::pagemaps::{Known, Memory, read_memory};
use crate::error::Result;
use crate::image::catalogue::Kind;
use crate::image::framing::Damage;
use crate::image::proto;

/// No chain is that long; a folder that is its own parent is found before.
const MOST_LEVELS: usize = 1000;

/// `TaskCoreEntry.task_state` of a zombie.
const TASK_DEAD: u32 = 2;

/// A thread.
#[derive(Debug)]
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// Its image.
    pub core: Option<proto::CoreEntry>,
    /// What it holds that its process does not: only threads with private tables have this.
    pub ids: Option<proto::TaskKobjIdsEntry>,
    /// Its own working folder, if it has one.
    pub fs: Option<proto::FsEntry>,
}

/// A process.
#[derive(Debug)]
pub struct Task {
    /// Its number.
    pub pid: u32,
    /// Its entry in the tree.
    pub entry: proto::PstreeEntry,
    /// Its parent, by place in [`Folder::tasks`].
    pub parent: Option<usize>,
    /// Its children, by place.
    pub children: Vec<usize>,
    /// Its threads, the leader first. A zombie has that one alone.
    pub threads: Vec<Thread>,
    /// What it holds.
    pub ids: Option<proto::TaskKobjIdsEntry>,
    /// Its address space.
    pub mm: Option<proto::MmEntry>,
    /// Its working folder, root and umask.
    pub fs: Option<proto::FsEntry>,
    /// Its saved pages.
    pub memory: Option<Memory>,
}

impl Task {
    /// What belongs to the process as a whole.
    #[must_use]
    pub fn core(&self) -> Option<&proto::TaskCoreEntry> {
        self.threads.first()?.core.as_ref()?.tc.as_ref()
    }

    /// Whether it has ended already.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.core().is_some_and(|core| core.task_state == TASK_DEAD)
    }

    /// Its name, readable.
    #[must_use]
    pub fn name(&self) -> String {
        let comm = self.core().map(|core| core.comm.as_slice());
        readable(comm.unwrap_or_default())
    }
}

/// An open file, or a path held without one.
#[derive(Debug)]
pub struct OpenFile {
    /// Which entry of `files.img`, from 1.
    pub number: usize,
    /// Its id.
    pub id: u32,
    /// Its kind.
    pub kind: i32,
    /// What is known of it, as far as its kind is one that we know.
    pub body: Body,
    /// How long its entry is, with its length.
    pub entry_bytes: u64,
}

/// Declares [`Body`]: the number of a kind, its name, its field in a file entry, its message.
macro_rules! bodies {
    ($($number:literal $kind:ident $field:ident $message:ident;)*) => {
        /// What an open file is.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "the messages tell")]
        pub enum Body {
            $($kind(Box<proto::$message>),)*
            /// Of an unknown kind, or without the message of its kind.
            Other,
        }

        impl Body {
            /// The message that the kind of an entry asks for.
            fn of(entry: proto::FileEntry) -> Self {
                match entry.r#type {
                    $($number => entry.$field.map(|one| Self::$kind(Box::new(one))),)*
                    _ => None,
                }
                .unwrap_or(Self::Other)
            }

            /// The id in the message, which has to be the one of the entry.
            #[must_use]
            pub fn id(&self) -> Option<u32> {
                match self {
                    $(Self::$kind(file) => Some(file.id),)*
                    Self::Other => None,
                }
            }
        }
    };
}

bodies! {
    1 Reg reg RegFileEntry;
    2 Pipe pipe PipeEntry;
    3 Fifo fifo FifoEntry;
    4 Inet isk InetSkEntry;
    5 Unix usk UnixSkEntry;
    6 Eventfd efd EventfdFileEntry;
    7 Epoll epfd EventpollFileEntry;
    8 Inotify ify InotifyFileEntry;
    9 Signalfd sgfd SignalfdEntry;
    10 Packet psk PacketSockEntry;
    11 Tty tty TtyFileEntry;
    12 Fanotify ffy FanotifyFileEntry;
    13 Netlink nlsk NetlinkSkEntry;
    14 Namespace nsf NsFileEntry;
    15 Tun tunf TunfileEntry;
    16 External ext ExtFileEntry;
    17 Timerfd tfd TimerfdEntry;
    18 Memfd memfd MemfdFileEntry;
    19 BpfMap bpf BpfmapFileEntry;
    20 Pidfd pidfd PidfdEntry;
}

/// The name of a kind of file, as in the format.
#[must_use]
pub fn kind_name(kind: i32) -> String {
    match proto::FdTypes::try_from(kind) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => format!("kind {kind}"),
    }
}

/// A piece of shared memory.
#[derive(Debug)]
pub struct Segment {
    /// Its entry; shared memory that was mapped without a file has none.
    pub entry: Option<proto::MemfdInodeEntry>,
    /// Names its pagemap.
    pub shmid: u64,
    /// Its saved pages.
    pub memory: Option<Memory>,
}

/// A folder of images with the folders it builds on.
#[derive(Debug)]
pub struct Folder {
    /// The folder itself, then those it builds on.
    pub levels: Vec<Level>,
    /// The dumper's own account, if dedump wrote it.
    pub manifest: Option<proto::Manifest>,
    /// The entry point.
    pub inventory: Option<proto::InventoryEntry>,
    /// Processes, parents before their children where the images are sound.
    pub tasks: Vec<Task>,
    /// Descriptor tables by files id.
    pub tables: BTreeMap<u32, Vec<proto::FdinfoEntry>>,
    /// Open files, in the order of `files.img`.
    pub files: Vec<OpenFile>,
    /// The first file with an id.
    pub file_by_id: HashMap<u32, usize>,
    /// Shared memory.
    pub segments: Vec<Segment>,
    /// What could not be read.
    pub defects: Defects,
}

impl Folder {
    /// Reads a folder. Damaged images are named in [`Folder::defects`].
    ///
    /// # Errors
    /// A folder that cannot be opened or listed.
    pub fn read(path: &Path) -> Result<Self> {
        let mut defects = Defects::default();
        let levels = read_levels(path, &mut defects)?;
        let mut folder = Self {
            levels,
            manifest: None,
            inventory: None,
            tasks: Vec::new(),
            tables: BTreeMap::new(),
            files: Vec::new(),
            file_by_id: HashMap::new(),
            segments: Vec::new(),
            defects,
        };
        folder.manifest = folder.single(Kind::Manifest, 0);
        folder.inventory = folder.single(Kind::Inventory, 0);
        let mut known = Known::new();
        folder.read_tasks(&mut known);
        folder.read_tables();
        folder.read_files();
        folder.read_segments(&mut known);
        Ok(folder)
    }

    /// The folder itself.
    #[must_use]
    pub fn top(&self) -> &Level {
        &self.levels[0]
    }

    /// Whether the folder so far down the chain is an earlier dump.
    #[must_use]
    pub fn is_earlier(&self, level: usize) -> bool {
        self.levels
            .get(level)
            .is_some_and(|level| level.role == Role::Earlier)
    }

    /// What restorers cannot bring back as it was, in words.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        let manifest = self.manifest.iter();
        manifest.flat_map(|manifest| manifest.notes.iter().map(|note| note.text.as_str()))
    }

    /// The open file with an id.
    #[must_use]
    pub fn file(&self, id: u32) -> Option<&OpenFile> {
        self.file_by_id.get(&id).map(|&place| &self.files[place])
    }

    /// The task with a pid.
    #[must_use]
    pub fn task(&self, pid: u32) -> Option<&Task> {
        self.tasks.iter().find(|task| task.pid == pid)
    }

    /// Hands every entry of an image of the folder itself to `with`, as [`read_entries`] does.
    fn entries<M: Message + Default>(&mut self, kind: Kind, id: u64, with: impl FnMut(Entry<M>)) {
        read_entries(&self.levels[0], (kind, id), with, &mut self.defects);
    }

    /// The one entry of an image of the folder itself.
    fn single<M: Message + Default>(&mut self, kind: Kind, id: u64) -> Option<M> {
        read_single(&self.levels[0], kind, id, &mut self.defects)
    }

    fn read_tasks(&mut self, known: &mut Known) {
        let mut entries = Vec::new();
        self.entries(Kind::Pstree, 0, |entry: Entry<proto::PstreeEntry>| {
            entries.push(entry.message);
        });
        let mut places = HashMap::new();
        let mut seen = HashSet::new();
        for entry in entries {
            let pid = entry.pid;
            // Of two with one pid, `verify` complains; nobody follows the second.
            if !seen.insert(pid) {
                let what = format!("task {pid} stands there twice");
                let name = Kind::Pstree.file_name(0);
                self.defects.add(name, "", what, Effect::RestoreFails);
                continue;
            }
            let parent = places.get(&entry.ppid).copied();
            let place = self.tasks.len();
            places.insert(pid, place);
            let task = self.read_task(entry, parent, known);
            self.tasks.push(task);
            if let Some(parent) = parent {
                let parent: &mut Task = &mut self.tasks[parent];
                parent.children.push(place);
            }
        }
    }

    fn read_task(
        &mut self,
        entry: proto::PstreeEntry,
        parent: Option<usize>,
        known: &mut Known,
    ) -> Task {
        let pid = entry.pid;
        let id = u64::from(pid);
        let leader = self.single(Kind::Core, id);
        let mut task = Task {
            pid,
            parent,
            children: Vec::new(),
            threads: vec![Thread {
                tid: pid,
                core: leader,
                ids: None,
                fs: None,
            }],
            ids: self.single(Kind::Ids, id),
            mm: self.single(Kind::Mm, id),
            fs: self.single(Kind::Fs, id),
            memory: read_memory(&self.levels, Kind::Pagemap, id, known, &mut self.defects),
            entry,
        };
        if !task.is_zombie() {
            let others = task.entry.threads.iter().skip(1);
            let others = others.map(|&tid| Thread {
                tid,
                core: self.single(Kind::Core, u64::from(tid)),
                ids: self.single(Kind::Ids, u64::from(tid)),
                fs: self.single(Kind::Fs, u64::from(tid)),
            });
            let others: Vec<Thread> = others.collect();
            task.threads.extend(others);
        }
        task
    }

    fn read_tables(&mut self) {
        let ids = self.numbers_of(Kind::Fdinfo);
        for id in ids {
            let mut table = Vec::new();
            self.entries(Kind::Fdinfo, id, |entry: Entry<proto::FdinfoEntry>| {
                table.push(entry.message);
            });
            if let Ok(id) = u32::try_from(id) {
                self.tables.insert(id, table);
            }
        }
    }

    fn read_files(&mut self) {
        let mut files = Vec::new();
        self.entries(Kind::Files, 0, |entry: Entry<proto::FileEntry>| {
            files.push(OpenFile {
                number: entry.number,
                id: entry.message.id,
                kind: entry.message.r#type,
                body: Body::of(entry.message),
                entry_bytes: entry.bytes,
            });
        });
        for (place, file) in files.iter().enumerate() {
            self.file_by_id.entry(file.id).or_insert(place);
        }
        self.files = files;
    }

    fn read_segments(&mut self, known: &mut Known) {
        let mut entries = Vec::new();
        self.entries(
            Kind::MemfdInode,
            0,
            |entry: Entry<proto::MemfdInodeEntry>| {
                entries.push(entry.message);
            },
        );
        let mut by_id: BTreeMap<u64, Option<proto::MemfdInodeEntry>> = BTreeMap::new();
        for id in self.numbers_of(Kind::ShmemPagemap) {
            by_id.insert(id, None);
        }
        for entry in entries {
            by_id.insert(u64::from(entry.shmid), Some(entry));
        }
        for (shmid, entry) in by_id {
            let kind = Kind::ShmemPagemap;
            let memory = read_memory(&self.levels, kind, shmid, known, &mut self.defects);
            self.segments.push(Segment {
                entry,
                shmid,
                memory,
            });
        }
    }

    /// The numbers of all images of a kind in the folder itself.
    pub(super) fn numbers_of(&self, wanted: Kind) -> Vec<u64> {
        let names = self.top().files.keys();
        names
            .filter_map(|name| Kind::of_file_name(name))
            .filter(|(kind, _)| *kind == wanted)
            .map(|(_, id)| id)
            .collect()
    }
}

/// An entry of an image.
pub(super) struct Entry<M> {
    /// Its number, from 1.
    pub(super) number: usize,
    /// How long it is, with its length and with what follows it.
    pub(super) bytes: u64,
    /// What it says.
    pub(super) message: M,
}

/// Hands every entry of an image, if it is there, to `with`; damage ends it.
pub(super) fn read_entries<M: Message + Default>(
    level: &Level,
    (kind, id): (Kind, u64),
    mut with: impl FnMut(Entry<M>),
    defects: &mut Defects,
) {
    if level.facts(kind, id).is_none() {
        return;
    }
    let name = level.shown(kind, id);
    let image = match level.image(&kind.file_name(id)) {
        Ok(image) => image,
        Err(what) => return defects.add(name, "", what, effect_of_damage(kind)),
    };
    let mut entries = image.entries();
    let all = entries.try_for_each(|entry| {
        let entry = entry?;
        with(Entry {
            number: entry.index + 1,
            bytes: (entry.bytes.len() + entry.payload.len() + size_of::<u32>()) as u64,
            message: entry.decode()?,
        });
        Ok(())
    });
    if let Err(damage) = all {
        say_damage(name, kind, damage, defects);
    }
}

/// Damage inside an image, as a defect.
pub(super) fn say_damage(name: String, kind: Kind, damage: Damage, defects: &mut Defects) {
    let place = format!("byte {}", damage.offset);
    defects.add(name, place, damage.what, effect_of_damage(kind));
}

/// What damage to an image of a kind does to a restore.
pub(super) fn effect_of_damage(kind: Kind) -> Effect {
    match kind {
        Kind::Manifest | Kind::PageCrcs | Kind::Stats | Kind::RestoreStats | Kind::IrmapCache => {
            Effect::Unused
        }
        _ => Effect::RestoreFails,
    }
}

/// The one entry of an image.
pub(super) fn read_single<M: Message + Default>(
    level: &Level,
    kind: Kind,
    id: u64,
    defects: &mut Defects,
) -> Option<M> {
    let damaged_before = defects.found().len();
    let mut found = None;
    let mut count = 0;
    let with = |entry: Entry<M>| {
        count += 1;
        if found.is_none() {
            found = Some(entry.message);
        }
    };
    read_entries(level, (kind, id), with, defects);
    let is_damaged = defects.found().len() > damaged_before;
    if count > 1 {
        let what = format!("{count} entries where one belongs");
        defects.add(level.shown(kind, id), "", what, Effect::Unused);
    } else if count == 0 && !is_damaged && level.facts(kind, id).is_some() {
        let what = "it has no entry";
        defects.add(level.shown(kind, id), "", what, Effect::RestoreFails);
    }
    found
}

fn read_levels(path: &Path, defects: &mut Defects) -> Result<Vec<Level>> {
    let mut levels = vec![Level::open(path)?];
    let mut seen: HashSet<Inode> = HashSet::new();
    while let Some(last) = levels.last() {
        let link = format!("{}parent", last.prefix);
        if !seen.insert(last.inode) || levels.len() > MOST_LEVELS {
            let what = "the chain of earlier dumps leads back to itself";
            let link = last.prefix.trim_end_matches('/').to_owned();
            defects.add(link, "", what, Effect::RestorerCrashes);
            levels.pop();
            break;
        }
        match last.below() {
            Ok(Some(below)) => levels.push(below),
            Ok(None) => break,
            Err(error) => {
                let what = format!("the earlier dump is gone: {}", reason(&error));
                defects.add(link, "", what, Effect::RestoreFails);
                break;
            }
        }
    }
    Ok(levels)
}

/// Bytes of an image as a line of text.
#[must_use]
pub fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\0');
    text.chars()
        .flat_map(|one| {
            let is_plain = !one.is_control();
            let plain = is_plain.then_some(one);
            let escaped = (!is_plain).then(|| one.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}
