//! What takes the room in a folder, what each task would cost alone, and what sharing saves.
//!
//! Everything counts once here, however many names it has: a file with several hard links, a
//! page that several tasks read. *Alone* counts for each task whatever it refers to;
//! *written out* is what there would be if every reference were a copy.

mod content;
mod draw;
mod treemap;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

pub use content::Content;

use super::defect::Defects;
use super::folder::{Body, Entry, Folder, Segment, Task, read_entries};
use super::level::{Inode, Level};
use super::pagemaps::Memory;
use super::sharing::{PageUses, Table, spaces};
use crate::collect::memory::PAGE_BYTES;
use crate::error::Result;
use crate::image::catalogue::{Head, Kind};
use crate::image::memory::status;
use crate::image::proto;

/// The images of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindSize {
    /// The name of such a file, with N for a number.
    pub name: String,
    /// How many files.
    pub files: u64,
    /// How many entries; in pages files, pages.
    pub entries: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What one task takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSize {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// What a dump of it alone would hold.
    pub alone_bytes: u64,
    /// What nobody else refers to, by what it is.
    pub own: Vec<(&'static str, u64)>,
    /// What of that dump is in earlier dumps, whoever else refers to it.
    pub earlier_bytes: u64,
    /// With which tasks it shares something.
    pub with: Vec<u32>,
}

impl TaskSize {
    /// What nobody else refers to.
    #[must_use]
    pub fn own_bytes(&self) -> u64 {
        self.own.iter().map(|(_, bytes)| bytes).sum()
    }

    /// What others refer to, too.
    #[must_use]
    pub fn shared_bytes(&self) -> u64 {
        self.alone_bytes
            .saturating_sub(self.own_bytes() + self.earlier_bytes)
    }
}

/// What was not written, by what spared it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Objects that several references lead to are written once: open files, tables, address
    /// spaces, shared memory.
    pub ids_bytes: u64,
    /// Pages of zeros; only dedump tells.
    pub zero_bytes: u64,
    /// Pages that several tasks have are written once.
    pub pages_bytes: u64,
    /// Pages that an earlier dump has.
    pub earlier_bytes: u64,
}

impl Saved {
    /// All together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ids_bytes + self.zero_bytes + self.pages_bytes + self.earlier_bytes
    }
}

/// The weight of a folder.
#[derive(Debug)]
pub struct Size {
    /// The folder.
    pub path: PathBuf,
    /// What it holds, by kind, the largest first. Earlier dumps that it builds on are left out.
    pub kinds: Vec<KindSize>,
    /// What each task takes.
    pub tasks: Vec<TaskSize>,
    /// What belongs to several tasks, or to none, by what it is.
    pub common: Vec<(&'static str, u64)>,
    /// What is not in the folder although somebody refers to it.
    pub saved: Saved,
    /// What of its pages is still there more than once.
    pub content: Content,
    /// What restorers cannot bring back as it was.
    pub notes: Vec<String>,
    /// What could not be read.
    pub defects: Defects,
}

/// Weighs a folder.
///
/// # Errors
/// A folder that cannot be opened; pages that cannot be read.
pub fn size(path: &Path) -> Result<Size> {
    let mut folder = Folder::read(path)?;
    let mut defects = std::mem::take(&mut folder.defects);
    let uses = PageUses::of(&folder);
    let items = Items::of(&folder, &mut defects);
    let content = content::compare(&folder)?;
    let (tasks, common) = items.tasks(&folder, &uses);
    Ok(Size {
        path: path.to_owned(),
        kinds: kinds(&folder),
        tasks,
        common,
        saved: items.saved(&folder),
        content,
        notes: folder.notes().map(str::to_owned).collect(),
        defects,
    })
}

impl Size {
    /// All bytes of the folder.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.bytes).sum()
    }

    /// What the folder would hold if every reference were written out.
    #[must_use]
    pub fn written_out_bytes(&self) -> u64 {
        self.bytes() + self.saved.bytes()
    }
}

/// The folder itself and the one of common pages.
fn own_levels(folder: &Folder) -> impl Iterator<Item = &Level> {
    let levels = folder.levels.iter().enumerate();
    levels
        .take_while(|(depth, _)| !folder.is_earlier(*depth))
        .map(|(_, level)| level)
}

