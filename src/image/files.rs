//! Open files as images: `files`, `fdinfo-`, `pipes-data`, `fifo-data`, `remap-fpath`,
//! `ghost-file-`, `memfd`, `pagemap-shmem-`.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;

use super::framing::ImageWriter;
use super::proto;
use super::sockets::{inet_entry, unix_entry};
use crate::collect::files::{
    DescriptorTable, EpollTarget, FileKind, Ghost, OpenFile, PipeContent, Segment,
};
use crate::collect::memory::PAGE_BYTES;
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
    Signalfd = 9,
    Timerfd = 17,
    Memfd = 18,
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
            FileKind::Socket(socket) => match **socket {
                Socket::Unix(_) => Self::Unixsk,
                Socket::Inet(_) => Self::Inetsk,
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
            entry.tfd = Some(proto::TimerfdEntry {
                id,
                flags,
                fown,
                clockid: timer.clock,
                ticks: timer.ticks,
                settime_flags: timer.settime_flags,
                vsec: timer.value.0,
                vnsec: timer.value.1,
                isec: timer.interval.0,
                insec: timer.interval.1,
            });
        }
        FileKind::Socket(socket) => match *socket {
            Socket::Unix(socket) => entry.usk = Some(unix_entry(id, flags, fown, &socket)),
            Socket::Inet(socket) => entry.isk = Some(inet_entry(id, flags, fown, &socket)),
        },
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

/// The images keep inodes of pipes and device numbers in 32 bits, as the kernel gives them out.
fn low_half(inode: u64) -> u32 {
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
    writer.entry(&proto::GhostFileEntry {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode,
        dev: Some(low_half(stat.st_dev)),
        ino: Some(stat.st_ino),
        rdev: None,
        atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
        mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
        chunks: Some(true),
        size: Some(stat.st_size.cast_unsigned()),
        symlnk_target: None,
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

/// Writes the `remap-fpath` entries that lead from paths to ghosts.
///
/// # Errors
/// Writing.
pub fn write_remaps(writer: &mut ImageWriter, ghosts: &[Ghost]) -> Result<()> {
    const GHOST: i32 = 1;
    for ghost in ghosts {
        for entry in &ghost.entries {
            writer.entry(&proto::RemapFilePathEntry {
                orig_id: entry.number(),
                remap_id: ghost.number,
                remap_type: Some(GHOST),
            })?;
        }
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
