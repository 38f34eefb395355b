//! Netlink and packet sockets.

use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

use super::{SocketOptions, Sockets, foreign};
use crate::error::{Error, Result, ResultExt, Target};
use crate::sys::netlink::{self, NetlinkDiag, PacketDiag};

/// A netlink socket.
#[derive(Clone, Debug)]
pub struct NetlinkSocket {
    /// What the kernel says about it; it says nothing of one without an address.
    pub diag: NetlinkDiag,
    /// `SOL_SOCKET` options.
    pub options: SocketOptions,
}

/// A packet socket.
#[derive(Clone, Debug)]
pub struct PacketSocket {
    /// What the kernel says about it.
    pub diag: PacketDiag,
    /// `SOL_SOCKET` options.
    pub options: SocketOptions,
}

impl Sockets {
    pub(super) fn netlink(
        &mut self,
        target: &Target,
        inode: u32,
        protocol: i32,
        fd: BorrowedFd<'_>,
    ) -> Result<NetlinkSocket> {
        let refuse = |what: &str, remedy: &str| Error::unsupported(target.clone(), what, remedy);
        let all = match &mut self.netlink {
            Some(all) => all,
            empty => empty.insert(netlink::netlink_sockets().on("sock_diag", Target::Here)?),
        };
        let found = all.iter().find(|diag| diag.inode == inode).cloned();
        let mut diag = found.unwrap_or_else(|| NetlinkDiag {
            protocol: protocol.to_le_bytes()[0],
            inode,
            ..NetlinkDiag::default()
        });
        while diag.groups.last() == Some(&0) {
            diag.groups.pop();
        }
        if diag.groups.len() > 1 {
            return Err(refuse(
                "a netlink socket in a group above the 32nd",
                "restore knows only the first 32; let the program leave the group",
            ));
        }
        if !diag.groups.is_empty() && diag.port == 0 {
            return Err(refuse(
                "a netlink socket in groups but without an address",
                "let the program bind it",
            ));
        }
        if has_data(target, fd)? {
            return Err(refuse(
                "a netlink socket with messages waiting in it",
                "let the program receive them and run the dump again",
            ));
        }
        Ok(NetlinkSocket {
            diag,
            options: SocketOptions::read(target, fd)?,
        })
    }

    pub(super) fn packet(
        &mut self,
        target: &Target,
        inode: u32,
        fd: BorrowedFd<'_>,
    ) -> Result<PacketSocket> {
        let all = match &mut self.packet {
            Some(all) => all,
            empty => empty.insert(netlink::packet_sockets().on("sock_diag", Target::Here)?),
        };
        let found = all.iter().find(|diag| diag.inode == inode).cloned();
        let diag = found.ok_or_else(|| foreign(target))?;
        if diag.memberships.iter().any(|one| one.count != 1) {
            return Err(Error::unsupported(
                target.clone(),
                "a packet socket that asked for an address several times",
                "the image format has no place for it; let the program drop it once",
            ));
        }
        if has_data(target, fd)? {
            warn!("{target}: packets that wait in a packet socket are left out");
        }
        Ok(PacketSocket {
            diag,
            options: SocketOptions::read(target, fd)?,
        })
    }
}

fn has_data(target: &Target, fd: BorrowedFd<'_>) -> Result<bool> {
    let mut one = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut one, PollTimeout::ZERO).on("poll", target.clone())?;
    Ok(one[0]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLIN)))
}
