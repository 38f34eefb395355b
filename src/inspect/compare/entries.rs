//! Entries of two folders, side by side.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message as _;

use super::identity::{Names, Space, tables};
use super::{EntryChange, Fate, FieldChange};
use crate::image::catalogue::{Head, Kind};
use crate::image::framing::Image;
use crate::image::memory::status;
use crate::image::proto;
use crate::image::schema::{Field, Form, Holds, Message, schema};
use crate::inspect::defect::{Defects, Effect};
use crate::inspect::describe;
use crate::inspect::folder::{Folder, effect_of_damage, kind_name, say_damage};
use crate::inspect::sharing::Table;
use crate::inspect::show::{scalars, some};
use crate::inspect::size::pattern;
use crate::inspect::values::{Value, is_list, present, single, values};

/// Whose an entry is; `Err` has a number that stands for nothing.
type Owner = Result<usize, u64>;

/// Which entry it is. Mappings stand in `mm-` images, and are entries of their own here: of the kind
/// of image that older dumpers had for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: Kind,
    of: Owner,
    /// Which one of its kind: a descriptor, an address, a place.
    at: u64,
    /// Of several for which all this is the same, which.
    turn: usize,
}

struct Item<'a> {
    /// `None` where there is nothing but bytes.
    message: Option<&'static Message>,
    bytes: Cow<'a, [u8]>,
    payload: &'a [u8],
}

type Items<'a> = BTreeMap<Key, Item<'a>>;

/// Compares all entries; yields also how many there were to compare.
pub(super) fn compare(
    folders: [&Folder; 2],
    names: &Names,
    defects: &mut [Defects; 2],
) -> (Vec<EntryChange>, usize) {
    let images = [0, 1].map(|side| read(folders[side], &mut defects[side]));
    let mut side_by_side = SideBySide {
        folders,
        names,
        told_before: HashSet::new(),
    };
    side_by_side.find_shared_spaces();
    let mut items = [Items::new(), Items::new()];
    for side in [0, 1] {
        for image in &images[side] {
            side_by_side.image(side, image, &mut items[side], &mut defects[side]);
        }
    }
    side_by_side.descriptors(&mut items);
    let [before, after] = &items;
    let mut keys: Vec<&Key> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let compared = keys.len();
    let changes = keys.into_iter().filter_map(|key| {
        let (side, item, fate, fields) = match (before.get(key), after.get(key)) {
            (Some(one), Some(other)) => {
                let fields = side_by_side.differences(one, other);
                if fields.is_empty() {
                    return None;
                }
                (1, other, Fate::Changed, fields)
            }
            (Some(gone), None) => (0, gone, Fate::Removed, Vec::new()),
            (None, come) => (1, come?, Fate::Added, Vec::new()),
        };
        Some(EntryChange {
            fate,
            image: pattern(match key.kind {
                Kind::Vmas => Kind::Mm,
                kind => kind,
            }),
            entry: side_by_side.entry(key, item),
            what: side_by_side.what(side, key, item),
            fields,
        })
    });
    (changes.collect(), compared)
}

/// All images that tell of the tree and not of the dump, without pages and descriptors.
fn read(folder: &Folder, defects: &mut Defects) -> Vec<Image> {
    let top = folder.top();
    let mut images = Vec::new();
    for name in top.files.keys() {
        let Some((kind, _)) = Kind::of_file_name(name) else {
            continue;
        };
        let is_elsewhere = matches!(
            kind,
            Kind::Pagemap | Kind::ShmemPagemap | Kind::Pages | Kind::Fdinfo
        );
        // What no restore reads is the dumper's own; clocks tell when the dump was.
        let is_of_the_dump = effect_of_damage(kind) == Effect::Unused || kind == Kind::Timens;
        if is_elsewhere || is_of_the_dump {
            continue;
        }
        match top.image(name) {
            Ok(image) => images.push(image),
            Err(what) => defects.add(name, "", what, effect_of_damage(kind)),
        }
    }
    images
}

/// A value as it is written, and what it stands for, if it does.
struct Word {
    text: String,
    identity: Option<usize>,
}

impl Word {
    fn says_the_same(&self, other: &Self) -> bool {
        match (self.identity, other.identity) {
            (Some(one), Some(other)) => one == other,
            (None, None) => self.text == other.text,
            _ => false,
        }
    }
}

/// What a field says.
struct Leaf {
    words: Vec<Word>,
    is_default: bool,
}

