//! The memory of a task as a dump has it: bytes at an address, through all levels of a chain.

use std::io::{self, Write};

use prost::Message;

use super::paint::Paint;
use crate::collect::memory::PAGE_BYTES;
use crate::error::{Error, IoResultExt, Result};
use crate::image::catalogue::Kind;
use crate::image::framing::Damage;
use crate::image::opened::OpenedFolder;
use crate::image::previous::{Previous, pages};
use crate::image::proto::{FileEntry, MemfdInodeEntry, MmEntry, VmaEntry};

/// Status bits of mappings without a file: anonymous, System V.
const SHARED: u32 = 1 << 8 | 1 << 10;
const OF_A_FILE: u32 = 1 << 6 | 1 << 7;
const LINE: u64 = 16;

/// The address space of a task in a folder.
#[derive(Debug)]
pub struct Memory {
    vmas: Vec<VmaEntry>,
    private: Option<Previous>,
    /// Segments of shared memory, by their numbers.
    shared: Vec<(u64, Option<Previous>)>,
    /// Mapped files, by their numbers in files.img.
    files: Vec<(u64, Mapped)>,
}

/// What a file of files.img is to a mapping.
#[derive(Debug)]
enum Mapped {
    /// A file with this path.
    Path(Vec<u8>),
    /// Nameless memory: a segment.
    Segment(u64),
}

/// Where the bytes at an address come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The images have them.
    Saved,
    /// Never written to by the task: zeros.
    Zero,
    /// The images leave them in this file, at this offset.
    File(Vec<u8>, u64),
    /// Nothing is mapped there.
    Unmapped,
}

impl Memory {
    /// Opens the memory of a task.
    ///
    /// # Errors
    /// A folder without this task, damaged images, a chain that ends too early.
    pub fn open(folder: &OpenedFolder, pid: u64) -> Result<Self> {
        let Some(image) = folder.image(Kind::Mm, pid)? else {
            let has = of_kind(folder, Kind::Mm)?;
            return Err(Error::Refused {
                target: folder.path().into(),
                what: format!("it has no memory of a process {pid}"),
                remedy: format!("name one of {}", joined(&has)),
            });
        };
        let damaged_at = folder.path().join(image.name());
        let mm: MmEntry = image
            .decode(0)
            .map_err(|damage| damage.in_file(damaged_at))?;
        let mut vmas = mm.vmas;
        vmas.sort_by_key(|vma| vma.start);
        let mut memory = Self {
            private: pages(folder, Kind::Pagemap, pid)?,
            shared: Vec::new(),
            files: Vec::new(),
            vmas,
        };
        let numbers = |wanted: u32| {
            let wanted = memory
                .vmas
                .iter()
                .filter(move |vma| vma.status & wanted != 0);
            let mut numbers: Vec<u64> = wanted.map(|vma| vma.shmid).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let (mut segments, files) = (numbers(SHARED), numbers(OF_A_FILE));
        memory.files = mapped(folder, &files)?;
        segments.extend(memory.files.iter().filter_map(|(_, file)| match file {
            Mapped::Segment(segment) => Some(segment),
            Mapped::Path(_) => None,
        }));
        for segment in segments {
            let saved = pages(folder, Kind::ShmemPagemap, segment)?;
            memory.shared.push((segment, saved));
        }
        Ok(memory)
    }

    fn vma(&self, address: u64) -> Option<&VmaEntry> {
        let place = self.vmas.partition_point(|vma| vma.end <= address);
        self.vmas.get(place).filter(|vma| vma.start <= address)
    }

    /// Fills `bytes` with what was at `address`; they must not cross a page. What the images do
    /// not have is left as zeros.
    ///
    /// # Errors
    /// Reading.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<Origin> {
        bytes.fill(0);
        if let Some(private) = &self.private
            && private.read(address, bytes)?
        {
            return Ok(Origin::Saved);
        }
        let Some(vma) = self.vma(address) else {
            return Ok(Origin::Unmapped);
        };
        let offset = vma.pgoff.saturating_add(address - vma.start);
        let mut segment = (vma.status & SHARED != 0).then_some(vma.shmid);
        if vma.status & OF_A_FILE != 0 {
            let file = self.files.iter().find(|(number, _)| *number == vma.shmid);
            match file {
                Some((_, Mapped::Segment(number))) => segment = Some(*number),
                Some((_, Mapped::Path(path))) => return Ok(Origin::File(path.clone(), offset)),
                None => return Ok(Origin::File(Vec::new(), offset)),
            }
        }
        let saved = self
            .shared
            .iter()
            .find(|(number, _)| Some(*number) == segment);
        if let Some((_, Some(saved))) = saved
            && saved.read(offset, bytes)?
        {
            return Ok(Origin::Saved);
        }
        Ok(Origin::Zero)
    }

