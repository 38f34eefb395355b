//! The five trees on living tasks: threads of this test and programs it starts.

use std::os::fd::{AsRawFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::ids::Pid;
use crate::proc::ProcDir;
use crate::proc::stat::parse_stat;
use crate::proc::status::parse_status;

/// What `/proc` tells of a task, as a dump reads it.
fn looks(dir: &ProcDir) -> TaskLooks {
    let stat = parse_stat(&dir.read("stat").unwrap()).unwrap();
    let status = parse_status(&dir.read("status").unwrap()).unwrap();
    let place = |name| {
        let stat = dir.stat(name).unwrap();
        (stat.st_dev, stat.st_ino)
    };
    TaskLooks {
        vm: VmFingerprint::of(&stat),
        files: FilesFingerprint::of(dir.numbers("fd").unwrap().len()),
        fs: FsFingerprint {
            cwd: place("cwd"),
            root: place("root"),
            umask: status.umask,
        },
        handled: Handled::of(&status),
    }
}

fn own_tid() -> Tid {
    Tid(nix::unistd::gettid().as_raw())
}

fn own_pid() -> Pid {
    Pid(nix::unistd::getpid().as_raw())
}

/// A program that does nothing until dropped.
struct Program(Child);

impl Program {
    fn start() -> Self {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let program = Self(command.spawn().unwrap());
        // spawn returns once exec closes descriptors, a moment before the new stack is known.
        let dir = ProcDir::open(program.pid()).unwrap();
        while parse_stat(&dir.read("stat").unwrap())
            .unwrap()
            .layout
            .start_stack
            == 0
        {
            std::thread::yield_now();
        }
        program
    }

    fn pid(&self) -> Pid {
        Pid(i32::try_from(self.0.id()).unwrap())
    }

    fn looks(&self) -> TaskLooks {
        looks(&ProcDir::open(self.pid()).unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A thread that unshares something and then waits until dropped.
struct Loner {
    tid: Tid,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Loner {
    fn start(unshared: CloneFlags) -> Self {
        let (end, ended) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(unshared).unwrap();
            tell.send(own_tid()).unwrap();
            ended.recv().unwrap_err();
        });
        Self {
            tid: told.recv().unwrap(),
            end: Some(end),
            thread: Some(thread),
        }
    }

    fn dir(&self) -> ProcDir {
        ProcDir::open_thread(own_pid(), self.tid).unwrap()
    }
}

impl Drop for Loner {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn threads_share_all_but_what_they_unshared() {
    let leader = own_pid().leader();
    let threads = [
        Loner::start(CloneFlags::empty()),
        Loner::start(CloneFlags::CLONE_FS),
        Loner::start(CloneFlags::CLONE_FILES),
        Loner::start(CloneFlags::CLONE_FS | CloneFlags::CLONE_FILES),
    ];
    let mut identities = Identities::new();
    let own_looks = looks(&ProcDir::open(own_pid()).unwrap());
    let sightings = identities.identify_process(leader, &own_looks).unwrap();
    assert!(matches!(sightings.files, Sighting::First(_)));
    let own = sightings.ids();
    assert_eq!(own.vm.number(), 2);
    assert_ne!(own.files, Identities::DUMPER.files);

    let ids: Vec<TaskIds> = threads
        .iter()
        .map(|thread| {
            let looks_of_thread = || {
                let looks = looks(&thread.dir());
                Ok((looks.files, looks.fs))
            };
            let found = identities.identify_thread(thread.tid, own, looks_of_thread);
            found.unwrap().ids()
        })
        .collect();
    assert_eq!(ids[0], own);
    for (thread, shares_files, shares_fs) in [(1, true, false), (2, false, true), (3, false, false)]
    {
        assert_eq!(ids[thread].vm, own.vm);
        assert_eq!(ids[thread].sighand, own.sighand);
        assert_eq!(ids[thread].files == own.files, shares_files, "{thread}");
        assert_eq!(ids[thread].fs == own.fs, shares_fs, "{thread}");
    }
    assert_ne!(ids[1].fs, ids[3].fs);
    assert_ne!(ids[2].files, ids[3].files);
    assert_eq!(
        identities.files.first_holder(ids[3].files),
        Some(threads[3].tid)
    );
}

#[test]
fn programs_share_nothing_and_are_told_apart_by_their_looks() {
    let programs: Vec<Program> = (0..20).map(|_| Program::start()).collect();
    let mut identities = Identities::new();
    let mut all = Vec::new();
    for program in &programs {
        let leader = program.pid().leader();
        let found = identities.identify_process(leader, &program.looks());
        all.push(found.unwrap().ids());
    }
    for (n, ids) in all.iter().enumerate() {
        let expected = u32::try_from(n).unwrap() + 2;
        let numbers = [ids.vm, ids.files, ids.fs, ids.sighand].map(ObjectId::number);
        assert_eq!(numbers, [expected; 4]);
    }
    // Random stacks and their own address spaces tell them apart without a question.
    assert_eq!(identities.vm.counters().kcmp_calls, 0);
    assert_eq!(identities.sighand.counters().kcmp_calls, 0);
    // Met again, each is recognised by one question.
    for (program, ids) in programs.iter().zip(&all) {
        let again = identities.identify_process(program.pid().leader(), &program.looks());
        assert_eq!(again.unwrap().ids(), *ids);
    }
    assert_eq!(identities.vm.counters().kcmp_calls, 20);
    assert_eq!(identities.vm.counters().new, 20);
}

#[test]
fn a_task_that_ended_is_not_identified() {
    let mut program = Program::start();
    program.0.kill().unwrap();
    while parse_stat(&ProcDir::open(program.pid()).unwrap().read("stat").unwrap())
        .unwrap()
        .state
        != crate::proc::stat::State::Zombie
    {
        std::thread::yield_now();
    }
    let dir = ProcDir::open(program.pid()).unwrap();
    let stat = parse_stat(&dir.read("stat").unwrap()).unwrap();
    let own = looks(&ProcDir::open(own_pid()).unwrap());
    let looks = TaskLooks {
        vm: VmFingerprint::of(&stat),
        ..own
    };
    let found = Identities::new().identify_process(program.pid().leader(), &looks);
    assert!(matches!(found, Err(Error::Vanished { .. })), "{found:?}");
}

#[test]
fn descriptors_of_one_file_have_one_id() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let copy = file.try_clone().unwrap();
    let other = std::fs::File::open("/proc/self/exe").unwrap();
    let fingerprint = FileFingerprint::of(&FileLooks {
        device: 1,
        inode: 2,
        mount: 3,
        flags: 0,
        link: b"/proc/self/exe",
        serial: None,
    });
    let mut tree = Identities::new().file;
    let mut identify = |fd: RawFd, rank: Option<u32>| {
        let expected = Expected {
            rank,
            answered: None,
        };
        tree.identify_expected(own_tid(), Fd(fd), fingerprint, expected)
            .unwrap()
    };
    let first = identify(file.as_raw_fd(), Some(7));
    assert!(matches!(&first, Sighting::First(claim) if claim.id().number() == 1));
    let second = identify(other.as_raw_fd(), Some(7));
    assert!(matches!(&second, Sighting::First(claim) if claim.id().number() == 2));
    let again = identify(copy.as_raw_fd(), Some(7));
    assert!(matches!(again, Sighting::Again(id) if id == first.id()));
    assert!(
        tree.is(first.id(), own_tid(), Fd(copy.as_raw_fd()))
            .unwrap()
    );
    assert!(
        !tree
            .is(second.id(), own_tid(), Fd(copy.as_raw_fd()))
            .unwrap()
    );
    assert_eq!(tree.claim_fresh().unwrap().id().number(), 3);

    drop(copy);
    let closed = Fd(1_000_000);
    let error = tree.identify(own_tid(), closed, fingerprint).unwrap_err();
    let text = error.to_string();
    let tid = own_tid();
    assert!(text.starts_with(&format!("kcmp FILE {tid}:")), "{text}");
    assert!(text.contains(&format!(" ~ {tid}:1000000: EBADF")), "{text}");
}
