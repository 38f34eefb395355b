//! Open files as images: `files`, `fdinfo-`, `pipes-data`, `fifo-data`, `remap-fpath`,
//! `ghost-file-`, `memfd`, `pagemap-shmem-`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;

use libc::TFD_TIMER_CANCEL_ON_SET;

use super::framing::ImageWriter;
use super::proto;
use super::sockets::{inet_entry, netlink_entry, packet_entry, unix_entry};
use crate::collect::files::{
    DescriptorTable, EpollTarget, FanotifyMark, FileKind, Ghost, InotifyWatch, MarkedThing,
    OpenFile, PipeContent, Remap, Segment, Watched, kernel_device,
};
use crate::collect::memory::PAGE_BYTES;
use crate::collect::namespaces::KINDS;
use crate::collect::sockets::Socket;
use crate::error::Result;
use crate::ids::ObjectId;
use crate::sys::fcntl::{Owner, hugetlb_flags};

/// `FileEntry.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
enum FileType {
    Reg = 1,
    Pipe = 2,
    Fifo = 3,
    Inetsk = 4,
    Unixsk = 5,
    Eventfd = 6,
    Eventpoll = 7,
    Inotify = 8,
    Signalfd = 9,
    Packetsk = 10,
    Tty = 11,
    Fanotify = 12,
    Netlinksk = 13,
    Ns = 14,
    Timerfd = 17,
    Memfd = 18,
    Pidfd = 20,
}

impl FileType {
    fn of(kind: &FileKind) -> Self {
        match kind {
            FileKind::Regular(_) => Self::Reg,
            FileKind::Pipe { .. } => Self::Pipe,
            FileKind::Fifo { .. } => Self::Fifo,
            FileKind::Eventfd { .. } => Self::Eventfd,
            FileKind::Epoll { .. } => Self::Eventpoll,
            FileKind::Signalfd { .. } => Self::Signalfd,
            FileKind::Timerfd(_) => Self::Timerfd,
            FileKind::Memfd { .. } => Self::Memfd,
            FileKind::Terminal { .. } => Self::Tty,
            FileKind::Inotify { .. } => Self::Inotify,
            FileKind::Fanotify(_) => Self::Fanotify,
            FileKind::Pidfd { .. } => Self::Pidfd,
            FileKind::Namespace { .. } => Self::Ns,
            FileKind::Socket(socket) => match **socket {
                Socket::Unix(_) => Self::Unixsk,
                Socket::Inet(_) => Self::Inetsk,
                Socket::Netlink(_) => Self::Netlinksk,
                Socket::Packet(_) => Self::Packetsk,
            },
        }
    }
}

/// The type of every open file, for the descriptors that lead there.
#[derive(Debug, Default)]
pub struct FileTypes(HashMap<ObjectId, FileType>);

impl FileTypes {
    /// Of the files that will be written.
    #[must_use]
    pub fn of(files: &[OpenFile]) -> Self {
        Self(
            files
                .iter()
                .map(|file| (file.claim.id(), FileType::of(&file.kind)))
                .collect(),
        )
    }
}

/// Writes `files.img`. Each entry uses up the claim to it.
///
/// # Errors
/// Writing.
pub fn write_files(writer: &mut ImageWriter, files: Vec<OpenFile>) -> Result<()> {
    for file in files {
        writer.entry(&file_entry(file))?;
    }
    Ok(())
}

/// Writes a `fdinfo-` image.
///
/// # Errors
/// Writing.
pub fn write_fdinfo(
    writer: &mut ImageWriter,
    table: &DescriptorTable,
    types: &FileTypes,
) -> Result<()> {
    for descriptor in &table.descriptors {
        writer.entry(&proto::FdinfoEntry {
            id: descriptor.file.number(),
            flags: u32::from(descriptor.close_on_exec),
            r#type: types.0.get(&descriptor.file).map_or(0, |kind| *kind as i32),
            fd: descriptor.fd.0.cast_unsigned(),
            xattr_security_selinux: None,
        })?;
    }
    Ok(())
}

