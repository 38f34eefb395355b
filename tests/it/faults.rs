//! Dumps in which one system call fails, or before which the dumper dies: any of them.
//!
//! A supervisor (`tests/guests/fault.c`) counts the calls of the very program that users run,
//! of its threads and of the programs it starts. The short form tries a sample spread over the
//! whole dump, DEDUMP_TEST_FULL=1 every call; `DEDUMP_FAULT_STEP=N` every Nth. What was tried
//! and how it ended is written to `target/faults-fail.txt` and `target/faults-kill.txt`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::guest::{Guest, assert_sound, dedump, images, program, run};
use crate::outside::Outside;
use crate::sockets::{locks, network};

/// Every kind of file, socket, connection, signal, timer and credential, and threads with memory
/// that is worth a snapshot; each program in a folder of its own.
const EVERYTHING: &str = r#"
guests=$0
for name in files unix tcp tasks; do
    mkdir $name
    (cd $name && exec python3 -c "$(cat $guests/$name.py)") &
done
mkdir steady
(cd steady && exec "$1" heap restarted >../steady.out) &
wait
"#;

const ARGUMENTS: [&str; 3] = ["-R", "--tcp-established", "--overwrite"];

/// A tree, and how it looks from outside.
struct Tree {
    guest: Guest,
    before: Vec<(i32, Outside)>,
}

impl Tree {
    fn start() -> Self {
        let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
        let mut command = Command::new("bash");
        command
            .args(["-c", EVERYTHING])
            .arg(guests)
            .arg(program("steady"));
        let guest = Guest::start(&mut command, "ready");
        guest.wait_until_lines("ready", 4);
        let pids = guest.whole_tree();
        assert!(pids.len() >= 18, "{pids:?}");
        let before = pids.iter().map(|pid| (*pid, Outside::settled(*pid)));
        Self {
            before: before.collect(),
            guest,
        }
    }

    fn assert_still(&self) {
        for (pid, before) in &self.before {
            before.assert_still(*pid);
        }
        let complaint = std::fs::read_to_string(self.guest.dir.path().join("steady.out"));
        assert!(!complaint.unwrap().contains("BAD"));
        assert_eq!(locks(), "");
    }

    /// A dump that nothing disturbs succeeds, and leaves nothing of any dump before it.
    fn dump_again(&self, images: &Path) {
        let output = run(&mut dedump(self.guest.pid(), images, &ARGUMENTS));
        assert!(output.status.success());
        assert_eq!(hidden(images), [""; 0].map(PathBuf::from));
        self.assert_still();
    }

    /// In the end everybody checks everything that cannot be seen from outside.
    fn check_itself(self) {
        for name in ["files", "unix", "tcp", "tasks"] {
            std::fs::write(self.guest.dir.path().join(name).join("go"), "").unwrap();
        }
        self.guest.wait_until_lines("done", 4);
    }
}

fn hidden(images: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(images).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.file_name().unwrap().as_encoded_bytes()[0] == b'.')
        .collect()
}

/// What the supervisor saw.
struct Met {
    calls: u64,
    /// The number of the call that was met, if there were that many.
    call: Option<i64>,
    /// The name of the thread that made it.
    thread: String,
    output: Output,
}

/// Dumps under supervision.
fn supervised(tree: &Tree, images: &Path, action: &[&str]) -> Met {
    let report = tree.guest.dir.path().join("report");
    let dumper = dedump(tree.guest.pid(), images, &ARGUMENTS);
    let mut supervisor = Command::new("timeout");
    supervisor
        .args(["--signal=KILL", "120"])
        .arg(program("fault"))
        .args(action)
        .arg(&report)
        .arg("--")
        .arg(dumper.get_program())
        .args(dumper.get_args());
    let output = supervisor.output().unwrap();
    let text = std::fs::read_to_string(&report);
    let text = text.unwrap_or_else(|_| panic!("{action:?}: the dump hangs"));
    let mut words = text.trim_end().splitn(3, ' ');
    Met {
        calls: words.next().unwrap().parse().unwrap(),
        call: words.next().unwrap().parse().ok().filter(|call| *call >= 0),
        thread: words.next().unwrap().to_owned(),
        output,
    }
}

