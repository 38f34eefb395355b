//! Which of the resources of a frozen tree are one kernel object.
//!
//! A task holds five kinds of things that it may share with others. Each kind has a tree of
//! its own, which knows every object met so far and gives it one id:
//!
//! ```text
//!                       task (thread)
//!       ┌───────────┬────────┴──────────┬─────────────┐
//!   address     table of            table of       cwd, root,
//!    space     descriptors          handlers         umask
//!       │      │  │  │  │              │               │
//!       │      3  4  7  8              │               │
//!       │      └──┴──┴──┴─► open       │               │
//!       │     │              file      │               │       reference, how the kernel is asked
//!  ╔════╧═╗ ╔═╧═════╗  ╔════╧═╗  ╔═════╧═══╗    ╔══════╧═╗
//!  ║  vm  ║ ║ files ║  ║ file ║  ║ sighand ║    ║   fs   ║
//!  ╚══════╝ ╚═══════╝  ╚══════╝  ╚═════════╝    ╚════════╝
//!    tid      tid       tid, fd      tid            tid
//!  KCMP_VM KCMP_FILES KCMP_FILE KCMP_SIGHAND     KCMP_FS
//! ```
//!
//! Identifying a reference yields a [`Sighting`]: either the object was never met and there
//! is a [`Claim`] to write it, or it was and there is its id. What makes this cheap are the
//! [fingerprints](fingerprint): the kernel is asked only where they meet, so that nearly
//! every question is answered "equal".
//!
//! All this is true only while nothing runs: objects are freed and made again at the same
//! address, descriptors are closed and opened. The trees live as long as the freeze.

pub mod fingerprint;
pub mod tree;

use std::collections::HashMap;
use std::num::NonZeroU32;

use nix::errno::Errno;

pub use fingerprint::{
    FileFingerprint, FileLooks, FilesFingerprint, FsFingerprint, Handled, SighandFingerprint,
    VmFingerprint,
};
pub use tree::{Claim, Counters, Sighting};

use crate::error::{Error, Result, ResultExt, Target};
use crate::ids::{Fd, ObjectId, Tid};
use crate::sys::kcmp::{Order, Resource, kcmp};
use tree::Tree;

/// One kind of thing that a task holds, ordered by the kernel.
#[derive(Debug)]
pub struct TaskTree<F> {
    tree: Tree<F, Tid>,
    resource: Resource,
}

/// Address spaces.
pub type VmTree = TaskTree<VmFingerprint>;
/// Descriptor tables.
pub type FilesTree = TaskTree<FilesFingerprint>;
/// Working folder, root and umask.
pub type FsTree = TaskTree<FsFingerprint>;
/// Tables of signal handlers.
pub type SighandTree = TaskTree<SighandFingerprint>;

impl<F: Ord> TaskTree<F> {
    fn new(resource: Resource) -> Self {
        Self {
            tree: Tree::new(FIRST_OF_TASKS),
            resource,
        }
    }

    /// The object that this task holds.
    ///
    /// # Errors
    /// Those of [`kcmp`], naming both tasks.
    pub fn identify(&mut self, task: Tid, fingerprint: F) -> Result<Sighting> {
        let resource = self.resource;
        self.tree.identify(fingerprint, task, |known, new| {
            ask(resource, known, new, known, new)
        })
    }

    /// Whether this task holds the object `id`: one question, and no fingerprint needed.
    ///
    /// # Errors
    /// Those of [`kcmp`], naming both tasks.
    pub fn is(&mut self, id: ObjectId, task: Tid) -> Result<bool> {
        let resource = self.resource;
        self.tree
            .is(id, task, |known, new| ask(resource, known, new, known, new))
    }

    /// The task that was first seen to hold an object.
    #[must_use]
    pub fn first_holder(&self, id: ObjectId) -> Option<Tid> {
        self.tree.reference(id)
    }

    /// How much work this tree was so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.tree.counters()
    }
}

/// Open files (the kernel's `struct file`), whichever descriptor of whichever task leads there.
#[derive(Debug)]
pub struct FileTree {
    tree: Tree<FileFingerprint, (Tid, Fd)>,
}

/// What a look ahead makes us expect of a descriptor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Its rank among open files that look the same; see [`FileTree::ranks`].
    pub rank: Option<u32>,
    /// A descriptor of the same task, and how the kernel has already said that the open file
    /// behind that one stands to the one in question.
    pub answered: Option<(Fd, Order)>,
}

impl FileTree {
    pub(crate) fn new() -> Self {
        Self {
            tree: Tree::new(FIRST_OF_FILES),
        }
    }

