//! TCP connections: what is on its way, and how both ends count it.
//!
//! A connection is read in the kernel's repair mode, which a duplicate of the task's own
//! descriptor can switch on. That mode belongs to the connection: a task that meets it is told
//! `EPERM`. So each connection is in it only while it is read, after everything else was found
//! fit for a dump, and once more when its tasks are killed, which nobody is to hear of. Packets
//! are kept away by [`Lock`] all the time, so that what was read stays true. A process of its own
//! stands by to undo both, should we be killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use tracing::warn;

use super::lock::{Ends, Lock, Programs, Unlocking};
use crate::error::{Error, Result, ResultExt, Target};
use crate::freeze::After;
use crate::options::NetworkLock;
use crate::sys::guardian::Guardian;
use crate::sys::socket;
use crate::sys::tcp::{self, Fill, Queue, Windows};

pub(super) const ESTABLISHED: u8 = 1;
pub(super) const SYN_SENT: u8 = 2;
pub(super) const FIN_WAIT1: u8 = 4;
pub(super) const FIN_WAIT2: u8 = 5;
pub(super) const CLOSE: u8 = 7;
pub(super) const CLOSE_WAIT: u8 = 8;
pub(super) const LAST_ACK: u8 = 9;
pub(super) const LISTEN: u8 = 10;
pub(super) const CLOSING: u8 = 11;

/// States of a connection that a restorer can bring about.
pub(super) const CONNECTED: [u8; 7] = [
    ESTABLISHED,
    SYN_SENT,
    FIN_WAIT1,
    FIN_WAIT2,
    CLOSE_WAIT,
    LAST_ACK,
    CLOSING,
];

/// A connection, as it was read in repair mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Inode of its socket.
    pub inode: u32,
    /// Received, not read.
    pub received: Vec<u8>,
    /// Sequence number behind it.
    pub received_sequence: u32,
    /// Written, not acknowledged.
    pub sent: Vec<u8>,
    /// Sequence number behind it.
    pub sent_sequence: u32,
    /// How many of the last bytes in `sent` never went out.
    pub unsent_bytes: u32,
    /// `TCPI_OPT_*` that both ends agreed on.
    pub options: u8,
    /// Window scales, of the other end and own, if they agreed on that.
    pub scales: Option<(u8, u8)>,
    /// Largest segment the other end takes, in bytes.
    pub largest_segment: u32,
    /// Clock of the connection, if they agreed on that.
    pub timestamp: Option<u32>,
    /// Windows, where the kernel tells.
    pub windows: Option<Windows>,
    /// `TCP_CORK`.
    pub cork: bool,
    /// `TCP_NODELAY`.
    pub nodelay: bool,
}

/// A connection of the tree, before it is read.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) target: Target,
    pub(super) inode: u32,
    pub(super) ends: Ends,
    /// `SO_REUSEADDR`, which repair mode loses.
    pub(super) reuse_address: bool,
    pub(super) fd: OwnedFd,
}

/// Connections that no packet reaches. Let go when dropped.
#[derive(Debug, Default)]
pub struct HeldConnections {
    connections: Vec<Connection>,
    lock: Lock,
    programs: Programs,
    guardian: Option<Guardian>,
}

impl HeldConnections {
    /// Locks the network for the connections.
    pub(super) fn take(
        connections: Vec<Connection>,
        wanted: Option<NetworkLock>,
        mut programs: Programs,
    ) -> Result<Self> {
        if connections.is_empty() {
            return Ok(Self {
                connections,
                lock: Lock::None,
                programs,
                guardian: None,
            });
        }
        let lock = Lock::choose(wanted)?;
        // Before anything is changed.
        let undo_all = || {
            let undo =
                || undo(&connections, &lock, &mut Programs::default()).and_then(Unlocking::finish);
            if undo().is_err() {
                // A program of ours may still be at work on the lock.
                std::thread::sleep(Duration::from_millis(500));
                let _ = undo();
            }
        };
        let guardian = Guardian::post(|| programs.end_input(), undo_all);
        let guardian = guardian.on("fork", Target::Here)?;
        lock.lock(&ends(&connections), &mut programs)?;
        Ok(Self {
            connections,
            lock,
            programs,
            guardian: Some(guardian),
        })
    }