/// The calls that are tried out of about so many.
fn sample(calls: u64) -> impl Iterator<Item = u64> {
    const FEW: u64 = 60;
    let step = std::env::var("DEDUMP_FAULT_STEP").ok();
    let step: Option<u64> = step.map(|step| step.parse().unwrap());
    let full = std::env::var_os("DEDUMP_TEST_FULL").is_some();
    let step = step.unwrap_or(if full { 1 } else { calls.div_ceil(FEW) });
    // Another sample each time: where the first one is.
    let first = 1 + u64::from(std::process::id()) % step;
    (first..).step_by(usize::try_from(step).unwrap())
}

/// Counts what happened, and keeps a line of each.
struct Report {
    path: PathBuf,
    lines: String,
    outcomes: BTreeMap<&'static str, u32>,
    tried: u32,
    started: Instant,
}

impl Report {
    fn new(name: &str) -> Self {
        Self {
            path: Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("target")
                .join(name),
            lines: String::new(),
            outcomes: BTreeMap::new(),
            tried: 0,
            started: Instant::now(),
        }
    }

    fn add(&mut self, number: u64, met: &Met, outcome: &'static str) {
        self.tried += 1;
        *self.outcomes.entry(outcome).or_default() += 1;
        let call = met.call.unwrap_or(-1);
        let said = String::from_utf8_lossy(&met.output.stderr);
        let said = said.lines().last().unwrap_or_default();
        let thread = &met.thread;
        writeln!(
            self.lines,
            "{number} call {call} of {thread}: {outcome}: {said}"
        )
        .unwrap();
        let head = format!(
            "{} calls tried in {:?}, {:?}, no tree harmed\n",
            self.tried,
            self.started.elapsed(),
            self.outcomes
        );
        std::fs::write(&self.path, head + &self.lines).unwrap();
    }
}

#[test]
fn every_call_fails_once() {
    const ERRNOS: [Errno; 7] = [
        Errno::EIO,
        Errno::ENOMEM,
        Errno::EPERM,
        Errno::EAGAIN,
        Errno::ENOSPC,
        Errno::EINVAL,
        Errno::EMFILE,
    ];
    let _network = network();
    let tree = Tree::start();
    let (_dir, images) = images();
    let calls = supervised(&tree, &images, &["count"]).calls;
    let mut report = Report::new("faults-fail.txt");
    for (number, errno) in sample(calls).zip(ERRNOS.iter().cycle()) {
        let errno = (*errno as i32).to_string();
        let met = supervised(&tree, &images, &["fail", &number.to_string(), &errno]);
        let Some(call) = met.call else { break };
        let context = format!("call {number} ({call} of {}): errno {errno}", met.thread);
        eprintln!("{context}");
        let said = String::from_utf8_lossy(&met.output.stderr).into_owned();
        let outcome = match met.output.status.code() {
            Some(0) => "dumped",
            Some(1) => "an error",
            Some(3) => "an error that names who was not let go",
            // The runtime ends a process that gets no memory or no lock.
            Some(128..) => "ended",
            code => panic!("{context}: {code:?}: {said}"),
        };
        if outcome == "dumped" {
            assert_sound(&images);
        } else if outcome != "ended" {
            assert!(said.contains("dedump: error: "), "{context}: {said}");
        }
        tree.assert_still();
        let is_left = !hidden(&images).is_empty();
        if is_left || outcome != "dumped" {
            tree.dump_again(&images);
        }
        report.add(number, &met, outcome);
    }
    tree.dump_again(&images);
    tree.check_itself();
}

#[test]
fn every_call_is_the_last_one() {
    let _network = network();
    let tree = Tree::start();
    let (_dir, images) = images();
    let calls = supervised(&tree, &images, &["count"]).calls;
    let mut report = Report::new("faults-kill.txt");
    for number in sample(calls) {
        let _ = std::fs::remove_dir_all(&images);
        let met = supervised(&tree, &images, &["kill", &number.to_string()]);
        let Some(call) = met.call else { break };
        let context = format!("killed at call {number} ({call} of {})", met.thread);
        eprintln!("{context}");
        let is_complete = images.join("inventory.img").exists();
        if is_complete {
            assert_sound(&images);
        }
        let outcome = match met.output.status.code() {
            Some(0) => "a program that helps died, dumped",
            Some(137) if is_complete => "died, after the dump was complete",
            Some(137) => "died",
            Some(1) => "a program that helps died, an error",
            code => panic!("{context}: {code:?}"),
        };
        // Who stands by undoes what must not stay; the rest is put right by the next dump.
        let end = Instant::now() + Duration::from_secs(5);
        while !locks().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(locks(), "", "{context}");
        tree.dump_again(&images);
        report.add(number, &met, outcome);
    }
    tree.check_itself();
}
