//! IPv4 and IPv6 sockets without a TCP connection.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::{SocketOptions, Sockets, foreign};
use crate::error::{Error, Result, ResultExt, Target};
use crate::sys::socket::{self, End};

const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;

/// An internet socket.
#[derive(Clone, Debug)]
pub struct InetSocket {
    /// Its inode.
    pub inode: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// `SOCK_*`.
    pub kind: u32,
    /// `IPPROTO_*`.
    pub protocol: u32,
    /// `TCP_*` state number; UDP sockets are closed or, with a peer, established.
    pub state: u8,
    /// Room for pending connections of a listener.
    pub backlog: u32,
    /// Own port and address words as they go over the wire.
    pub own: (u16, Vec<u32>),
    /// The same of the other side.
    pub peer: (u16, Vec<u32>),
    /// `IPV6_V6ONLY`.
    pub v6_only: Option<bool>,
    /// 1 receiving, 2 sending, 3 both are shut down.
    pub shutdown: u8,
    /// `SOL_SOCKET` options.
    pub options: SocketOptions,
    /// Options of the IP layer.
    pub ip: IpOptions,
    /// Options of TCP.
    pub tcp: Option<TcpOptions>,
}

/// Options of the IP layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpOptions {
    /// `IP_FREEBIND`.
    pub freebind: bool,
    /// `IP_PKTINFO`, `IPV6_RECVPKTINFO`.
    pub packet_info: bool,
    /// `IP_TOS`.
    pub tos: u32,
    /// `IP_TTL`.
    pub ttl: u32,
}

/// Options of TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// `TCP_CORK`.
    pub cork: bool,
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// `TCP_KEEPCNT`, `TCP_KEEPIDLE`, `TCP_KEEPINTVL`.
    pub keepalive: (u32, u32, u32),
}

impl Sockets {
    pub(super) fn inet(
        &mut self,
        target: &Target,
        inode: u32,
        (family, kind, protocol): (i32, i32, i32),
        fd: BorrowedFd<'_>,
    ) -> Result<InetSocket> {
        let refuse =
            |what: &str, remedy: &str| Err(Error::unsupported(target.clone(), what, remedy));
        let is_tcp = match (kind, protocol) {
            (libc::SOCK_STREAM, libc::IPPROTO_TCP) => true,
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => false,
            _ => {
                return refuse(
                    &format!("an internet socket of type {kind}, protocol {protocol},"),
                    "this kind of socket is not supported yet; let the program close it",
                );
            }
        };
        let peer = match socket::address(fd, End::Peer) {
            Err(Errno::ENOTCONN) => None,
            answer => Some(answer.on("getpeername", target.clone())?),
        };
        let own = socket::address(fd, End::Own).on("getsockname", target.clone())?;
        let (state, backlog) = if is_tcp {
            tcp_state(target, fd)?
        } else {
            (
                if peer.is_some() {
                    TCP_ESTABLISHED
                } else {
                    TCP_CLOSE
                },
                0,
            )
        };
        let own = split_address(&own);
        let diag = self.inet_diag(family, protocol, inode)?;
        if diag.is_none() && (state == TCP_LISTEN || (!is_tcp && own.0 != 0)) {
            return Err(foreign(target));
        }
        Ok(InetSocket {
            inode,
            family: family.cast_unsigned(),
            kind: kind.cast_unsigned(),
            protocol: protocol.cast_unsigned(),
            state,
            backlog,
            peer: peer.map_or((0, vec![0; own.1.len()]), |peer| split_address(&peer)),
            own,
            v6_only: (family == libc::AF_INET6)
                .then(|| int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) != 0),
            shutdown: diag.map_or(0, |diag| diag.shutdown),
            options: SocketOptions::read(target, fd)?,
            ip: ip_options(fd, family),
            tcp: is_tcp.then(|| tcp_options(fd)),
        })
    }
}

/// State of a TCP socket, and room for connections of a listener.
fn tcp_state(target: &Target, fd: BorrowedFd<'_>) -> Result<(u8, u32)> {
    const UNACKED_OFFSET: usize = 24;
    const SACKED_OFFSET: usize = 28;
    let (info, _) = socket::option::<232>(fd, libc::IPPROTO_TCP, libc::TCP_INFO)
        .on("getsockopt TCP_INFO", target.clone())?;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    match info[0] {
        TCP_CLOSE => Ok((TCP_CLOSE, 0)),
        // Of a listener these two words tell pending connections and room for them.
        TCP_LISTEN if word(UNACKED_OFFSET) == 0 => Ok((TCP_LISTEN, word(SACKED_OFFSET))),
        TCP_LISTEN => Err(Error::unsupported(
            target.clone(),
            format!(
                "a listening socket with {} connections that wait to be accepted,",
                word(UNACKED_OFFSET)
            ),
            "let the program accept them and run the dump again; --skip-in-flight is not supported yet",
        )),
        _ => Err(Error::unsupported(
            target.clone(),
            "a TCP connection",
            "let the program close it; --tcp-established and --tcp-close are not supported yet",
        )),
    }
}

fn int(fd: BorrowedFd<'_>, level: i32, name: i32) -> u32 {
    socket::int_option(fd, level, name)
        .unwrap_or(0)
        .cast_unsigned()
}

fn ip_options(fd: BorrowedFd<'_>, family: i32) -> IpOptions {
    const IPV6_FREEBIND: i32 = 78;
    let is_v6 = family == libc::AF_INET6;
    let packet_info = if is_v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let freebind = if is_v6 {
        (libc::IPPROTO_IPV6, IPV6_FREEBIND)
    } else {
        (libc::IPPROTO_IP, libc::IP_FREEBIND)
    };
    IpOptions {
        freebind: int(fd, freebind.0, freebind.1) != 0,
        packet_info: int(fd, packet_info.0, packet_info.1) != 0,
        tos: int(fd, libc::IPPROTO_IP, libc::IP_TOS),
        ttl: int(fd, libc::IPPROTO_IP, libc::IP_TTL),
    }
}

fn tcp_options(fd: BorrowedFd<'_>) -> TcpOptions {
    let tcp = |name| int(fd, libc::IPPROTO_TCP, name);
    TcpOptions {
        cork: tcp(libc::TCP_CORK) != 0,
        nodelay: tcp(libc::TCP_NODELAY) != 0,
        keepalive: (
            tcp(libc::TCP_KEEPCNT),
            tcp(libc::TCP_KEEPIDLE),
            tcp(libc::TCP_KEEPINTVL),
        ),
    }
}

/// Port and address words of a `sockaddr_in` or `sockaddr_in6`.
fn split_address(raw: &[u8]) -> (u16, Vec<u32>) {
    let family = raw
        .get(..2)
        .map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let port = raw
        .get(2..4)
        .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let words = if i32::from(family) == libc::AF_INET6 {
        raw.get(8..24)
    } else {
        raw.get(4..8)
    };
    let words = words.unwrap_or_default().chunks_exact(4);
    (
        port,
        words
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect(),
    )
}
