//! IPv4 and IPv6 sockets; what a TCP connection is besides, see [`super::tcp`].

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use tracing::warn;

use super::lock::Ends;
use super::tcp::{CLOSE, CONNECTED, Connection, ESTABLISHED, LISTEN};
use super::{SocketOptions, Sockets, foreign};
use crate::error::{Error, Result, ResultExt, Target};
use crate::sys::capability::Capability;
use crate::sys::socket::{self, End};
use crate::sys::tcp;

/// Port and address words of one end, the words as they go over the wire.
pub type EndAddress = (u16, Vec<u32>);

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
    pub own: EndAddress,
    /// The same of the other side.
    pub peer: EndAddress,
    /// The device that a link-local address belongs to.
    pub device: Option<String>,
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
    /// Options of a raw socket.
    pub raw: Option<RawOptions>,
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

/// Options of raw sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawOptions {
    /// `IP_HDRINCL`, `IPV6_HDRINCL`.
    pub with_header: bool,
    /// `IP_NODEFRAG`.
    pub no_defragmentation: bool,
    /// `ICMP_FILTER`, `ICMPV6_FILTER`: which messages are kept away.
    pub filter: Vec<u32>,
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
        let is_raw = kind == libc::SOCK_RAW;
        let is_tcp = match (kind, protocol) {
            (libc::SOCK_STREAM, libc::IPPROTO_TCP) => true,
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => false,
            (libc::SOCK_DGRAM, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) => false,
            (libc::SOCK_RAW, _) => false,
            _ => {
                return Err(Error::unsupported(
                    target.clone(),
                    format!("an internet socket of type {kind}, protocol {protocol},"),
                    "no restorer knows this kind of socket; let the program close it",
                ));
            }
        };
        let options = SocketOptions::read(target, fd)?;
        let raw = socket::address(fd, End::Own).on("getsockname", target.clone())?;
        let own = split_address(&raw);
        let is_ping = matches!(protocol, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6);
        let diag = if is_raw || is_ping {
            // Few kernels tell of them in this way.
            None
        } else {
            self.inet_diag(family, protocol, inode)?
        };
        let mut peer = match other_end(fd, is_tcp, family) {
            Err(Errno::ENOTCONN) => None,
            answer => Some(split_address(&answer.on("getpeername", target.clone())?)),
        };
        let (state, backlog) = match (is_tcp, &peer) {
            (true, _) => self.tcp_state(target, fd)?,
            (false, Some(_)) => (ESTABLISHED, 0),
            (false, None) => (CLOSE, 0),
        };
        let is_connected = is_tcp && CONNECTED.contains(&state);
        if diag.is_none()
            && (state == LISTEN || is_connected || (!is_tcp && !is_raw && !is_ping && own.0 != 0))
        {
            return Err(foreign(target));
        }
        if !is_tcp && let Some(diag) = diag {
            datagrams(target, diag.receive_queue, diag.send_queue)?;
        }
        if is_tcp && state == CLOSE && peer.is_some() && !self.choices.dumps_connections() {
            closed_for_good(target, fd)?;
            peer = None;
        }
        let peer = peer.unwrap_or_else(|| (0, vec![0; own.1.len()]));
        if is_tcp && peer.0 != 0 && !self.choices.tcp_close {
            self.connection(target, inode, (&own, &peer), options.reuse_address, fd)?;
        }
        Ok(InetSocket {
            inode,
            family: family.cast_unsigned(),
            kind: kind.cast_unsigned(),
            protocol: protocol.cast_unsigned(),
            state,
            backlog,
            own,
            peer,
            device: scope(&raw),
            v6_only: (family == libc::AF_INET6)
                .then(|| int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) != 0),
            shutdown: diag.map_or(0, |diag| diag.shutdown),
            options,
            ip: ip_options(fd, family),
            tcp: is_tcp.then(|| tcp_options(fd)),
            raw: is_raw.then(|| raw_options(fd, family, protocol)),
        })
    }

    /// State of a TCP socket, and room for connections of a listener.
    fn tcp_state(&self, target: &Target, fd: BorrowedFd<'_>) -> Result<(u8, u32)> {
        const UNACKED_OFFSET: usize = 24;
        const SACKED_OFFSET: usize = 28;
        let refuse =
            |what: String, remedy: &str| Err(Error::unsupported(target.clone(), what, remedy));
        let (info, _) = socket::option::<232>(fd, libc::IPPROTO_TCP, libc::TCP_INFO)
            .on("getsockopt TCP_INFO", target.clone())?;
        let word =
            |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        // Of a listener these two words tell pending connections and room for them.
        let (pending, room) = (word(UNACKED_OFFSET), word(SACKED_OFFSET));
        match info[0] {
            CLOSE => Ok((CLOSE, 0)),
            LISTEN if pending == 0 || self.choices.skip_in_flight => Ok((LISTEN, room)),
            LISTEN => refuse(
                format!("a listening socket with {pending} connections that wait to be accepted,"),
                "let the program accept them and run the dump again, or give --skip-in-flight to leave them out",
            ),
            state if !CONNECTED.contains(&state) => refuse(
                format!("a TCP connection in state {state}"),
                "run the dump again",
            ),
            state if self.choices.dumps_connections() => Ok((state, 0)),
            _ => refuse(
                "a TCP connection".to_owned(),
                "let the program close it, or give --tcp-established (or --tcp-close to have it dumped as closed)",
            ),
        }
    }

    /// Notes a connection, to be read when everything else is known to be fit for a dump.
    fn connection(
        &mut self,
        target: &Target,
        inode: u32,
        (own, peer): (&EndAddress, &EndAddress),
        reuse_address: bool,
        fd: BorrowedFd<'_>,
    ) -> Result<()> {
        if !Capability::NetAdmin
            .is_held()
            .on("capget", target.clone())?
        {
            return Err(Error::unsupported(
                target.clone(),
                "a TCP connection",
                format!(
                    "run dedump with {}, or give --tcp-close to have it dumped as closed",
                    Capability::NetAdmin
                ),
            ));
        }
        let layer = tcp::upper_layer(fd).unwrap_or_default();
        if !layer.is_empty() {
            return Err(Error::unsupported(
                target.clone(),
                format!(
                    "a TCP connection with {} in the kernel",
                    String::from_utf8_lossy(&layer)
                ),
                "let the program close it, or give --tcp-close to have it dumped as closed",
            ));
        }
        let ends = Ends::new(own, peer).ok_or_else(|| {
            Error::unsupported(
                target.clone(),
                "a TCP connection without an address",
                "let the program close it",
            )
        })?;
        self.connections.push(Connection {
            target: target.clone(),
            inode,
            ends,
            reuse_address,
            fd: fd
                .try_clone_to_owned()
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
                .on("dup", target.clone())?,
        });
        Ok(())
    }
}

