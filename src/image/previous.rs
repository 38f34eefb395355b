//! Earlier dumps, by us or by CRIU: where the bytes of a page stand in a chain of folders.
//!
//! What a folder says is checked, not trusted; a chain that cannot be followed is an error,
//! because a dump on top of it could not be restored.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::catalogue::Kind;
use super::copy::Before;
use super::framing::Damage;
use super::memory::{PARENT, PRESENT};
use super::opened::OpenedFolder;
use super::page_crcs::{self, PageCrcs};
use super::proto;
use crate::collect::memory::PAGE_BYTES;
use crate::error::{Error, IoResultExt, Result};

/// No chain is that long; a folder that is its own parent is.
const MOST_LEVELS: usize = 1000;

/// A run of pages and the file that holds it.
#[derive(Clone, Debug)]
struct Stored {
    start: u64,
    end: u64,
    file: Arc<File>,
    /// Device and inode of the file.
    inode: (u64, u64),
    /// The checksums of the pages in the file, if they are known.
    crcs: Option<Arc<[u32]>>,
    offset: u64,
}

/// Where the bytes of a page stand: device, inode, offset.
pub type Place = (u64, u64, u64);

/// The pages of one task, or one segment, in an earlier dump.
#[derive(Debug)]
pub struct Previous {
    /// Ascending, disjoint.
    stored: Vec<Stored>,
    path: PathBuf,
}

/// The folder of an earlier dump.
#[derive(Debug)]
pub struct PreviousFolder {
    level: ChainLevel,
}

impl PreviousFolder {
    /// Opens the folder `path`.
    ///
    /// # Errors
    /// A folder that is not there or holds no complete dump.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = OpenedFolder::open(path)?;
        match folder.file(&Kind::Inventory.file_name(0))? {
            Some(_) => Ok(Self {
                level: ChainLevel::new(folder, true),
            }),
            None => Err(Error::Refused {
                target: path.into(),
                what: "this folder of --prev-images-dir holds no complete dump".to_owned(),
                remedy: "name an earlier dump of the same tree, relative to --images-dir"
                    .to_owned(),
            }),
        }
    }

    /// The pages of a task (`Kind::Pagemap`, its pid) or of a segment (`Kind::ShmemPagemap`,
    /// its inode); `None` when the earlier dump does not know it.
    ///
    /// # Errors
    /// A damaged pagemap, a chain that ends too early.
    pub fn pages(&self, kind: Kind, id: u64) -> Result<Option<Previous>> {
        self.level.pages(kind, id)
    }
}

/// The pages of a task (`Kind::Pagemap`, its pid) or of a segment (`Kind::ShmemPagemap`, its
/// inode) in a folder and those below it, to be read only; `None` when the folder does not know it.
///
/// # Errors
/// A damaged pagemap, a chain that ends too early.
pub fn pages(folder: &OpenedFolder, kind: Kind, id: u64) -> Result<Option<Previous>> {
    ChainLevel::new(folder.try_clone()?, false).pages(kind, id)
}

/// A folder of a chain.
#[derive(Debug)]
struct ChainLevel {
    folder: OpenedFolder,
    /// Whether pages will be compared, so that checksums are of use.
    compares: bool,
    /// Read when first asked for.
    crcs: OnceLock<PageCrcs>,
    /// The folder below, if there is one; opened when first asked for.
    below: OnceLock<Option<Box<ChainLevel>>>,
}

impl ChainLevel {
    fn new(folder: OpenedFolder, compares: bool) -> Self {
        Self {
            folder,
            compares,
            crcs: OnceLock::new(),
            below: OnceLock::new(),
        }
    }

    fn crcs(&self) -> &PageCrcs {
        self.crcs.get_or_init(|| match self.compares {
            true => page_crcs::read(&self.folder),
            false => PageCrcs::new(),
        })
    }

    fn below(&self) -> Result<Option<&Self>> {
        if let Some(below) = self.below.get() {
            return Ok(below.as_deref());
        }
        let below = self.folder.below()?;
        let below = below.map(|folder| Box::new(Self::new(folder, self.compares)));
        Ok(self.below.get_or_init(|| below).as_deref())
    }

    fn pages(&self, kind: Kind, id: u64) -> Result<Option<Previous>> {
        let stored = self.stored(kind, id, MOST_LEVELS)?;
        Ok(stored.map(|stored| Previous {
            stored,
            path: self.folder.path().to_owned(),
        }))
    }

