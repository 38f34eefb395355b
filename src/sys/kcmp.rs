//! `kcmp(2)`: are two things that two tasks hold one kernel object?
#![allow(unsafe_code)]

use nix::errno::Errno;

use crate::ids::{Fd, Tid};

/// What is compared between a first and a second task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `KCMP_FILE`: the open file descriptions behind the first task's and the second task's
    /// descriptor.
    File(Fd, Fd),
    /// `KCMP_VM`: the address spaces.
    Vm,
    /// `KCMP_FILES`: the descriptor tables.
    Files,
    /// `KCMP_FS`: working folder, root and umask.
    Fs,
    /// `KCMP_SIGHAND`: the tables of signal handlers.
    Sighand,
    /// `KCMP_EPOLL_TFD`: the first task's descriptor and a target of the second task's epoll.
    ///
    /// The kernel walks the epoll's whole set for one answer.
    EpollTarget(Fd, EpollSlot),
}

/// One registration in an epoll set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollSlot {
    /// The epoll descriptor.
    pub epoll: Fd,
    /// The number under which the target was registered; it may name another file by now.
    pub target: Fd,
    /// Which of the registrations under that number, counted from 0.
    pub offset: u32,
}

impl Resource {
    /// The call with its type, as error messages name it.
    #[must_use]
    pub fn op(self) -> &'static str {
        match self {
            Resource::File(..) => "kcmp FILE",
            Resource::Vm => "kcmp VM",
            Resource::Files => "kcmp FILES",
            Resource::Fs => "kcmp FS",
            Resource::Sighand => "kcmp SIGHAND",
            Resource::EpollTarget(..) => "kcmp EPOLL_TFD",
        }
    }
}

/// The kernel's answer: how the first object stands to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One kernel object.
    Equal,
    /// Two objects, the first before the second.
    Less,
    /// Two objects, the first after the second.
    Greater,
    /// Two objects that this kernel will not order: no search is possible.
    Unordered,
}

/// The layout of the kernel's `struct kcmp_epoll_slot`.
#[repr(C)]
struct RawEpollSlot {
    efd: u32,
    tfd: u32,
    toff: u32,
}

/// `kcmp(first, second, …)`: orders the objects that two tasks hold.
///
/// `Less` and `Greater` follow an obfuscated address order: total and stable within one
/// boot, but an object freed and another allocated in its place are one to it, so answers
/// belong together only while both tasks are stopped. Tasks without an object (a zombie has
/// no address space, no table, no fs) are all `Equal` in lacking it: do not ask about them.
///
/// # Errors
/// `EPERM` no ptrace access to a task; `ESRCH` a task is gone; `EBADF` a descriptor is closed;
/// `ENOENT` no such epoll registration; `ENOSYS` a kernel without `CONFIG_KCMP`; `EINVAL` an
/// answer or type this kernel and we do not share.
///
/// # Sources
/// kcmp(2), since Linux 3.5; kernel/kcmp.c; `KCMP_EPOLL_TFD` since 4.13.
pub fn kcmp(first: Tid, second: Tid, resource: Resource) -> Result<Order, Errno> {
    // The kernel's type numbers; libc does not carry them.
    let (kind, index1, index2) = match resource {
        Resource::File(a, b) => (0, index(a)?, index(b)?),
        Resource::Vm => (1, 0, 0),
        Resource::Files => (2, 0, 0),
        Resource::Fs => (3, 0, 0),
        Resource::Sighand => (4, 0, 0),
        Resource::EpollTarget(a, slot) => {
            let raw = RawEpollSlot {
                efd: index(slot.epoll)?,
                tfd: index(slot.target)?,
                toff: slot.offset,
            };
            let fd = libc::c_ulong::from(index(a)?);
            // SAFETY: `raw` outlives the call, which only reads it.
            let answer =
                unsafe { libc::syscall(libc::SYS_kcmp, first.0, second.0, 7, fd, &raw const raw) };
            return order(answer);
        }
    };
    let (index1, index2) = (libc::c_ulong::from(index1), libc::c_ulong::from(index2));
    // SAFETY: the call takes five integers and touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_kcmp, first.0, second.0, kind, index1, index2) };
    order(answer)
}