    /// The open file behind a task's descriptor.
    ///
    /// # Errors
    /// Those of [`kcmp`], naming both descriptors.
    pub fn identify(
        &mut self,
        task: Tid,
        fd: Fd,
        fingerprint: FileFingerprint,
    ) -> Result<Sighting> {
        self.identify_expected(task, fd, fingerprint, Expected::default())
    }

    /// The same with what a look ahead makes us expect: right guesses save the search.
    ///
    /// # Errors
    /// Those of [`kcmp`], naming both descriptors.
    pub fn identify_expected(
        &mut self,
        task: Tid,
        fd: Fd,
        fingerprint: FileFingerprint,
        expected: Expected,
    ) -> Result<Sighting> {
        let mut answered = expected.answered;
        let sighting =
            self.tree
                .identify_with_rank(fingerprint, (task, fd), expected.rank, |known, new| {
                    match answered {
                        Some((neighbour, order)) if known == (task, neighbour) => {
                            answered = None;
                            Ok(order)
                        }
                        _ => ask_file(known, new),
                    }
                });
        // A question that was asked for nothing was asked all the same.
        self.tree.asked_elsewhere(0, u64::from(answered.is_some()));
        sighting
    }

    /// The order of open files with one fingerprint, for
    /// [`identify_expected`](Self::identify_expected) in a later tree.
    #[must_use]
    pub fn ranks(&self) -> HashMap<ObjectId, Option<u32>> {
        self.tree.ranks()
    }

    /// Whether a task's descriptor leads to the open file `id`: one question, before anything
    /// was read about the descriptor.
    ///
    /// # Errors
    /// Those of [`kcmp`], naming both descriptors.
    pub fn is(&mut self, id: ObjectId, task: Tid, fd: Fd) -> Result<bool> {
        self.tree.is(id, (task, fd), ask_file)
    }

    /// An id for a file that no descriptor leads to: a mapped file, a working folder.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the ids are used up.
    pub fn claim_fresh(&mut self) -> Result<Claim> {
        self.tree.claim_fresh()
    }

    /// Counts `known` inherited descriptors that were confirmed by asking the kernel directly,
    /// and all questions of that kind.
    pub fn asked_elsewhere(&mut self, known: u64, kcmp_calls: u64) {
        self.tree.asked_elsewhere(known, kcmp_calls);
    }

    /// The descriptor that was first seen to lead to a file.
    #[must_use]
    pub fn first_holder(&self, id: ObjectId) -> Option<(Tid, Fd)> {
        self.tree.reference(id)
    }

    /// How much work this tree was so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.tree.counters()
    }
}

fn ask_file(known: (Tid, Fd), new: (Tid, Fd)) -> Result<Order> {
    let resource = Resource::File(known.1, new.1);
    ask(resource, known.0, new.0, known, new)
}

/// Asks the kernel, and names both sides when it refuses.
fn ask<R: Into<Target>>(
    resource: Resource,
    known_task: Tid,
    new_task: Tid,
    known: R,
    new: R,
) -> Result<Order> {
    kcmp(known_task, new_task, resource).or_else(|errno| {
        let both = Target::Pair(Box::new(known.into()), Box::new(new.into()));
        Err(errno).on(resource.op(), both)
    })
}

/// Which objects a task holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskIds {
    /// Its address space.
    pub vm: ObjectId,
    /// Its descriptor table.
    pub files: ObjectId,
    /// Its working folder, root and umask.
    pub fs: ObjectId,
    /// Its signal handlers.
    pub sighand: ObjectId,
}

/// Which objects a task holds, with the claims to those it was the first to show.
#[derive(Debug)]
pub struct TaskSightings {
    /// Its address space.
    pub vm: Sighting,
    /// Its descriptor table.
    pub files: Sighting,
    /// Its working folder, root and umask.
    pub fs: Sighting,
    /// Its signal handlers.
    pub sighand: Sighting,
}

impl TaskSightings {
    /// The ids alone.
    #[must_use]
    pub fn ids(&self) -> TaskIds {
        TaskIds {
            vm: self.vm.id(),
            files: self.files.id(),
            fs: self.fs.id(),
            sighand: self.sighand.id(),
        }
    }
}

/// What a stopped task's `/proc` folder tells, as far as it matters for identity.
#[derive(Clone, Copy, Debug)]
pub struct TaskLooks {
    /// Of its address space.
    pub vm: VmFingerprint,
    /// Of its descriptor table.
    pub files: FilesFingerprint,
    /// Of its working folder, root and umask.
    pub fs: FsFingerprint,
    /// Of its signal handlers.
    pub handled: Handled,
}

