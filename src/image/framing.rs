//! How entries stand in an image.
//!
//! ```text
//!  0        4        8
//!  ┌────────┬────────┬────────┬──────────────┬─ ─ ─ ─ ─ ─ ─┬────────┬─ ─
//!  │ common │ kind's │ length │ entry        │ raw payload │ length │ …
//!  │ magic  │ magic  │ (u32)  │ (protobuf)   │ (some kinds)│        │
//!  └────────┴────────┴────────┴──────────────┴─ ─ ─ ─ ─ ─ ─┴────────┴─ ─
//! ```
//!
//! All numbers are little-endian; the end of the file ends the list. The inventory has no
//! common magic. How long a raw payload is, its entry tells.
//!
//! [`ImageWriter`] writes an image, [`Image`] reads one of any kind that CRIU 3.17 to 4.2 writes.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use nix::fcntl::OFlag;
use prost::Message;

use super::catalogue::{COMMON_MAGIC, Head, Kind, Payload, SERVICE_MAGIC};
use super::schema::{self, schema};
use super::{proto, wire};
use crate::error::{Error, IoResultExt, Result};
use crate::sys::map::map_file;

/// A finished file: what the manifest keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// CRC-32 (IEEE) of its bytes.
    pub crc32: u32,
}

/// An image being written.
#[derive(Debug)]
pub struct ImageWriter {
    out: BufWriter<File>,
    name: String,
    size_bytes: u64,
    crc: crc32fast::Hasher,
    scratch: Vec<u8>,
}

impl ImageWriter {
    /// Starts an image of some kind in an empty file.
    ///
    /// # Errors
    /// Writing.
    pub fn start(file: File, kind: Kind, name: String) -> Result<Self> {
        let mut writer = Self {
            out: BufWriter::new(file),
            name,
            size_bytes: 0,
            crc: crc32fast::Hasher::new(),
            scratch: Vec::new(),
        };
        match kind.head() {
            Head::Common => writer.raw(&COMMON_MAGIC.to_le_bytes())?,
            Head::Service => writer.raw(&SERVICE_MAGIC.to_le_bytes())?,
            Head::Own | Head::Raw => {}
        }
        if kind.head() != Head::Raw {
            writer.raw(&kind.magic().to_le_bytes())?;
        }
        Ok(writer)
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// Writing.
    pub fn entry<M: Message>(&mut self, entry: &M) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(
            &u32::try_from(entry.encoded_len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        // A Vec grows as needed: encoding into one cannot fail.
        let _ = entry.encode(&mut scratch);
        let written = self.raw(&scratch);
        self.scratch = scratch;
        written
    }

    /// Appends bytes that no protobuf describes.
    ///
    /// # Errors
    /// Writing.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.size_bytes += bytes.len() as u64;
        self.out.write_all(bytes).at("write", self.name.as_str())
    }

    /// Writes what is still buffered.
    ///
    /// # Errors
    /// Writing.
    pub fn finish(mut self) -> Result<ImageFile> {
        self.out.flush().at("write", self.name.as_str())?;
        Ok(ImageFile {
            name: self.name,
            size_bytes: self.size_bytes,
            crc32: self.crc.finalize(),
        })
    }
}

/// Why an image cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {what}")]
pub struct Damage {
    /// Where, in bytes from the start of the file.
    pub offset: usize,
    /// What is wrong.
    pub what: String,
}

impl Damage {
    fn new(offset: usize, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { offset, what }
    }

    /// The same as an error about a file.
    #[must_use]
    pub fn in_file(self, path: impl Into<PathBuf>) -> Error {
        Error::Image {
            op: "read",
            path: path.into(),
            source: io::Error::new(io::ErrorKind::InvalidData, self),
        }
    }
}

/// Larger files are mapped instead of read.
const MOST_READ_BYTES: u64 = 1 << 20;

/// A file of an images folder, opened. Nothing in it is trusted: every length is checked
/// against what is there, and no announced number makes memory be taken.
#[derive(Debug)]
pub struct Image {
    name: String,
    kind: Kind,
    id: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Read(Vec<u8>),
    Mapped(Mmap),
}

impl Image {
    /// Opens an image.
    ///
    /// # Errors
    /// A file that cannot be read, or is no image.
    pub fn open(path: &Path) -> Result<Self> {
        // Not blocking: a FIFO of this name must not stop us.
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let file = File::options().read(true).custom_flags(flags).open(path);
        Self::from_file(&file.at("open", path)?, path)
    }

