//! Terminals: settings, whose they are, and what waits in them.
//!
//! What waits in a terminal can only be seen by taking it out. It is put back at once, through
//! the other end, with all processing of the line off for the moment; a terminal in which
//! nothing waits is only asked.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, major, minor};
use tracing::warn;

use super::{Files, Sight};
use crate::error::{Error, IoResultExt, Result, ResultExt, Target};
use crate::proc::stat::Stat;
use crate::sys::terminal::{self, Termios};

/// What a terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalKind {
    /// The end of a pseudo terminal that a terminal emulator holds.
    Master,
    /// Its other end.
    Slave,
    /// `/dev/console`.
    Console,
    /// `/dev/tty1` and so on.
    Virtual,
    /// `/dev/tty`.
    Controlling,
    /// A serial line.
    Serial,
    /// One that restore is given from outside.
    External,
}

/// A terminal, or one end of a pseudo terminal.
#[derive(Debug)]
pub struct Terminal {
    /// Its number among all, the same whoever opens it.
    pub id: u32,
    /// What it is.
    pub kind: TerminalKind,
    /// The number of a pseudo terminal.
    pub number: Option<u32>,
    /// `st_rdev` and `st_dev`.
    pub device: (u64, u64),
    /// User and group of its file.
    pub owner: (u32, u32),
    /// Whether the other end may not be opened yet.
    pub is_locked: bool,
    /// Whether nobody else may open it.
    pub is_exclusive: bool,
    /// Whether reads of a master begin with a byte of news.
    pub is_in_packet_mode: bool,
    /// The session whose controlling terminal it is, 0 for none, and the foreground group.
    pub session: (u32, u32),
    /// Settings; none once the other end is gone.
    pub settings: Option<Settings>,
    /// What waits in it.
    pub waiting: Vec<u8>,
    target: Target,
    /// A descriptor of ours, until what waits was read.
    duplicate: Option<OwnedFd>,
}

/// What a terminal is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The settings themselves.
    pub termios: Termios,
    /// Which of them are locked.
    pub locked: Termios,
    /// Rows, columns, width and height in pixels.
    pub size: [u16; 4],
}

/// The kind of a terminal, by the device.
pub(super) fn kind_of(device: u64) -> Option<TerminalKind> {
    match (major(device), minor(device)) {
        (5, 2) | (128..=135, _) => Some(TerminalKind::Master),
        (136..=143, _) => Some(TerminalKind::Slave),
        (5, 1) => Some(TerminalKind::Console),
        (5, 0) => Some(TerminalKind::Controlling),
        (4, 1..=63) => Some(TerminalKind::Virtual),
        (188 | 204, _) => Some(TerminalKind::Serial),
        _ => None,
    }
}