    /// How the network is locked.
    #[must_use]
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Reads all connections, each in repair mode only meanwhile.
    pub(super) fn read(&self) -> Result<Vec<Stream>> {
        let read_one = |connection: &Connection| {
            connection.enter_repair()?;
            let stream = read(connection);
            connection.leave_repair()?;
            stream
        };
        self.connections.iter().map(read_one).collect()
    }

    /// Leaves the connections as the tasks need them: as they were if they run on. Otherwise
    /// they go into repair mode, in which they end without a word when the last descriptor is
    /// closed; what is returned must live until the tasks are gone.
    ///
    /// # Errors
    /// When a connection or the network is not what it was; everything is tried first.
    pub fn end(mut self, after: After) -> Result<EndingConnections> {
        if after != After::LeaveRunning {
            for connection in &self.connections {
                connection.enter_repair()?;
            }
        }
        let connections = std::mem::take(&mut self.connections);
        let unlocking = match after {
            After::LeaveRunning => undo(&connections, &self.lock, &mut self.programs)?,
            After::Kill | After::LeaveStopped => {
                drop(self.guardian.take());
                Unlocking::default()
            }
        };
        Ok(EndingConnections {
            connections,
            unlocking,
            programs: std::mem::take(&mut self.programs),
            guardian: self.guardian.take(),
        })
    }
}

/// Connections that packets reach again, or that end with their tasks.
#[derive(Debug)]
pub struct EndingConnections {
    connections: Vec<Connection>,
    unlocking: Unlocking,
    programs: Programs,
    guardian: Option<Guardian>,
}

impl EndingConnections {
    /// Waits for what need not be waited for as long as the tree stands still.
    ///
    /// # Errors
    /// When the network may not be what it was.
    pub fn finish(self) -> Result<()> {
        drop(self.connections);
        let outcome = self.unlocking.finish();
        drop(self.programs);
        drop(self.guardian);
        outcome
    }
}

impl Drop for HeldConnections {
    fn drop(&mut self) {
        if !self.connections.is_empty()
            && let Err(error) =
                undo(&self.connections, &self.lock, &mut self.programs).and_then(Unlocking::finish)
        {
            warn!("{error}");
        }
    }
}

impl Connection {
    fn enter_repair(&self) -> Result<()> {
        tcp::repair_on(self.fd.as_fd()).on("setsockopt TCP_REPAIR", self.target.clone())
    }

    /// Leaves repair mode, if it is on, with `SO_REUSEADDR` as it was.
    fn leave_repair(&self) -> Result<()> {
        let fd = self.fd.as_fd();
        if tcp::in_repair(fd) != Ok(false) {
            tcp::repair_off(fd).on("setsockopt TCP_REPAIR off", self.target.clone())?;
        }
        let reuse = i32::from(self.reuse_address);
        if socket::int_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR) == Ok(reuse) {
            return Ok(());
        }
        tcp::set_int_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, reuse)
            .on("setsockopt SO_REUSEADDR", self.target.clone())
    }
}

fn ends(connections: &[Connection]) -> Vec<Ends> {
    connections
        .iter()
        .map(|connection| connection.ends)
        .collect()
}

/// Repair mode off, then the network open again.
fn undo(connections: &[Connection], lock: &Lock, programs: &mut Programs) -> Result<Unlocking> {
    let outcomes = connections.iter().map(Connection::leave_repair);
    let outcome = outcomes.fold(Ok(()), Result::and);
    let unlocking = lock.unlock(&ends(connections), programs);
    outcome.and(unlocking)
}

/// Reads one connection, with the place of peeking put out of the way for the moment.
fn read(connection: &Connection) -> Result<Stream> {
    let fd = connection.fd.as_fd();
    let target = || connection.target.clone();
    let peeked_at = socket::int_option(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF).unwrap_or(-1);
    if peeked_at >= 0 {
        socket::set_peek_offset(fd, -1).on("setsockopt SO_PEEK_OFF", target())?;
    }
    let stream = read_plainly(connection);
    if peeked_at >= 0 {
        socket::set_peek_offset(fd, peeked_at).on("setsockopt SO_PEEK_OFF", target())?;
    }
    stream
}

