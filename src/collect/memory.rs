//! Address spaces: what is mapped, and which pages have to be written.
//!
//! Pages are only listed here. They are read when they are written, straight from
//! `/proc/PID/mem` into the pages file.

use std::fs::File;
use std::ops::Range;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::files::{ANON_HUGEPAGE, SYSTEM_V};
use crate::error::{Error, Result, ResultExt};
use crate::hold::Snapshot;
use crate::ids::{ObjectId, Tid};
use crate::proc::ProcDir;
use crate::proc::memory::TaskMemory;
use crate::proc::smaps::{self, VmFlag, parse_smaps};
use crate::proc::stat::Layout;
use crate::sys::pagemap::{Categories, PageRegion, Query, scan};

/// Size of a page on x86-64.
pub const PAGE_BYTES: u64 = 4096;

/// The name of a ring of asynchronous I/O.
const AIO_RING: &[u8] = b"/[aio]";

/// What a mapping shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// Private anonymous memory between `start_brk` and `brk`.
    Heap,
    /// Private anonymous memory in pages of hugetlb.
    Hugetlb,
    /// Private anonymous memory that the kernel may empty at any time (`MAP_DROPPABLE`).
    Droppable,
    /// The ring of a context of asynchronous I/O (`io_setup`).
    AioRing,
    /// A file.
    File {
        /// Its entry.
        file: ObjectId,
        /// `MAP_SHARED`.
        shared: bool,
        /// `O_RDONLY` or `O_RDWR`: how it was open when it was mapped.
        access: u32,
    },
    /// Shared memory without a name: `MAP_SHARED | MAP_ANONYMOUS`, `memfd_create`.
    Shmem {
        /// Its entry.
        file: ObjectId,
        /// `MAP_SHARED`.
        shared: bool,
        /// `O_RDONLY` or `O_RDWR`.
        access: u32,
    },
    /// The rings of a packet socket.
    Socket {
        /// Its inode.
        inode: u64,
        /// Its entry; not known before all descriptors are.
        file: Option<ObjectId>,
    },
    /// Code of the kernel.
    Vdso,
    /// Data of the kernel, `vvar_vclock` included.
    Vvar,
    /// The page at the top of the address space.
    Vsyscall,
}

/// One mapping of a task.
#[derive(Clone, Debug)]
pub struct Vma {
    /// Range, protection, offset, flags.
    pub smap: smaps::Vma,
    /// What it shows.
    pub backing: Backing,
}

impl Vma {
    /// Whether pages of this mapping belong to the task alone and must be written.
    #[must_use]
    pub fn keeps_pages(&self) -> bool {
        match self.backing {
            Backing::Anonymous
            | Backing::Heap
            | Backing::Hugetlb
            | Backing::AioRing
            | Backing::Vdso => true,
            Backing::File { shared, .. } | Backing::Shmem { shared, .. } => !shared,
            Backing::Droppable | Backing::Socket { .. } | Backing::Vvar | Backing::Vsyscall => {
                false
            }
        }
    }

    /// Whether a forked child has the pages of this mapping, as they are.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        let flags = &self.smap.flags;
        let kept_back = flags.contains(VmFlag::DontCopy) || flags.contains(VmFlag::WipeOnFork);
        // The vdso holds code of ours at the moment of the fork; completed requests change a
        // ring; and where huge pages are short, those of a child are taken away.
        let changes = matches!(self.backing, Backing::Vdso | Backing::AioRing) || self.is_hugetlb();
        self.keeps_pages() && !kept_back && !changes
    }

    /// Whether its pages are those of hugetlb.
    #[must_use]
    pub fn is_hugetlb(&self) -> bool {
        self.smap.flags.contains(VmFlag::HugeTlb)
    }

    /// Whether a snapshot tells of its pages: it has them, or knows at least the guards among
    /// what is not to be written.
    #[must_use]
    pub fn is_in_snapshot(&self) -> bool {
        self.is_forked() || !self.keeps_pages() && !self.smap.flags.contains(VmFlag::DontCopy)
    }
}