/// A device as `/proc/PID/stat` shows the controlling terminal.
fn as_in_stat(device: u64) -> u64 {
    let (major, minor) = (major(device), minor(device));
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

impl Files {
    /// A terminal that a descriptor leads to: its number.
    pub(super) fn terminal(
        &mut self,
        sight: &Sight<'_>,
        kind: TerminalKind,
        is_external: bool,
        duplicate: OwnedFd,
    ) -> Result<u32> {
        /// Restore knows no larger ones.
        const LARGEST_NUMBER: u32 = 1000;
        let kind = if is_external {
            TerminalKind::External
        } else {
            kind
        };
        let device = (sight.stat.st_rdev, sight.stat.st_dev);
        let fd = duplicate.as_fd();
        let target = || sight.target.clone();
        let number = match kind {
            TerminalKind::Master => Some(terminal::number(fd).on("ioctl TIOCGPTN", target())?),
            TerminalKind::Slave => Some(slave_number(sight.stat.st_rdev)),
            _ => None,
        };
        if number.is_some_and(|number| number > LARGEST_NUMBER) {
            return Err(sight.refuse(
                &format!("the pseudo terminal {}", number.unwrap_or(0)),
                "restore knows them up to number 1000; close others and start the program again",
            ));
        }
        let id = match kind {
            TerminalKind::Master => 2 * number.unwrap_or(0) + 1,
            TerminalKind::Slave => 2 * number.unwrap_or(0),
            TerminalKind::Console => 2 * 1002,
            TerminalKind::Virtual => 2 * 1004,
            TerminalKind::Controlling => 2 * 1006,
            TerminalKind::Serial => 2 * 1010,
            TerminalKind::External => self.external_terminal(device),
        };
        if self.terminals.iter().any(|known| known.id == id) {
            return Ok(id);
        }
        if sight.fdinfo.flags & libc::O_ASYNC.cast_unsigned() != 0 {
            warn!(
                "{}: signals about this terminal (O_ASYNC) are off after a restore",
                sight.target
            );
        }
        let is_pseudo = number.is_some();
        let flag = |answer: Result<bool, Errno>| answer.unwrap_or(false);
        let is_exclusive = flag(terminal::is_exclusive(fd));
        if is_exclusive {
            warn!(
                "{}: after a restore others may open this terminal, too (TIOCEXCL)",
                sight.target
            );
        }
        let session = match kind {
            TerminalKind::Master => (
                terminal::session(fd).unwrap_or(0),
                terminal::foreground(fd).unwrap_or(0),
            ),
            _ => (0, 0),
        };
        self.terminals.push(Terminal {
            id,
            kind,
            number,
            device,
            owner: (sight.stat.st_uid, sight.stat.st_gid),
            is_locked: is_pseudo && flag(terminal::is_locked(fd)),
            is_exclusive,
            is_in_packet_mode: is_pseudo && flag(terminal::is_in_packet_mode(fd)),
            session,
            settings: settings(fd, &sight.target)?,
            waiting: Vec::new(),
            target: sight.target.clone(),
            duplicate: Some(duplicate),
        });
        Ok(id)
    }

    /// The number of a terminal from outside: that of the same one, or the next.
    fn external_terminal(&self, device: (u64, u64)) -> u32 {
        const FIRST: u32 = 2 * 1012;
        let external = self.terminals.iter();
        let mut external = external.filter(|one| one.kind == TerminalKind::External);
        let known = external.find(|one| one.device == device);
        let last = self.terminals.iter().map(|one| one.id).max().unwrap_or(0);
        known.map_or((last + 2).max(FIRST), |one| one.id)
    }

    /// Finds out, once all of the tree was read, whose terminals these are, whether restore can
    /// give them to those again, and what waits in them.
    ///
    /// # Errors
    /// [`Error::Blocked`] with every terminal that belongs to the outside without leave.
    pub fn complete_terminals<'a>(
        &mut self,
        tasks: impl Iterator<Item = &'a Stat>,
        shell_job: bool,
    ) -> Result<()> {
        let tasks: Vec<&Stat> = tasks.collect();
        let masters: HashSet<u32> = self
            .terminals
            .iter()
            .filter(|one| one.kind == TerminalKind::Master)
            .filter_map(|one| one.number)
            .collect();
        let mut blockers = Vec::new();
        let mut outside = HashSet::new();
        for one in &mut self.terminals {
            let here = as_in_stat(one.device.0);
            let in_its_session = tasks
                .iter()
                .find(|stat| u64::from(stat.terminal.cast_unsigned()) == here);
            if let (Some(stat), true) = (in_its_session, one.kind != TerminalKind::Master) {
                one.session = (
                    stat.session.cast_unsigned(),
                    stat.terminal_process_group.max(0).cast_unsigned(),
                );
            }
            let leader = one.session.0.cast_signed();
            let is_led_from_outside = leader != 0 && !tasks.iter().any(|stat| stat.tid == leader);
            let is_master = one.kind == TerminalKind::Master;
            let refuse =
                |what: String, remedy: &str| Error::unsupported(one.target.clone(), what, remedy);
            if is_led_from_outside && (is_master || !shell_job) {
                blockers.push(refuse(
                    format!(
                        "a terminal of the session of {leader}, which is not part of the tree,"
                    ),
                    if is_master {
                        "dump that session's leader, too"
                    } else {
                        "give --shell-job (restore needs it, too, and puts its own terminal there)"
                    },
                ));
                continue;
            }
            let is_alone = one.kind == TerminalKind::Slave
                && one.settings.is_some()
                && one.number.is_some_and(|number| !masters.contains(&number));
            if !is_alone {
                continue;
            }
            if !shell_job {
                blockers.push(refuse(
                    "a pseudo terminal whose master is not in the tree".to_owned(),
                    "dump the terminal emulator, too, or give --shell-job (restore needs it, too, and puts its own terminal there)",
                ));
            } else if outside.insert(one.number) && outside.len() > 1 {
                blockers.push(refuse(
                    "a second pseudo terminal whose master is not in the tree".to_owned(),
                    "restore can put its own terminal in the place of one only",
                ));
            }
        }
        if !blockers.is_empty() {
            return Err(Error::Blocked(blockers));
        }
        self.read_what_waits()
    }

    fn read_what_waits(&mut self) -> Result<()> {
        let (masters, mut slaves): (Vec<_>, Vec<_>) = self
            .terminals
            .iter_mut()
            .partition(|one| one.kind == TerminalKind::Master);
        for master in masters {
            let slave = slaves.iter_mut().find(|one| {
                one.kind == TerminalKind::Slave
                    && one.number == master.number
                    && one.settings.is_some()
            });
            if let (Some(settings), Some(slave)) = (master.settings, slave)
                && let (Some(here), Some(there)) = (&master.duplicate, &slave.duplicate)
            {
                let ends = Ends {
                    target: &master.target,
                    termios: settings.termios,
                    master: here.as_fd(),
                    slave: there.as_fd(),
                };
                let (to_master, to_slave) = ends.waiting(master.is_in_packet_mode)?;
                (master.waiting, slave.waiting) = (to_master, to_slave);
            }
        }
        for one in &mut self.terminals {
            one.duplicate = None;
        }
        Ok(())
    }
}

