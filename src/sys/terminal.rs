//! `ioctl_tty(2)`: what a terminal is set to, whose it is, and what waits in it.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// The kernel's `struct termios`: four words of flags, the line discipline, and the first 19
/// control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termios(pub [u8; 36]);

impl Termios {
    const OUTPUT_AT: usize = 4;
    const LOCAL_AT: usize = 12;
    const LINE_AT: usize = 16;
    const CHARACTERS_AT: usize = 17;

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn set_word(&mut self, at: usize, word: u32) {
        self.0[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }

    /// Flags of input, output, line and locally: `c_iflag` and so on.
    #[must_use]
    pub fn flags(&self) -> [u32; 4] {
        [0, Self::OUTPUT_AT, 8, Self::LOCAL_AT].map(|at| self.word(at))
    }

    /// The line discipline.
    #[must_use]
    pub fn line_discipline(&self) -> u8 {
        self.0[Self::LINE_AT]
    }

    /// The control characters.
    #[must_use]
    pub fn characters(&self) -> &[u8] {
        &self.0[Self::CHARACTERS_AT..]
    }

    /// Whether input is handed out line by line.
    #[must_use]
    pub fn is_canonical(&self) -> bool {
        self.word(Self::LOCAL_AT) & libc::ICANON != 0
    }

    /// Whether a new line is sent as carriage return and new line.
    #[must_use]
    pub fn returns_carriage(&self) -> bool {
        let both = libc::OPOST | libc::ONLCR;
        self.word(Self::OUTPUT_AT) & both == both
    }

    /// The same, but with nothing done to any byte that passes: no echo, no signals, no
    /// translation; `canonical` or not.
    #[must_use]
    pub fn transparent(&self, canonical: bool) -> Self {
        let mut changed = *self;
        changed.set_word(0, 0);
        changed.set_word(Self::OUTPUT_AT, 0);
        changed.set_word(Self::LOCAL_AT, if canonical { libc::ICANON } else { 0 });
        changed.0[Self::CHARACTERS_AT..].fill(0);
        changed
    }
}

fn read_ioctl<const N: usize>(
    terminal: BorrowedFd<'_>,
    request: libc::c_ulong,
) -> Result<[u8; N], Errno> {
    let mut bytes = [0_u8; N];
    // SAFETY: the callers give room for what their request writes.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), request, bytes.as_mut_ptr()) };
    Errno::result(answer)?;
    Ok(bytes)
}

fn read_int(terminal: BorrowedFd<'_>, request: libc::c_ulong) -> Result<u32, Errno> {
    read_ioctl::<4>(terminal, request).map(u32::from_ne_bytes)
}

/// `TCGETS`: the settings.
///
/// # Errors
/// `EIO` the other end is gone; `ENOTTY` no terminal.
pub fn termios(terminal: BorrowedFd<'_>) -> Result<Termios, Errno> {
    read_ioctl(terminal, libc::TCGETS).map(Termios)
}

/// `TIOCGLCKTRMIOS`: which settings are locked, one for each bit.
///
/// # Errors
/// As for [`termios`].
pub fn locked_termios(terminal: BorrowedFd<'_>) -> Result<Termios, Errno> {
    read_ioctl(terminal, libc::TIOCGLCKTRMIOS).map(Termios)
}

/// `TCSETS`: changes the settings at once.
///
/// # Errors
/// As for [`termios`].
pub fn set_termios(terminal: BorrowedFd<'_>, to: &Termios) -> Result<(), Errno> {
    // SAFETY: the kernel reads its 36 bytes, which are there.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TCSETS, to.0.as_ptr()) };
    Errno::result(answer).map(drop)
}

/// `TIOCGWINSZ`: rows, columns, width and height in pixels.
///
/// # Errors
/// As for [`termios`].
pub fn window_size(terminal: BorrowedFd<'_>) -> Result<[u16; 4], Errno> {
    let bytes = read_ioctl::<8>(terminal, libc::TIOCGWINSZ)?;
    Ok([0, 2, 4, 6].map(|at| u16::from_ne_bytes([bytes[at], bytes[at + 1]])))
}

/// `TIOCGPTN`: the number of a pseudo terminal, asked of its master.
///
/// # Errors
/// `ENOTTY` not a master.
pub fn number(master: BorrowedFd<'_>) -> Result<u32, Errno> {
    read_int(master, libc::TIOCGPTN)
}

/// `TIOCGSID`: the session whose controlling terminal this is, asked of the master of a pseudo
/// terminal.
///
/// # Errors
/// `ENOTTY` of nobody, or not of a session of ours.
pub fn session(terminal: BorrowedFd<'_>) -> Result<u32, Errno> {
    read_int(terminal, libc::TIOCGSID)
}

/// `TIOCGPGRP`: the foreground process group, likewise.
///
/// # Errors
/// As for [`session`].
pub fn foreground(terminal: BorrowedFd<'_>) -> Result<u32, Errno> {
    read_int(terminal, libc::TIOCGPGRP)
}

/// `TIOCGEXCL`: whether nobody else may open it.
///
/// # Errors
/// As for [`termios`].
pub fn is_exclusive(terminal: BorrowedFd<'_>) -> Result<bool, Errno> {
    read_int(terminal, libc::TIOCGEXCL).map(|flag| flag != 0)
}

/// `TIOCGPKT`: whether reads of a master begin with a byte of news.
///
/// # Errors
/// `ENOTTY` not a master.
pub fn is_in_packet_mode(master: BorrowedFd<'_>) -> Result<bool, Errno> {
    read_int(master, libc::TIOCGPKT).map(|flag| flag != 0)
}

/// `TIOCGPTLCK`: whether the other end may not be opened yet.
///
/// # Errors
/// `ENOTTY` not a master.
pub fn is_locked(master: BorrowedFd<'_>) -> Result<bool, Errno> {
    read_int(master, libc::TIOCGPTLCK).map(|flag| flag != 0)
}

/// `FIONREAD`: how many bytes a read would get.
///
/// # Errors
/// As for [`termios`].
pub fn waiting_bytes(terminal: BorrowedFd<'_>) -> Result<u32, Errno> {
    read_int(terminal, libc::FIONREAD)
}

/// Both ends of a new pseudo terminal.
#[cfg(test)]
pub(crate) fn pair() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::ptr::null_mut;

