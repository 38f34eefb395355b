//! Small types for the numbers of this project, so that a pid is never taken for a descriptor.

use std::fmt;
use std::num::NonZeroU32;

/// A process: the thread group id, as seen from the dumper's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub i32);

/// A thread id, as seen from the dumper's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub i32);

/// A file descriptor number inside a task of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fd(pub i32);

/// The number under which the images know one kernel object; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub NonZeroU32);

impl Pid {
    /// The thread that leads this process.
    #[must_use]
    pub fn leader(self) -> Tid {
        Tid(self.0)
    }

    /// The pid as the unsigned number the images store.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0.unsigned_abs()
    }
}

impl Tid {
    /// The tid as the unsigned number the images store.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0.unsigned_abs()
    }
}

impl ObjectId {
    /// The id as the plain number the images store.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