impl Leaf {
    fn says_the_same(&self, other: &Self) -> bool {
        let mut pairs = self.words.iter().zip(&other.words);
        self.words.len() == other.words.len() && pairs.all(|(one, other)| one.says_the_same(other))
    }

    fn text(&self) -> String {
        let words: Vec<&str> = self.words.iter().map(|word| word.text.as_str()).collect();
        words.join(", ")
    }
}

type Leaves = BTreeMap<String, Leaf>;

struct SideBySide<'f> {
    folders: [&'f Folder; 2],
    names: &'f Names,
    /// Tasks whose address space is that of one before them, in both folders.
    told_before: HashSet<usize>,
}

impl SideBySide<'_> {
    fn find_shared_spaces(&mut self) {
        let mut seen = HashSet::new();
        for (one, other) in self.names.pairs() {
            let tasks = [&self.folders[0].tasks[*one], &self.folders[1].tasks[*other]];
            let spaces = tasks.map(|task| task.ids.as_ref().map(|ids| Table::Vm.id(ids)));
            if spaces[0].is_some()
                && spaces[1].is_some()
                && !seen.insert(spaces)
                && let Some(identity) = self.names.task_pair(0, tasks[0].pid)
            {
                self.told_before.insert(identity);
            }
        }
    }

    /// Takes the entries of an image, if they are to be compared.
    fn image<'a>(
        &self,
        side: usize,
        image: &'a Image,
        items: &mut Items<'a>,
        defects: &mut Defects,
    ) {
        let kind = image.kind();
        if kind.head() == Head::Raw {
            let item = Item {
                message: None,
                bytes: Cow::Borrowed(&[]),
                payload: image.bytes(),
            };
            return self.take(items, (kind, Err(image.id()), 0), item);
        }
        let mut counts: HashMap<Owner, u64> = HashMap::new();
        for entry in image.entries() {
            let entry = match entry.and_then(|entry| entry.check().map(|()| entry)) {
                Ok(entry) => entry,
                Err(damage) => {
                    return say_damage(image.name().to_owned(), kind, damage, defects);
                }
            };
            let id = number(entry.message, entry.bytes, "id");
            if kind == Kind::Files && self.names.is_copy(side, id) {
                continue;
            }
            let of = self.owner(side, image, entry.message, entry.bytes);
            let count = counts.entry(of).or_default();
            let at = match kind {
                Kind::FileLocks => number(entry.message, entry.bytes, "fd"),
                _ => *count,
            };
            *count += 1;
            if kind == Kind::Mm {
                if of.is_ok_and(|identity| self.told_before.contains(&identity)) {
                    return;
                }
                self.mappings(of, entry.message, entry.bytes, items);
            }
            let item = Item {
                message: Some(entry.message),
                bytes: Cow::Borrowed(entry.bytes),
                payload: entry.payload,
            };
            self.take(items, (kind, of, at), item);
        }
    }

    fn take<'a>(&self, items: &mut Items<'a>, (kind, of, at): (Kind, Owner, u64), item: Item<'a>) {
        if of.is_ok_and(|identity| self.names.told(identity).is_alien) {
            return;
        }
        let turn = 0;
        let mut key = Key { kind, of, at, turn };
        while items.contains_key(&key) {
            key.turn += 1;
        }
        items.insert(key, item);
    }

    /// The mappings of an address space.
    fn mappings<'a>(
        &self,
        of: Owner,
        message: &'static Message,
        bytes: &'a [u8],
        items: &mut Items<'a>,
    ) {
        let field = message.fields.iter().find(|field| field.name == "vmas");
        for value in field.into_iter().flat_map(|field| values(field, bytes)) {
            if let Value::Message(message, bytes) = value {
                let at = number(message, &bytes, "start");
                let item = Item {
                    message: Some(message),
                    bytes,
                    payload: &[],
                };
                self.take(items, (Kind::Vmas, of, at), item);
            }
        }
    }

    /// The descriptors of tasks in both folders, those of a common table once.
    fn descriptors(&self, items: &mut [Items<'_>; 2]) {
        let message = schema().message("FdinfoEntry");
        let mut seen = HashSet::new();
        for (one, other) in self.names.pairs() {
            let tasks = [&self.folders[0].tasks[*one], &self.folders[1].tasks[*other]];
            let mut by_holder: BTreeMap<usize, [Option<u32>; 2]> = BTreeMap::new();
            for (side, task) in tasks.into_iter().enumerate() {
                for (tid, table) in tables(task) {
                    if let Some(holder) = self.names.identity(side, Space::Task, tid.into()) {
                        by_holder.entry(holder).or_default()[side] = Some(table);
                    }
                }
            }
            for (holder, tables) in by_holder {
                if !seen.insert(tables) {
                    continue;
                }
                for (side, table) in tables.into_iter().enumerate() {
                    let table = table.and_then(|id| self.folders[side].tables.get(&id));
                    for one in table.into_iter().flatten() {
                        let item = Item {
                            message,
                            bytes: Cow::Owned(one.encode_to_vec()),
                            payload: &[],
                        };
                        let key = (Kind::Fdinfo, Ok(holder), one.fd.into());
                        self.take(&mut items[side], key, item);
                    }
                }
            }
        }
    }

    /// Whose an entry is.
    fn owner(&self, side: usize, image: &Image, message: &Message, bytes: &[u8]) -> Owner {
        let field = |name| number(message, bytes, name);
        let (space, id) = match image.kind() {
            Kind::Core | Kind::Ids | Kind::Mm | Kind::Fs => (Space::Task, image.id()),
            Kind::Pstree | Kind::FileLocks => (Space::Task, field("pid")),
            Kind::Files => (Space::File, field("id")),
            Kind::RemapFpath => (Space::File, field("orig_id")),
            Kind::SkQueues => (Space::File, field("id_for")),
            Kind::GhostFile => (Space::Ghost, image.id()),
            Kind::PipesData | Kind::FifoData => (Space::Pipe, field("pipe_id")),
            Kind::TcpStream => (Space::Socket, image.id()),
            Kind::MemfdInode => (Space::Memfd, field("inode_id")),
            Kind::TtyInfo => (Space::Terminal, field("id")),
            Kind::TtyData => (Space::Terminal, field("tty_id")),
            _ => (Space::Namespace, image.id()),
        };
        self.names.identity(side, space, id).ok_or(id)
    }

    /// What two entries with one name do not agree about.
    fn differences(&self, one: &Item, other: &Item) -> Vec<FieldChange> {
        let [before, after] = [(0, one), (1, other)].map(|(side, item)| {
            let mut leaves = Leaves::new();
            if let Some(message) = item.message {
                self.leaves(side, message, &item.bytes, "", false, &mut leaves);
            }
            leaves
        });
        let mut fields: Vec<FieldChange> = Vec::new();
        let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (one, other) = (before.get(name), after.get(name));
            let is_same = match (one, other) {
                (Some(one), Some(other)) => one.says_the_same(other),
                (only, None) | (None, only) => only.is_none_or(|leaf| leaf.is_default),
            };
            if is_same {
                continue;
            }
            let before = one.map(Leaf::text);
            let mut after = other.map(Leaf::text);
            if before == after {
                after = after.map(|text| format!("{text}, which is another one"));
            }
            fields.push(FieldChange {
                name: name.clone(),
                before,
                after,
            });
        }
        if one.payload != other.payload {
            fields.push(FieldChange {
                name: "content".to_owned(),
                before: Some(some(one.payload)),
                after: Some(some(other.payload)),
            });
        }
        fields
    }

    /// Everything that an entry says, field by field.
    fn leaves(
        &self,
        side: usize,
        message: &'static Message,
        bytes: &[u8],
        before: &str,
        hex: bool,
        leaves: &mut Leaves,
    ) {
        let (fields, unknown) = present(message, bytes);
        for field in fields.filter(|field| !is_left_out(message, field)) {
            let name = match before {
                "" => field.name.clone(),
                before => format!("{before}.{}", field.name),
            };
            let hex = hex || field.best == Form::Hex;
            if let Holds::Message(_) = field.holds {
                if !is_list(field) {
                    if let Some(Value::Message(inner, bytes)) = single(field, bytes) {
                        self.leaves(side, inner, &bytes, &name, hex, leaves);
                    }
                    continue;
                }
                for (place, value) in values(field, bytes).enumerate() {
                    if let Value::Message(inner, bytes) = value {
                        let name = format!("{name}[{place}]");
                        self.leaves(side, inner, &bytes, &name, hex, leaves);
                    }
                }
                continue;
            }
            let mut words = match space(message, field, bytes) {
                None => vec![Word {
                    text: scalars(field, bytes, hex),
                    identity: None,
                }],
                Some(space) => values(field, bytes)
                    .map(|value| self.word(side, space, &value))
                    .collect(),
            };
            // Threads are in the order in which the dumper found them.
            if field.name == "threads" {
                words.sort_by_key(|word| word.identity);
            }
            let is_default = values(field, bytes).all(|value| is_default(field, &value));
            leaves.insert(name, Leaf { words, is_default });
        }
        for number in unknown {
            let name = format!("{before} unknown field {number}").trim().to_owned();
            let raw = crate::image::wire::fields(bytes).flatten();
            let raw = raw.filter(|(other, _)| *other == number);
            let text = raw.map(|(_, raw)| format!("{raw:?}")).collect::<String>();
            let is_default = false;
            let identity = None;
            let words = vec![Word { text, identity }];
            leaves.insert(name, Leaf { words, is_default });
        }
    }

    /// A number that stands for something.
    fn word(&self, side: usize, space: Space, value: &Value) -> Word {
        let Value::Number(number) = value else {
            return Word {
                text: String::new(),
                identity: None,
            };
        };
        let id = u64::try_from(*number).ok();
        let identity = id.and_then(|id| self.names.identity(side, space, id));
        let text = match identity.map(|identity| &self.names.told(identity).text) {
            None => number.to_string(),
            Some(text) if space == Space::File => self.file(side, *number, text),
            Some(text) => text.clone(),
        };
        Word { text, identity }
    }

    /// An open file in a few words.
    fn file(&self, side: usize, id: i128, text: &str) -> String {
        let folder = self.folders[side];
        let file = u32::try_from(id).ok().and_then(|id| folder.file(id));
        match file {
            None => text.to_owned(),
            Some(file) => {
                let what = describe::file(folder, file);
                format!("{} {what}", kind_name(file.kind)).trim().to_owned()
            }
        }
    }

    /// How an entry is called.
    fn entry(&self, key: &Key, item: &Item) -> String {
        let of = match key.of {
            Ok(identity) => self.names.told(identity).text.clone(),
            Err(number) => number.to_string(),
        };
        let at = key.at;
        let again = match key.turn {
            0 => String::new(),
            turn => format!(", time {}", turn + 1),
        };
        let text = match key.kind {
            Kind::Pstree => format!("task {of}"),
            Kind::Core => format!("thread {of}"),
            Kind::Ids => format!("what {of} holds"),
            Kind::Mm => format!("address space of {of}"),
            Kind::Vmas => {
                let end = item
                    .message
                    .map(|message| number(message, &item.bytes, "end"));
                format!("mapping {at:#x}-{:#x} of {of}", end.unwrap_or(0))
            }
            Kind::Fs => format!("folders of {of}"),
            Kind::Fdinfo => format!("fd {at} of {of}"),
            Kind::Files => format!("open file, {of}"),
            Kind::RemapFpath => format!("way to the file, {of}"),
            Kind::GhostFile => format!("deleted file, {of}"),
            Kind::PipesData | Kind::FifoData => format!("what waits in the pipe, {of}"),
            Kind::SkQueues => format!("packet {} for the socket, {of}", at + 1),
            Kind::TcpStream => format!("connection, {of}"),
            Kind::MemfdInode => format!("shared memory, {of}"),
            Kind::TtyInfo => format!("terminal, {of}"),
            Kind::TtyData => format!("what waits in the terminal, {of}"),
            Kind::FileLocks => format!("lock of fd {at} of {of}"),
            _ if at > 0 => format!("entry {}", at + 1),
            _ => "its entry".to_owned(),
        };
        format!("{text}{again}")
    }

    /// What is in it, in a few words.
    fn what(&self, side: usize, key: &Key, item: &Item) -> String {
        let folder = self.folders[side];
        match key.kind {
            Kind::Fdinfo | Kind::Files => {
                let id = item.message.map_or(0, |one| number(one, &item.bytes, "id"));
                self.file(side, id.into(), "")
            }
            Kind::Vmas => match proto::VmaEntry::decode(&*item.bytes) {
                Ok(vma) => format!(
                    "{} {}",
                    describe::protection(&vma),
                    describe::mapping(folder, &vma)
                )
                .trim()
                .to_owned(),
                Err(_) => String::new(),
            },
            _ => String::new(),
        }
    }
}