/// A run of pages that go to the pages file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// First byte.
    pub start: u64,
    /// First byte behind.
    pub end: u64,
    /// How they may be written.
    pub kind: PageKind,
}

/// How pages may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// As they are.
    Plain,
    /// Without those that hold nothing but zeros, and such that they may be served after the
    /// task runs again: anonymous private memory, but for the page under the stack pointer.
    Lazy,
    /// Pages of hugetlb, which restore reads from the task's own pages file only; without zeros.
    Huge,
    /// The same of a private mapping of a file, where zeros count.
    HugeOfFile,
}

impl PageKind {
    /// Whether pages that hold nothing but zeros may be left out.
    #[must_use]
    pub fn drops_zeros(self) -> bool {
        matches!(self, PageKind::Lazy | PageKind::Huge)
    }

    /// Whether restore takes them from another folder than the task's own.
    #[must_use]
    pub fn may_be_elsewhere(self) -> bool {
        matches!(self, PageKind::Plain | PageKind::Lazy)
    }
}

impl PageRun {
    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE_BYTES
    }
}

/// A range in which every access is a fault, whatever the mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// First byte.
    pub start: u64,
    /// First byte behind.
    pub end: u64,
}

/// What a scan of some mappings has found.
#[derive(Debug, Default)]
pub struct Listed {
    /// Pages to be written, ascending, none across the border of two mappings.
    pub pages: Vec<PageRun>,
    /// Guards, ascending.
    pub guards: Vec<Guard>,
}

/// An address space.
#[derive(Debug)]
pub struct AddressSpace {
    /// Its mappings, ascending.
    pub vmas: Vec<Vma>,
    /// Its program.
    pub exe: ObjectId,
    /// The auxiliary vector, word by word.
    pub auxv: Vec<u64>,
    /// Pages to be written, ascending, none across the border of two mappings. With a snapshot
    /// only those that it does not hold, until [`AddressSpace::list_snapshot`].
    pub pages: Vec<PageRun>,
    /// Where `MADV_GUARD_INSTALL` has put guards, ascending; listed along with `pages`.
    pub guards: Vec<Guard>,
    /// The page under this address is not to be served late.
    pub stack_pointer: u64,
    /// A copy of its memory, if one was made.
    pub snapshot: Option<Snapshot>,
    /// Whether the flags of the mappings are those from before the freeze, which
    /// [`AddressSpace::list_snapshot`] confirms.
    pub flags_from_before: bool,
}

impl AddressSpace {
    /// How many pages are to be written.
    #[must_use]
    pub fn pages_scanned(&self) -> u64 {
        self.pages.iter().map(PageRun::pages).sum()
    }

    /// Adds the pages that the snapshot holds.
    ///
    /// # Errors
    /// Those of the scan; [`Error::Unsupported`] when flags of a mapping were changed just
    /// before the freeze.
    pub fn list_snapshot(&mut self) -> Result<()> {
        let Some(snapshot) = &self.snapshot else {
            return Ok(());
        };
        if self.flags_from_before {
            self.confirm_flags(snapshot)?;
        }
        let listed = list_pages(
            snapshot.pid().leader(),
            snapshot.proc_dir(),
            &self.vmas,
            Vma::is_in_snapshot,
            self.stack_pointer,
        )?;
        self.pages.extend(listed.pages);
        self.pages.sort_unstable_by_key(|run| run.start);
        self.guards.extend(listed.guards);
        self.guards.sort_unstable_by_key(|guard| guard.start);
        Ok(())
    }
}

