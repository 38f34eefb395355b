//! Mapped files: reached through `map_files`, for which the kernel wants
//! `CAP_CHECKPOINT_RESTORE`, or without it by another way that is known to lead there.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, lstat};

use super::shmem::{Content, SYSTEM_V, is_secret};
use super::{FileKind, Files, Segment, Sight};
use crate::collect::memory::{MappedFile, PAGE_BYTES};
use crate::error::{Error, IoResultExt, Result, Target};
use crate::ids::Tid;
use crate::inject::{Batch, Buffer, CallIndex, Results};
use crate::kcmp::FileTree;
use crate::proc::ProcDir;
use crate::proc::device::Device;
use crate::proc::fdinfo::Fdinfo;
use crate::proc::maps::{Mapping, parse_maps};
use crate::proc::smaps::{VmFlag, Vma};
use crate::sys::capability::Capability;
use crate::sys::stat::no_stat;
use crate::sys::{fcntl, map};

/// A task whose mappings are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Mapper<'a> {
    /// Its leading thread.
    pub tid: Tid,
    /// Its folder in `/proc`.
    pub proc_dir: &'a ProcDir,
    /// Its user and group.
    pub owner: (u32, u32),
    /// Which pages of its shared memory are in memory, if that was asked.
    pub residency: &'a [Residency],
}

/// What `mincore(2)` says of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residency {
    /// Its first address.
    pub start: u64,
    /// One byte a page, of which the lowest bit counts.
    pub pages: Vec<u8>,
}

/// A question for the residency of a mapping.
#[derive(Debug)]
pub struct ResidencyQuestion {
    start: u64,
    pages: Buffer,
    call: CallIndex,
}

impl ResidencyQuestion {
    /// The answer; `None` if the kernel refused it.
    #[must_use]
    pub fn answer(&self, answers: &Results) -> Option<Residency> {
        answers.value(self.call).ok()?;
        Some(Residency {
            start: self.start,
            pages: answers.bytes(self.pages).to_vec(),
        })
    }
}

/// The way to a mapped file.
struct Way {
    link: PathBuf,
    stat: FileStat,
    /// What to open, below the task's folder.
    name: String,
}

impl Files {
    /// The entry of a mapped file.
    ///
    /// # Errors
    /// When it is of a kind the images cannot hold, or its path no longer leads to it.
    pub fn mapped(
        &mut self,
        mapper: Mapper<'_>,
        vma: &Vma,
        tree: &mut FileTree,
    ) -> Result<MappedFile> {
        const ZERO_MINOR: u64 = 5;
        let mapping = &vma.mapping;
        let proc_dir = mapper.proc_dir;
        // How the file was open only matters for a shared mapping, and there the kernel tells:
        // one that may become writable was opened for writing.
        let writable = mapping.access.shared && vma.flags.contains(VmFlag::MayWrite);
        let access = if writable {
            libc::O_RDWR
        } else {
            libc::O_RDONLY
        }
        .cast_unsigned();
        let key = (mapping.device.number(), inode(mapping));
        if let Some((file, shmem)) = self.mapped.get(&key).copied() {
            if shmem {
                self.another_part(mapper, vma)?;
            }
            return Ok(MappedFile {
                file,
                access,
                shmem,
            });
        }
        let target = Target::Memory(mapper.tid, mapping.start, mapping.end);
        let fdinfo = Fdinfo::default();
        let sight = |link, stat| Sight {
            target: target.clone(),
            link,
            stat,
            fdinfo: &fdinfo,
            is_path: false,
            owner: fcntl::Owner::default(),
        };
        let is_shmem = mapping.device.number() == self.shmem_device;
        let way = match way_to(proc_dir, mapping, target.clone()) {
            Err(Error::Unsupported { .. }) if is_shmem && mapping.access.shared => {
                let (stat, link) = (
                    unseen(mapper, vma),
                    proc_dir.read_link(&link_name(mapping))?,
                );
                let content = Content::Mappings(Vec::new());
                let sight = sight(&link, &stat);
                let segment = self.segment(&sight, PAGE_BYTES, 0, content)?;
                self.another_part(mapper, vma)?;
                let kind = FileKind::Memfd { segment };
                let file = self.hold(&sight, Some(kind), proc_dir, "", tree)?;
                self.mapped.insert(key, (file, true));
                return Ok(MappedFile {
                    file,
                    access,
                    shmem: true,
                });
            }
            answer => answer?,
        };
        let mut stat = way.stat;
        if is_shmem {
            stat.st_ino = key.1;
        }
        let stat = &stat;
        let is_zero = stat.st_mode & libc::S_IFMT == libc::S_IFCHR
            && stat.st_rdev == nix::sys::stat::makedev(1, ZERO_MINOR);
        let page_bytes = self.shmem_page_bytes(&way.link, stat);
        let shmem = page_bytes.is_some();
        let sight = sight(&way.link, stat);
        if is_secret(sight.link, stat) {
            return Err(sight.refuse_secret());
        }
        let file = if let Some(page_bytes) = page_bytes {
            let content = proc_dir.open_file(&way.name, OFlag::O_RDONLY)?;
            let seals = fcntl::seals(content.as_fd()).unwrap_or(0);
            let segment = self.segment(&sight, page_bytes, seals, Content::File(content))?;
            let kind = FileKind::Memfd { segment };
            self.hold(&sight, Some(kind), proc_dir, &way.name, tree)?
        } else if is_zero || stat.st_mode & libc::S_IFMT == libc::S_IFREG {
            self.hold(&sight, None, proc_dir, &way.name, tree)?
        } else {
            return Err(sight.refuse(
                &format!("a mapping of {}", way.link.display()),
                "let the program unmap it first",
            ));
        };
        self.mapped.insert(key, (file, shmem));
        Ok(MappedFile {
            file,
            access,
            shmem,
        })
    }