fn other_end(fd: BorrowedFd<'_>, is_tcp: bool, family: i32) -> Result<Vec<u8>, Errno> {
    if is_tcp {
        tcp::other_end(fd, family == libc::AF_INET6)
    } else {
        socket::address(fd, End::Peer)
    }
}

/// Queues of a datagram socket: what was received is lost, as the network may lose it; what the
/// program is still putting together is not.
fn datagrams(target: &Target, received: u32, corked: u32) -> Result<()> {
    if corked != 0 {
        return Err(Error::unsupported(
            target.clone(),
            "a corked UDP socket with data in it",
            "let the program send it and run the dump again",
        ));
    }
    if received != 0 {
        warn!("{target}: datagrams that wait in a UDP socket are left out");
    }
    Ok(())
}

/// A connection that has ended leaves a socket like a new one, unless there is more to read.
fn closed_for_good(target: &Target, fd: BorrowedFd<'_>) -> Result<()> {
    let fill = tcp::fill(fd).on("ioctl SIOCINQ", target.clone())?;
    if fill.received == 0 {
        return Ok(());
    }
    Err(Error::unsupported(
        target.clone(),
        "a closed TCP connection with data that was not read",
        "let the program read it, or give --tcp-established",
    ))
}

/// The device of a link-local IPv6 address.
fn scope(raw: &[u8]) -> Option<String> {
    const SCOPE_OFFSET: usize = 24;
    let bytes = raw.get(SCOPE_OFFSET..SCOPE_OFFSET + 4)?;
    let index = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let name = nix::net::if_::if_indextoname((index != 0).then_some(index)?).ok()?;
    name.into_string().ok()
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

fn raw_options(fd: BorrowedFd<'_>, family: i32, protocol: i32) -> RawOptions {
    const ICMP_FILTER: i32 = 1;
    const ICMPV6_FILTER: i32 = 1;
    const IP_NODEFRAG: i32 = 22;
    const IPV6_HDRINCL: i32 = 36;
    const SOL_RAW: i32 = 255;
    let words = |bytes: &[u8]| {
        let words = bytes.chunks_exact(4);
        words
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect()
    };
    let filter = match (family, protocol) {
        (libc::AF_INET, libc::IPPROTO_ICMP) => socket::option::<4>(fd, SOL_RAW, ICMP_FILTER)
            .map(|(bytes, _)| words(&bytes))
            .unwrap_or_default(),
        (libc::AF_INET6, libc::IPPROTO_ICMPV6) => {
            socket::option::<32>(fd, libc::IPPROTO_ICMPV6, ICMPV6_FILTER)
                .map(|(bytes, _)| words(&bytes))
                .unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let is_v6 = family == libc::AF_INET6;
    RawOptions {
        with_header: if is_v6 {
            int(fd, libc::IPPROTO_IPV6, IPV6_HDRINCL) != 0
        } else {
            int(fd, libc::IPPROTO_IP, libc::IP_HDRINCL) != 0
        },
        no_defragmentation: !is_v6 && int(fd, libc::IPPROTO_IP, IP_NODEFRAG) != 0,
        filter,
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
fn split_address(raw: &[u8]) -> EndAddress {
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