/// A number of an entry; 0 where there is none.
fn number(message: &Message, bytes: &[u8], name: &str) -> u64 {
    let field = message.fields.iter().find(|field| field.name == name);
    let value = field.and_then(|field| last_number(field.number, bytes));
    value.unwrap_or(0)
}

fn last_number(wanted: u32, bytes: &[u8]) -> Option<u64> {
    use crate::image::wire::{Raw, fields};
    let values = fields(bytes)
        .flatten()
        .filter(|(number, _)| *number == wanted);
    let numbers = values.filter_map(|(_, raw)| match raw {
        Raw::Varint(number) | Raw::Fixed64(number) => Some(number),
        Raw::Fixed32(number) => Some(number.into()),
        Raw::Bytes(_) => None,
    });
    numbers.last()
}

/// Whether a value is what a reader takes where there is none.
fn is_default(field: &Field, value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(-1) => field.name == "mnt_id",
        Value::Number(value) => *value == 0,
        Value::Named(value, _) => *value == 0,
        Value::Bytes(bytes) | Value::Text(bytes) => bytes.is_empty(),
        Value::Message(..) => false,
    }
}

/// Fields that tell of the dump, that nobody reads, or that are compared elsewhere.
fn is_left_out(message: &Message, field: &Field) -> bool {
    matches!(
        (message.name.as_str(), field.name.as_str()),
        ("MmEntry", "vmas")
            | (
                "InventoryEntry",
                "dump_uptime"
                    | "dump_criu_run_id"
                    | "root_ids"
                    | "root_cg_set"
                    | "network_lock_method"
            )
            | ("EventpollTfdEntry", "id")
            | ("UnixSkEntry", "uflags")
    )
}

