//! Address spaces as images: `mm-`. Their pages are the business of [`super::pages`].

use super::proto;
use crate::collect::memory::{AddressSpace, Backing, Guard, Vma};
use crate::collect::task::{Living, Task};
use crate::ids::ObjectId;
use crate::proc::maps::Access;
use crate::proc::smaps::VmFlag;
use crate::sys::fcntl::hugetlb_size_flags;

/// `VmaEntry.status` bits.
pub(crate) mod status {
    pub(crate) const REGULAR: u32 = 1 << 0;
    pub(crate) const VSYSCALL: u32 = 1 << 2;
    pub(crate) const VDSO: u32 = 1 << 3;
    pub(crate) const HEAP: u32 = 1 << 5;
    pub(crate) const FILE_PRIVATE: u32 = 1 << 6;
    pub(crate) const FILE_SHARED: u32 = 1 << 7;
    pub(crate) const ANON_SHARED: u32 = 1 << 8;
    pub(crate) const ANON_PRIVATE: u32 = 1 << 9;
    pub(crate) const SYSVIPC: u32 = 1 << 10;
    pub(crate) const SOCKET: u32 = 1 << 11;
    pub(crate) const VVAR: u32 = 1 << 12;
    pub(crate) const AIO_RING: u32 = 1 << 13;
    pub(crate) const MEMFD: u32 = 1 << 14;
    pub(crate) const GUARD: u32 = 1 << 16;
}

/// `PagemapEntry.flags`: the bytes are in the folder below.
pub(crate) const PARENT: u32 = 1 << 0;
/// `PagemapEntry.flags`: may be served after the task runs again.
pub(super) const LAZY: u32 = 1 << 1;
/// `PagemapEntry.flags`: the bytes are in the pages file of this folder.
pub(crate) const PRESENT: u32 = 1 << 2;

/// More words are refused by restore.
const LONGEST_AUXV: usize = 44;

/// The `mm-` entry of a task.
#[must_use]
pub fn mm_entry(task: &Task, living: &Living, space: &AddressSpace) -> proto::MmEntry {
    let layout = &task.stat.layout;
    proto::MmEntry {
        mm_start_code: layout.start_code,
        mm_end_code: layout.end_code,
        mm_start_data: layout.start_data,
        mm_end_data: layout.end_data,
        mm_start_stack: layout.start_stack,
        mm_start_brk: layout.start_brk,
        mm_brk: living.brk,
        mm_arg_start: layout.arg_start,
        mm_arg_end: layout.arg_end,
        mm_env_start: layout.env_start,
        mm_env_end: layout.env_end,
        exe_file_id: space.exe.number(),
        mm_saved_auxv: space.auxv.iter().copied().take(LONGEST_AUXV).collect(),
        vmas: space
            .vmas
            .iter()
            .map(vma_entry)
            .chain(space.guards.iter().map(guard_entry))
            .collect(),
        dumpable: i32::try_from(living.dumpable).ok(),
        aios: space.vmas.iter().filter_map(ring_entry).collect(),
        thp_disabled: living.status.huge_pages_allowed.map(|allowed| !allowed),
    }
}

/// A ring of asynchronous I/O. The kernel makes it twice as large as asked for, plus two.
fn ring_entry(vma: &Vma) -> Option<proto::AioRingEntry> {
    const HEAD_BYTES: u64 = 32;
    const EVENT_BYTES: u64 = 32;
    if vma.backing != Backing::AioRing {
        return None;
    }
    let mapping = &vma.smap.mapping;
    let bytes = mapping.end - mapping.start;
    let events = bytes.saturating_sub(HEAD_BYTES) / EVENT_BYTES;
    Some(proto::AioRingEntry {
        id: mapping.start,
        nr_req: u32::try_from(events.saturating_sub(2) / 2).unwrap_or(u32::MAX),
        ring_len: u32::try_from(bytes).unwrap_or(u32::MAX),
    })
}

/// Guards stand behind all mappings.
fn guard_entry(guard: &Guard) -> proto::VmaEntry {
    proto::VmaEntry {
        start: guard.start,
        end: guard.end,
        pgoff: 0,
        shmid: 0,
        prot: 0,
        flags: 0,
        status: status::GUARD,
        fd: -1,
        madv: None,
        fdflags: None,
    }
}

