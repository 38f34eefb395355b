//! What can go wrong, on what, and what to do about it.
//!
//! Functions in [`crate::sys`] return a bare [`Errno`]; the caller, who knows what it was
//! doing to whom, adds that with [`ResultExt::on`]. The text then reads like
//! `kcmp FILE 4120:7 ~ 4127:3: EPERM: Operation not permitted`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::hooks::Moment;
use crate::ids::{Fd, Pid, Tid};

/// The result of everything above [`crate::sys`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whom or what an operation was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing in particular: the dumper itself or the whole system.
    Here,
    /// A process.
    Process(Pid),
    /// One thread.
    Thread(Tid),
    /// One descriptor of a task.
    Descriptor(Tid, Fd),
    /// A range of a task's memory, `start..end`.
    Memory(Tid, u64, u64),
    /// A file or folder.
    Path(PathBuf),
    /// Two things that were compared, e.g. `4120:7 ~ 4127:3`.
    Pair(Box<Target>, Box<Target>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Here => f.write_str("dedump"),
            Target::Process(pid) => write!(f, "{pid}"),
            Target::Thread(tid) => write!(f, "{tid}"),
            Target::Descriptor(tid, fd) => write!(f, "{tid}:{fd}"),
            Target::Memory(tid, start, end) => write!(f, "{tid} {start:x}-{end:x}"),
            Target::Path(path) => write!(f, "{}", path.display()),
            Target::Pair(a, b) => write!(f, "{a} ~ {b}"),
        }
    }
}

impl From<Pid> for Target {
    fn from(pid: Pid) -> Self {
        Target::Process(pid)
    }
}

impl From<Tid> for Target {
    fn from(tid: Tid) -> Self {
        Target::Thread(tid)
    }
}

impl From<(Tid, Fd)> for Target {
    fn from((tid, fd): (Tid, Fd)) -> Self {
        Target::Descriptor(tid, fd)
    }
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Self {
        Target::Path(path.to_owned())
    }
}

/// Everything a dump can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a system call.
    #[error("{op} {target}: {errno}")]
    Syscall {
        /// The call, with its kernel name.
        op: &'static str,
        /// On what.
        target: Target,
        /// The kernel's answer.
        errno: Errno,
    },

    /// A file of the kernel did not look as documented.
    #[error("{}:{line}: expected {expected}, found {found:?}", path.display())]
    Parse {
        /// The file that was read.
        path: PathBuf,
        /// 1-based line, 0 when the file as a whole is wrong.
        line: usize,
        /// What the parser was looking for.
        expected: &'static str,
        /// What stood there instead, shortened.
        found: String,
    },

    /// An image file or folder could not be written or read.
    #[error("{op} {}: {source}", path.display())]
    Image {
        /// What was being done.
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// Something the images cannot hold or this version does not dump.
    #[error("{target}: {what} cannot be dumped: {remedy}")]
    Unsupported {
        /// Whose.
        target: Target,
        /// What it is.
        what: String,
        /// What the user can do about it.
        remedy: String,
    },

    /// A request that would do harm; nothing was touched.
    #[error("{target}: {what}: {remedy}")]
    Refused {
        /// About whom or what.
        target: Target,
        /// Why not.
        what: String,
        /// What the user can do about it.
        remedy: String,
    },

    /// Everything that stands in the way of a dump, found in one examination.
    #[error("{}", join_lines(.0))]
    Blocked(Vec<Error>),

    /// A task ended while it was being looked at.
    #[error("task {tid} ended while it was being dumped: run the dump again")]
    Vanished {
        /// The task.
        tid: Tid,
    },

    /// The tree did not stop in time, or was frozen for longer than allowed.
    #[error("timed out while {stage}, waiting for {target}: {remedy}")]
    TimedOut {
        /// The stage that was running.
        stage: &'static str,
        /// Who was waited for.
        target: Target,
        /// What the user can do about it.
        remedy: String,
    },

    /// A program of `--action-script` failed.
    #[error("action script {} at {}: {how}", script.display(), moment.name())]
    Hook {
        /// The program.
        script: PathBuf,
        /// When it ran.
        moment: Moment,
        /// How it ended, or why it could not be run.
        how: String,
    },

    /// The request makes no sense; nothing was touched.
    #[error("{0}")]
    Usage(String),

    /// Tasks that could not be set free; nothing else the dumper can do about them.
    #[error("could not release {}: {cause}", join_tids(.tids))]
    NotReleased {
        /// The tasks that may still be stopped.
        tids: Vec<Tid>,
        /// What the kernel said for the first of them.
        cause: String,
    },
}

impl Error {
    /// The code the process ends with: 1 failed, 2 usage, 3 something was not released, 255 the
    /// images are complete, but a program did not want the tree to end.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::NotReleased { .. } => 3,
            Error::Hook {
                moment: Moment::PostDump,
                ..
            } => 255,
            _ => 1,
        }
    }

    /// Shorthand for [`Error::Unsupported`].
    pub fn unsupported(
        target: impl Into<Target>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Error::Unsupported {
            target: target.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// What stands in the way of a dump, gathered from step to step of an examination.
#[derive(Debug, Default)]
pub struct Blockers(Vec<Error>);

impl Blockers {
    /// Keeps what a step says against the dump; `None` if it said something.
    ///
    /// # Errors
    /// Whatever ends the examination itself.
    pub fn gather<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(Error::Blocked(several)) => {
                self.0.extend(several);
                Ok(None)
            }
            Err(error @ (Error::Unsupported { .. } | Error::Refused { .. })) => {
                self.0.push(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether nothing stands in the way so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was gathered.
    #[must_use]
    pub fn into_errors(self) -> Vec<Error> {
        self.0
    }

    /// The same as one error.
    ///
    /// # Errors
    /// [`Error::Blocked`] if there is anything.
    pub fn none(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::Blocked(self.0))
        }
    }
}

fn join_lines(errors: &[Error]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn join_tids(tids: &[Tid]) -> String {
    let numbers: Vec<String> = tids.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}

/// Adds operation and target to a bare errno, or operation and path to an I/O error.
pub trait ResultExt<T> {
    /// Names the kernel operation and whom it was for.
    ///
    /// # Errors
    /// The errno of `self`, as [`Error::Syscall`]; `ESRCH` on a thread becomes [`Error::Vanished`].
    fn on(self, op: &'static str, target: impl Into<Target>) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T, Errno> {
    fn on(self, op: &'static str, target: impl Into<Target>) -> Result<T> {
        self.map_err(|errno| match (errno, target.into()) {
            (Errno::ESRCH, Target::Thread(tid)) => Error::Vanished { tid },
            (errno, target) => Error::Syscall { op, target, errno },
        })
    }
}

/// The same for [`io::Error`]: image files and folders.
pub trait IoResultExt<T> {
    /// Names what was being done to which path.
    ///
    /// # Errors
    /// The I/O error of `self`, as [`Error::Image`].
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> IoResultExt<T> for io::Result<T> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Image {
            op,
            path: path.into(),
            source,
        })
    }
}
