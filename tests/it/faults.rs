//! Dumps in which one system call fails, or before which the dumper dies: any of them.
//!
//! A supervisor (`tests/guests/fault.c`) watches the very program that users run, its threads
//! and the programs it starts. It tells calls apart by where they come from, since a dump makes
//! thousands of them from some hundred places. The short form tries a sample of these places;
//! DEDUMP_TEST_FULL=1 all of them, each at its first and its last call and one between
//! (DEDUMP_FAULT_CALLS=N: at N calls). What was tried and how it ended is written to
//! `target/faults-fail.txt` and `target/faults-kill.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::guest::{Guest, PATIENCE, TERMINALS, assert_sound, dedump, images, program, run};
use crate::outside::Outside;

/// Programs with every kind of thing that a dump holds, some for each tree. "steady" notices
/// whatever is done to its threads and registers, and has memory that is worth a snapshot.
const TREES: [&[&str]; 7] = [
    &["steady"],
    &[
        "a_file_mapped_shared",
        "deleted_fifo",
        "deleted_file_that_is_mapped_and_closed",
        "deleted_folder",
        "directory_half_read",
        "one_position_for_parent_and_child",
        "simple_devices",
        "unlinked_with_another_name",
    ],
    &[
        "epoll_of_many_kinds",
        "eventfds_of_all_values",
        "fanotify_on_a_file",
        "fifo_with_data",
        "inotify_on_files_and_folders",
        "pipe_with_data",
        "signalfds",
        "timerfds_that_run",
    ],
    &[
        "netlink_sockets",
        "packet_socket_with_a_ring",
        "raw_sockets",
        "tcp_connection_of_version_six",
        "tcp_connection_with_data_both_ways",
        "tcp_listeners",
        "udp_sockets",
    ],
    &[
        "names_of_namespaces",
        "pidfds_of_the_tree",
        "proc_files_of_tasks_in_the_tree",
        "terminal_that_controls_a_session",
        "terminal_with_data_both_ways",
        "unix_connections_that_wait_to_be_accepted",
        "unix_queue_with_open_files",
    ],
    &[
        "a_ring_of_asynchronous_io",
        "flock_of_parent_and_child",
        "leases",
        "locks_of_open_files",
        "memfd_open_and_mapped_by_two",
        "memfd_sealed_for_good",
        "posix_locks_on_ranges",
        "shared_memory_of_two",
    ],
    &[
        "ambient_capabilities_of_a_user",
        "filters_of_single_threads",
        "group_whose_leader_is_gone",
        "inside_nested_handlers",
        "interval_timers",
        "robust_lock_of_a_thread",
        "rseq_of_threads",
        "scheduling_policies",
        "signal_queued_with_a_value",
        "stopped_with_threads",
        "subreaper_with_orphans",
        "timers_on_all_clocks",
    ],
];

/// Starts them, each in a folder of its own.
const START: &str = r#"
programs=$1
shift
ip link set lo up
for kind in "$@"; do
    mkdir $kind
    if [ $kind = steady ]; then
        (cd $kind && exec $programs/steady heap restarted) &
    else
        (cd $kind && exec $programs/scenarios $kind) &
    fi
done
wait
"#;

const ARGUMENTS: [&str; 5] = [
    "-R",
    "--tcp-established",
    "--file-locks",
    "--link-remap",
    "--overwrite",
];

/// A tree in a network of its own, and how it looks from outside.
struct Tree {
    guest: Guest,
    kinds: &'static [&'static str],
    before: Vec<(i32, Outside)>,
}