    /// Reads an image that is open.
    ///
    /// # Errors
    /// A file that cannot be read, or is no image.
    pub fn from_file(file: &File, path: &Path) -> Result<Self> {
        let stat = file.metadata().at("stat", path)?;
        if !stat.is_file() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput)).at("read", path);
        }
        let bytes = if stat.len() > MOST_READ_BYTES {
            Bytes::Mapped(map_file(file).at("map", path)?)
        } else {
            let mut bytes = Vec::new();
            let mut limited = file.take(MOST_READ_BYTES);
            limited.read_to_end(&mut bytes).at("read", path)?;
            Bytes::Read(bytes)
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self::new(name.into_owned(), bytes).map_err(|damage| damage.in_file(path))
    }

    /// Reads an image out of memory; its name may tell its kind.
    ///
    /// # Errors
    /// Bytes that are no image.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, Damage> {
        Self::new(name.to_owned(), Bytes::Read(bytes))
    }

    fn new(name: String, bytes: Bytes) -> Result<Self, Damage> {
        let mut image = Self {
            name,
            kind: Kind::Pages,
            id: 0,
            bytes,
        };
        (image.kind, image.id) = match Kind::of_file_name(&image.name) {
            Some(known) => known,
            None => (kind_of_magic(image.bytes())?, 0),
        };
        Reader::behind_magics(image.kind, image.bytes())?;
        Ok(image)
    }

    /// The name of the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kind of image it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number in its name, 0 where there is none.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(bytes) => bytes,
        }
    }

    /// Its entries in the order of the file; none where the whole file is bytes.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        let reader = Reader::behind_magics(self.kind, self.bytes());
        Entries {
            kind: self.kind,
            // The magics were in place when the file was opened.
            reader: reader.unwrap_or(Reader {
                bytes: &[],
                offset: 0,
            }),
            index: 0,
            shape: Shape::List,
            messages: [0, 1].map(|index| {
                let name = self.kind.message(index)?;
                schema().message(name)
            }),
        }
    }

    /// The entry number `index` as its type.
    ///
    /// # Errors
    /// Damage up to there, too few entries, an entry that is no such message.
    pub fn decode<M: Message + Default>(&self, index: usize) -> Result<M, Damage> {
        let entry = self.entries().nth(index).unwrap_or_else(|| {
            let what = format!("there is no entry number {}", index + 1);
            Err(Damage::new(self.bytes().len(), what))
        });
        entry?.decode()
    }
}

/// The kind of a file whose name says nothing.
fn kind_of_magic(bytes: &[u8]) -> Result<Kind, Damage> {
    let mut reader = Reader { bytes, offset: 0 };
    let unknown = |offset, magic| {
        let what = format!("this is no image: {magic:#010x} is the magic of none");
        Damage::new(offset, what)
    };
    let first = reader.word()?;
    let head = match first {
        COMMON_MAGIC => Head::Common,
        SERVICE_MAGIC => Head::Service,
        own => match Kind::of_magic(own) {
            Some(kind) if kind.head() == Head::Own => return Ok(kind),
            _ => return Err(unknown(0, own)),
        },
    };
    let own = reader.word()?;
    match Kind::of_magic(own) {
        Some(kind) if kind.head() == head => Ok(kind),
        _ => Err(unknown(4, own)),
    }
}

/// The entries of an image; after damage there are no more.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    kind: Kind,
    reader: Reader<'a>,
    index: usize,
    shape: Shape,
    /// Of the first entry, and of those behind.
    messages: [Option<&'static schema::Message>; 2],
}

/// How the entries of an image follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// To the end of the file.
    List,
    /// A deleted file without chunks: nothing follows its bytes.
    Whole,
    /// No more after damage.
    Damaged,
}

/// An entry of an image.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its place in the image, from 0.
    pub index: usize,
    /// Where its bytes stand in the file.
    pub offset: usize,
    /// What message it is.
    pub message: &'static schema::Message,
    /// The message.
    pub bytes: &'a [u8],
    /// What follows it.
    pub payload: &'a [u8],
    /// Where that stands in the file.
    pub payload_offset: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        let at_end = self.reader.offset == self.reader.bytes.len();
        if at_end || self.shape != Shape::List {
            return None;
        }
        let message = self.messages[self.index.min(1)]?;
        let entry = self.entry(message);
        self.index += 1;
        if entry.is_err() {
            self.shape = Shape::Damaged;
        }
        Some(entry)
    }
}