pub(super) fn kinds(folder: &Folder) -> Vec<KindSize> {
    let mut by_name: BTreeMap<String, KindSize> = BTreeMap::new();
    let mut seen = HashSet::new();
    for level in own_levels(folder) {
        for (name, facts) in &level.files {
            let Some((kind, _)) = Kind::of_file_name(name) else {
                continue;
            };
            if kind.head() == Head::Service || !seen.insert(facts.inode) {
                continue;
            }
            let entries = if kind.head() == Head::Raw {
                facts.size_bytes / PAGE_BYTES
            } else {
                let image = level.image(name);
                image.map_or(0, |image| {
                    image.entries().take_while(Result::is_ok).count() as u64
                })
            };
            let shown = pattern(kind);
            let row = by_name.entry(shown.clone()).or_insert(KindSize {
                name: shown,
                files: 0,
                entries: 0,
                bytes: 0,
            });
            row.files += 1;
            row.entries += entries;
            row.bytes = row.bytes.saturating_add(facts.size_bytes);
        }
    }
    let mut kinds: Vec<KindSize> = by_name.into_values().collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.bytes));
    kinds
}

/// The name of files of a kind, with N for the number.
pub(super) fn pattern(kind: Kind) -> String {
    let name = kind.file_name(0);
    let name = name.strip_suffix(".img").unwrap_or(&name);
    name.strip_suffix('0')
        .map_or_else(|| name.to_owned(), |stem| format!("{stem}N"))
}

/// Something in the folder that tasks refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Item {
    /// A file of the folder.
    Image(Inode),
    /// An entry of `files.img`.
    File(u32),
    /// What waits in a pipe or FIFO.
    Pipe(u32),
    /// What waits in a socket.
    Queue(u32),
    /// Shared memory.
    Segment(u64),
}

/// What an item is, and how much of it there is.
#[derive(Clone, Copy, Debug)]
struct Weight {
    what: &'static str,
    bytes: u64,
    /// What of it is in earlier dumps, and counts there.
    earlier_bytes: u64,
}

impl Weight {
    fn new(what: &'static str, bytes: u64) -> Self {
        Self {
            what,
            bytes,
            earlier_bytes: 0,
        }
    }

    fn of_segment(what: &'static str, folder: &Folder, segment: &Segment) -> Option<Self> {
        let pages = pages_of(folder, segment.memory.as_ref()?);
        Some(Self {
            what,
            bytes: pages.here * PAGE_BYTES,
            earlier_bytes: pages.earlier * PAGE_BYTES,
        })
    }
}

/// Pages of a memory, by where they are.
#[derive(Clone, Copy, Debug)]
struct PagesOf {
    here: u64,
    earlier: u64,
}

fn pages_of(folder: &Folder, memory: &Memory) -> PagesOf {
    let (mut here, mut earlier) = (0, 0);
    for run in &memory.stored {
        if folder.is_earlier(run.level) {
            earlier += run.pages();
        } else {
            here += run.pages();
        }
    }
    PagesOf { here, earlier }
}

/// Everything that tasks refer to.
struct Items {
    weights: HashMap<Item, Weight>,
    /// For each task what it refers to, each once.
    of_task: Vec<HashSet<Item>>,
    /// How many references lead to each.
    references: HashMap<Item, u64>,
}

impl Items {
    fn of(folder: &Folder, defects: &mut Defects) -> Self {
        let mut items = Self {
            weights: HashMap::new(),
            of_task: vec![HashSet::new(); folder.tasks.len()],
            references: HashMap::new(),
        };
        let waiting = Waiting::of(folder, defects);
        let mut tables = HashSet::new();
        for (place, task) in folder.tasks.iter().enumerate() {
            items.images(folder, place, task);
            let ids = task.ids.as_ref();
            if let Some(ids) = ids {
                let table = folder.tables.get(&ids.files_id).into_iter().flatten();
                // Descriptors of a table that several tasks have are references once.
                let counts = tables.insert(ids.files_id);
                for one in table {
                    items.file(folder, &waiting, place, one.id, counts);
                }
            }
            if let Some(fs) = &task.fs {
                for id in [fs.cwd_id, fs.root_id] {
                    items.file(folder, &waiting, place, id, true);
                }
            }
            if let Some(mm) = &task.mm {
                items.file(folder, &waiting, place, mm.exe_file_id, true);
                for vma in &mm.vmas {
                    items.mapping(folder, &waiting, place, vma);
                }
            }
        }
        items
    }