fn read_plainly(connection: &Connection) -> Result<Stream> {
    const TIMESTAMPS: u8 = 1;
    const WINDOW_SCALES: u8 = 4;
    let fd = connection.fd.as_fd();
    let target = || connection.target.clone();
    let info = tcp::info(fd).on("getsockopt TCP_INFO", target())?;
    if info.state != CLOSE && !CONNECTED.contains(&info.state) {
        return Err(Error::unsupported(
            target(),
            format!("a TCP connection in state {}", info.state),
            "run the dump again",
        ));
    }
    let fill = without_fin(info.state, tcp::fill(fd).on("ioctl SIOCOUTQ", target())?);
    let windows = match tcp::windows(fd) {
        Err(Errno::ENOPROTOOPT) => None,
        answer => Some(answer.on("getsockopt TCP_REPAIR_WINDOW", target())?),
    };
    let (received, received_sequence) =
        queue(connection, fd, Queue::Received, fill.received as usize)?;
    let (sent, sent_sequence) = queue(connection, fd, Queue::Sent, fill.sent as usize)?;
    tcp::choose_queue(fd, Queue::None).on("setsockopt TCP_REPAIR_QUEUE", target())?;
    let has = |option: u8| info.options & option != 0;
    let timestamp = || tcp::timestamp(fd).on("getsockopt TCP_TIMESTAMP", target());
    let flag = |name| socket::int_option(fd, libc::IPPROTO_TCP, name).is_ok_and(|value| value != 0);
    Ok(Stream {
        inode: connection.inode,
        received,
        received_sequence,
        sent,
        sent_sequence,
        unsent_bytes: fill.unsent,
        options: info.options,
        scales: has(WINDOW_SCALES).then_some(info.scales),
        largest_segment: tcp::largest_segment(fd).on("getsockopt TCP_MAXSEG", target())?,
        timestamp: has(TIMESTAMPS).then(timestamp).transpose()?,
        windows,
        cork: flag(libc::TCP_CORK),
        nodelay: flag(libc::TCP_NODELAY),
    })
}

/// A FIN that is not acknowledged counts as a byte without being one.
fn without_fin(state: u8, fill: Fill) -> Fill {
    match state {
        // What a reset has left to send is lost, and nobody can read it.
        CLOSE => Fill {
            sent: 0,
            unsent: 0,
            ..fill
        },
        FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK => Fill {
            sent: fill.sent.saturating_sub(1),
            unsent: fill.unsent.saturating_sub(1),
            ..fill
        },
        _ => fill,
    }
}

fn queue(
    connection: &Connection,
    fd: BorrowedFd<'_>,
    queue: Queue,
    len: usize,
) -> Result<(Vec<u8>, u32)> {
    let target = || connection.target.clone();
    tcp::choose_queue(fd, queue).on("setsockopt TCP_REPAIR_QUEUE", target())?;
    let sequence = tcp::queue_sequence(fd).on("getsockopt TCP_QUEUE_SEQ", target())?;
    if len == 0 {
        return Ok((Vec::new(), sequence));
    }
    // One byte more than there should be, to notice it if there is.
    let bytes = tcp::peek_queue(fd, len + 1).on("recv MSG_PEEK", target())?;
    if bytes.len() == len {
        Ok((bytes, sequence))
    } else {
        Err(Error::unsupported(
            target(),
            format!(
                "a TCP connection with {len} bytes in a queue that shows {} of them",
                bytes.len()
            ),
            "data arrives while it is read; do not give --network-lock skip while the network works",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fin_is_not_a_byte() {
        let fill = Fill {
            received: 3,
            sent: 8,
            unsent: 0,
        };
        assert_eq!(without_fin(ESTABLISHED, fill), fill);
        assert_eq!(without_fin(FIN_WAIT1, fill).sent, 7);
        assert_eq!(without_fin(FIN_WAIT1, fill).unsent, 0);
        assert_eq!(without_fin(CLOSE, fill).sent, 0);
        assert_eq!(without_fin(CLOSE, fill).received, 3);
    }
}