    /// Writes `len` bytes from `address` on, as `hexdump -C` does, saying where they come from
    /// and what is not there.
    ///
    /// # Errors
    /// Reading the images, writing to `out`.
    pub fn hexdump(&self, address: u64, len: u64, paint: Paint, out: &mut dyn Write) -> Result<()> {
        let end = address.saturating_add(len);
        let mut at = address;
        let mut lines = Lines {
            out,
            paint,
            last: None,
            squeezed: false,
        };
        let mut last_run = None;
        while at < end {
            let page_end = (at | (PAGE_BYTES - 1)).saturating_add(1);
            let until = page_end.min(end);
            let mut page = [0; 4096];
            #[expect(clippy::cast_possible_truncation, reason = "less than a page")]
            let bytes = &mut page[..(until - at) as usize];
            let here = self.read(at, bytes)?;
            let vma = self.vma(at);
            let mut next = until;
            if here == Origin::Unmapped {
                let later = self
                    .vmas
                    .iter()
                    .map(|vma| vma.start)
                    .find(|start| *start > at);
                next = later.unwrap_or(end).min(end).max(until);
            }
            // One headline for a whole run.
            let run = (std::mem::discriminant(&here), vma.map(|vma| vma.start));
            if last_run.replace(run) != Some(run) {
                lines.origin(at, &here, vma).at("write", OUT)?;
            }
            if matches!(here, Origin::Saved | Origin::Zero) {
                lines.bytes(at, bytes).at("write", OUT)?;
            }
            at = next;
        }
        lines.end(end).at("write", OUT)
    }
}

const OUT: &str = "standard output";

struct Lines<'w> {
    out: &'w mut dyn Write,
    paint: Paint,
    last: Option<Vec<u8>>,
    squeezed: bool,
}

impl Lines<'_> {
    fn origin(&mut self, at: u64, origin: &Origin, vma: Option<&VmaEntry>) -> io::Result<()> {
        self.last = None;
        self.squeezed = false;
        let text = match origin {
            Origin::Saved => "saved".to_owned(),
            Origin::Zero => "never written to: zeros".to_owned(),
            Origin::File(path, offset) => format!(
                "not saved: as in the file \"{}\" from {offset:#x} on",
                path.escape_ascii()
            ),
            Origin::Unmapped => "nothing is mapped".to_owned(),
        };
        let place = match vma {
            Some(vma) => format!("in {:#x}-{:#x}, ", vma.start, vma.end),
            None => String::new(),
        };
        let text = self.paint.aside(&format!("# {at:#x}: {place}{text}"));
        writeln!(self.out, "{text}")
    }

    fn bytes(&mut self, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            #[expect(clippy::cast_possible_truncation, reason = "less than a line")]
            let (skip, room) = ((at % LINE) as usize, (LINE - at % LINE) as usize);
            let (line, rest) = bytes.split_at(room.min(bytes.len()));
            self.line(at, skip, line)?;
            at = at.saturating_add(line.len() as u64);
            bytes = rest;
        }
        Ok(())
    }

    fn line(&mut self, at: u64, skip: usize, line: &[u8]) -> io::Result<()> {
        if self.last.as_deref() == Some(line) && line.len() == 16 {
            if !std::mem::replace(&mut self.squeezed, true) {
                writeln!(self.out, "*")?;
            }
            return Ok(());
        }
        self.squeezed = false;
        self.last = Some(line.to_vec());
        let mut digits = String::new();
        let mut text = " ".repeat(skip);
        for place in 0..16_usize {
            let byte = place.checked_sub(skip).and_then(|place| line.get(place));
            match byte {
                Some(byte) => {
                    digits.push_str(&format!(" {byte:02x}"));
                    let shown = matches!(byte, b' '..=b'~');
                    text.push(if shown { char::from(*byte) } else { '.' });
                }
                None => digits.push_str("   "),
            }
            if place == 7 {
                digits.push(' ');
            }
        }
        let start = at - skip as u64;
        writeln!(self.out, "{start:016x} {digits}  |{text}|")
    }

    fn end(&mut self, end: u64) -> io::Result<()> {
        writeln!(self.out, "{end:016x}")
    }
}

/// The numbers of the images of one kind in a folder.
fn of_kind(folder: &OpenedFolder, kind: Kind) -> Result<Vec<u64>> {
    let (images, _) = folder.names()?;
    let numbers = images
        .iter()
        .filter_map(|name| match Kind::of_file_name(name) {
            Some((of, number)) if of == kind => Some(number),
            _ => None,
        });
    Ok(numbers.collect())
}

fn joined(numbers: &[u64]) -> String {
    if numbers.is_empty() {
        return "another folder's: this one has no address spaces".to_owned();
    }
    let words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    words.join(", ")
}

/// Some open files, by their numbers, which are ascending.
fn mapped(folder: &OpenedFolder, numbers: &[u64]) -> Result<Vec<(u64, Mapped)>> {
    let segments: Vec<MemfdInodeEntry> = all(folder, Kind::MemfdInode)?;
    let mut files = Vec::new();
    for file in all::<FileEntry>(folder, Kind::Files)? {
        let number = u64::from(file.id);
        if numbers.binary_search(&number).is_err() {
            continue;
        }
        if let Some(regular) = file.reg {
            files.push((number, Mapped::Path(regular.name)));
        } else if let Some(memfd) = file.memfd {
            let inode = u64::from(memfd.inode_id);
            let segment = segments.iter().find(|segment| segment.inode_id == inode);
            files.extend(segment.map(|one| (number, Mapped::Segment(one.shmid.into()))));
        }
    }
    Ok(files)
}

/// All entries of an image; none if the folder does not have it.
fn all<M: Message + Default>(folder: &OpenedFolder, kind: Kind) -> Result<Vec<M>> {
    let Some(image) = folder.image(kind, 0)? else {
        return Ok(Vec::new());
    };
    let entries = image.entries().map(|entry| entry?.decode());
    let entries: std::result::Result<_, Damage> = entries.collect();
    entries.map_err(|damage| damage.in_file(folder.path().join(image.name())))
}
