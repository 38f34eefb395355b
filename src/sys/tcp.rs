//! `TCP_REPAIR`: a look behind a connection, without its other end noticing.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;

use super::socket;

const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
const TCP_ULP: i32 = 31;

/// A queue of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Neither: what repair mode starts with.
    None = 0,
    /// Received, not read.
    Received = 1,
    /// Written, not acknowledged.
    Sent = 2,
}

/// Windows of a connection (`struct tcp_repair_window`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Sequence number of the last window update.
    pub send_update: u32,
    /// Window of the other end, in bytes.
    pub send: u32,
    /// Largest window it ever offered, in bytes.
    pub send_largest: u32,
    /// Own window, in bytes.
    pub receive: u32,
    /// Sequence number up to which it was told.
    pub receive_update: u32,
}

/// The first bytes of `TCP_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// `TCP_*` state number.
    pub state: u8,
    /// `TCPI_OPT_*`.
    pub options: u8,
    /// Window scales: of the other end, and own.
    pub scales: (u8, u8),
}

/// Sets an option that is an int.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_int_option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: i32,
) -> Result<(), Errno> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).map_err(|_| Errno::EINVAL)?;
    let data = ptr::from_ref(&value).cast();
    // SAFETY: the kernel reads one live int.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, data, len) };
    Errno::result(answer).map(drop)
}

/// `TCP_REPAIR` on: the connection sends nothing by itself, and closing it tells nobody. Sets
/// `SO_REUSEADDR`, too.
///
/// # Errors
/// `EPERM` a listener, or without `CAP_NET_ADMIN`.
pub fn repair_on(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int_option(socket, libc::IPPROTO_TCP, TCP_REPAIR, 1)
}

/// `TCP_REPAIR` off, without sending anything where the kernel can (since Linux 4.19). Clears
/// `SO_REUSEADDR`, too.
///
/// # Errors
/// As [`repair_on`].
pub fn repair_off(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    const WITHOUT_PROBE: i32 = -1;
    match set_int_option(socket, libc::IPPROTO_TCP, TCP_REPAIR, WITHOUT_PROBE) {
        Err(Errno::EINVAL) => set_int_option(socket, libc::IPPROTO_TCP, TCP_REPAIR, 0),
        answer => answer,
    }
}

/// Whether a connection is in repair mode.
///
/// # Errors
/// Those of getsockopt(2).
pub fn in_repair(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    socket::int_option(socket, libc::IPPROTO_TCP, TCP_REPAIR).map(|value| value != 0)
}

/// `TCP_REPAIR_QUEUE`: which queue the next calls are about.
///
/// # Errors
/// `EPERM` not in repair mode.
pub fn choose_queue(socket: BorrowedFd<'_>, queue: Queue) -> Result<(), Errno> {
    set_int_option(socket, libc::IPPROTO_TCP, TCP_REPAIR_QUEUE, queue as i32)
}

/// `TCP_QUEUE_SEQ`: the sequence number behind the chosen queue.
///
/// # Errors
/// `EINVAL` no queue was chosen.
pub fn queue_sequence(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    socket::int_option(socket, libc::IPPROTO_TCP, TCP_QUEUE_SEQ).map(i32::cast_unsigned)
}

/// The bytes of the chosen queue, left in it, up to `room` of them.
///
/// # Errors
/// Those of recv(2).
pub fn peek_queue(socket: BorrowedFd<'_>, room: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0_u8; room];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most `room` bytes into a live buffer of that size.
    let received = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            flags,
        )
    };
    let received = match Errno::result(received) {
        Err(Errno::EAGAIN) => 0,
        answer => answer?.unsigned_abs(),
    };
    bytes.truncate(received);
    Ok(bytes)
}

/// `TCP_INFO`, as far as it matters here.
///
/// # Errors
/// `ENOPROTOOPT` not TCP.
pub fn info(socket: BorrowedFd<'_>) -> Result<Info, Errno> {
    let (bytes, _) = socket::option::<8>(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok(Info {
        state: bytes[0],
        options: bytes[5],
        scales: (bytes[6] & 0xf, bytes[6] >> 4),
    })
}

/// `TCP_REPAIR_WINDOW`.
///
/// # Errors
/// `EPERM` not in repair mode; `ENOPROTOOPT` before Linux 4.8.
pub fn windows(socket: BorrowedFd<'_>) -> Result<Windows, Errno> {
    let (bytes, _) = socket::option::<20>(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW)?;
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ok(Windows {
        send_update: word(0),
        send: word(4),
        send_largest: word(8),
        receive: word(12),
        receive_update: word(16),
    })
}

/// `TCP_TIMESTAMP`: the clock of the connection, in milliseconds.
///
/// # Errors
/// Those of getsockopt(2).
pub fn timestamp(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    socket::int_option(socket, libc::IPPROTO_TCP, TCP_TIMESTAMP).map(i32::cast_unsigned)
}

/// `TCP_MAXSEG`: in repair mode the largest segment the other end takes, in bytes.
///
/// # Errors
/// Those of getsockopt(2).
pub fn largest_segment(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    socket::int_option(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG).map(i32::cast_unsigned)
}

/// `TCP_ULP`: the name of what is layered on top of the connection; empty for nothing.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.13.
pub fn upper_layer(socket: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let (bytes, len) = socket::option::<16>(socket, libc::IPPROTO_TCP, TCP_ULP)?;
    let name = bytes[..len].split(|byte| *byte == 0).next();
    Ok(name.unwrap_or_default().to_vec())
}

/// How much is in the queues of a connection, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Received, not read (`SIOCINQ`).
    pub received: u32,
    /// Written, not acknowledged, a FIN counted as one (`SIOCOUTQ`).
    pub sent: u32,
    /// The part of `sent` that never went out (`SIOCOUTQNSD`).
    pub unsent: u32,
}

/// `SIOCINQ`, `SIOCOUTQ` and `SIOCOUTQNSD`.
///
/// # Errors
/// `EINVAL` a listener.
pub fn fill(socket: BorrowedFd<'_>) -> Result<Fill, Errno> {
    const SIOCOUTQNSD: libc::c_ulong = 0x894b;
    let ask = |request: libc::c_ulong| {
        let mut count: libc::c_int = 0;
        // SAFETY: all three requests write one int.
        let answer = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut count) };
        Errno::result(answer).map(|_| count.max(0).cast_unsigned())
    };
    Ok(Fill {
        received: ask(libc::FIONREAD)?,
        sent: ask(libc::TIOCOUTQ)?,
        unsent: ask(SIOCOUTQNSD)?,
    })
}

/// `SO_PEERNAME`: the other end of a TCP socket in any state, also one that was closed or is
/// not reached yet.
///
/// # Errors
/// `ENOTCONN` there never was one.
pub fn other_end(socket: BorrowedFd<'_>, is_v6: bool) -> Result<Vec<u8>, Errno> {
    const V4_BYTES: usize = 16;
    const V6_BYTES: usize = 28;
    // The kernel refuses more room than it needs.
    if is_v6 {
        socket::option::<V6_BYTES>(socket, libc::SOL_SOCKET, libc::SO_PEERNAME)
            .map(|(bytes, _)| bytes.to_vec())
    } else {
        socket::option::<V4_BYTES>(socket, libc::SOL_SOCKET, libc::SO_PEERNAME)
            .map(|(bytes, _)| bytes.to_vec())
    }
}
