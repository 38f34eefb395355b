//! netlink(7): what the kernel tells of all sockets of the network namespace (`sock_diag(7)`), and
//! who changes its packet filter rules.
//!
//! The parsers take bytes and trust none of them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    socket,
};

/// A unix socket, as `unix_diag` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixDiag {
    /// `SOCK_*`.
    pub kind: u8,
    /// 1 connected, 7 neither, 10 listening.
    pub state: u8,
    /// Its inode.
    pub inode: u32,
    /// Its address as in `sun_path`; empty when not bound.
    pub name: Vec<u8>,
    /// Inode and device of the file it is bound to.
    pub file: Option<(u32, u32)>,
    /// Inode of the other end.
    pub peer: u32,
    /// Inodes of those who wait to be accepted; 0 for one that is gone.
    pub pending: Vec<u32>,
    /// Bytes (listening: connections) that wait in it.
    pub receive_queue: u32,
    /// Bytes it has sent that wait at the other end; listening: room for connections.
    pub send_queue: u32,
    /// 1 receiving, 2 sending, 3 both are shut down.
    pub shutdown: u8,
}

/// An IPv4 or IPv6 socket, as `inet_diag` describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InetDiag {
    /// Its inode.
    pub inode: u32,
    /// `TCP_*` state number.
    pub state: u8,
    /// Bytes that wait to be received.
    pub receive_queue: u32,
    /// Bytes that wait to be sent.
    pub send_queue: u32,
    /// 1 receiving, 2 sending, 3 both are shut down.
    pub shutdown: u8,
}

/// A netlink socket, as `netlink_diag` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetlinkDiag {
    /// `NETLINK_*`.
    pub protocol: u8,
    /// 0 unconnected, 1 connected.
    pub state: u8,
    /// Own address.
    pub port: u32,
    /// Address and group of the other side.
    pub peer: (u32, u32),
    /// Its inode.
    pub inode: u32,
    /// The groups it is in, 32 to a word.
    pub groups: Vec<u32>,
}

/// A packet socket, as `packet_diag` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketDiag {
    /// `SOCK_*`.
    pub kind: u8,
    /// `ETH_P_*`.
    pub protocol: u16,
    /// Its inode.
    pub inode: u32,
    /// Device, `PACKET_VERSION`, `PACKET_RESERVE`, `PACKET_COPY_THRESH`, `PACKET_TIMESTAMP`, and
    /// switches: 2 `PACKET_AUXDATA`, 4 `PACKET_ORIGDEV`, 8 `PACKET_VNET_HDR`, 16 `PACKET_LOSS`.
    pub info: [u32; 6],
    /// Addresses it listens to.
    pub memberships: Vec<PacketMembership>,
    /// Rings for receiving and for sending, as `struct packet_diag_ring` has them.
    pub rings: [Option<[u32; 7]>; 2],
    /// `PACKET_FANOUT`.
    pub fanout: Option<u32>,
}

/// An address that a packet socket listens to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketMembership {
    /// The device.
    pub device: u32,
    /// How often it was asked for.
    pub count: u32,
    /// `PACKET_MR_*`.
    pub kind: u16,
    /// The address.
    pub address: Vec<u8>,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const HEADER_BYTES: usize = 16;

/// Every unix socket.
///
/// # Errors
/// Those of netlink(7); `ENOENT` a kernel without unix_diag.
pub fn unix_sockets() -> Result<Vec<UnixDiag>, Errno> {
    const SHOW_ALL_BUT_MEMORY: u32 = 0x1f;
    let mut request = vec![1_u8, 0, 0, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.extend_from_slice(&SHOW_ALL_BUT_MEMORY.to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]);
    let mut found = Vec::new();
    dump(&request, |message| found.extend(parse_unix(message)))?;
    Ok(found)
}

/// Every socket of one family (`AF_INET`, `AF_INET6`) and protocol (`IPPROTO_*`).
///
/// # Errors
/// Those of netlink(7); `ENOENT` a protocol that has no diagnosis.
pub fn inet_sockets(family: u8, protocol: u8) -> Result<Vec<InetDiag>, Errno> {
    const SHOW_SHUTDOWN: u8 = 1 << 7;
    const SOCKET_ID_BYTES: usize = 48;
    let mut request = vec![family, protocol, SHOW_SHUTDOWN, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&[0; SOCKET_ID_BYTES]);
    let mut found = Vec::new();
    dump(&request, |message| found.extend(parse_inet(message)))?;
    Ok(found)
}

/// Every netlink socket that has an address.
///
/// # Errors
/// Those of netlink(7); `ENOENT` a kernel without netlink_diag.
pub fn netlink_sockets() -> Result<Vec<NetlinkDiag>, Errno> {
    const FAMILY: u8 = 16;
    const ALL_PROTOCOLS: u8 = 255;
    const SHOW_GROUPS: u32 = 2;
    let request = diag_request(FAMILY, ALL_PROTOCOLS, SHOW_GROUPS);
    let mut found = Vec::new();
    dump(&request, |message| found.extend(parse_netlink(message)))?;
    Ok(found)
}