fn index(fd: Fd) -> Result<u32, Errno> {
    u32::try_from(fd.0).map_err(|_| Errno::EBADF)
}

fn order(answer: libc::c_long) -> Result<Order, Errno> {
    match Errno::result(answer)? {
        0 => Ok(Order::Equal),
        1 => Ok(Order::Less),
        2 => Ok(Order::Greater),
        3 => Ok(Order::Unordered),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, RawFd};
    use std::process::{Child, Command, Stdio};

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

    use super::*;

    fn own_tid() -> Tid {
        Tid(nix::unistd::gettid().as_raw())
    }

    fn own_files(a: RawFd, b: RawFd) -> Result<Order, Errno> {
        kcmp(own_tid(), own_tid(), Resource::File(Fd(a), Fd(b)))
    }

    /// A child that blocks until dropped.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            let child = Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn();
            Self(child.unwrap())
        }

        fn tid(&self) -> Tid {
            Tid(i32::try_from(self.0.id()).unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn duplicates_are_equal_and_two_opens_are_ordered_both_ways() {
        let first = File::open("/dev/null").unwrap();
        let second = File::open("/dev/null").unwrap();
        let copy = first.try_clone().unwrap();
        let (first, second, copy) = (first.as_raw_fd(), second.as_raw_fd(), copy.as_raw_fd());

        assert_eq!(own_files(first, copy), Ok(Order::Equal));
        let there = own_files(first, second).unwrap();
        let back = own_files(second, copy).unwrap();
        assert!(
            matches!(
                (there, back),
                (Order::Less, Order::Greater) | (Order::Greater, Order::Less)
            ),
            "{there:?} {back:?}"
        );
    }

    #[test]
    fn closed_and_negative_descriptors_are_bad() {
        assert_eq!(own_files(0, 1_000_000), Err(Errno::EBADF));
        assert_eq!(own_files(0, -1), Err(Errno::EBADF));
    }

    #[test]
    fn a_thread_shares_and_a_child_does_not() {
        let main = own_tid();
        let child = Sleeper::start();
        let all = [
            Resource::Vm,
            Resource::Files,
            Resource::Fs,
            Resource::Sighand,
        ];
        for resource in all {
            let with_thread = std::thread::spawn(move || kcmp(main, own_tid(), resource));
            assert_eq!(with_thread.join().unwrap(), Ok(Order::Equal));
            let with_child = kcmp(main, child.tid(), resource).unwrap();
            assert!(matches!(with_child, Order::Less | Order::Greater));
        }
    }

    #[test]
    fn an_epoll_target_is_found_under_the_number_it_was_registered_with() {
        let target = nix::sys::eventfd::EventFd::new().unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let number = Fd(std::os::fd::AsFd::as_fd(&target).as_raw_fd());
        let event = EpollEvent::new(EpollFlags::EPOLLIN, 7);
        epoll.add(&target, event).unwrap();

        let slot = |offset| EpollSlot {
            epoll: Fd(epoll.0.as_raw_fd()),
            target: number,
            offset,
        };
        let ask = |offset| {
            let resource = Resource::EpollTarget(number, slot(offset));
            kcmp(own_tid(), own_tid(), resource)
        };
        assert_eq!(ask(0), Ok(Order::Equal));
        assert_eq!(ask(1), Err(Errno::ENOENT));
    }

    #[test]
    fn a_task_that_is_gone_is_told() {
        let child = Sleeper::start();
        let tid = child.tid();
        drop(child);
        assert_eq!(kcmp(own_tid(), tid, Resource::Vm), Err(Errno::ESRCH));
    }
}
