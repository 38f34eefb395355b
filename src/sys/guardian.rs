//! A process that outlives us, to undo what must not stay if we are killed.
#![allow(unsafe_code)]

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, setsid};

use super::sched;

/// The watching process. Dismissed when dropped.
#[derive(Debug)]
pub struct Guardian {
    pid: Pid,
    line: PipeWriter,
}

impl Guardian {
    /// Forks a process that runs `undo` if this one ends without dismissing it. It holds
    /// copies of all our descriptors as long as it lives, but for what `let_go` closes there.
    ///
    /// # Errors
    /// Those of fork(2) and pipe(2).
    pub fn post(let_go: impl FnOnce(), undo: impl FnOnce()) -> Result<Self, Errno> {
        let (watched, line) = pipe().map_err(|error| errno(&error))?;
        // SAFETY: no other thread of ours runs now that could hold a lock in the child: those
        // that read /proc are joined, the bar that draws by itself is not begun, and the one
        // that waits for the dump sleeps without holding any.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child, line }),
            ForkResult::Child => {
                drop(line);
                let_go();
                watch(watched, undo);
                // SAFETY: ends the process at once; nothing of the parent's is flushed twice.
                unsafe { libc::_exit(0) }
            }
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let _ = self.line.write_all(b"x");
        let _ = waitpid(self.pid, None);
    }
}

fn watch(mut line: PipeReader, undo: impl FnOnce()) {
    // What ends us, Ctrl-C say, must not end this process too.
    let _ = setsid();
    // Where this is allowed, what must be undone is undone before those run on who would notice.
    let _ = sched::go_first();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    if matches!(line.read(&mut [0]), Ok(0)) {
        undo();
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