impl Tree {
    fn start(kinds: &'static [&'static str]) -> Self {
        // A restore of another test may need a terminal that would be ours.
        let _terminals = TERMINALS.lock();
        let mut command = Command::new("unshare");
        command
            .args(["--net", "sh", "-c", START, "sh"])
            .arg(program("steady").parent().unwrap())
            .args(kinds);
        let guest = Guest::start(&mut command, "ready");
        guest.wait_until_lines("ready", kinds.len());
        assert!(!guest.output().contains("SKIPPED"), "{}", guest.output());
        let before = Outside::settled_tree(&guest);
        assert!(before.len() > kinds.len(), "{before:?}");
        Self {
            guest,
            kinds,
            before,
        }
    }

    fn assert_still(&self) {
        for (pid, before) in &self.before {
            before.assert_still(*pid);
        }
        self.assert_unharmed();
        eventually_none("links", || {
            let links = self.links().into_iter();
            links.map(|link| link.display().to_string()).collect()
        });
    }

    /// What holds even when the dumper has died, which leaves something for the next one.
    fn assert_unharmed(&self) {
        for (pid, _) in &self.before {
            let end = Instant::now() + PATIENCE;
            let is_let_go = || {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
                status.is_ok_and(|status| status.contains("TracerPid:\t0"))
            };
            while !is_let_go() {
                assert!(Instant::now() < end, "{pid} is gone or traced");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let output = self.guest.output();
        assert!(!output.contains("BAD"), "{output}");
        eventually_none("rules that lock connections", || self.locks());
        eventually_none("snapshots", || self.snapshots());
    }

    /// The rules that lock connections.
    fn locks(&self) -> Vec<String> {
        let mut list = Command::new("nft");
        list.args(["list", "ruleset"]);
        let output = self.beside(&list).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let locks = text
            .lines()
            .filter(|line| line.contains("c114") || line.contains("CRIU-"));
        locks.map(str::to_owned).collect()
    }

    /// Copies of tasks of the tree.
    fn snapshots(&self) -> Vec<String> {
        let folders = std::fs::read_dir("/proc").unwrap().flatten();
        let copies = folders.map(|entry| entry.path()).filter(|path| {
            let comm = std::fs::read(path.join("comm")).unwrap_or_default();
            let cwd = std::fs::read_link(path.join("cwd")).unwrap_or_default();
            comm == b"dedump-copy\n" && cwd.starts_with(self.guest.dir.path())
        });
        copies.map(|path| path.display().to_string()).collect()
    }

    /// Links to files that have lost their name.
    fn links(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for kind in self.kinds {
            let folder = self.guest.dir.path().join(kind);
            let paths = std::fs::read_dir(folder).unwrap().flatten();
            found.extend(paths.map(|entry| entry.path()).filter(|path| {
                let name = path.file_name().unwrap();
                name.as_encoded_bytes().starts_with(b"link_remap")
            }));
        }
        found
    }

    /// The command in the network of the tree.
    fn beside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        let net = format!("--net=/proc/{}/ns/net", self.guest.pid());
        inside
            .args([&net, "--"])
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    /// A dump that nothing disturbs succeeds, and leaves nothing of any dump before it; or names
    /// it, if it may be somebody else's.
    fn dump_again(&self, images: &Path) {
        let dumper = dedump(self.guest.pid(), images, &ARGUMENTS);
        let output = run(&mut self.beside(&dumper));
        assert!(output.status.success(), "the next dump");
        assert_eq!(hidden(images), [""; 0].map(PathBuf::from));
        let said = String::from_utf8_lossy(&output.stderr);
        for link in self.links() {
            assert!(said.contains(link.to_str().unwrap()), "not named: {link:?}");
            std::fs::remove_file(link).unwrap();
        }
        self.assert_still();
    }

    /// In the end everybody checks everything that cannot be seen from outside.
    fn check_itself(self) {
        for kind in self.kinds {
            std::fs::write(self.guest.dir.path().join(kind).join("go"), "").unwrap();
        }
        let scenarios = self.kinds.iter().filter(|kind| **kind != "steady");
        self.guest.wait_until_lines("done", scenarios.count());
    }
}

/// Who stands by undoes what must not stay, after a moment.
fn eventually_none(what: &str, found: impl Fn() -> Vec<String>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = found();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "left behind: {what}: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
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
    /// The number of the call that was met, if it came to that.
    call: Option<i64>,
    /// The name of the thread that made it.
    thread: String,
    output: Output,
}

/// Dumps under supervision.
fn supervised(tree: &Tree, images: &Path, action: &[&str]) -> Met {
    let report = tree.guest.dir.path().join("report");
    let _ = std::fs::remove_file(&report);
    let dumper = dedump(tree.guest.pid(), images, &ARGUMENTS);
    let mut supervisor = Command::new("timeout");
    supervisor
        .args(["--signal=KILL", "60"])
        .arg(program("fault"))
        .args(action)
        .arg(&report)
        .arg("--")
        .arg(dumper.get_program())
        .args(dumper.get_args());
    let output = tree.beside(&supervisor).output().unwrap();
    let text = std::fs::read_to_string(&report);
    let text = text.unwrap_or_else(|_| panic!("{action:?}: the dump hangs"));
    eprint!("met: {text}");
    let mut words = text.trim_end().splitn(3, ' ');
    Met {
        calls: words.next().unwrap().parse().unwrap(),
        call: words.next().unwrap().parse().ok().filter(|call| *call >= 0),
        thread: words.next().unwrap().to_owned(),
        output,
    }
}

/// Calls that come from one place.
struct Site {
    name: String,
    calls: u64,
}

/// All places that calls come from, and how many calls a dump makes.
fn sites(tree: &Tree, images: &Path) -> (Vec<Site>, u64) {
    let list = tree.guest.dir.path().join("sites");
    let mut calls_of = BTreeMap::new();
    let mut most = 0;
    // What happens only now and then may happen now.
    for _ in 0..3 {
        let met = supervised(tree, images, &["sites", list.to_str().unwrap()]);
        assert!(met.output.status.success());
        most = most.max(met.calls);
        for line in std::fs::read_to_string(&list).unwrap().lines() {
            let mut words = line.split(' ');
            let name = words.next().unwrap().to_owned();
            let calls: u64 = words.next().unwrap().parse().unwrap();
            let known = calls_of.entry(name).or_insert(0);
            *known = calls.max(*known);
        }
    }
    let sites = calls_of.into_iter();
    (
        sites.map(|(name, calls)| Site { name, calls }).collect(),
        most,
    )
}

/// How many calls of each place are tried: the first, the last, and others between them.
fn calls_tried() -> Option<u64> {
    let calls = std::env::var("DEDUMP_FAULT_CALLS").ok();
    let calls = calls.map(|calls| calls.parse().unwrap());
    calls.or_else(|| std::env::var_os("DEDUMP_TEST_FULL").map(|_| 3))
}

/// What is tried: call so and so of a place.
fn tries(sites: &[Site]) -> Vec<(String, u64)> {
    /// Tries of the short form, for each tree.
    const FEW: usize = 3;
    let each = calls_tried();
    let mut tries = Vec::new();
    for site in sites {
        let some = site.calls.min(each.unwrap_or(3));
        let mut chosen: Vec<u64> = (0..some)
            .map(|part| 1 + part * (site.calls - 1) / (some - 1).max(1))
            .collect();
        chosen.dedup();
        tries.extend(chosen.into_iter().map(|call| (site.name.clone(), call)));
    }
    if each.is_none() {
        // Another sample each time.
        let step = tries.len().div_ceil(FEW).max(1);
        let first = usize::try_from(std::process::id()).unwrap() % step;
        tries = tries.into_iter().skip(first).step_by(step).collect();
    }
    tries
}

/// Counts what happened, and keeps a line of each.
struct Report {
    path: PathBuf,
    /// In one dump of each tree.
    calls: u64,
    sites: usize,
    lines: String,
    outcomes: BTreeMap<String, u32>,
    harmed: Vec<String>,
    tried: u32,
    started: Instant,
}

impl Report {
    fn new(name: &str) -> Self {
        Self {
            path: Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("target")
                .join(name),
            calls: 0,
            sites: 0,
            lines: String::new(),
            outcomes: BTreeMap::new(),
            harmed: Vec::new(),
            tried: 0,
            started: Instant::now(),
        }
    }

    fn add(&mut self, tried: &str, outcome: &str) {
        self.tried += 1;
        let kind = outcome.split(':').next().unwrap_or_default().to_owned();
        *self.outcomes.entry(kind).or_default() += 1;
        writeln!(self.lines, "{tried}: {outcome}").unwrap();
        let head = format!(
            "dumps of {} trees make {} calls from {} places; {} calls tried in {} s: {:?}; \
             {} of them harmed the tree or left something\n",
            TREES.len(),
            self.calls,
            self.sites,
            self.tried,
            self.started.elapsed().as_secs(),
            self.outcomes,
            self.harmed.len()
        );
        std::fs::write(&self.path, head + &self.lines).unwrap();
    }
}

/// Tries everything that there is to be tried, with a new tree after each harm.
fn sweep(name: &str, mut attempt: impl FnMut(&Tree, &Path, usize, &str, u64) -> (String, String)) {
    const ENOUGH: usize = 25;
    let mut report = Report::new(name);
    let mut known = BTreeSet::new();
    let mut index = 0;
    for kinds in TREES {
        let mut tree = Some(Tree::start(kinds));
        let (_dir, images) = images();
        let (mut sites, calls) = sites(tree.as_ref().unwrap(), &images);
        // What all dumps do is tried with one of them.
        sites.retain(|site| known.insert(site.name.clone()));
        report.calls += calls;
        report.sites += sites.len();
        for (site, call) in tries(&sites) {
            index += 1;
            let started = tree.get_or_insert_with(|| Tree::start(kinds));
            let tried = format!("call {call} of {site}");
            eprintln!("{tried}");
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                attempt(started, &images, index, &site, call)
            }));
            match outcome {
                Ok((met, outcome)) => report.add(&format!("{tried} ({met})"), &outcome),
                Err(panic) => {
                    let words = panic.downcast_ref::<String>().cloned();
                    let words =
                        words.or_else(|| panic.downcast_ref::<&str>().map(|word| (*word).into()));
                    let harm = format!("{tried}, try {index}: {}", words.unwrap_or_default());
                    report.harmed.push(harm.clone());
                    report.add(&tried, &format!("HARM: {harm}"));
                    assert!(report.harmed.len() < ENOUGH, "{:#?}", report.harmed);
                    tree = None;
                    let _ = std::fs::remove_dir_all(&images);
                }
            }
        }
        if let Some(tree) = tree {
            tree.dump_again(&images);
            tree.check_itself();
        }
    }
    assert!(report.harmed.is_empty(), "{:#?}", report.harmed);
}