impl<'a> Entries<'a> {
    fn entry(&mut self, message: &'static schema::Message) -> Result<Entry<'a>, Damage> {
        let mut entry = self.reader.entry(self.index, message)?;
        entry.payload = self.payload(&entry)?;
        Ok(entry)
    }

    fn payload(&mut self, entry: &Entry<'a>) -> Result<&'a [u8], Damage> {
        let rest = (self.reader.bytes.len() - self.reader.offset) as u64;
        let len = match self.kind.payload() {
            Payload::None => 0,
            Payload::Pipe => entry.decode::<proto::PipeDataEntry>()?.bytes.into(),
            Payload::Socket => entry.decode::<proto::SkPacketEntry>()?.length.into(),
            Payload::Tcp => {
                let stream: proto::TcpStreamEntry = entry.decode()?;
                u64::from(stream.inq_len) + u64::from(stream.outq_len)
            }
            Payload::Ghost if entry.index > 0 => entry.decode::<proto::GhostChunkEntry>()?.len,
            Payload::Ghost => {
                if entry.decode::<proto::GhostFileEntry>()?.chunks() {
                    0
                } else {
                    self.shape = Shape::Whole;
                    rest
                }
            }
            Payload::Semaphores => {
                let set: proto::IpcSemEntry = entry.decode()?;
                (u64::from(set.nsems) * 2).next_multiple_of(8)
            }
            Payload::Segment => {
                let segment: proto::IpcShmEntry = entry.decode()?;
                if segment.in_pagemaps() {
                    0
                } else {
                    // What overflows is more than there is.
                    segment.size.checked_next_multiple_of(4).unwrap_or(u64::MAX)
                }
            }
            Payload::Map => {
                let map: proto::BpfmapDataEntry = entry.decode()?;
                u64::from(map.keys_bytes) + u64::from(map.values_bytes)
            }
            Payload::Queue => {
                let queue: proto::IpcMsgEntry = entry.decode()?;
                let mut messages = Queued {
                    reader: self.reader.clone(),
                    index: 0,
                    left: queue.qnum,
                };
                messages
                    .by_ref()
                    .try_for_each(|message| message.map(drop))?;
                (messages.reader.offset - self.reader.offset) as u64
            }
        };
        self.reader.raw(len)
    }
}

impl<'a> Entry<'a> {
    /// Whether everything in the entry can be read and nothing required is missing.
    ///
    /// # Errors
    /// Where it is not so.
    pub fn check(&self) -> Result<(), Damage> {
        wire::check(self.message, self.bytes, self.offset)
    }

    /// The entry as its type.
    ///
    /// # Errors
    /// Bytes that are no such message.
    pub fn decode<M: Message + Default>(&self) -> Result<M, Damage> {
        self.check()?;
        M::decode(self.bytes).map_err(|error| Damage::new(self.offset, error.to_string()))
    }

    /// The messages that follow the entry of a queue.
    #[must_use]
    pub fn queued(&self) -> Queued<'a> {
        let queue = self.decode::<proto::IpcMsgEntry>();
        Queued {
            reader: Reader {
                bytes: self.payload,
                offset: 0,
            },
            index: 0,
            left: queue.map_or(0, |queue| queue.qnum),
        }
    }
}

/// The messages of a queue; each has its text as its payload, and offsets counted from the first.
#[derive(Clone, Debug)]
pub struct Queued<'a> {
    reader: Reader<'a>,
    index: usize,
    left: u32,
}

impl<'a> Iterator for Queued<'a> {
    type Item = Result<Entry<'a>, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.entry(schema().message("IpcMsg")?);
        self.index += 1;
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}