/// The five trees.
#[derive(Debug)]
pub struct Identities {
    /// Address spaces.
    pub vm: VmTree,
    /// Descriptor tables.
    pub files: FilesTree,
    /// Working folders, roots and umasks.
    pub fs: FsTree,
    /// Signal handlers.
    pub sighand: SighandTree,
    /// Open files.
    pub file: FileTree,
}

const FIRST_OF_FILES: ObjectId = ObjectId(NonZeroU32::MIN);
const OF_THE_DUMPER: ObjectId = ObjectId(NonZeroU32::MIN);
const FIRST_OF_TASKS: ObjectId = ObjectId(NonZeroU32::MIN.saturating_add(1));

impl Identities {
    /// What the dumper itself holds: the first id of each kind.
    ///
    /// Images record this beside the ids of the tree. The kernel need not be asked for it:
    /// these ids are kept out of the trees, so that no task ever gets one of them.
    pub const DUMPER: TaskIds = TaskIds {
        vm: OF_THE_DUMPER,
        files: OF_THE_DUMPER,
        fs: OF_THE_DUMPER,
        sighand: OF_THE_DUMPER,
    };

    /// Five empty trees. Ids of what tasks hold count from 2, ids of open files from 1.
    #[must_use]
    pub fn new() -> Self {
        Self {
            vm: TaskTree::new(Resource::Vm),
            files: TaskTree::new(Resource::Files),
            fs: TaskTree::new(Resource::Fs),
            sighand: TaskTree::new(Resource::Sighand),
            file: FileTree::new(),
        }
    }

    /// The objects that a process holds, or more exactly the thread that leads it.
    ///
    /// Not for zombies: they hold nothing any more, and to the kernel nothing equals nothing.
    ///
    /// # Errors
    /// Those of [`kcmp`], naming both tasks; [`Error::Vanished`] for a task without an address
    /// space; `EPERM` when the kernel hides the task's addresses from us.
    pub fn identify_process(&mut self, leader: Tid, looks: &TaskLooks) -> Result<TaskSightings> {
        if looks.vm.is_absent() {
            return Err(Error::Vanished { tid: leader });
        }
        if looks.vm.is_hidden() {
            // Hidden from us, two tasks with one address space may look different.
            return Err(Errno::EPERM).on(Resource::Vm.op(), leader);
        }
        let vm = self.vm.identify(leader, looks.vm)?;
        let handlers = SighandFingerprint::of(vm.id(), looks.handled);
        Ok(TaskSightings {
            files: self.files.identify(leader, looks.files)?,
            fs: self.fs.identify(leader, looks.fs)?,
            sighand: self.sighand.identify(leader, handlers)?,
            vm,
        })
    }

    /// The objects that another thread of a known process holds.
    ///
    /// Address space and handlers are the leader's: `CLONE_THREAD` demands `CLONE_SIGHAND`,
    /// which demands `CLONE_VM`; unshare(2) refuses both to a process with threads; exec ends
    /// the other threads. Descriptors and working folder may have been unshared: two questions
    /// tell, and `looks` are needed only if they were.
    ///
    /// # Errors
    /// Those of [`kcmp`], naming both tasks; those of `looks`.
    pub fn identify_thread(
        &mut self,
        thread: Tid,
        leader: TaskIds,
        looks: impl FnOnce() -> Result<(FilesFingerprint, FsFingerprint)>,
    ) -> Result<TaskSightings> {
        let same_files = self.files.is(leader.files, thread)?;
        let same_fs = self.fs.is(leader.fs, thread)?;
        let (mut files, mut fs) = (Sighting::Again(leader.files), Sighting::Again(leader.fs));
        if !(same_files && same_fs) {
            let (files_looks, fs_looks) = looks()?;
            if !same_files {
                files = self.files.identify(thread, files_looks)?;
            }
            if !same_fs {
                fs = self.fs.identify(thread, fs_looks)?;
            }
        }
        Ok(TaskSightings {
            vm: Sighting::Again(leader.vm),
            files,
            fs,
            sighand: Sighting::Again(leader.sighand),
        })
    }

    /// How much work each tree was so far, by the name of its kind.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, Counters); 5] {
        [
            ("vm", self.vm.counters()),
            ("files", self.files.counters()),
            ("fs", self.fs.counters()),
            ("sighand", self.sighand.counters()),
            ("file", self.file.counters()),
        ]
    }
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