fn file_entry(file: OpenFile) -> proto::FileEntry {
    let kind = FileType::of(&file.kind);
    let id = file.claim.spend().number();
    let flags = file.flags;
    let fown = fown(file.owner);
    let mut entry = proto::FileEntry {
        r#type: kind as i32,
        id,
        ..Default::default()
    };
    match file.kind {
        FileKind::Regular(regular) => {
            entry.reg = Some(proto::RegFileEntry {
                id,
                flags,
                pos: file.position,
                fown,
                name: regular.path.as_os_str().as_bytes().to_vec(),
                size: regular.size_bytes,
                mode: Some(regular.mode),
                ext: regular.is_external.then_some(true),
                ..Default::default()
            });
        }
        FileKind::Pipe { pipe } => {
            entry.pipe = Some(proto::PipeEntry {
                id,
                pipe_id: low_half(pipe),
                flags,
                fown,
            });
        }
        FileKind::Fifo { pipe, path } => {
            entry.fifo = Some(proto::FifoEntry {
                id,
                pipe_id: low_half(pipe),
                regf_id: Some(path.number()),
            });
        }
        FileKind::Eventfd { count } => {
            entry.efd = Some(proto::EventfdFileEntry {
                id,
                flags,
                fown,
                counter: count,
            });
        }
        FileKind::Epoll { targets } => {
            entry.epfd = Some(proto::EventpollFileEntry {
                id,
                flags,
                fown,
                tfd: targets.iter().map(epoll_target).collect(),
            });
        }
        FileKind::Signalfd { mask } => {
            entry.sgfd = Some(proto::SignalfdEntry {
                id,
                flags,
                fown,
                sigmask: mask,
            });
        }
        FileKind::Timerfd(timer) => {
            // For a moment that is told criu adds what is left to the present second, without its
            // fraction: up to a second too early. What is left alone is exact.
            let is_cancelled = timer.settime_flags & TFD_TIMER_CANCEL_ON_SET.cast_unsigned() != 0;
            entry.tfd = Some(proto::TimerfdEntry {
                id,
                flags,
                fown,
                clockid: timer.clock,
                ticks: timer.ticks,
                settime_flags: if is_cancelled { timer.settime_flags } else { 0 },
                vsec: timer.value.0,
                vnsec: timer.value.1,
                isec: timer.interval.0,
                insec: timer.interval.1,
            });
        }
        FileKind::Socket(socket) => match *socket {
            Socket::Unix(socket) => entry.usk = Some(unix_entry(id, flags, fown, &socket)),
            Socket::Inet(socket) => entry.isk = Some(inet_entry(id, flags, fown, &socket)),
            Socket::Netlink(socket) => entry.nlsk = Some(netlink_entry(id, flags, fown, &socket)),
            Socket::Packet(socket) => entry.psk = Some(packet_entry(id, flags, fown, &socket)),
        },
        FileKind::Terminal { terminal, path } => {
            entry.tty = Some(proto::TtyFileEntry {
                id,
                tty_info_id: terminal,
                flags,
                fown,
                regf_id: path.map(ObjectId::number),
            });
        }
        FileKind::Inotify { watches } => {
            entry.ify = Some(proto::InotifyFileEntry {
                id,
                flags,
                fown,
                wd: watches
                    .iter()
                    .map(|watch| inotify_watch(id, watch))
                    .collect(),
            });
        }
        FileKind::Fanotify(fanotify) => {
            entry.ffy = Some(proto::FanotifyFileEntry {
                id,
                flags,
                fown,
                faflags: fanotify.flags,
                evflags: fanotify.event_flags,
                mark: fanotify
                    .marks
                    .iter()
                    .map(|mark| fanotify_mark(id, mark))
                    .collect(),
            });
        }
        FileKind::Pidfd { pid, inode } => {
            entry.pidfd = Some(proto::PidfdEntry {
                id,
                ino: low_half(inode),
                flags: flags & !libc::O_RDWR.cast_unsigned(),
                nspid: pid.map_or(-1, |pid| pid.0),
                fown,
            });
        }
        FileKind::Namespace { kind } => {
            entry.nsf = Some(proto::NsFileEntry {
                id,
                ns_id: OWN_NAMESPACES + u32::try_from(kind).unwrap_or(0),
                ns_cflag: NAMESPACE_FLAGS[kind].cast_unsigned(),
                flags,
            });
        }
        FileKind::Memfd { segment } => {
            entry.memfd = Some(proto::MemfdFileEntry {
                id,
                flags,
                pos: file.position,
                fown,
                inode_id: segment,
            });
        }
    }
    entry
}