    /// Lets a task say which pages of its shared memory are in memory, where that may have to be
    /// read through its mappings.
    ///
    /// # Errors
    /// When a mapping is gone.
    pub fn residency_questions(
        &self,
        proc_dir: &ProcDir,
        mappings: &[Mapping],
        batch: &mut Batch,
    ) -> Result<Vec<ResidencyQuestion>> {
        let is_shmem =
            |one: &&Mapping| one.access.shared && one.device.number() == self.shmem_device;
        let mut questions = Vec::new();
        for mapping in mappings.iter().filter(is_shmem) {
            if stat_unless_closed(proc_dir, mapping)?.is_some() {
                break;
            }
            let pages = usize::try_from(mapping.size_bytes() / PAGE_BYTES).unwrap_or(0);
            let pages = batch.buffer(pages);
            let arguments = [
                mapping.start.into(),
                mapping.size_bytes().into(),
                pages.into(),
            ];
            questions.push(ResidencyQuestion {
                start: mapping.start,
                pages,
                call: batch.call(libc::SYS_mincore, &arguments),
            });
        }
        Ok(questions)
    }

    /// Adds a mapping to a segment that is read through mappings.
    fn another_part(&mut self, mapper: Mapper<'_>, vma: &Vma) -> Result<()> {
        let inode = (vma.mapping.device.number(), inode(&vma.mapping));
        let is_it = |segment: &&mut Segment| (segment.stat.st_dev, segment.stat.st_ino) == inode;
        match self.segments.iter_mut().find(is_it) {
            Some(segment) if vma.mapping.access.shared => segment.add(mapper, vma),
            _ => Ok(()),
        }
    }
}

/// The inode of a mapped file. System V numbers its own, and may give a number that other shared
/// memory has, too; neither comes near the one that is made here.
fn inode(mapping: &Mapping) -> u64 {
    const APART: u64 = 1 << 31;
    if mapping.path.starts_with(SYSTEM_V) {
        mapping.inode | APART
    } else {
        mapping.inode
    }
}

/// The name of a mapping in `/proc/PID`.
fn link_name(mapping: &Mapping) -> String {
    format!("map_files/{:x}-{:x}", mapping.start, mapping.end)
}

/// The `stat` of a mapped file; `None` where the kernel does not let us follow the links in
/// `map_files`.
fn stat_unless_closed(proc_dir: &ProcDir, mapping: &Mapping) -> Result<Option<FileStat>> {
    match proc_dir.stat(&link_name(mapping)) {
        Err(Error::Syscall {
            errno: Errno::EPERM,
            ..
        }) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Finds a way to a mapped file.
fn way_to(proc_dir: &ProcDir, mapping: &Mapping, target: Target) -> Result<Way> {
    let name = link_name(mapping);
    let link = proc_dir.read_link(&name)?;
    if let Some(stat) = stat_unless_closed(proc_dir, mapping)? {
        return Ok(Way { link, stat, name });
    }
    if let Ok(stat) = lstat(&link)
        && is_mapped(mapping, &link, &stat)
    {
        return Ok(Way { link, stat, name });
    }
    for fd in proc_dir.numbers("fd")? {
        let name = format!("fd/{fd}");
        let Ok(stat) = proc_dir.stat(&name) else {
            continue;
        };
        if is_mapped(mapping, &proc_dir.path_of(&name), &stat) {
            return Ok(Way {
                link: proc_dir.read_link(&name)?,
                stat,
                name,
            });
        }
    }
    Err(Error::unsupported(
        target,
        format!(
            "a mapping of {}, to which no path and no descriptor leads,",
            link.display()
        ),
        format!("run dedump with {}", Capability::CheckpointRestore),
    ))
}

/// Whether `path`, of which `stat` is known, leads to the file that is mapped.
fn is_mapped(mapping: &Mapping, path: &Path, stat: &FileStat) -> bool {
    if (stat.st_dev, stat.st_ino) == (mapping.device.number(), mapping.inode) {
        return true;
    }
    // On file systems made of several ones `stat` and `maps` need not agree: let `maps` speak
    // twice.
    stat.st_mode & libc::S_IFMT == libc::S_IFREG
        && named_in_maps(path).is_ok_and(|named| named == (mapping.device, mapping.inode))
}

/// How `maps` names a file.
fn named_in_maps(path: &Path) -> Result<(Device, u64)> {
    const OWN: &str = "/proc/self/maps";
    let file = std::fs::File::open(path).at("open", path)?;
    let mapped = map::map_file(&file).at("mmap", path)?;
    let address = mapped.as_ptr() as u64;
    let text = std::fs::read(OWN).at("read", OWN)?;
    let all = parse_maps(&text).map_err(|e| e.at(OWN))?;
    let own = all.iter().find(|one| one.start == address);
    own.map(|one| (one.device, one.inode))
        .ok_or(Error::Syscall {
            op: "mmap",
            target: path.into(),
            errno: Errno::ENOENT,
        })
}

/// What `stat` would say of shared memory, as far as its mappings tell.
fn unseen(mapper: Mapper<'_>, vma: &Vma) -> FileStat {
    let mapping = &vma.mapping;
    let mut stat = no_stat();
    stat.st_dev = mapping.device.number();
    stat.st_ino = inode(mapping);
    stat.st_mode = libc::S_IFREG | 0o777;
    (stat.st_uid, stat.st_gid) = mapper.owner;
    stat
}
