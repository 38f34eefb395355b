//! Open files and mappings in a few words.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::folder::{Body, Folder, OpenFile, kind_name, readable};
use crate::image::memory::status;
use crate::image::proto;

/// What an open file is, without ids: the same file in another dump reads the same, as long as
/// nothing happened to it.
#[must_use]
pub fn file(folder: &Folder, file: &OpenFile) -> String {
    match &file.body {
        Body::Reg(reg) => readable(&reg.name),
        Body::Pipe(pipe) => format!("pipe {}, {}", pipe.pipe_id, access(pipe.flags)),
        Body::Fifo(fifo) => {
            let path = fifo.regf_id.and_then(|id| folder.file(id));
            match path.map(|file| &file.body) {
                Some(Body::Reg(reg)) => readable(&reg.name),
                _ => format!("fifo {}", fifo.pipe_id),
            }
        }
        Body::Inet(socket) => inet(socket),
        Body::Unix(socket) => unix(socket),
        Body::Eventfd(event) => format!("count {}", event.counter),
        Body::Epoll(epoll) => {
            let fds: Vec<String> = epoll
                .tfd
                .iter()
                .take(8)
                .map(|one| one.tfd.to_string())
                .collect();
            let more = epoll.tfd.len().saturating_sub(8);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            format!("waits for fds {}{more}", fds.join(" "))
        }
        Body::Signalfd(signals) => format!("signals {:#x}", signals.sigmask),
        Body::Timerfd(timer) => format!(
            "clock {}, {}.{:09} s left",
            timer.clockid, timer.vsec, timer.vnsec
        ),
        Body::Memfd(memfd) => {
            let segments = folder.segments.iter().filter_map(|one| one.entry.as_ref());
            let mut segments = segments.filter(|one| one.inode_id == u64::from(memfd.inode_id));
            match segments.next() {
                Some(segment) => format!("{:?}, {} bytes", readable(&segment.name), segment.size),
                None => format!("inode {}", memfd.inode_id),
            }
        }
        Body::Tty(tty) => format!("terminal {}", tty.tty_info_id),
        Body::Pidfd(pidfd) => format!("process {}", pidfd.nspid),
        Body::Inotify(watches) => format!("{} watches", watches.wd.len()),
        Body::Fanotify(marks) => format!("{} marks", marks.mark.len()),
        Body::Netlink(socket) => format!("protocol {}, port {}", socket.protocol, socket.portid),
        Body::Packet(socket) => format!("protocol {:#x}", socket.protocol),
        Body::Namespace(namespace) => format!("namespace {}", namespace.ns_id),
        Body::Tun(tun) => format!("device {}", readable(tun.netdev())),
        Body::External(_) | Body::BpfMap(_) | Body::Other => String::new(),
    }
}

/// How a file was opened.
fn access(flags: u32) -> &'static str {
    match flags & 3 {
        0 => "read end",
        1 => "write end",
        _ => "both ends",
    }
}

fn inet(socket: &proto::InetSkEntry) -> String {
    let kind = match (socket.proto, socket.r#type) {
        (6, _) => "tcp",
        (17, _) => "udp",
        (136, _) => "udplite",
        (_, 3) => "raw",
        _ => "inet",
    };
    let state = match socket.state {
        1 => "connected",
        7 => "closed",
        10 => "listens",
        _ => "closing",
    };
    let mut text = format!("{kind} {}", address(&socket.src_addr, socket.src_port));
    if socket.dst_port != 0 {
        let _ = write!(text, " to {}", address(&socket.dst_addr, socket.dst_port));
    }
    if kind == "tcp" {
        let _ = write!(text, ", {state}");
    }
    text
}

/// Addresses are raw network bytes, in words of the machine.
fn address(words: &[u32], port: u32) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        format!("{}:{port}", Ipv4Addr::from(four))
    } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes.as_slice()) {
        format!("[{}]:{port}", Ipv6Addr::from(sixteen))
    } else {
        format!("port {port}")
    }
}

fn unix(socket: &proto::UnixSkEntry) -> String {
    let kind = match socket.r#type {
        1 => "stream",
        2 => "datagram",
        5 => "packets",
        _ => "unix",
    };
    let state = match socket.state {
        10 => ", listens",
        1 if socket.peer != 0 => ", connected",
        _ => "",
    };
    match socket.name.split_first() {
        None => format!("{kind}{state}"),
        Some((0, rest)) => format!("{kind} @{}{state}", readable(rest)),
        Some(_) => format!("{kind} {}{state}", readable(&socket.name)),
    }
}

/// What a mapping shows.
#[must_use]
pub fn mapping(folder: &Folder, vma: &proto::VmaEntry) -> String {
    let has = |bit| vma.status & bit != 0;
    if has(status::FILE_PRIVATE | status::FILE_SHARED | status::SOCKET) {
        let shown = u32::try_from(vma.shmid).ok().and_then(|id| folder.file(id));
        return match shown {
            Some(shown) => {
                let text = file(folder, shown);
                if has(status::MEMFD) {
                    format!("shared memory {text}")
                } else {
                    text
                }
            }
            None => format!("file {}", vma.shmid),
        };
    }
    let name = [
        (status::VDSO, "[vdso]"),
        (status::VVAR, "[vvar]"),
        (status::VSYSCALL, "[vsyscall]"),
        (status::HEAP, "[heap]"),
        (status::AIO_RING, "[aio]"),
        (status::GUARD, "[guard]"),
        (status::ANON_SHARED, "shared memory"),
        (status::SYSVIPC, "System V shared memory"),
    ];
    let known = name.iter().find(|(bit, _)| has(*bit));
    known.map_or_else(String::new, |(_, name)| (*name).to_owned())
}

/// Protection and sharing of a mapping, as `/proc/PID/maps` shows them.
#[must_use]
pub fn protection(vma: &proto::VmaEntry) -> String {
    let letter = |bit: u32, letter: char| if vma.prot & bit != 0 { letter } else { '-' };
    let shared = if vma.flags & 1 != 0 { 's' } else { 'p' };
    [letter(1, 'r'), letter(2, 'w'), letter(4, 'x'), shared]
        .iter()
        .collect()
}

/// Kinds of open files and how many there are of each, most first.
#[must_use]
pub fn kinds(folder: &Folder, descriptors: &[proto::FdinfoEntry]) -> Vec<(String, usize)> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for one in descriptors {
        let kind = folder.file(one.id).map_or(one.r#type, |file| file.kind);
        let name = kind_name(kind);
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}