/// The number of a pseudo terminal, by the device of its slave.
fn slave_number(device: u64) -> u32 {
    const FIRST_MAJOR: u64 = 136;
    const MINORS: u64 = 256;
    // In the kernel's numbering, of which the first major alone is in use today.
    let number = (major(device).saturating_sub(FIRST_MAJOR)) * MINORS + minor(device);
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Settings, unless the other end is gone.
fn settings(fd: BorrowedFd<'_>, target: &Target) -> Result<Option<Settings>> {
    let termios = match terminal::termios(fd) {
        Err(Errno::EIO) => return Ok(None),
        answer => answer.on("ioctl TCGETS", target.clone())?,
    };
    Ok(Some(Settings {
        termios,
        locked: terminal::locked_termios(fd).on("ioctl TIOCGLCKTRMIOS", target.clone())?,
        size: terminal::window_size(fd).on("ioctl TIOCGWINSZ", target.clone())?,
    }))
}

/// Both ends of a pseudo terminal, and how it is set.
struct Ends<'a> {
    target: &'a Target,
    termios: Termios,
    master: BorrowedFd<'a>,
    slave: BorrowedFd<'a>,
}

impl Ends<'_> {
    /// What waits to be read from the master and from the slave, as it has to be written into
    /// the other end to get there again.
    fn waiting(&self, packet_mode: bool) -> Result<(Vec<u8>, Vec<u8>)> {
        // News of a master in packet mode would get lost.
        let has_news = packet_mode && self.poll(self.master)?.contains(PollFlags::POLLPRI);
        let at_master = self.count(self.master)?;
        let at_slave = self.count(self.slave)?;
        if at_master == 0 && at_slave == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        if packet_mode || has_news {
            warn!(
                "{}: what waits in a pseudo terminal in packet mode is left out",
                self.target
            );
            return Ok((Vec::new(), Vec::new()));
        }
        // A description of our own: nobody else's flags change.
        let slave = open(
            format!("/proc/self/fd/{}", self.slave.as_raw_fd()).as_str(),
            OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let slave = File::from(slave.on("open", self.target.clone())?);
        let master = File::from(
            self.master
                .try_clone_to_owned()
                .at("dup", "a pseudo terminal")?,
        );
        let quiet = Quiet::from(self, &slave)?;
        let taken = self.take(&master, &slave, at_slave, &quiet);
        quiet.end()?;
        let (to_master, to_slave) = taken?;
        let mut sent = Vec::with_capacity(to_master.len());
        for (index, byte) in to_master.iter().enumerate() {
            let is_added = *byte == b'\r' && to_master.get(index + 1) == Some(&b'\n');
            if !(self.termios.returns_carriage() && is_added) {
                sent.push(*byte);
            }
        }
        Ok((sent, to_slave))
    }

    /// Takes out what waits on either side, `at_slave` bytes of it for a reader of the slave,
    /// and puts it back.
    fn take(
        &self,
        master: &File,
        slave: &File,
        at_slave: u32,
        quiet: &Quiet<'_>,
    ) -> Result<(Vec<u8>, Vec<u8>)> {
        /// The kernel passes it on at once, if it is not very busy.
        const LONGEST_WAY: Duration = Duration::from_secs(2);
        let mut to_slave = Vec::new();
        if at_slave > 0 {
            // Also the line that is not finished, behind which the rest would else be put.
            quiet.set(false)?;
            to_slave = self.drain(slave)?;
            quiet.set(self.termios.is_canonical())?;
        }
        let to_master = self.drain(master)?;
        (&*slave)
            .write_all(&to_master)
            .at("write", "a pseudo terminal")?;
        (&*master)
            .write_all(&to_slave)
            .at("write", "a pseudo terminal")?;
        // It must have arrived before the settings change: they say whether it is echoed.
        let end = Instant::now() + LONGEST_WAY;
        while self.count(slave.as_fd())? < at_slave && Instant::now() < end {
            std::thread::yield_now();
        }
        Ok((to_master, to_slave))
    }

    fn drain(&self, end: &File) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let count = self.count(end.as_fd())? as usize;
            if count == 0 {
                return Ok(all);
            }
            // So many bytes are there: this read does not wait.
            let mut some = vec![0; count];
            let got = (&*end).read(&mut some).at("read", "a pseudo terminal")?;
            if got == 0 {
                return Ok(all);
            }
            all.extend_from_slice(&some[..got]);
        }
    }

    fn poll(&self, end: BorrowedFd<'_>) -> Result<PollFlags> {
        let mut one = [PollFd::new(end, PollFlags::POLLIN | PollFlags::POLLPRI)];
        poll(&mut one, PollTimeout::ZERO).on("poll", self.target.clone())?;
        Ok(one[0].revents().unwrap_or(PollFlags::empty()))
    }

    /// How many bytes a read would get. Asking whether there is something makes the kernel
    /// pass on what was just written.
    fn count(&self, end: BorrowedFd<'_>) -> Result<u32> {
        self.poll(end)?;
        terminal::waiting_bytes(end).on("ioctl FIONREAD", self.target.clone())
    }
}

