//! dedump: a checkpoint dumper for Linux process trees.
//!
//! Data flows one way, one folder per stage:
//!
//! ```text
//!   freeze ──► identify ──► collect ──► write ──► release
//!   (freeze/)  (kcmp/)      (collect/)  (image/)  (freeze/)
//!      │                       │
//!      └── sys/, proc/ ◄───────┴── inject/ (system calls inside a stopped task)
//! ```
//!
//! * [`ahead`] looks at a running tree, so that the freeze only has to confirm;
//! * [`freeze`] seizes every thread of the tree and yields a frozen tree;
//! * [`kcmp`] decides which of its resources are one kernel object;
//! * [`collect`] reads each resource once, from outside where the kernel tells, and
//!   through [`inject`] where only the task itself can ask;
//! * [`image`] writes what was collected in CRIU's format;
//! * [`check`] tells beforehand what stands in the way of a dump;
//! * dropping or releasing the frozen tree lets every task go as it was found.
//!
//! [`inspect`] looks at what was written, by dedump or by CRIU.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod ahead;
pub mod check;
pub mod clock;
pub mod collect;
pub mod dump;
pub mod error;
pub mod examination;
pub mod freeze;
pub mod hold;
pub mod hooks;
pub mod ids;
pub mod image;
pub mod inject;
pub mod inspect;
pub mod kcmp;
pub mod options;
pub mod parallel;
pub mod proc;
pub mod progress;
pub mod sys;
pub mod threads;
pub mod watch;