/// Every packet socket.
///
/// # Errors
/// Those of netlink(7); `ENOENT` a kernel without packet_diag.
pub fn packet_sockets() -> Result<Vec<PacketDiag>, Errno> {
    const FAMILY: u8 = 17;
    /// Information, memberships, rings, fanout.
    const SHOW: u32 = 1 | 2 | 4 | 8;
    let mut found = Vec::new();
    dump(&diag_request(FAMILY, 0, SHOW), |message| {
        found.extend(parse_packet(message));
    })?;
    Ok(found)
}

fn diag_request(family: u8, protocol: u8, show: u32) -> Vec<u8> {
    let mut request = vec![family, protocol, 0, 0];
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.extend_from_slice(&show.to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]);
    request
}

/// Hears of changes of the packet filter rules, once they are in force.
#[derive(Debug)]
pub struct RuleChanges(OwnedFd);

impl RuleChanges {
    /// Begins to listen.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`; `EPROTONOSUPPORT` a kernel without packet filters.
    pub fn listen() -> Result<Self, Errno> {
        const NFNLGRP_NFTABLES: u32 = 7;
        let netlink = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        let groups = 1 << (NFNLGRP_NFTABLES - 1);
        bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self(netlink))
    }

    /// The processes that have changed them since this was last asked, in the kernel's numbers.
    #[must_use]
    pub fn authors(&self) -> Vec<u32> {
        let mut authors = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(received) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            let mut rest = &buffer[..received];
            while let Some((kind, payload, next)) = split_message(rest) {
                authors.extend(parse_author(kind, payload));
                rest = next;
            }
        }
        authors
    }
}

impl AsFd for RuleChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Who has made a new generation of the rules, which is the last message of a change.
fn parse_author(kind: u16, message: &[u8]) -> Option<u32> {
    const NEW_GENERATION: u16 = 10 << 8 | 15;
    const FIXED_BYTES: usize = 4;
    const PROCESS: u16 = 2;
    if kind != NEW_GENERATION {
        return None;
    }
    let mut told = attributes(message.get(FIXED_BYTES..)?);
    let (_, pid) = told.find(|(kind, _)| *kind == PROCESS)?;
    Some(u32::from_be(word(pid, 0)?))
}

/// Sends one dump request and hands every answer's payload over.
fn dump(request: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), Errno> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let len = u32::try_from(HEADER_BYTES + request.len()).map_err(|_| Errno::EMSGSIZE)?;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(request);
    sendto(
        netlink.as_raw_fd(),
        &message,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let received = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..received];
        while let Some((kind, payload, next)) = split_message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = word(payload, 0).unwrap_or(0).cast_signed();
                    return Err(Errno::from_raw(-code));
                }
                _ => take(payload),
            }
            rest = next;
        }
    }
}

/// Type and payload of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = word(bytes, 0)? as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let payload = bytes.get(HEADER_BYTES..len)?;
    let next = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, payload, next))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The attributes behind a fixed part: type and payload.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        let payload = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

fn parse_unix(message: &[u8]) -> Option<UnixDiag> {
    const FIXED_BYTES: usize = 16;
    let mut diag = UnixDiag {
        kind: *message.get(1)?,
        state: *message.get(2)?,
        inode: word(message, 4)?,
        ..UnixDiag::default()
    };
    for (kind, payload) in attributes(message.get(FIXED_BYTES..)?) {
        match kind {
            0 => diag.name = payload.to_vec(),
            1 => diag.file = Some((word(payload, 0)?, word(payload, 4)?)),
            2 => diag.peer = word(payload, 0)?,
            3 => {
                diag.pending = (0..payload.len() / 4)
                    .filter_map(|index| word(payload, index * 4))
                    .collect()
            }
            4 => (diag.receive_queue, diag.send_queue) = (word(payload, 0)?, word(payload, 4)?),
            6 => diag.shutdown = *payload.first()?,
            _ => {}
        }
    }
    Some(diag)
}

fn parse_inet(message: &[u8]) -> Option<InetDiag> {
    const RECEIVE_QUEUE_OFFSET: usize = 56;
    const SEND_QUEUE_OFFSET: usize = 60;
    const INODE_OFFSET: usize = 68;
    const FIXED_BYTES: usize = 72;
    const SHUTDOWN: u16 = 8;
    let shutdown = attributes(message.get(FIXED_BYTES..)?).find(|(kind, _)| *kind == SHUTDOWN);
    Some(InetDiag {
        state: *message.get(1)?,
        receive_queue: word(message, RECEIVE_QUEUE_OFFSET)?,
        send_queue: word(message, SEND_QUEUE_OFFSET)?,
        inode: word(message, INODE_OFFSET)?,
        shutdown: shutdown
            .and_then(|(_, payload)| payload.first().copied())
            .unwrap_or(0),
    })
}