impl AddressSpace {
    /// Compares the flags of the mappings with those of the snapshot.
    fn confirm_flags(&self, snapshot: &Snapshot) -> Result<()> {
        // What a fork does not inherit: locks, which were compared by their amount, and the
        // mark that starts anew with it.
        const NOT_INHERITED: [VmFlag; 3] = [VmFlag::Locked, VmFlag::LockOnFault, VmFlag::SoftDirty];
        let proc_dir = snapshot.proc_dir();
        let text = proc_dir.read("smaps")?;
        let copied = parse_smaps(&text).map_err(|e| e.at(proc_dir.path_of("smaps")))?;
        let lasting = |vma: &smaps::Vma| -> Vec<VmFlag> {
            let flags = vma.flags.iter();
            flags.filter(|flag| !NOT_INHERITED.contains(flag)).collect()
        };
        for vma in &self.vmas {
            let start = vma.smap.mapping.start;
            let place = copied.binary_search_by_key(&start, |copy| copy.mapping.start);
            let same = match place {
                Ok(place) => {
                    let copy = &copied[place];
                    copy.flags.unknown().is_empty() && lasting(copy) == lasting(&vma.smap)
                }
                Err(_) => vma.smap.flags.contains(VmFlag::DontCopy),
            };
            if !same {
                let mapping = &vma.smap.mapping;
                return Err(Error::unsupported(
                    crate::error::Target::Memory(
                        snapshot.pid().leader(),
                        mapping.start,
                        mapping.end,
                    ),
                    "memory whose flags (madvise) were changed just when the dump began",
                    "run the dump again",
                ));
            }
        }
        Ok(())
    }
}

/// Where pages come from.
pub trait PageSource: Sync {
    /// Fills `buffer`, whole pages, from `offset` on.
    ///
    /// # Errors
    /// A page that cannot be read.
    fn read_pages(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// The same for pages that no other task of the tree has, when the tree ends with the dump:
    /// copy-on-write pages need not stay shared with whoever else has them.
    ///
    /// # Errors
    /// A page that cannot be read.
    fn read_last(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_pages(offset, buffer)
    }
}

impl PageSource for TaskMemory {
    fn read_pages(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read(offset, buffer)
    }

    fn read_last(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_unsharing(offset, buffer)
    }
}

/// The entry of a mapped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// Its entry.
    pub file: ObjectId,
    /// `O_RDONLY` or `O_RDWR`.
    pub access: u32,
    /// Whether it is nameless shared memory rather than a file.
    pub shmem: bool,
}

/// Says what every mapping of a task shows.
///
/// # Errors
/// [`Error::Blocked`] with every mapping that the images cannot hold.
pub fn classify(
    tid: Tid,
    smaps: Vec<smaps::Vma>,
    layout: &Layout,
    brk: u64,
    mapped_file: &mut dyn FnMut(&smaps::Vma) -> Result<MappedFile>,
) -> Result<Vec<Vma>> {
    let mut vmas: Vec<Vma> = Vec::with_capacity(smaps.len());
    let mut blockers = Vec::new();
    for smap in smaps {
        match backing(tid, &smap, layout, brk, mapped_file) {
            Ok(Backing::Vvar) if joins_vvar(vmas.last(), &smap) => {
                // Restore wants one entry for vvar and vvar_vclock.
                if let Some(vvar) = vmas.last_mut() {
                    vvar.smap.mapping.end = smap.mapping.end;
                }
            }
            Ok(backing) => vmas.push(Vma { smap, backing }),
            Err(error) => blockers.push(error),
        }
    }
    if blockers.is_empty() {
        Ok(vmas)
    } else {
        Err(Error::Blocked(blockers))
    }
}

fn joins_vvar(last: Option<&Vma>, next: &smaps::Vma) -> bool {
    last.is_some_and(|last| {
        last.backing == Backing::Vvar && last.smap.mapping.end == next.mapping.start
    })
}

/// How the kernel calls a socket that is mapped.
const SOCKET: &[u8] = b"socket:[";

