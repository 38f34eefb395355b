//! Sockets as images: entries of `files`, and `sk-queues`.

use std::os::unix::ffi::OsStrExt;

use super::framing::ImageWriter;
use super::proto;
use crate::collect::sockets::{InetSocket, SocketOptions, SocketQueue, UnixSocket};
use crate::error::Result;
use crate::ids::ObjectId;

/// Number of the network namespace of a host tree.
const HOST_NET_NS: u32 = 2;

/// The entry of a unix socket.
pub(super) fn unix_entry(
    id: u32,
    flags: u32,
    fown: proto::FownEntry,
    socket: &UnixSocket,
) -> proto::UnixSkEntry {
    let diag = &socket.diag;
    let name = socket.name.as_ref();
    proto::UnixSkEntry {
        id,
        ino: diag.inode,
        r#type: u32::from(diag.kind),
        state: u32::from(diag.state),
        flags,
        uflags: u32::from(socket.is_outside),
        backlog: diag.send_queue,
        peer: diag.peer,
        fown,
        opts: sk_opts(&socket.options, Family::Unix),
        name: diag.name.clone(),
        shutdown: (diag.shutdown != 0).then_some(i32::from(diag.shutdown)),
        file_perms: name.map(|name| proto::FilePermsEntry {
            mode: name.mode,
            uid: name.owner.0,
            gid: name.owner.1,
        }),
        name_dir: name
            .and_then(|name| name.folder.as_ref())
            .map(|folder| folder.as_os_str().as_bytes().to_vec()),
        deleted: name.filter(|name| name.is_deleted).map(|_| true),
        ns_id: (!socket.is_outside).then_some(HOST_NET_NS),
        mnt_id: None,
    }
}

/// The entry of an internet socket.
pub(super) fn inet_entry(
    id: u32,
    flags: u32,
    fown: proto::FownEntry,
    socket: &InetSocket,
) -> proto::InetSkEntry {
    proto::InetSkEntry {
        id,
        ino: socket.inode,
        family: socket.family,
        r#type: socket.kind,
        proto: socket.protocol,
        state: u32::from(socket.state),
        src_port: u32::from(socket.own.0),
        dst_port: u32::from(socket.peer.0),
        flags,
        backlog: socket.backlog,
        src_addr: socket.own.1.clone(),
        dst_addr: socket.peer.1.clone(),
        fown,
        opts: sk_opts(&socket.options, Family::Inet),
        v6only: socket.v6_only,
        ip_opts: Some(proto::IpOptsEntry {
            freebind: socket.ip.freebind.then_some(true),
            raw: None,
            pktinfo: socket.ip.packet_info.then_some(true),
            tos: Some(socket.ip.tos),
            ttl: Some(socket.ip.ttl),
        }),
        ifname: socket.device.clone(),
        ns_id: Some(HOST_NET_NS),
        shutdown: (socket.shutdown != 0).then_some(i32::from(socket.shutdown)),
        tcp_opts: socket.tcp.map(|tcp| proto::TcpOptsEntry {
            cork: tcp.cork.then_some(true),
            nodelay: tcp.nodelay.then_some(true),
            keepcnt: Some(tcp.keepalive.0),
            keepidle: Some(tcp.keepalive.1),
            keepintvl: Some(tcp.keepalive.2),
        }),
    }
}

/// Writes the messages that wait in a socket.
///
/// # Errors
/// Writing.
pub fn write_queue(writer: &mut ImageWriter, queue: &SocketQueue) -> Result<()> {
    for message in &queue.messages {
        writer.entry(&proto::SkPacketEntry {
            id_for: queue.receiver.number(),
            length: u32::try_from(message.bytes.len()).unwrap_or(u32::MAX),
            scm: scm_rights(&message.rights),
        })?;
        writer.raw(&message.bytes)?;
    }
    Ok(())
}

/// The control message that carries open files; there is at most one.
fn scm_rights(files: &[ObjectId]) -> Vec<proto::ScmEntry> {
    const SCM_RIGHTS: u32 = 1;
    let rights: Vec<u32> = files.iter().map(|file| file.number()).collect();
    let one = (!rights.is_empty()).then_some(proto::ScmEntry {
        r#type: SCM_RIGHTS,
        rights,
    });
    one.into_iter().collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Unix,
    Inet,
}

fn sk_opts(options: &SocketOptions, family: Family) -> proto::SkOptsEntry {
    let (sndbuf, rcvbuf) = options.buffers;
    proto::SkOptsEntry {
        so_sndbuf: sndbuf,
        so_rcvbuf: rcvbuf,
        so_snd_tmo_sec: options.send_timeout.0,
        so_snd_tmo_usec: options.send_timeout.1,
        so_rcv_tmo_sec: options.receive_timeout.0,
        so_rcv_tmo_usec: options.receive_timeout.1,
        reuseaddr: Some(options.reuse_address),
        so_priority: Some(options.priority),
        so_rcvlowat: Some(options.receive_low_water),
        so_mark: (options.mark != 0).then_some(options.mark),
        so_passcred: (family == Family::Unix).then_some(options.pass_credentials),
        so_passsec: (family == Family::Unix).then_some(options.pass_security),
        so_dontroute: Some(options.dont_route),
        so_no_check: Some(options.no_check),
        so_bound_dev: options.device.clone(),
        so_filter: options.filter.clone(),
        so_reuseport: Some(options.reuse_port),
        so_broadcast: Some(options.broadcast),
        so_keepalive: Some(options.keepalive),
        so_oobinline: Some(u32::from(options.out_of_band_inline)),
        so_linger: options.linger,
        so_buf_lock: Some(options.buffer_locks),
        ..Default::default()
    }
}