impl<'a> Queued<'a> {
    fn entry(&mut self, message: &'static schema::Message) -> Result<Entry<'a>, Damage> {
        let mut entry = self.reader.entry(self.index, message)?;
        let size = entry.decode::<proto::IpcMsg>()?.msize;
        entry.payload = self.reader.raw(size.into())?;
        let filling = u64::from(size).next_multiple_of(8) - u64::from(size);
        self.reader.raw(filling)?;
        Ok(entry)
    }
}

/// A place in bytes.
#[derive(Clone, Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn behind_magics(kind: Kind, bytes: &'a [u8]) -> Result<Self, Damage> {
        let mut reader = Self { bytes, offset: 0 };
        let leading = match kind.head() {
            Head::Common => Some(COMMON_MAGIC),
            Head::Service => Some(SERVICE_MAGIC),
            Head::Own | Head::Raw => None,
        };
        let own = (kind.head() != Head::Raw).then(|| kind.magic());
        for expected in [leading, own].into_iter().flatten() {
            let offset = reader.offset;
            let found = reader.word()?;
            if found != expected {
                let what = format!("magic {found:#010x} where {expected:#010x} belongs");
                return Err(Damage::new(offset, what));
            }
        }
        Ok(reader)
    }

    /// The entry that begins here, before its payload is read.
    fn entry(
        &mut self,
        index: usize,
        message: &'static schema::Message,
    ) -> Result<Entry<'a>, Damage> {
        let len = self.word()?;
        let offset = self.offset;
        let bytes = self.raw(u64::from(len))?;
        Ok(Entry {
            index,
            offset,
            message,
            bytes,
            payload: &[],
            payload_offset: self.offset,
        })
    }

    fn raw(&mut self, len: u64) -> Result<&'a [u8], Damage> {
        let rest = &self.bytes[self.offset..];
        let bytes = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let bytes = bytes.ok_or_else(|| {
            let what = format!("{len} bytes are announced, {} are there", rest.len());
            Damage::new(self.offset, what)
        })?;
        self.offset += bytes.len();
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u32, Damage> {
        let bytes = self.raw(4)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u32::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::proto::PipeDataEntry;

    fn write(contents: &[Vec<u8>]) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        let mut writer =
            ImageWriter::start(file.try_clone().unwrap(), Kind::PipesData, "t".to_owned()).unwrap();
        for (pipe_id, content) in contents.iter().enumerate() {
            let entry = PipeDataEntry {
                pipe_id: u32::try_from(pipe_id).unwrap(),
                bytes: u32::try_from(content.len()).unwrap(),
                size: None,
            };
            writer.entry(&entry).unwrap();
            writer.raw(content).unwrap();
        }
        let written = writer.finish().unwrap();
        let mut bytes = Vec::new();
        std::io::Seek::rewind(&mut file).unwrap();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        assert_eq!(written.size_bytes, bytes.len() as u64);
        assert_eq!(written.crc32, crc32fast::hash(&bytes));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Damage> {
        let image = Image::from_bytes("pipes-data.img", bytes.to_vec())?;
        let contents = image.entries().map(|entry| Ok(entry?.payload.to_vec()));
        contents.collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(contents: Vec<Vec<u8>>) {
            prop_assert_eq!(read(&write(&contents)).unwrap(), contents);
        }

        #[test]
        fn damage_never_panics(contents: Vec<Vec<u8>>, at: prop::sample::Index, xor in 1_u8..) {
            let mut bytes = write(&contents);
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            let read = read(&bytes);
            prop_assert!(at >= 8 || read.is_err(), "a wrong magic was accepted");
        }

        #[test]
        fn a_cut_is_noticed_or_between_entries(contents: Vec<Vec<u8>>, at: prop::sample::Index) {
            let bytes = write(&contents);
            let cut = at.index(bytes.len());
            if let Ok(fewer) = read(&bytes[..cut]) {
                prop_assert_eq!(&fewer[..], &contents[..fewer.len()]);
            }
        }
    }

    type Part<'a> = &'a dyn Fn(&mut Vec<u8>);

    /// An image of some kind out of entries and what follows them.
    fn image(kind: Kind, parts: &[Part]) -> Image {
        let mut bytes = COMMON_MAGIC.to_le_bytes().to_vec();
        bytes.extend(kind.magic().to_le_bytes());
        for part in parts {
            part(&mut bytes);
        }
        Image::from_bytes(&kind.file_name(1), bytes).unwrap()
    }

    fn entry<M: Message>(message: &M) -> impl Fn(&mut Vec<u8>) {
        move |bytes| {
            let len = u32::try_from(message.encoded_len()).unwrap();
            bytes.extend(len.to_le_bytes());
            message.encode(bytes).unwrap();
        }
    }

    fn raw(raw: &[u8]) -> impl Fn(&mut Vec<u8>) {
        move |bytes| bytes.extend(raw)
    }

    fn payloads(image: &Image) -> Vec<&[u8]> {
        let entries = image.entries();
        entries.map(|entry| entry.unwrap().payload).collect()
    }

    #[test]
    fn both_queues_of_a_connection_are_its_payload() {
        let stream = proto::TcpStreamEntry {
            inq_len: 3,
            outq_len: 2,
            ..Default::default()
        };
        let image = image(Kind::TcpStream, &[&entry(&stream), &raw(b"inqou")]);
        assert_eq!(payloads(&image), [b"inqou"]);
    }

    #[test]
    fn a_deleted_file_is_whole_or_in_chunks() {
        let mut ghost = proto::GhostFileEntry::default();
        let whole = image(Kind::GhostFile, &[&entry(&ghost), &raw(b"12345")]);
        assert_eq!(payloads(&whole), [b"12345"]);
        ghost.chunks = Some(true);
        let chunk = |len, off| proto::GhostChunkEntry { len, off };
        let (first, second) = (chunk(2, 0), chunk(3, 4096));
        let pieces = image(
            Kind::GhostFile,
            &[
                &entry(&ghost),
                &entry(&first),
                &raw(b"ab"),
                &entry(&second),
                &raw(b"cde"),
            ],
        );
        assert_eq!(payloads(&pieces), [&b""[..], b"ab", b"cde"]);
        let read: proto::GhostChunkEntry = pieces.decode(2).unwrap();
        assert_eq!(read, second);
    }

    #[test]
    fn semaphores_and_messages_are_filled_up() {
        let set = proto::IpcSemEntry {
            nsems: 3,
            ..Default::default()
        };
        let sets = image(
            Kind::IpcnsSem,
            &[
                &entry(&set),
                &raw(&[1, 0, 2, 0, 3, 0, 0, 0]),
                &entry(&set),
                &raw(&[9; 8]),
            ],
        );
        assert_eq!(payloads(&sets), [[1, 0, 2, 0, 3, 0, 0, 0], [9; 8]]);
        let queue = proto::IpcMsgEntry {
            qnum: 2,
            ..Default::default()
        };
        let message = |mtype, msize| proto::IpcMsg { mtype, msize };
        let (first, second) = (message(7, 5), message(8, 0));
        let queues = image(
            Kind::IpcnsMsg,
            &[
                &entry(&queue),
                &entry(&first),
                &raw(b"hello\0\0\0"),
                &entry(&second),
                &entry(&proto::IpcMsgEntry::default()),
            ],
        );
        let entries: Vec<_> = queues.entries().map(Result::unwrap).collect();
        assert_eq!(entries.len(), 2);
        let texts: Vec<_> = entries[0]
            .queued()
            .map(|one| one.unwrap().payload)
            .collect();
        assert_eq!(texts, [&b"hello"[..], b""]);
    }

    #[test]
    fn a_segment_has_bytes_unless_it_has_a_pagemap() {
        let mut segment = proto::IpcShmEntry {
            size: 5,
            ..Default::default()
        };
        let old = image(Kind::IpcnsShm, &[&entry(&segment), &raw(b"12345\0\0\0")]);
        assert_eq!(payloads(&old), [b"12345\0\0\0"]);
        segment.in_pagemaps = Some(true);
        let new = image(Kind::IpcnsShm, &[&entry(&segment), &entry(&segment)]);
        assert_eq!(payloads(&new), [b"", b""]);
        segment = proto::IpcShmEntry {
            size: u64::MAX,
            ..Default::default()
        };
        let broken = image(Kind::IpcnsShm, &[&entry(&segment)]);
        assert!(broken.entries().next().unwrap().is_err());
    }

    #[test]
    fn without_a_name_the_magic_tells_the_kind() {
        let bytes = write(&[b"x".to_vec()]);
        let image = Image::from_bytes("nameless", bytes.clone()).unwrap();
        assert_eq!(image.kind(), Kind::PipesData);
        let wrong = Image::from_bytes("core-1.img", bytes).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "at byte 4: magic 0x56453709 where 0x55053847 belongs"
        );
        let unknown = Image::from_bytes("nameless", b"hello world".to_vec()).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "at byte 0: this is no image: 0x6c6c6568 is the magic of none"
        );
    }

    #[test]
    fn after_damage_there_are_no_more_entries() {
        let image = image(Kind::Fs, &[&raw(&[200, 0, 0, 0, 1, 2])]);
        let read: Vec<_> = image.entries().collect();
        assert_eq!(read.len(), 1);
        assert_eq!(
            read[0].as_ref().unwrap_err().to_string(),
            "at byte 12: 200 bytes are announced, 2 are there"
        );
    }

    #[test]
    fn only_files_are_images() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fs-1.img");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Image::open(&path).is_err());
        assert!(Image::open(folder.path()).is_err());
    }
}