fn parse_netlink(message: &[u8]) -> Option<NetlinkDiag> {
    const FIXED_BYTES: usize = 28;
    const GROUPS: u16 = 1;
    let groups = attributes(message.get(FIXED_BYTES..)?).find(|(kind, _)| *kind == GROUPS);
    Some(NetlinkDiag {
        protocol: *message.get(2)?,
        state: *message.get(3)?,
        port: word(message, 4)?,
        peer: (word(message, 8)?, word(message, 12)?),
        inode: word(message, 16)?,
        groups: groups.map_or(Vec::new(), |(_, payload)| words(payload)),
    })
}

fn parse_packet(message: &[u8]) -> Option<PacketDiag> {
    const FIXED_BYTES: usize = 16;
    const MEMBERSHIP_BYTES: usize = 44;
    let mut diag = PacketDiag {
        kind: *message.get(1)?,
        protocol: half(message, 2)?,
        inode: word(message, 4)?,
        ..PacketDiag::default()
    };
    for (kind, payload) in attributes(message.get(FIXED_BYTES..)?) {
        match kind {
            0 => diag.info = words(payload).try_into().ok()?,
            1 => {
                for one in payload.chunks_exact(MEMBERSHIP_BYTES) {
                    let length = usize::from(half(one, 10)?);
                    diag.memberships.push(PacketMembership {
                        device: word(one, 0)?,
                        count: word(one, 4)?,
                        kind: half(one, 8)?,
                        address: one.get(12..12 + length)?.to_vec(),
                    });
                }
            }
            2 | 3 => diag.rings[usize::from(kind) - 2] = Some(words(payload).try_into().ok()?),
            4 => diag.fanout = Some(word(payload, 0)?),
            _ => {}
        }
    }
    Some(diag)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn inode(socket: &impl AsRawFd) -> u32 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap();
        text.trim_start_matches("socket:[")
            .trim_end_matches(']')
            .parse()
            .unwrap()
    }

    #[test]
    fn a_pair_knows_its_ends() {
        let (a, b) = UnixStream::pair().unwrap();
        let all = unix_sockets().unwrap();
        let found = all.iter().find(|diag| diag.inode == inode(&a)).unwrap();
        assert_eq!((found.peer, found.state, found.kind), (inode(&b), 1, 1));
    }

    #[test]
    fn a_listener_knows_who_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let all = unix_sockets().unwrap();
        let found = all
            .iter()
            .find(|diag| diag.inode == inode(&listener))
            .unwrap();
        assert_eq!((found.state, &found.pending), (10, &vec![inode(&client)]));
        assert_eq!(found.name.last(), Some(&0), "a path ends with a zero byte");
    }

    #[test]
    fn a_listening_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let all = inet_sockets(2, 6).unwrap();
        assert_eq!(
            all.iter()
                .find(|diag| diag.inode == inode(&listener))
                .unwrap()
                .state,
            10
        );
    }

    #[test]
    fn a_netlink_socket_with_an_address_is_found() {
        let own = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        );
        let own = own.unwrap();
        nix::sys::socket::bind(own.as_raw_fd(), &NetlinkAddr::new(0, 1 << 3)).unwrap();
        let all = netlink_sockets().unwrap();
        let found = all.iter().find(|diag| diag.inode == inode(&own)).unwrap();
        assert_eq!((found.protocol, found.groups[0]), (0, 1 << 3));
        assert_ne!(found.port, 0);
    }

    #[test]
    fn a_packet_socket_as_the_kernel_describes_it() {
        let mut message = vec![17, 3, 8, 6, 77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend([28, 0, 0, 0]);
        for word in [1_u32, 2, 3, 4, 5, 6] {
            message.extend(word.to_ne_bytes());
        }
        message.extend([48, 0, 1, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0, 6, 0]);
        message.extend([7; 32]);
        message.extend([8, 0, 4, 0, 0xaa, 0, 0, 0]);
        let diag = parse_packet(&message).unwrap();
        assert_eq!(
            (diag.kind, diag.inode, diag.info),
            (3, 77, [1, 2, 3, 4, 5, 6])
        );
        assert_eq!(diag.protocol, u16::from_ne_bytes([8, 6]));
        assert_eq!(diag.memberships[0].address, [7; 6]);
        assert_eq!(diag.fanout, Some(0xaa));
        for cut in 0..16 {
            assert_eq!(parse_packet(&message[..cut]), None);
        }
    }

    #[test]
    fn cut_messages_are_no_sockets() {
        let whole = [
            1_u8, 1, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 2, 0, 7, 0, 0, 0,
        ];
        assert_eq!(parse_unix(&whole).unwrap().peer, 7);
        for cut in 0..whole.len() {
            assert_ne!(parse_unix(&whole[..cut]).map(|diag| diag.peer), Some(7));
        }
    }
}