/// The number of the first of our own namespaces.
const OWN_NAMESPACES: u32 = 1;

/// `CLONE_NEW*` of the kinds of namespace, in their order.
const NAMESPACE_FLAGS: [i32; KINDS.len()] = [
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWTIME,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWCGROUP,
];

fn inotify_watch(id: u32, watch: &InotifyWatch) -> proto::InotifyWdEntry {
    proto::InotifyWdEntry {
        id,
        i_ino: watch.line.inode,
        mask: watch.line.mask,
        ignored_mask: watch.line.ignored_mask,
        s_dev: watch.line.device,
        wd: watch.line.watch,
        f_handle: handle(&watch.watched),
    }
}

fn fanotify_mark(id: u32, mark: &FanotifyMark) -> proto::FanotifyMarkEntry {
    let (inode, mount) = match &mark.on {
        MarkedThing::File { inode, watched } => {
            let entry = proto::FanotifyInodeMarkEntry {
                i_ino: *inode,
                f_handle: handle(watched),
            };
            (Some(entry), None)
        }
        MarkedThing::Mount { mount, path } => {
            let entry = proto::FanotifyMountMarkEntry {
                mnt_id: *mount,
                path: Some(path.as_os_str().as_bytes().to_vec()),
            };
            (None, Some(entry))
        }
    };
    let kind = if inode.is_some() {
        proto::MarkType::Inode
    } else {
        proto::MarkType::Mount
    };
    proto::FanotifyMarkEntry {
        id,
        r#type: kind.into(),
        mflags: mark.flags,
        mask: mark.mask,
        ignored_mask: mark.ignored_mask,
        s_dev: mark.device,
        ie: inode,
        me: mount,
    }
}

fn handle(watched: &Watched) -> proto::FhEntry {
    const WORDS: usize = 16;
    let mut bytes = watched.handle.bytes.clone();
    bytes.resize((8 * WORDS).max(bytes.len().next_multiple_of(8)), 0);
    let words = bytes.chunks_exact(8).map(|word| {
        word.iter()
            .rev()
            .fold(0, |all, byte| all << 8 | u64::from(*byte))
    });
    proto::FhEntry {
        bytes: u32::try_from(watched.handle.bytes.len()).unwrap_or(0),
        r#type: watched.handle.kind,
        handle: words.collect(),
        path: watched
            .path
            .as_ref()
            .map(|path| path.as_os_str().as_bytes().to_vec()),
        mnt_id: None,
    }
}

