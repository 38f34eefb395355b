//! What the images hold but today's restorers cannot bring back as it was.

use std::fmt;

use crate::ids::Tid;

/// Something that `criu restore` does not know, or not bring back.
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
    /// An eventfd that counts down by one (`EFD_SEMAPHORE`).
    SemaphoreEventfd,
    /// A process in a session that no ancestor of it leads.
    ForeignSession,
    /// A child of the root in a session whose leader is gone.
    LeaderlessSession,
    /// A stopped process for which signals wait.
    StoppedWithSignals,
    /// A `SIGTRAP` that waits.
    PendingTrap,
    /// A `SIGSTOP` that waits.
    PendingStop,
    /// Zombies whose exit status does not fit into seven bits.
    ExitStatus,
    /// Processes that send another signal than `SIGCHLD` when they end.
    ExitSignal,
    /// Processes with a personality.
    Personality,
    /// Processes that choose what a core dump holds.
    CoredumpFilter,
    /// Threads that may not run on all processors that the dumper may run on.
    Affinity,
    /// Threads with an I/O priority.
    IoPriority,
    /// Threads whose timers may ring later than others'.
    TimerSlack,
    /// A process that has unmapped the vdso it was started with.
    NoVdso,
}

/// One such finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is.
    pub kind: NoteKind,
    /// The tasks it is about; where two share something, the first holder, then the other.
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
            Self::SemaphoreEventfd => "semaphore-eventfd",
            Self::ForeignSession => "foreign-session",
            Self::LeaderlessSession => "leaderless-session",
            Self::StoppedWithSignals => "stopped-with-signals",
            Self::PendingTrap => "pending-trap",
            Self::PendingStop => "pending-stop",
            Self::ExitStatus => "exit-status",
            Self::ExitSignal => "exit-signal",
            Self::Personality => "personality",
            Self::CoredumpFilter => "coredump-filter",
            Self::Affinity => "affinity",
            Self::IoPriority => "io-priority",
            Self::TimerSlack => "timer-slack",
            Self::NoVdso => "no-vdso",
        }
    }

    /// Whether a tree that was brought back could not go on as it was: such a tree is not killed
    /// unless that was asked for.
    #[must_use]
    pub fn spoils(self) -> bool {
        match self {
            Self::SharedVm
            | Self::SharedFs
            | Self::SharedSighand
            | Self::SharedFiles
            | Self::PrivateFiles
            | Self::PrivateFs
            | Self::SystemV
            | Self::SemaphoreEventfd
            | Self::NoVdso
            | Self::ForeignSession
            | Self::StoppedWithSignals
            | Self::PendingTrap
            | Self::PendingStop => true,
            Self::LeaderlessSession
            | Self::ExitStatus
            | Self::ExitSignal
            | Self::Personality
            | Self::CoredumpFilter
            | Self::Affinity
            | Self::IoPriority
            | Self::TimerSlack => false,
        }
    }

    /// Whether what is found in many tasks is one note.
    fn is_gathered(self) -> bool {
        !matches!(
            self,
            Self::SharedVm
                | Self::SharedFs
                | Self::SharedSighand
                | Self::SharedFiles
                | Self::PrivateFiles
                | Self::PrivateFs
        )
    }
}

/// Adds a finding to the notes of a tree.
pub fn add(notes: &mut Vec<Note>, kind: NoteKind, tids: Vec<Tid>) {
    let same = notes.iter_mut().find(|note| note.kind == kind);
    match same.filter(|_| kind.is_gathered()) {
        Some(note) => note.tids.extend(tids),
        None => notes.push(Note { kind, tids }),
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Who wants to know all looks into the manifest.
        const NAMED: usize = 5;
        let named = self.tids.iter().take(NAMED).map(ToString::to_string);
        let mut named: Vec<String> = named.collect();
        if self.tids.len() > NAMED {
            named.push(format!("{} more", self.tids.len() - NAMED));
        }
        let last = named.pop().unwrap_or_default();
        let tids = match named.is_empty() {
            true => last,
            false => format!("{} and {last}", named.join(", ")),
        };
        let (before, behind) = match self.kind {
            NoteKind::SharedVm => ("", " share their memory; after a restore each has its own"),
            NoteKind::SharedFs => (
                "",
                " share working folder and umask; after a restore each has its own",
            ),
            NoteKind::SharedSighand => (
                "",
                " share their signal handlers; after a restore each has its own",
            ),
            NoteKind::SharedFiles => (
                "",
                " share their descriptors without being parent and child; criu cannot restore that",
            ),
            NoteKind::PrivateFiles => (
                "thread ",
                ": the second has descriptors of its own, which a restore loses",
            ),
            NoteKind::PrivateFs => (
                "thread ",
                ": the second has a working folder of its own, which a restore loses",
            ),
            NoteKind::SystemV => (
                "",
                " has System V shared memory; after a restore only the tree shares it, and it has no id",
            ),
            NoteKind::SemaphoreEventfd => (
                "",
                " has a semaphore (eventfd with EFD_SEMAPHORE); after a restore it is an ordinary counter",
            ),
            NoteKind::ForeignSession => (
                "",
                ": in a session that no ancestor leads; criu cannot restore that",
            ),
            NoteKind::LeaderlessSession => (
                "",
                ": in a session whose leader is gone; after a restore not a child of the root",
            ),
            NoteKind::StoppedWithSignals => (
                "",
                ": stopped, with signals waiting that a restore delivers before it stops it",
            ),
            NoteKind::PendingTrap => ("", ": a SIGTRAP waits, which a restore loses"),
            NoteKind::PendingStop => (
                "",
                ": a SIGSTOP waits, which stops it in the middle of a restore: dump it again",
            ),
            NoteKind::ExitStatus => (
                "",
                ": ended with a status above 127, of which a restore keeps seven bits",
            ),
            NoteKind::ExitSignal => (
                "",
                ": tells its parent of its end by another signal; after a restore by SIGCHLD",
            ),
            NoteKind::Personality => ("", ": a personality, which a restore does not set"),
            NoteKind::CoredumpFilter => (
                "",
                ": a choice of what core dumps hold, which a restore does not make",
            ),
            NoteKind::Affinity => (
                "",
                ": bound to some processors; after a restore to those of the restorer",
            ),
            NoteKind::IoPriority => ("", ": an I/O priority, which a restore does not set"),
            NoteKind::TimerSlack => ("", ": a timer slack, which a restore does not set"),
            NoteKind::NoVdso => (
                "",
                " has unmapped its vdso; criu restores no process without one",
            ),
        };
        write!(f, "{before}{tids}{behind}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_have_is_one_note_that_names_a_few() {
        let mut notes = Vec::new();
        for tid in 1..=7 {
            add(&mut notes, NoteKind::Affinity, vec![Tid(tid)]);
        }
        add(&mut notes, NoteKind::SharedVm, vec![Tid(1), Tid(2)]);
        add(&mut notes, NoteKind::SharedVm, vec![Tid(1), Tid(3)]);
        assert_eq!(notes.len(), 3);
        assert_eq!(notes[0].tids.len(), 7);
        assert!(
            notes[0]
                .to_string()
                .starts_with("1, 2, 3, 4, 5 and 2 more: bound")
        );
        assert!(notes[2].to_string().starts_with("1 and 3 share"));
    }
}
