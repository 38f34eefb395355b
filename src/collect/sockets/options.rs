//! Options that every socket has.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use crate::error::{Result, ResultExt, Target};
use crate::sys::socket;

/// `SOL_SOCKET` options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Send and receive buffer, in bytes as reported.
    pub buffers: (u32, u32),
    /// Send time-out: seconds, microseconds.
    pub send_timeout: (u64, u64),
    /// Receive time-out: seconds, microseconds.
    pub receive_timeout: (u64, u64),
    /// `SO_PRIORITY`.
    pub priority: u32,
    /// `SO_RCVLOWAT`, in bytes.
    pub receive_low_water: u32,
    /// `SO_MARK`.
    pub mark: u32,
    /// `SO_LINGER` in seconds, if on.
    pub linger: Option<u32>,
    /// `SO_BUF_LOCK`: which buffers the program sized itself.
    pub buffer_locks: u32,
    /// `SO_BINDTODEVICE`.
    pub device: Option<String>,
    /// `SO_ATTACH_FILTER`.
    pub filter: Vec<u64>,
    /// `SO_REUSEADDR`.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// `SO_PASSCRED`.
    pub pass_credentials: bool,
    /// `SO_PASSSEC`.
    pub pass_security: bool,
    /// `SO_DONTROUTE`.
    pub dont_route: bool,
    /// `SO_NO_CHECK`.
    pub no_check: bool,
    /// `SO_BROADCAST`.
    pub broadcast: bool,
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// `SO_OOBINLINE`.
    pub out_of_band_inline: bool,
}

impl SocketOptions {
    pub(super) fn read(target: &Target, fd: BorrowedFd<'_>) -> Result<Self> {
        let int = |name| {
            socket::int_option(fd, libc::SOL_SOCKET, name)
                .map(i32::cast_unsigned)
                .on("getsockopt", target.clone())
        };
        let flag = |name| int(name).map(|value| value != 0);
        let time = |name| -> Result<(u64, u64)> {
            let (bytes, _) = socket::option::<16>(fd, libc::SOL_SOCKET, name)
                .on("getsockopt", target.clone())?;
            let (seconds, micros) = bytes.split_at(8);
            Ok((le64(seconds), le64(micros)))
        };
        let (linger, _) = socket::option::<8>(fd, libc::SOL_SOCKET, libc::SO_LINGER)
            .on("getsockopt SO_LINGER", target.clone())?;
        let (device, len) = socket::option::<16>(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE)
            .on("getsockopt SO_BINDTODEVICE", target.clone())?;
        let device = device[..len]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        Ok(Self {
            buffers: (int(libc::SO_SNDBUF)?, int(libc::SO_RCVBUF)?),
            send_timeout: time(libc::SO_SNDTIMEO)?,
            receive_timeout: time(libc::SO_RCVTIMEO)?,
            priority: int(libc::SO_PRIORITY)?,
            receive_low_water: int(libc::SO_RCVLOWAT)?,
            mark: int(libc::SO_MARK)?,
            linger: (linger[0] != 0)
                .then(|| u32::from_le_bytes([linger[4], linger[5], linger[6], linger[7]])),
            buffer_locks: int(libc::SO_BUF_LOCK)?,
            device: (!device.is_empty()).then(|| String::from_utf8_lossy(device).into_owned()),
            filter: socket::filter(fd).on("getsockopt SO_GET_FILTER", target.clone())?,
            reuse_address: flag(libc::SO_REUSEADDR)?,
            reuse_port: flag(libc::SO_REUSEPORT)?,
            pass_credentials: optional(fd, libc::SO_PASSCRED),
            pass_security: optional(fd, libc::SO_PASSSEC),
            dont_route: flag(libc::SO_DONTROUTE)?,
            no_check: flag(libc::SO_NO_CHECK)?,
            broadcast: flag(libc::SO_BROADCAST)?,
            keepalive: flag(libc::SO_KEEPALIVE)?,
            out_of_band_inline: flag(libc::SO_OOBINLINE)?,
        })
    }
}

/// An option that only some families have.
fn optional(fd: BorrowedFd<'_>, name: i32) -> bool {
    let answer: Result<i32, Errno> = socket::int_option(fd, libc::SOL_SOCKET, name);
    answer.is_ok_and(|value| value != 0)
}

fn le64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}