/// The images keep inodes of pipes and device numbers in 32 bits, as the kernel gives them out.
pub(super) fn low_half(inode: u64) -> u32 {
    let [a, b, c, d, ..] = inode.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn fown(owner: Owner) -> proto::FownEntry {
    proto::FownEntry {
        uid: owner.uid,
        euid: owner.euid,
        signum: owner.signal,
        pid_type: owner.kind,
        pid: owner.id,
    }
}

fn epoll_target(target: &EpollTarget) -> proto::EventpollTfdEntry {
    proto::EventpollTfdEntry {
        id: 0,
        tfd: target.fd.0.cast_unsigned(),
        events: target.line.events,
        data: target.line.data,
        dev: Some(target.line.device),
        inode: Some(target.line.inode),
        pos: Some(target.line.position),
    }
}

/// Writes the entry and the bytes of one pipe (`pipes-data`) or FIFO (`fifo-data`).
///
/// # Errors
/// Writing.
pub fn write_pipe_content(writer: &mut ImageWriter, content: &PipeContent) -> Result<()> {
    writer.entry(&proto::PipeDataEntry {
        pipe_id: low_half(content.pipe),
        bytes: u32::try_from(content.bytes.len()).unwrap_or(u32::MAX),
        size: Some(content.room_bytes),
    })?;
    writer.raw(&content.bytes)
}

/// Writes a `ghost-file-` image.
///
/// # Errors
/// Writing.
pub fn write_ghost(writer: &mut ImageWriter, ghost: &Ghost) -> Result<()> {
    let stat = &ghost.stat;
    let time = |seconds: i64, nanoseconds: i64| proto::Timeval {
        tv_sec: seconds.cast_unsigned(),
        tv_usec: nanoseconds.cast_unsigned() / 1000,
    };
    let kind = stat.st_mode & libc::S_IFMT;
    let is_regular = kind == libc::S_IFREG;
    let is_device = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
    writer.entry(&proto::GhostFileEntry {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode,
        dev: Some(low_half(kernel_device(stat.st_dev))),
        ino: Some(stat.st_ino),
        rdev: is_device.then(|| low_half(stat.st_rdev)),
        atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
        mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
        chunks: is_regular.then_some(true),
        size: is_regular.then(|| stat.st_size.cast_unsigned()),
        symlnk_target: ghost.leads_to.clone(),
    })?;
    for chunk in &ghost.chunks {
        writer.entry(&proto::GhostChunkEntry {
            len: chunk.bytes.len() as u64,
            off: chunk.offset,
        })?;
        writer.raw(&chunk.bytes)?;
    }
    Ok(())
}

/// Writes the `remap-fpath` entries that lead from paths to ghosts, links and helpers.
///
/// # Errors
/// Writing.
pub fn write_remaps(writer: &mut ImageWriter, ghosts: &[Ghost], remaps: &[Remap]) -> Result<()> {
    const LINKED: i32 = 0;
    const GHOST: i32 = 1;
    const PROCFS: i32 = 2;
    // Restore removes them again in this order, a folder behind what is in it.
    let mut ghosts: Vec<&Ghost> = ghosts.iter().collect();
    ghosts.sort_by_key(|ghost| Reverse(ghost.depth));
    let of_ghosts = ghosts.into_iter().flat_map(|ghost| {
        let entries = ghost.entries.iter();
        entries.map(|entry| (*entry, ghost.number, GHOST))
    });
    let others = remaps.iter().map(|remap| match *remap {
        Remap::Linked { entry, link } => (entry, link.number(), LINKED),
        Remap::DeadProcess { entry, pid } => (entry, pid, PROCFS),
    });
    for (entry, remap_id, kind) in of_ghosts.chain(others) {
        writer.entry(&proto::RemapFilePathEntry {
            orig_id: entry.number(),
            remap_id,
            remap_type: Some(kind),
        })?;
    }
    Ok(())
}

/// The `memfd` entry of a segment.
#[must_use]
pub fn memfd_entry(segment: &Segment) -> proto::MemfdInodeEntry {
    let stat = &segment.stat;
    proto::MemfdInodeEntry {
        name: segment.name.clone(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size.cast_unsigned(),
        shmid: low_half(stat.st_ino),
        seals: segment.seals,
        inode_id: u64::from(segment.number),
        hugetlb_flag: (segment.page_bytes > PAGE_BYTES).then(|| hugetlb_flags(segment.page_bytes)),
        mode: Some(stat.st_mode),
    }
}