/// What the numbers of a field stand for, if they do. `bytes` are those of the whole message.
fn space(message: &'static Message, field: &Field, bytes: &[u8]) -> Option<Space> {
    let (message_name, name) = (message.name.as_str(), field.name.as_str());
    Some(match (message_name, name) {
        ("PstreeEntry", "pid" | "ppid" | "pgid" | "sid" | "threads")
        | ("FileLockEntry" | "FownEntry", "pid")
        | ("TtyInfoEntry", "sid" | "pgrp")
        | ("PidfdEntry", "nspid")
        | (_, "notify_thread_id") => Space::Task,
        ("TaskKobjIdsEntry", "vm_id") => Space::Held(Table::Vm),
        ("TaskKobjIdsEntry", "files_id") => Space::Held(Table::Files),
        ("TaskKobjIdsEntry", "fs_id") => Space::Held(Table::Fs),
        ("TaskKobjIdsEntry", "sighand_id") => Space::Held(Table::Sighand),
        ("TaskKobjIdsEntry", _) | (_, "ns_id" | "target_ns_id") => Space::Namespace,
        (_, "cg_set") => Space::CgroupSet,
        ("ThreadCoreEntry", "seccomp_filter") => Space::Filter,
        ("FdinfoEntry", "id")
        | ("FsEntry", "cwd_id" | "root_id")
        | ("MmEntry", "exe_file_id")
        | ("FifoEntry" | "TtyFileEntry", "regf_id")
        | ("RemapFilePathEntry", "orig_id")
        | ("SkPacketEntry", "id_for")
        | ("ScmEntry", "rights") => Space::File,
        ("RemapFilePathEntry", "remap_id") => match number(message, bytes, "remap_type") {
            0 => Space::File,
            1 => Space::Ghost,
            _ => Space::Task,
        },
        ("PipeEntry" | "FifoEntry" | "PipeDataEntry", "pipe_id") => Space::Pipe,
        ("UnixSkEntry", "ino" | "peer") | ("InetSkEntry" | "NetlinkSkEntry", "ino") => {
            Space::Socket
        }
        ("MemfdFileEntry" | "MemfdInodeEntry", "inode_id") => Space::Memfd,
        ("MemfdInodeEntry", "shmid") => Space::Segment,
        ("VmaEntry", "shmid") => {
            let kind = number(message, bytes, "status");
            let has = |bits: u32| kind & u64::from(bits) != 0;
            if has(status::FILE_PRIVATE | status::FILE_SHARED) {
                Space::File
            } else if has(status::ANON_SHARED | status::SYSVIPC) {
                Space::Segment
            } else {
                return None;
            }
        }
        ("TtyFileEntry", "tty_info_id") | ("TtyInfoEntry", "id") | ("TtyDataEntry", "tty_id") => {
            Space::Terminal
        }
        ("FileEntry", "id") => Space::File,
        (_, "id") if is_open_file(message) => Space::File,
        _ => return None,
    })
}

/// Whether a message is what an entry of `files.img` has of a file.
fn is_open_file(message: &Message) -> bool {
    let entry = schema().message("FileEntry");
    let mut fields = entry.into_iter().flat_map(|entry| &entry.fields);
    fields.any(|field| match field.holds {
        Holds::Message(id) => schema().inner(id).name == message.name,
        _ => false,
    })
}