#[test]
#[ignore = "takes minutes: tests/run --test it faults -- --ignored"]
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
    sweep("faults-fail.txt", |tree, images, index, site, call| {
        let errno = ERRNOS[index % ERRNOS.len()];
        let number = (errno as i32).to_string();
        let met = supervised(tree, images, &["fail", site, &call.to_string(), &number]);
        let said = String::from_utf8_lossy(&met.output.stderr).into_owned();
        let what = met.call.map_or("not made".to_owned(), |call| {
            format!("{call} of {}, {errno:?}", met.thread)
        });
        let outcome = match met.output.status.code() {
            Some(0) => "dumped",
            Some(1) => "an error",
            Some(3) => "an error that names who was not let go",
            // The runtime ends a process that gets no memory, or none for the stack of a thread.
            Some(134) if said.contains("memory allocation") => "no memory",
            Some(134) if said.contains("alternative stack") => "no memory",
            code => panic!("{what}: {code:?}: {said}"),
        };
        assert!(
            outcome == "no memory" || !said.contains("panicked"),
            "{what}: {said}"
        );
        if outcome == "dumped" {
            assert_sound(images);
        } else if outcome != "no memory" {
            assert!(said.contains("dedump: error: "), "{what}: {said}");
        }
        tree.assert_still();
        if outcome != "dumped" || !hidden(images).is_empty() {
            tree.dump_again(images);
        }
        let last = said.lines().last().unwrap_or_default();
        (what, format!("{outcome}: {last}"))
    });
}

#[test]
#[ignore = "takes minutes: tests/run --test it faults -- --ignored"]
fn every_call_is_the_last_one() {
    sweep("faults-kill.txt", |tree, images, _, site, call| {
        let _ = std::fs::remove_dir_all(images);
        let met = supervised(tree, images, &["kill", site, &call.to_string()]);
        let what = met.call.map_or("not made".to_owned(), |call| {
            format!("{call} of {}", met.thread)
        });
        let is_complete = images.join("inventory.img").exists();
        if is_complete {
            assert_sound(images);
        }
        let outcome = match met.output.status.code() {
            Some(0) if met.call.is_none() => "dumped",
            Some(0) => "a program that helps died, dumped",
            Some(137) if is_complete => "died when the dump was complete",
            Some(137) => "died",
            Some(1) => "a program that helps died, an error",
            code => panic!("{what}: {code:?}"),
        };
        assert!(is_complete || outcome.ends_with("died") || outcome.ends_with("an error"));
        tree.assert_unharmed();
        tree.dump_again(images);
        (what, outcome.to_owned())
    });
}