    fn stored(&self, kind: Kind, id: u64, levels_left: usize) -> Result<Option<Vec<Stored>>> {
        let folder = &self.folder;
        let Some(image) = folder.image(kind, id)? else {
            return Ok(None);
        };
        let path = folder.path().join(image.name());
        let damaged = |damage: Damage| damage.in_file(path.as_path());
        let misfit = |offset: usize, what: String| damaged(Damage { offset, what });
        let head: proto::PagemapHead = image.decode(0).map_err(damaged)?;
        let pages_name = Kind::Pages.file_name(u64::from(head.pages_id));
        let pages = match folder.file(&pages_name)? {
            None => None,
            Some(file) => {
                let stat = file
                    .metadata()
                    .at("stat", folder.path().join(&pages_name))?;
                let crcs = self.crcs().get(&head.pages_id).cloned();
                Some((Arc::new(file), (stat.dev(), stat.ino()), crcs))
            }
        };
        let mut below: Option<Vec<Stored>> = None;
        let mut runs = Vec::new();
        let mut offset = 0;
        for entry in image.entries().skip(1) {
            let entry = entry.map_err(damaged)?;
            let at = entry.offset;
            let entry: proto::PagemapEntry = entry.decode().map_err(damaged)?;
            let pages_count = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
            let len = pages_count.checked_mul(PAGE_BYTES);
            let end = len.and_then(|len| entry.vaddr.checked_add(len));
            let (Some(len), Some(end)) = (len, end) else {
                return Err(misfit(
                    at,
                    format!("{pages_count} pages at {:#x}", entry.vaddr),
                ));
            };
            let flags = match entry.in_parent {
                Some(true) => PARENT,
                _ => entry.flags.unwrap_or(PRESENT),
            };
            if flags & PARENT != 0 {
                if below.is_none() && levels_left > 0 {
                    below = match self.below()? {
                        Some(level) => level.stored(kind, id, levels_left - 1)?,
                        None => None,
                    };
                }
                let Some(below) = &below else {
                    let what = "its pages are in an earlier dump that is gone".to_owned();
                    return Err(misfit(at, what));
                };
                for part in cut(below, entry.vaddr, end) {
                    push(&mut runs, part);
                }
            } else if flags & PRESENT != 0 {
                let Some((pages, inode, crcs)) = &pages else {
                    return Err(misfit(at, format!("its {pages_name} is gone")));
                };
                let run = Stored {
                    start: entry.vaddr,
                    end,
                    file: Arc::clone(pages),
                    inode: *inode,
                    crcs: crcs.clone(),
                    offset,
                };
                push(&mut runs, run);
                offset = offset
                    .checked_add(len)
                    .ok_or_else(|| misfit(at, format!("{pages_count} pages more")))?;
            }
        }
        Ok(Some(runs))
    }
}

/// The parts of ascending runs that lie in `start..end`.
fn cut(stored: &[Stored], start: u64, end: u64) -> impl Iterator<Item = Stored> {
    let first = stored.partition_point(|run| run.end <= start);
    let inside = stored[first..]
        .iter()
        .take_while(move |run| run.start < end);
    inside.map(move |run| {
        let from = run.start.max(start);
        Stored {
            start: from,
            end: run.end.min(end),
            file: Arc::clone(&run.file),
            inode: run.inode,
            crcs: run.crcs.clone(),
            offset: run.offset + (from - run.start),
        }
    })
}

/// Appends a run. A reader takes the first entry that covers an address, so that only what
/// lies behind the last one counts.
fn push(stored: &mut Vec<Stored>, mut run: Stored) {
    if let Some(last) = stored.last() {
        let known = last.end.saturating_sub(run.start).min(run.end - run.start);
        run.start += known;
        run.offset += known;
    }
    if run.start < run.end {
        stored.push(run);
    }
}

impl Stored {
    /// The checksum of the page at an offset in the file, if it is known.
    fn crc(&self, offset: u64) -> Option<u32> {
        let number = usize::try_from(offset / PAGE_BYTES).ok()?;
        self.crcs.as_ref()?.get(number).copied()
    }
}

impl Previous {
    /// Where the page at `address` stands, if the earlier dump has it.
    #[must_use]
    pub fn place(&self, address: u64) -> Option<Place> {
        let (run, at) = self.find(address)?;
        Some((run.inode.0, run.inode.1, at))
    }

    /// Fills `bytes` with what was at `address`, which must not cross a page; `false` if the dump
    /// does not have that page.
    ///
    /// # Errors
    /// Reading; a pages file that is too short.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<bool> {
        let Some((run, at)) = self.find(address) else {
            return Ok(false);
        };
        let read = run.file.read_exact_at(bytes, at);
        read.at("read the pages of", self.path.as_path())?;
        Ok(true)
    }

    fn find(&self, address: u64) -> Option<(&Stored, u64)> {
        let place = self.stored.partition_point(|run| run.end <= address);
        let run = self.stored.get(place).filter(|run| run.start <= address)?;
        Some((run, run.offset + (address - run.start)))
    }
}

impl Before for Previous {
    fn holds(&self, offset: u64, page: &[u8]) -> Result<bool> {
        let Some((run, at)) = self.find(offset) else {
            return Ok(false);
        };
        if run.crc(at).is_some_and(|crc| crc != crc32fast::hash(page)) {
            return Ok(false);
        }
        let mut before = [0; 4096];
        Ok(self.read(offset, &mut before)? && page == before)
    }
}