fn backing(
    tid: Tid,
    smap: &smaps::Vma,
    layout: &Layout,
    brk: u64,
    mapped_file: &mut dyn FnMut(&smaps::Vma) -> Result<MappedFile>,
) -> Result<Backing> {
    let mapping = &smap.mapping;
    let refuse = |what: &str, remedy: &str| {
        let target = crate::error::Target::Memory(tid, mapping.start, mapping.end);
        Err(Error::unsupported(target, what, remedy))
    };
    match mapping.path.as_slice() {
        b"[vdso]" => return Ok(Backing::Vdso),
        b"[vvar]" | b"[vvar_vclock]" => return Ok(Backing::Vvar),
        b"[vsyscall]" => return Ok(Backing::Vsyscall),
        b"[uprobes]" => return refuse("a page of uprobes", "remove the probes first"),
        _ => {}
    }
    if smap.flags.contains(VmFlag::Io) || smap.flags.contains(VmFlag::PfnMap) {
        let what = format!("memory of a device ({})", mapping.path.escape_ascii());
        return refuse(&what, "let the program unmap it first");
    }
    for (flag, what) in [
        (VmFlag::ShadowStack, "a shadow stack"),
        (VmFlag::UffdMissing, "memory served by userfaultfd"),
        (VmFlag::UffdWriteProtect, "memory protected by userfaultfd"),
        (VmFlag::UffdMinor, "memory served by userfaultfd"),
        (VmFlag::Sealed, "sealed memory"),
    ] {
        if smap.flags.contains(flag) {
            return refuse(what, "this kind of memory is not supported yet");
        }
    }
    if let Some(unknown) = smap.flags.unknown().first() {
        let what = format!(
            "memory with the unknown flag {}",
            String::from_utf8_lossy(unknown)
        );
        return refuse(&what, "update dedump");
    }
    if mapping.path.starts_with(AIO_RING) {
        return Ok(Backing::AioRing);
    }
    let is_hugetlb = smap.flags.contains(VmFlag::HugeTlb);
    if is_hugetlb && !mapping.access.shared && mapping.path.starts_with(ANON_HUGEPAGE) {
        return Ok(Backing::Hugetlb);
    }
    if smap.flags.contains(VmFlag::Droppable) {
        return Ok(Backing::Droppable);
    }
    // The inode that is shown of System V memory is its number, which may be 0.
    if mapping.inode == 0 && !mapping.path.starts_with(SYSTEM_V) {
        if mapping.access.shared {
            return refuse("shared memory without a file", "not supported yet");
        }
        if mapping.start < brk && mapping.end > layout.start_brk && layout.start_brk < brk {
            return Ok(Backing::Heap);
        }
        return Ok(Backing::Anonymous);
    }
    if mapping.path.starts_with(SOCKET) {
        return Ok(Backing::Socket {
            inode: mapping.inode,
            file: None,
        });
    }
    let MappedFile {
        file,
        access,
        shmem,
    } = mapped_file(smap)?;
    let shared = mapping.access.shared;
    Ok(if shmem {
        Backing::Shmem {
            file,
            shared,
            access,
        }
    } else {
        Backing::File {
            file,
            shared,
            access,
        }
    })
}