    fn refer(&mut self, place: usize, item: Item, weight: Weight, counts: bool) {
        self.weights.entry(item).or_insert(weight);
        self.of_task[place].insert(item);
        if counts {
            *self.references.entry(item).or_default() += 1;
        }
    }

    /// Files that are named by the number of a task, a thread or a table.
    fn images(&mut self, folder: &Folder, place: usize, task: &Task) {
        let number = |number: u32| u64::from(number);
        let mut names = vec![
            (Kind::Ids, number(task.pid), "tables"),
            (Kind::Mm, number(task.pid), "mappings"),
            (Kind::Fs, number(task.pid), "tables"),
            (Kind::Pagemap, number(task.pid), "pagemaps"),
        ];
        if let Some(ids) = &task.ids {
            names.push((Kind::Fdinfo, number(ids.files_id), "tables"));
        }
        for thread in &task.threads {
            names.push((Kind::Core, number(thread.tid), "threads"));
            if let Some(ids) = thread.ids.as_ref().filter(|_| thread.tid != task.pid) {
                names.push((Kind::Ids, number(thread.tid), "tables"));
                names.push((Kind::Fs, number(thread.tid), "tables"));
                names.push((Kind::Fdinfo, number(ids.files_id), "tables"));
            }
        }
        let mut seen = HashSet::new();
        for (kind, id, what) in names {
            if let Some(facts) = folder
                .top()
                .facts(kind, id)
                .filter(|_| seen.insert((kind, id)))
            {
                let weight = Weight::new(what, facts.size_bytes);
                self.refer(place, Item::Image(facts.inode), weight, true);
            }
        }
    }

    /// A reference to an open file, and with it to what waits in it.
    fn file(&mut self, folder: &Folder, waiting: &Waiting, place: usize, id: u32, counts: bool) {
        let Some(file) = folder.file(id) else { return };
        let weight = Weight::new("open files", file.entry_bytes);
        self.refer(place, Item::File(id), weight, counts);
        let mut content = |item: Item, weight: Option<Weight>| {
            let is_new = !self.of_task[place].contains(&item);
            if let Some(weight) = weight.filter(|_| is_new) {
                self.refer(place, item, weight, true);
            }
        };
        let waits = |bytes: Option<&u64>| bytes.map(|bytes| Weight::new("contents", *bytes));
        match &file.body {
            Body::Pipe(pipe) => {
                let waiting = waits(waiting.pipes.get(&pipe.pipe_id));
                content(Item::Pipe(pipe.pipe_id), waiting);
            }
            Body::Fifo(fifo) => {
                let waiting = waits(waiting.pipes.get(&fifo.pipe_id));
                content(Item::Pipe(fifo.pipe_id), waiting);
            }
            Body::Unix(_) => content(Item::Queue(id), waits(waiting.queues.get(&id))),
            Body::Memfd(memfd) => {
                let inode = u64::from(memfd.inode_id);
                let mut segments = folder.segments.iter();
                let segment = segments
                    .find(|one| one.entry.as_ref().is_some_and(|one| one.inode_id == inode));
                if let Some(segment) = segment {
                    content(
                        Item::Segment(segment.shmid),
                        Weight::of_segment("contents", folder, segment),
                    );
                }
            }
            _ => {}
        }
    }

    fn mapping(&mut self, folder: &Folder, waiting: &Waiting, place: usize, vma: &proto::VmaEntry) {
        if vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0 {
            if let Ok(id) = u32::try_from(vma.shmid) {
                self.file(folder, waiting, place, id, true);
            }
        } else if vma.status & (status::ANON_SHARED | status::SYSVIPC) != 0 {
            let item = Item::Segment(vma.shmid);
            let segment = folder.segments.iter().find(|one| one.shmid == vma.shmid);
            let weight =
                segment.and_then(|segment| Weight::of_segment("shared memory", folder, segment));
            if let Some(weight) = weight.filter(|_| !self.of_task[place].contains(&item)) {
                self.refer(place, item, weight, true);
            }
        }
    }

