//! Earlier dumps, by us or by CRIU: where the bytes of a page stand in a chain of folders.
//!
//! What a folder says is checked, not trusted; a chain that cannot be followed is an error,
//! because a dump on top of it could not be restored.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::catalogue::Kind;
use super::copy::Before;
use super::framing::ImageReader;
use super::memory::{PARENT, PRESENT};
use super::proto;
use crate::collect::memory::PAGE_BYTES;
use crate::error::{Error, IoResultExt, Result};

/// No chain is that long; a folder that is its own parent is.
const MOST_LEVELS: usize = 1000;
/// The name under which a folder has the earlier dump it builds on.
pub const PARENT_NAME: &str = "parent";

/// A run of pages and the file that holds it.
#[derive(Clone, Debug)]
struct Stored {
    start: u64,
    end: u64,
    file: Arc<File>,
    /// Device and inode of the file.
    inode: (u64, u64),
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
    dir: OwnedFd,
    path: PathBuf,
}

impl PreviousFolder {
    /// Opens the folder `path`.
    ///
    /// # Errors
    /// A folder that is not there or holds no complete dump.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Self::open_level(path)?;
        match folder.file(&Kind::Inventory.file_name(0))? {
            Some(_) => Ok(folder),
            None => Err(Error::Refused {
                target: path.into(),
                what: "this folder of --prev-images-dir holds no complete dump".to_owned(),
                remedy: "name an earlier dump of the same tree, relative to --images-dir"
                    .to_owned(),
            }),
        }
    }

    fn open_level(path: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(path, flags, Mode::empty()).map_err(std::io::Error::from);
        Ok(Self {
            dir: dir.at("open the earlier dump", path)?,
            path: path.to_owned(),
        })
    }

    /// The pages of a task (`Kind::Pagemap`, its pid) or of a segment (`Kind::ShmemPagemap`,
    /// its inode); `None` when the earlier dump does not know it.
    ///
    /// # Errors
    /// A damaged pagemap, a chain that ends too early.
    pub fn pages(&self, kind: Kind, id: u64) -> Result<Option<Previous>> {
        let stored = self.level(kind, id, MOST_LEVELS)?;
        Ok(stored.map(|stored| Previous {
            stored,
            path: self.path.clone(),
        }))
    }

    /// A file of the folder, if it is there.
    fn file(&self, name: &str) -> Result<Option<File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        match openat(self.dir.as_fd(), name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(std::io::Error::from(errno)).at("open", self.path.join(name)),
        }
    }

    /// The folder below, if there is one.
    fn below(&self) -> Result<Option<Self>> {
        let path = self.path.join(PARENT_NAME);
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        match openat(self.dir.as_fd(), PARENT_NAME, flags, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { dir, path })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(std::io::Error::from(errno)).at("open the earlier dump", path),
        }
    }

    fn level(&self, kind: Kind, id: u64, levels_left: usize) -> Result<Option<Vec<Stored>>> {
        let name = kind.file_name(id);
        let Some(mut file) = self.file(&name)? else {
            return Ok(None);
        };
        let path = self.path.join(&name);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).at("read", path.as_path())?;
        let damaged = |what: String| Error::Image {
            op: "read",
            path: path.clone(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, what),
        };
        let mut reader = ImageReader::start(kind, &bytes).map_err(|d| damaged(d.to_string()))?;
        let head: Option<proto::PagemapHead> = reader
            .entry()
            .map_err(|damage| damaged(damage.to_string()))?;
        let head = head.ok_or_else(|| damaged("it has no head".to_owned()))?;
        let pages_name = Kind::Pages.file_name(u64::from(head.pages_id));
        let pages = match self.file(&pages_name)? {
            None => None,
            Some(file) => {
                let stat = file.metadata().at("stat", self.path.join(&pages_name))?;
                Some((Arc::new(file), (stat.dev(), stat.ino())))
            }
        };
        let mut below: Option<Vec<Stored>> = None;
        let mut stored = Vec::new();
        let mut offset = 0;
        loop {
            let entry: Option<proto::PagemapEntry> = reader
                .entry()
                .map_err(|damage| damaged(damage.to_string()))?;
            let Some(entry) = entry else { break };
            let pages_count = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
            let len = pages_count.checked_mul(PAGE_BYTES);
            let end = len.and_then(|len| entry.vaddr.checked_add(len));
            let (Some(len), Some(end)) = (len, end) else {
                return Err(damaged(format!(
                    "{pages_count} pages at {:#x}",
                    entry.vaddr
                )));
            };
            let flags = match entry.in_parent {
                Some(true) => PARENT,
                _ => entry.flags.unwrap_or(PRESENT),
            };
            if flags & PARENT != 0 {
                if below.is_none() && levels_left > 0 {
                    below = match self.below()? {
                        Some(folder) => folder.level(kind, id, levels_left - 1)?,
                        None => None,
                    };
                }
                let Some(below) = &below else {
                    return Err(damaged(
                        "its pages are in an earlier dump that is gone".to_owned(),
                    ));
                };
                for part in cut(below, entry.vaddr, end) {
                    push(&mut stored, part);
                }
            } else if flags & PRESENT != 0 {
                let Some((pages, inode)) = &pages else {
                    return Err(damaged(format!("its pages-{}.img is gone", head.pages_id)));
                };
                push(
                    &mut stored,
                    Stored {
                        start: entry.vaddr,
                        end,
                        file: Arc::clone(pages),
                        inode: *inode,
                        offset,
                    },
                );
                offset += len;
            }
        }
        Ok(Some(stored))
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

impl Previous {
    /// Where the page at `address` stands, if the earlier dump has it.
    #[must_use]
    pub fn place(&self, address: u64) -> Option<Place> {
        let (run, at) = self.find(address)?;
        Some((run.inode.0, run.inode.1, at))
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
        let mut before = [0; 4096];
        run.file
            .read_exact_at(&mut before, at)
            .at("read the pages of the earlier dump", self.path.as_path())?;
        Ok(page == before)
    }
}