/// A pseudo terminal whose settings are changed; dropping it puts them back.
struct Quiet<'a> {
    slave: BorrowedFd<'a>,
    target: &'a Target,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn from(ends: &Ends<'a>, slave: &'a File) -> Result<Self> {
        let quiet = Self {
            slave: slave.as_fd(),
            target: ends.target,
            before: ends.termios,
        };
        quiet.set(quiet.before.is_canonical())?;
        Ok(quiet)
    }

    fn set(&self, canonical: bool) -> Result<()> {
        terminal::set_termios(self.slave, &self.before.transparent(canonical))
            .on("ioctl TCSETS", self.target.clone())
    }

    fn end(self) -> Result<()> {
        terminal::set_termios(self.slave, &self.before).on("ioctl TCSETS", self.target.clone())
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = terminal::set_termios(self.slave, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(master: &OwnedFd, slave: &OwnedFd, termios: Termios) -> (Vec<u8>, Vec<u8>) {
        let ends = Ends {
            target: &Target::Here,
            termios,
            master: master.as_fd(),
            slave: slave.as_fd(),
        };
        ends.waiting(false).unwrap()
    }

    #[test]
    fn what_waits_is_seen_and_stays() {
        let (near, far) = terminal::pair();
        let termios = terminal::termios(far.as_fd()).unwrap();
        let mut master = File::from(near.try_clone().unwrap());
        let mut slave = File::from(far.try_clone().unwrap());
        slave.write_all(b"one\ntwo").unwrap();
        master.write_all(b"typed\nhalf").unwrap();
        for _ in 0..3 {
            let (to_master, to_slave) = look(&near, &far, termios);
            // What was typed was echoed.
            assert_eq!(to_master, b"one\ntwotyped\nhalf");
            assert_eq!(to_slave, b"typed\nhalf");
            assert_eq!(terminal::termios(far.as_fd()), Ok(termios));
        }
        let mut bytes = [0; 64];
        let got = master.read(&mut bytes).unwrap();
        assert_eq!(&bytes[..got], b"one\r\ntwotyped\r\nhalf");
        let got = slave.read(&mut bytes).unwrap();
        assert_eq!(&bytes[..got], b"typed\n");
        master.write_all(b" line\n").unwrap();
        let got = slave.read(&mut bytes).unwrap();
        assert_eq!(&bytes[..got], b"half line\n");
    }

    #[test]
    fn a_raw_terminal_with_strange_bytes() {
        let (near, far) = terminal::pair();
        let termios = terminal::termios(far.as_fd()).unwrap().transparent(false);
        terminal::set_termios(far.as_fd(), &termios).unwrap();
        let mut master = File::from(near.try_clone().unwrap());
        let mut slave = File::from(far.try_clone().unwrap());
        let strange: Vec<u8> = (0..=255).collect();
        slave.write_all(&strange).unwrap();
        master.write_all(&strange).unwrap();
        let (to_master, to_slave) = look(&near, &far, termios);
        assert_eq!((&to_master, &to_slave), (&strange, &strange));
        let mut bytes = [0; 512];
        assert_eq!(master.read(&mut bytes).unwrap(), 256);
        assert_eq!(slave.read(&mut bytes).unwrap(), 256);
        assert_eq!(bytes[..256], strange);
    }

    #[test]
    fn a_terminal_in_which_nothing_waits_is_not_touched() {
        let (near, far) = terminal::pair();
        let termios = terminal::termios(far.as_fd()).unwrap();
        let mut master = File::from(near.try_clone().unwrap());
        // An unfinished line cannot be read yet.
        master.write_all(b"half").unwrap();
        let mut echo = [0; 16];
        assert_eq!(master.read(&mut echo).unwrap(), 4);
        let nothing = (Vec::new(), Vec::new());
        assert_eq!(look(&near, &far, termios), nothing);
    }
}