    fn tasks(&self, folder: &Folder, uses: &PageUses) -> (Vec<TaskSize>, Vec<(&'static str, u64)>) {
        let mut users: HashMap<Item, Vec<usize>> = HashMap::new();
        for (place, items) in self.of_task.iter().enumerate() {
            for item in items {
                users.entry(*item).or_default().push(place);
            }
        }
        let mut total: HashMap<&'static str, u64> = HashMap::new();
        let page_users = page_users(folder);
        let tasks = folder.tasks.iter().enumerate().map(|(place, task)| {
            let mut own: BTreeMap<&'static str, u64> = BTreeMap::new();
            let (mut alone, mut earlier) = (0, 0);
            let mut with = HashSet::new();
            for item in &self.of_task[place] {
                let weight = self.weights[item];
                alone += weight.bytes + weight.earlier_bytes;
                earlier += weight.earlier_bytes;
                let users = &users[item];
                if users.len() == 1 {
                    *own.entry(weight.what).or_default() += weight.bytes;
                } else {
                    with.extend(users.iter().copied());
                }
            }
            if let Some(memory) = &task.memory {
                let split = uses.split(folder, memory);
                alone += split.pages() * PAGE_BYTES;
                earlier += split.earlier_pages * PAGE_BYTES;
                let pagemap = memory.pagemaps.first().map(|one| one.inode);
                let is_shared_space = pagemap
                    .and_then(|inode| users.get(&Item::Image(inode)))
                    .is_some_and(|users| users.len() > 1);
                if !is_shared_space {
                    *own.entry("pages").or_default() += split.own_pages * PAGE_BYTES;
                }
                let here = memory.stored.iter();
                let here = here.filter(|run| !folder.is_earlier(run.level));
                let files: HashSet<_> = here.map(|run| (run.level, run.pages_id)).collect();
                for file in files {
                    let users = page_users.get(&file).into_iter().flatten();
                    with.extend(users.copied());
                }
            }
            with.remove(&place);
            let mut with: Vec<u32> = with.iter().map(|&place| folder.tasks[place].pid).collect();
            with.sort_unstable();
            TaskSize {
                pid: task.pid,
                name: task.name(),
                alone_bytes: alone,
                own: own.into_iter().collect(),
                earlier_bytes: earlier,
                with,
            }
        });
        let tasks: Vec<TaskSize> = tasks.collect();
        for (item, weight) in &self.weights {
            if users.get(item).is_some_and(|users| users.len() > 1) {
                *total.entry(weight.what).or_default() += weight.bytes;
            }
        }
        let of_tasks: u64 = tasks
            .iter()
            .flat_map(|task| &task.own)
            .filter(|(what, _)| *what == "pages")
            .map(|(_, bytes)| bytes)
            .sum();
        // Those of shared memory are told as such.
        let of_segments: u64 = self
            .weights
            .iter()
            .filter(|(item, _)| matches!(item, Item::Segment(_)))
            .map(|(_, weight)| weight.bytes)
            .sum();
        let all_pages = in_folder_pages(folder) * PAGE_BYTES;
        let rest = all_pages.saturating_sub(of_tasks + of_segments);
        total.insert("pages", rest);
        let mut common: Vec<_> = total.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
        common.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        (tasks, common)
    }

    fn saved(&self, folder: &Folder) -> Saved {
        let mut saved = Saved::default();
        for (item, references) in &self.references {
            let bytes = self.weights[item].bytes;
            saved.ids_bytes = (references - 1)
                .saturating_mul(bytes)
                .saturating_add(saved.ids_bytes);
        }
        // Descriptors of a table that several tasks have.
        let mut holders: HashMap<u32, u64> = HashMap::new();
        for ids in folder.tasks.iter().filter_map(|task| task.ids.as_ref()) {
            *holders.entry(Table::Files.id(ids)).or_default() += 1;
        }
        for (table, count) in holders {
            let fds = folder.tables.get(&table).into_iter().flatten();
            let files = fds.filter_map(|one| folder.file(one.id));
            let bytes: u64 = files.map(|file| file.entry_bytes).sum();
            saved.ids_bytes += (count - 1) * bytes;
        }
        // Pages of address spaces that several tasks have, then pages that several spaces have.
        let mut in_spaces = 0;
        for task in spaces(folder) {
            let Some(memory) = &task.memory else { continue };
            let PagesOf {
                here: pages,
                earlier,
            } = pages_of(folder, memory);
            in_spaces += pages;
            saved.earlier_bytes += earlier * PAGE_BYTES;
            let inode = memory.pagemaps.first().map(|one| Item::Image(one.inode));
            let names = inode.and_then(|item| self.references.get(&item)).copied();
            saved.ids_bytes += (names.unwrap_or(1) - 1) * pages * PAGE_BYTES;
        }
        for memory in folder.segments.iter().filter_map(|one| one.memory.as_ref()) {
            saved.earlier_bytes += pages_of(folder, memory).earlier * PAGE_BYTES;
        }
        let once = private_pages(folder);
        saved.pages_bytes = in_spaces.saturating_sub(once) * PAGE_BYTES;
        let common_pagemaps: u64 = own_levels(folder)
            .skip(1)
            .flat_map(|level| &level.files)
            .filter(|(name, _)| matches!(Kind::of_file_name(name), Some((Kind::Pagemap, _))))
            .map(|(_, facts)| (facts.inode, facts.size_bytes))
            .collect::<HashMap<_, _>>()
            .values()
            .sum();
        saved.pages_bytes = saved.pages_bytes.saturating_sub(common_pagemaps);
        let manifest = folder.manifest.as_ref();
        let zeros = manifest.map_or(0, |manifest| manifest.pages.zero);
        saved.zero_bytes = zeros.saturating_mul(PAGE_BYTES);
        saved
    }
}

/// Which tasks read each pages file.
fn page_users(folder: &Folder) -> HashMap<(usize, u32), Vec<usize>> {
    let mut users: HashMap<(usize, u32), Vec<usize>> = HashMap::new();
    for (place, task) in folder.tasks.iter().enumerate() {
        let runs = task.memory.iter().flat_map(|memory| &memory.stored);
        let files: HashSet<_> = runs.map(|run| (run.level, run.pages_id)).collect();
        for file in files {
            users.entry(file).or_default().push(place);
        }
    }
    users
}

/// Pages in the pages files of the folder.
fn in_folder_pages(folder: &Folder) -> u64 {
    let mut seen = HashSet::new();
    let files = own_levels(folder).flat_map(|level| &level.files);
    files
        .filter(|(name, _)| matches!(Kind::of_file_name(name), Some((Kind::Pages, _))))
        .filter(|(_, facts)| seen.insert(facts.inode))
        .map(|(_, facts)| facts.size_bytes / PAGE_BYTES)
        .fold(0, u64::saturating_add)
}

/// The same without shared memory.
fn private_pages(folder: &Folder) -> u64 {
    let segments = folder.segments.iter().filter_map(|one| one.memory.as_ref());
    let of_segments: u64 = segments.map(|memory| pages_of(folder, memory).here).sum();
    in_folder_pages(folder).saturating_sub(of_segments)
}

/// Bytes that wait somewhere.
struct Waiting {
    pipes: HashMap<u32, u64>,
    queues: HashMap<u32, u64>,
}

impl Waiting {
    fn of(folder: &Folder, defects: &mut Defects) -> Self {
        let mut pipes = HashMap::new();
        for kind in [Kind::PipesData, Kind::FifoData] {
            let with = |entry: Entry<proto::PipeDataEntry>| {
                *pipes.entry(entry.message.pipe_id).or_default() += entry.bytes;
            };
            read_entries(folder.top(), (kind, 0), with, defects);
        }
        let mut queues = HashMap::new();
        let with = |entry: Entry<proto::SkPacketEntry>| {
            *queues.entry(entry.message.id_for).or_default() += entry.bytes;
        };
        read_entries(folder.top(), (Kind::SkQueues, 0), with, defects);
        Self { pipes, queues }
    }
}
