//! Questions to a socket: `getsockopt(2)`, its addresses, and what waits in it.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

/// `getsockopt` of an option that is a fixed number of bytes; returns those it filled.
///
/// # Errors
/// `ENOPROTOOPT` the socket has no such option.
pub fn option<const N: usize>(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
) -> Result<([u8; N], usize), Errno> {
    let mut bytes = [0_u8; N];
    let mut len = libc::socklen_t::try_from(N).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel writes at most `len` bytes into a live buffer of that size.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            bytes.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    Errno::result(answer)?;
    Ok((bytes, (len as usize).min(N)))
}

/// `getsockopt` of an option that is an int.
///
/// # Errors
/// `ENOPROTOOPT` the socket has no such option.
pub fn int_option(socket: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32, Errno> {
    option::<4>(socket, level, name).map(|(bytes, _)| i32::from_ne_bytes(bytes))
}

/// Number of instructions of the filter attached with `SO_ATTACH_FILTER`, and the
/// instructions, 8 bytes each.
///
/// # Errors
/// `EACCES` the filter is an eBPF program or locked.
pub fn filter(socket: BorrowedFd<'_>) -> Result<Vec<u64>, Errno> {
    const SO_GET_FILTER: i32 = 26;
    let mut count: libc::socklen_t = 0;
    // SAFETY: with a length of 0 the kernel writes nothing but the length.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_GET_FILTER,
            ptr::null_mut(),
            &raw mut count,
        )
    };
    Errno::result(answer)?;
    let mut instructions = vec![0_u64; count as usize];
    if count > 0 {
        // SAFETY: here the length counts instructions of 8 bytes, for which there is room.
        let answer = unsafe {
            let buffer = instructions.as_mut_ptr().cast();
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_GET_FILTER,
                buffer,
                &raw mut count,
            )
        };
        Errno::result(answer)?;
    }
    Ok(instructions)
}

/// Which end of a socket an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `getsockname(2)`.
    Own,
    /// `getpeername(2)`.
    Peer,
}

/// The raw address of one end, `sa_family` included.
///
/// # Errors
/// `ENOTCONN` there is no other end.
pub fn address(socket: BorrowedFd<'_>, end: End) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0_u8; 128];
    let mut len: libc::socklen_t = 128;
    let buffer = bytes.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `len` bytes into a live buffer of that size.
    let answer = unsafe {
        match end {
            End::Own => libc::getsockname(socket.as_raw_fd(), buffer, &raw mut len),
            End::Peer => libc::getpeername(socket.as_raw_fd(), buffer, &raw mut len),
        }
    };
    Errno::result(answer)?;
    bytes.truncate(len as usize);
    Ok(bytes)
}

/// A message seen in a queue.
#[derive(Debug)]
pub struct Peeked {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Open files that came with it, under descriptors of ours.
    pub rights: Vec<OwnedFd>,
    /// Types of the other control messages that came with it (`SCM_*`).
    pub others: Vec<i32>,
}

/// Room for the control messages of a unix socket: 253 descriptors and some more.
const CONTROL_BYTES: usize = 4096;

/// `recvmsg(MSG_PEEK | MSG_DONTWAIT)`: the next message, left in the queue; `None` when
/// nothing waits.
///
/// # Errors
/// Those of recvmsg(2); `EMSGSIZE` when it is longer than `room` bytes.
pub fn peek(socket: BorrowedFd<'_>, room: usize) -> Result<Option<Peeked>, Errno> {
    let mut bytes = vec![0_u8; room];
    let mut control = vec![0_u64; CONTROL_BYTES / 8];
    let mut iov = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: plain integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header names two live buffers and their lengths.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let received = match Errno::result(received) {
        Err(Errno::EAGAIN) => return Ok(None),
        answer => answer?.unsigned_abs(),
    };
    let (rights, others) = control_messages(&message);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || received > room {
        return Err(Errno::EMSGSIZE);
    }
    bytes.truncate(received);
    Ok(Some(Peeked {
        bytes,
        rights,
        others,
    }))
}

/// Takes over the descriptors that `recvmsg` has installed, and names what else came along.
fn control_messages(message: &libc::msghdr) -> (Vec<OwnedFd>, Vec<i32>) {
    let (mut rights, mut others) = (Vec::new(), Vec::new());
    // SAFETY: the kernel has filled the control buffer, and shortened its length accordingly.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so that a whole header stands there.
        let one = unsafe { &*header };
        if (one.cmsg_level, one.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: only computes the length of the header.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            for index in 0..(one.cmsg_len.saturating_sub(head)) / size_of::<i32>() {
                // SAFETY: the content of SCM_RIGHTS is this many descriptors, new and ours.
                rights.push(unsafe {
                    let place = libc::CMSG_DATA(header).cast::<i32>().add(index);
                    OwnedFd::from_raw_fd(ptr::read_unaligned(place))
                });
            }
        } else {
            others.push(one.cmsg_type);
        }
        // SAFETY: `header` came from the same message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    (rights, others)
}

/// `SO_PEEK_OFF`: where the next [`peek`] starts, in bytes; -1 always at the front.
///
/// # Errors
/// `EOPNOTSUPP` not a unix socket.
pub fn set_peek_offset(socket: BorrowedFd<'_>, offset: i32) -> Result<(), Errno> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads one live int.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            ptr::from_ref(&offset).cast(),
            len,
        )
    };
    Errno::result(answer).map(drop)
}

/// `SIOCUNIXFILE`: the file a unix socket is bound to, opened with `O_PATH`.
///
/// # Errors
/// `ENOENT` not bound to a path; `EPERM` without `CAP_NET_ADMIN`.
pub fn unix_file(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const SIOCUNIXFILE: libc::c_ulong = 0x89e0;
    // SAFETY: takes no argument and returns a descriptor.
    let raw = Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