/// Lists the pages of a task that have to be written, and its guards, in those mappings that
/// are `wanted`.
///
/// A page counts when it is in memory or swap, is not the system's zero page, and is the
/// task's own rather than the file's. All pages of the vdso count: restore reads its symbols.
/// So do those of a ring of asynchronous I/O.
///
/// # Errors
/// Those of the scan.
pub fn list_pages(
    tid: Tid,
    proc_dir: &ProcDir,
    vmas: &[Vma],
    wanted: impl Fn(&Vma) -> bool,
    stack_pointer: u64,
) -> Result<Listed> {
    let wanted: Vec<bool> = vmas
        .iter()
        .map(|vma| vma.backing != Backing::Vsyscall && wanted(vma))
        .collect();
    let pagemap = open_pagemap(proc_dir)?;
    let mut regions: Vec<PageRegion> = Vec::new();
    let mut index = 0;
    // What is not wanted may be large: it is not walked through.
    for group in wanted.chunk_by(|one, next| one == next) {
        let vmas = &vmas[index..index + group.len()];
        index += group.len();
        if group[0]
            && let (Some(first), Some(last)) = (vmas.first(), vmas.last())
        {
            let range = first.smap.mapping.start..last.smap.mapping.end;
            scan_pages(&pagemap, range, &mut regions).on("PAGEMAP_SCAN", tid)?;
        }
    }

    let stack_page = stack_pointer & !(PAGE_BYTES - 1);
    let mut listed = Listed::default();
    let mut regions = regions.into_iter().peekable();
    for (vma, wanted) in vmas.iter().zip(wanted) {
        let (start, end) = (vma.smap.mapping.start, vma.smap.mapping.end);
        while regions.next_if(|region| region.end <= start).is_some() {}
        if !wanted {
            continue;
        }
        let run = PageRun {
            start,
            end,
            kind: PageKind::Plain,
        };
        if matches!(vma.backing, Backing::Vdso | Backing::AioRing) {
            listed.pages.push(run);
            continue;
        }
        let kind = match vma.backing {
            Backing::Anonymous | Backing::Heap => PageKind::Lazy,
            Backing::Hugetlb => PageKind::Huge,
            _ if vma.is_hugetlb() => PageKind::HugeOfFile,
            _ => PageKind::Plain,
        };
        let run = PageRun { kind, ..run };
        while let Some(region) = regions.peek() {
            if region.start >= end {
                break;
            }
            let (from, to) = (region.start.max(start), region.end.min(end));
            if region.categories.has(Categories::GUARD) {
                listed.guards.push(Guard {
                    start: from,
                    end: to,
                });
            } else if vma.keeps_pages() {
                let run = PageRun {
                    start: from,
                    end: to,
                    ..run
                };
                push_without(&mut listed.pages, run, stack_page);
            }
            if region.end > end {
                break;
            }
            regions.next();
        }
    }
    Ok(listed)
}

/// The pages of a range that are in memory or swap and are the task's own, and its guards.
fn scan_pages(
    pagemap: &File,
    range: Range<u64>,
    regions: &mut Vec<PageRegion>,
) -> Result<(), Errno> {
    let query = Query {
        excluded: Categories::FILE.and(Categories::PFNZERO),
        any_of: Categories::PRESENT.and(Categories::SWAPPED),
        report: Categories::GUARD,
        ..Query::default()
    };
    let known = regions.len();
    match scan(pagemap, range.start, range.end, query, regions) {
        // Before Linux 6.15 guards are not told apart.
        Err(Errno::EINVAL) => {
            regions.truncate(known);
            let query = Query {
                report: Categories::default(),
                ..query
            };
            scan(pagemap, range.start, range.end, query, regions)
        }
        answer => answer,
    }
}

/// Appends a run, with the page under the stack pointer as a run of its own that is plain.
fn push_without(runs: &mut Vec<PageRun>, run: PageRun, stack_page: u64) {
    if run.kind != PageKind::Lazy || !(run.start..run.end).contains(&stack_page) {
        runs.push(run);
        return;
    }
    let behind = stack_page + PAGE_BYTES;
    let parts = [
        PageRun {
            end: stack_page,
            ..run
        },
        PageRun {
            start: stack_page,
            end: behind,
            kind: PageKind::Plain,
        },
        PageRun {
            start: behind,
            ..run
        },
    ];
    runs.extend(parts.into_iter().filter(|part| part.start < part.end));
}

/// Opens `/proc/PID/pagemap`.
///
/// # Errors
/// `EACCES` no ptrace access; `ENOENT` gone.
pub fn open_pagemap(proc_dir: &ProcDir) -> Result<File> {
    proc_dir.open_file("pagemap", OFlag::O_RDONLY)
}
