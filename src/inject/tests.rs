//! Visits to real, sleeping processes.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::*;
use crate::freeze::freeze;
use crate::ids::Pid;
use crate::proc::maps::parse_maps;
use crate::sys::ptrace;

struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let child = Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("sleep starts");
        let sleeper = Self(child);
        sleeper.wait_until_in(libc::SYS_clock_nanosleep);
        sleeper
    }

    fn wait_until_in(&self, call: libc::c_long) {
        let end = soon();
        while !self.read("syscall").starts_with(&format!("{call} ")) {
            assert!(Instant::now() < end, "{}", self.read("syscall"));
            std::thread::yield_now();
        }
    }

    fn pid(&self) -> Pid {
        Pid(i32::try_from(self.0.id()).expect("a pid"))
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid())).expect("readable")
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn ask(pid: Pid) -> (u64, u64) {
    let tree = freeze(pid, soon(), None).expect("frozen");
    let process = tree.root();
    let memory = TaskMemory::open(&process.proc_dir, pid.leader()).expect("memory");
    let mappings = parse_maps(&process.proc_dir.read("maps").expect("maps")).expect("parsed");
    let site = Site::find(&memory, &mappings, &process.threads, soon()).expect("a site");
    let leader = process.leader().expect("alive");
    let host = Host {
        thread: leader,
        registers: leader.registers().expect("registers"),
        blocked: ptrace::signal_mask(leader.tid()).expect("mask"),
    };
    let mut batch = Batch::default();
    let own_pid = batch.call(libc::SYS_getpid, &[]);
    let limit = batch.buffer(16);
    let nofile = u64::from(libc::RLIMIT_NOFILE);
    batch.call(
        libc::SYS_prlimit64,
        &[0.into(), nofile.into(), 0.into(), limit.into()],
    );
    let party = Party {
        memory: &memory,
        mappings: &mappings,
        site,
        hosts: vec![host],
        batches: vec![batch],
    };
    let results = &visit(&[party], soon()).expect("visited")[0];
    (
        results[0].value(own_pid).expect("a pid").cast_unsigned(),
        results[0].word(limit, 0),
    )
}

#[test]
fn a_visit_answers_and_leaves_no_trace() {
    let sleeper = Sleeper::start();
    let before = sleeper.read("maps");
    for _ in 0..50 {
        let (pid, limit) = ask(sleeper.pid());
        assert_eq!(pid, u64::from(sleeper.0.id()));
        assert!(limit > 0);
    }
    // Still in its sleep, entered anew.
    sleeper.wait_until_in(libc::SYS_restart_syscall);
    assert_eq!(sleeper.read("maps"), before);
    assert!(sleeper.read("status").contains("TracerPid:\t0"));
}
