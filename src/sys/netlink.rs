//! `sock_diag(7)`: what the kernel tells of all sockets of the network namespace.
//!
//! The parsers take bytes and trust none of them.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
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
