//! Sockets as images: entries of `files`, and `sk-queues`.

use std::os::unix::ffi::OsStrExt;

use super::framing::ImageWriter;
use super::proto;
use crate::collect::sockets::{
    InetSocket, NetlinkSocket, PacketSocket, RawOptions, SocketOptions, SocketQueue, UnixSocket,
};
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
            raw: socket.raw.as_ref().map(raw_entry),
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

fn raw_entry(raw: &RawOptions) -> proto::IpOptsRawEntry {
    proto::IpOptsRawEntry {
        hdrincl: raw.with_header.then_some(true),
        nodefrag: raw.no_defragmentation.then_some(true),
        checksum: None,
        icmpv_filter: raw.filter.clone(),
    }
}

/// The entry of a netlink socket.
pub(super) fn netlink_entry(
    id: u32,
    flags: u32,
    fown: proto::FownEntry,
    socket: &NetlinkSocket,
) -> proto::NetlinkSkEntry {
    let diag = &socket.diag;
    proto::NetlinkSkEntry {
        id,
        ino: diag.inode,
        protocol: u32::from(diag.protocol),
        state: u32::from(diag.state),
        flags,
        portid: diag.port,
        groups: diag.groups.clone(),
        dst_portid: diag.peer.0,
        dst_group: diag.peer.1,
        fown,
        opts: sk_opts(&socket.options, Family::Netlink),
        ns_id: Some(HOST_NET_NS),
    }
}

/// The entry of a packet socket.
pub(super) fn packet_entry(
    id: u32,
    flags: u32,
    fown: proto::FownEntry,
    socket: &PacketSocket,
) -> proto::PacketSockEntry {
    let diag = &socket.diag;
    let [ifindex, version, reserve, copy_thresh, timestamp, switches] = diag.info;
    let ring = |words: &[u32; 7]| {
        let [
            block_size,
            block_nr,
            frame_size,
            frame_nr,
            retire_tmo,
            sizeof_priv,
            features,
        ] = *words;
        proto::PacketRing {
            block_size,
            block_nr,
            frame_size,
            frame_nr,
            retire_tmo,
            sizeof_priv,
            features,
        }
    };
    proto::PacketSockEntry {
        id,
        r#type: u32::from(diag.kind),
        protocol: u32::from(diag.protocol.to_be()),
        flags,
        ifindex,
        fown,
        opts: sk_opts(&socket.options, Family::Packet),
        version,
        reserve,
        aux_data: switches & 2 != 0,
        orig_dev: switches & 4 != 0,
        vnet_hdr: switches & 8 != 0,
        loss: switches & 16 != 0,
        timestamp,
        copy_thresh,
        mclist: diag
            .memberships
            .iter()
            .map(|one| proto::PacketMclist {
                index: one.device,
                r#type: u32::from(one.kind),
                addr: one.address.clone(),
            })
            .collect(),
        fanout: diag.fanout,
        rx_ring: diag.rings[0].as_ref().map(ring),
        tx_ring: diag.rings[1].as_ref().map(ring),
        ns_id: Some(HOST_NET_NS),
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
    Netlink,
    Packet,
}

/// An instruction (`struct sock_filter`: code, jt, jf, k from the lowest byte on) as the images
/// have it: the same from the highest byte on.
fn filter_word(instruction: u64) -> u64 {
    let code = instruction & 0xffff;
    let (jump_true, jump_false) = (instruction >> 16 & 0xff, instruction >> 24 & 0xff);
    code << 48 | jump_true << 40 | jump_false << 32 | instruction >> 32
}

fn sk_opts(options: &SocketOptions, family: Family) -> proto::SkOptsEntry {
    let (sndbuf, rcvbuf) = options.buffers;
    let passes = matches!(family, Family::Unix | Family::Netlink);
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
        so_passcred: passes.then_some(options.pass_credentials),
        so_passsec: passes.then_some(options.pass_security),
        so_dontroute: Some(options.dont_route),
        so_no_check: Some(options.no_check),
        so_bound_dev: options.device.clone(),
        so_filter: options.filter.iter().copied().map(filter_word).collect(),
        so_reuseport: Some(options.reuse_port),
        so_broadcast: Some(options.broadcast),
        so_keepalive: Some(options.keepalive),
        so_oobinline: Some(u32::from(options.out_of_band_inline)),
        so_linger: options.linger,
        so_buf_lock: Some(options.buffer_locks),
        ..Default::default()
    }
}
