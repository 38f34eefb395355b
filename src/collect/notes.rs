//! What the images hold but today's restorers cannot bring back as it was.

use std::fmt;

use crate::ids::Tid;

/// A kind of sharing, or of not sharing, that `criu restore` does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// Two processes in one address space.
    SharedVm,
    /// Two processes with one working folder, root and umask.
    SharedFs,
    /// Two processes with one table of signal handlers.
    SharedSighand,
    /// Two processes with one descriptor table, of which neither is the other's parent.
    SharedFiles,
    /// A thread with descriptors of its own.
    PrivateFiles,
    /// A thread with a working folder of its own.
    PrivateFs,
    /// System V shared memory.
    SystemV,
}

/// One such finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is.
    pub kind: NoteKind,
    /// The tasks it is about: the first holder, then the other.
    pub tids: Vec<Tid>,
}

impl NoteKind {
    /// The name under which the manifest keeps it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SharedVm => "shared-vm",
            Self::SharedFs => "shared-fs",
            Self::SharedSighand => "shared-sighand",
            Self::SharedFiles => "shared-files",
            Self::PrivateFiles => "private-files",
            Self::PrivateFs => "private-fs",
            Self::SystemV => "system-v-memory",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tids: Vec<String> = self.tids.iter().map(ToString::to_string).collect();
        let tids = tids.join(" and ");
        match self.kind {
            NoteKind::SharedVm => write!(
                f,
                "{tids} share their memory; after a restore each has its own"
            ),
            NoteKind::SharedFs => write!(
                f,
                "{tids} share working folder and umask; after a restore each has its own"
            ),
            NoteKind::SharedSighand => write!(
                f,
                "{tids} share their signal handlers; after a restore each has its own"
            ),
            NoteKind::SharedFiles => write!(
                f,
                "{tids} share their descriptors without being parent and child; criu cannot restore that"
            ),
            NoteKind::PrivateFiles => write!(
                f,
                "thread {tids}: the second has descriptors of its own, which a restore loses"
            ),
            NoteKind::PrivateFs => write!(
                f,
                "thread {tids}: the second has a working folder of its own, which a restore loses"
            ),
            NoteKind::SystemV => write!(
                f,
                "{tids} has System V shared memory; after a restore only the tree shares it, and it has no id"
            ),
        }
    }
}