    let mut ends = [-1; 2];
    let [master, slave] = &mut ends;
    // SAFETY: two ints to be filled; names, settings and sizes are left out.
    let answer = unsafe { libc::openpty(master, slave, null_mut(), null_mut(), null_mut()) };
    assert_eq!(answer, 0);
    // SAFETY: these descriptors were just opened for us.
    ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) }).into()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_master_tells_of_itself() {
        let master = open("/dev/ptmx", OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty()).unwrap();
        let master = master.as_fd();
        assert!(number(master).is_ok());
        assert_eq!(session(master), Err(Errno::ENOTTY));
        assert_eq!(is_locked(master), Ok(true));
        assert_eq!(is_in_packet_mode(master), Ok(false));
        assert_eq!(is_exclusive(master), Ok(false));
        assert_eq!(window_size(master), Ok([0; 4]));
        let settings = termios(master).unwrap();
        assert_eq!(locked_termios(master).unwrap().0, [0; 36]);
        assert!(settings.is_canonical() && settings.returns_carriage());
        let through = settings.transparent(false);
        assert!(!through.is_canonical() && !through.returns_carriage());
        assert_eq!(through.flags()[2], settings.flags()[2]);
        set_termios(master, &through).unwrap();
        assert_eq!(termios(master), Ok(through));
        assert_eq!(waiting_bytes(master), Ok(0));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(termios(file.as_fd()), Err(Errno::ENOTTY));
    }
}