fn vma_entry(vma: &Vma) -> proto::VmaEntry {
    const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mapping = &vma.smap.mapping;
    let (status, sharing, shmid, fdflags) = match vma.backing {
        Backing::Anonymous | Backing::Hugetlb => {
            (status::REGULAR | status::ANON_PRIVATE, ANONYMOUS, 0, None)
        }
        Backing::Droppable => (
            status::REGULAR | status::ANON_PRIVATE,
            libc::MAP_DROPPABLE | libc::MAP_ANONYMOUS,
            0,
            None,
        ),
        Backing::AioRing => (status::AIO_RING, libc::MAP_SHARED, 0, None),
        Backing::Heap => (
            status::REGULAR | status::ANON_PRIVATE | status::HEAP,
            ANONYMOUS,
            0,
            None,
        ),
        Backing::File {
            file,
            shared,
            access,
        }
        | Backing::Shmem {
            file,
            shared,
            access,
        } => {
            let (kind, flag) = if shared {
                (status::FILE_SHARED, libc::MAP_SHARED)
            } else {
                (status::FILE_PRIVATE, libc::MAP_PRIVATE)
            };
            let memfd = if matches!(vma.backing, Backing::Shmem { .. }) {
                status::MEMFD
            } else {
                0
            };
            (
                status::REGULAR | kind | memfd,
                flag,
                file.number(),
                Some(access),
            )
        }
        Backing::Socket { file, .. } => (
            status::REGULAR | status::SOCKET,
            libc::MAP_SHARED,
            file.map_or(0, ObjectId::number),
            Some(libc::O_RDWR.cast_unsigned()),
        ),
        Backing::Vdso => (
            status::REGULAR | status::VDSO | status::ANON_PRIVATE,
            ANONYMOUS,
            0,
            None,
        ),
        Backing::Vvar => (
            status::REGULAR | status::VVAR | status::ANON_PRIVATE,
            ANONYMOUS,
            0,
            None,
        ),
        Backing::Vsyscall => (status::VSYSCALL | status::ANON_PRIVATE, ANONYMOUS, 0, None),
    };
    let mut flags = sharing;
    for (flag, map) in [
        (VmFlag::GrowsDown, libc::MAP_GROWSDOWN),
        (VmFlag::Locked, libc::MAP_LOCKED),
        (VmFlag::NoReserve, libc::MAP_NORESERVE),
    ] {
        if vma.smap.flags.contains(flag) {
            flags |= map;
        }
    }
    if vma.is_hugetlb() {
        flags |= libc::MAP_HUGETLB | hugetlb_size_flags(vma.smap.page_bytes).cast_signed();
    }
    let madv = madvice(vma);
    proto::VmaEntry {
        start: mapping.start,
        end: mapping.end,
        pgoff: if matches!(vma.backing, Backing::File { .. } | Backing::Shmem { .. }) {
            mapping.offset_bytes
        } else {
            0
        },
        shmid: u64::from(shmid),
        prot: protection(mapping.access),
        flags: flags.cast_unsigned(),
        status,
        fd: -1,
        madv: (madv != 0).then_some(madv),
        fdflags,
    }
}

fn protection(access: Access) -> u32 {
    let bit = |set: bool, flag: i32| if set { flag.cast_unsigned() } else { 0 };
    bit(access.read, libc::PROT_READ)
        | bit(access.write, libc::PROT_WRITE)
        | bit(access.execute, libc::PROT_EXEC)
}

/// Bit n for `madvise` advice n that is in force.
fn madvice(vma: &Vma) -> u64 {
    if matches!(
        vma.backing,
        Backing::Vdso | Backing::Vvar | Backing::Vsyscall
    ) {
        return 0;
    }
    [
        (VmFlag::SequentialRead, libc::MADV_SEQUENTIAL),
        (VmFlag::RandomRead, libc::MADV_RANDOM),
        (VmFlag::DontCopy, libc::MADV_DONTFORK),
        (VmFlag::DontDump, libc::MADV_DONTDUMP),
        (VmFlag::Mergeable, libc::MADV_MERGEABLE),
        (VmFlag::HugePage, libc::MADV_HUGEPAGE),
        (VmFlag::NoHugePage, libc::MADV_NOHUGEPAGE),
        (VmFlag::WipeOnFork, libc::MADV_WIPEONFORK),
    ]
    .into_iter()
    .filter(|(flag, _)| vma.smap.flags.contains(*flag))
    .fold(0, |bits, (_, advice)| bits | 1 << advice)
}
