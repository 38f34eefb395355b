//! Sockets, seen from outside through duplicates of the tasks' own descriptors.
//!
//! Nothing is changed through a duplicate but, for a moment, the place a queue is peeked at,
//! and only where several messages wait.

mod inet;
mod link_layer;
mod lock;
mod options;
mod queue;
mod tcp;
mod unix;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

pub use inet::{EndAddress, InetSocket, IpOptions, RawOptions, TcpOptions};
pub use link_layer::{NetlinkSocket, PacketSocket};
pub use lock::{Lock, Programs};
pub use options::SocketOptions;
pub use queue::{Message, SocketQueue};
pub use tcp::{HeldConnections, Stream};
pub use unix::{SocketName, UnixSocket};

use tcp::Connection;

use crate::error::{Error, Result, ResultExt, Target};
use crate::ids::ObjectId;
use crate::options::SocketChoices;
use crate::sys::netlink::{self, InetDiag, NetlinkDiag, PacketDiag, UnixDiag};
use crate::sys::socket;

/// A socket.
#[derive(Clone, Debug)]
pub enum Socket {
    /// `AF_UNIX`.
    Unix(UnixSocket),
    /// `AF_INET`, `AF_INET6`.
    Inet(Box<InetSocket>),
    /// `AF_NETLINK`.
    Netlink(NetlinkSocket),
    /// `AF_PACKET`.
    Packet(PacketSocket),
}

/// What the kernel says about all sockets, asked once per family and only when it matters.
#[derive(Debug, Default)]
pub struct Sockets {
    choices: SocketChoices,
    unix: Option<HashMap<u32, UnixDiag>>,
    inet: HashMap<(u8, u8), HashMap<u32, InetDiag>>,
    netlink: Option<Vec<NetlinkDiag>>,
    packet: Option<Vec<PacketDiag>>,
    connections: Vec<Connection>,
    /// TCP connections, once they were read.
    pub streams: Vec<Stream>,
    /// What waits in sockets.
    pub queues: Vec<SocketQueue>,
    /// Unix sockets of the tree: whose they are, by inode.
    seen: HashMap<u32, Target>,
}

impl Sockets {
    /// Nothing met yet.
    #[must_use]
    pub fn new(choices: SocketChoices) -> Self {
        Self {
            choices,
            ..Self::default()
        }
    }

    /// Holds the TCP connections of the tree and reads them. What is returned must be ended
    /// before any task is let go.
    ///
    /// # Errors
    /// When the network cannot be locked, or a connection not be read; all is as it was then.
    pub fn hold_connections(&mut self, programs: Programs) -> Result<HeldConnections> {
        let connections = std::mem::take(&mut self.connections);
        let held = HeldConnections::take(connections, self.choices.network_lock, programs)?;
        self.streams = held.read()?;
        Ok(held)
    }

    /// Examines a socket that was met for the first time.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for families, states and queues that the images cannot hold.
    pub fn examine(
        &mut self,
        target: &Target,
        inode: u64,
        file: ObjectId,
        duplicate: BorrowedFd<'_>,
    ) -> Result<Socket> {
        let ask =
            |name, op| socket::int_option(duplicate, libc::SOL_SOCKET, name).on(op, target.clone());
        let family = ask(libc::SO_DOMAIN, "getsockopt SO_DOMAIN")?;
        let kind = ask(libc::SO_TYPE, "getsockopt SO_TYPE")?;
        let protocol = ask(libc::SO_PROTOCOL, "getsockopt SO_PROTOCOL")?;
        let inode = u32::try_from(inode).unwrap_or(0);
        match family {
            libc::AF_UNIX => self.unix(target, inode, file, duplicate).map(Socket::Unix),
            libc::AF_INET | libc::AF_INET6 => self
                .inet(target, inode, (family, kind, protocol), duplicate)
                .map(|socket| Socket::Inet(Box::new(socket))),
            libc::AF_NETLINK => self
                .netlink(target, inode, protocol, duplicate)
                .map(Socket::Netlink),
            libc::AF_PACKET => self.packet(target, inode, duplicate).map(Socket::Packet),
            _ => Err(Error::unsupported(
                target.clone(),
                format!("a socket of family {family}, type {kind}, protocol {protocol}"),
                "no restorer knows this kind of socket; let the program close it",
            )),
        }
    }

    /// What the kernel says about a unix socket of our network namespace.
    fn unix_diag(&mut self, target: &Target, inode: u32) -> Result<UnixDiag> {
        let all = match &mut self.unix {
            Some(all) => all,
            empty => {
                let dumped = netlink::unix_sockets().on("sock_diag", Target::Here)?;
                empty.insert(dumped.into_iter().map(|diag| (diag.inode, diag)).collect())
            }
        };
        all.get(&inode).cloned().ok_or_else(|| foreign(target))
    }

    /// The same for an internet socket; `None` for one that is neither bound nor connected.
    fn inet_diag(&mut self, family: i32, protocol: i32, inode: u32) -> Result<Option<InetDiag>> {
        let key = (family.to_le_bytes()[0], protocol.to_le_bytes()[0]);
        let all = match self.inet.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => {
                let dumped = netlink::inet_sockets(key.0, key.1).on("sock_diag", Target::Here)?;
                empty.insert(dumped.into_iter().map(|diag| (diag.inode, diag)).collect())
            }
        };
        Ok(all.get(&inode).copied())
    }
}

fn foreign(target: &Target) -> Error {
    Error::unsupported(
        target.clone(),
        "a socket of another network namespace",
        "let the program close it, or run dedump in that namespace",
    )
}
