//! Dumpers that are killed at random moments: nothing may have happened to their trees.
//!
//! `tests/kills N` kills N dumpers here and as many of criu 4.2 beside it.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dedump::proc::stat::{State, parse_stat};

use crate::guest::{Guest, dedump, images, program, run};
use crate::oracle::{Release, folder};
use crate::outside::Outside;

/// Trees of threads, of forked workers, and of processes that talk over sockets.
const KINDS: [(&str, &[&str]); 3] = [
    // What the kernel ends with EINTR we put right at the stop; killed before, we cannot.
    ("threads", &["steady", "restarted", "fast"]),
    ("workers", &["pool", "4", "star", "4", "25"]),
    ("sockets", &["talk", "6"]),
];

const CHECK_AT_LEAST_EVERY: u32 = 10;

/// A tree in a network of its own: packet filters that a killed dumper leaves are met by nobody
/// else.
struct Tree {
    guest: Guest,
    before: Vec<(i32, Outside)>,
    orders: u32,
}

impl Tree {
    fn start(command: &[&str]) -> Self {
        let mut alone = Command::new("unshare");
        alone
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && exec \"$@\"",
                "sh",
            ])
            .arg(program(command[0]))
            .args(&command[1..]);
        let guest = Guest::start(&mut alone, "ready");
        let before = Outside::settled_tree(&guest);
        Self {
            before,
            guest,
            orders: 0,
        }
    }

    /// The command in the network of the tree.
    fn beside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .arg(format!("--net=/proc/{}/ns/net", self.guest.pid()))
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        inside.stdin(Stdio::null());
        inside
    }

    /// Everybody is alive, nobody stands still or is traced.
    fn assert_goes_on(&mut self) {
        for (pid, _) in &self.before {
            let end = Instant::now() + Duration::from_secs(5);
            while let Err(what) = moves(*pid) {
                // What has ended does not come back.
                assert!(!has_ended(*pid) && Instant::now() < end, "{pid}: {what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let output = self.guest.output();
        if output.contains("beat") {
            self.guest.goes_on();
        } else {
            self.verify_memory();
        }
    }

    /// All workers of a pool look at every word of their memory.
    fn verify_memory(&mut self) {
        self.orders += 1;
        let orders = self.guest.dir.path().join("do");
        let order = format!("{} verify", self.orders);
        std::fs::write(orders.with_extension("new"), order).unwrap();
        std::fs::rename(orders.with_extension("new"), orders).unwrap();
        let done = format!("{} done ", self.orders);
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let output = self.guest.output();
            let count = output
                .lines()
                .filter(|line| line.starts_with(&done))
                .count();
            assert!(!output.contains("BAD"), "{output}");
            if count == self.before.len() {
                return;
            }
            assert!(Instant::now() < end, "only {count} workers answer");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// After a dump that nothing disturbs nothing is left of those before it.
    fn assert_clean(&mut self, dumper: &Dumper, images: &Path) {
        let output = run(&mut dumper.command(self, images));
        assert!(output.status.success(), "the next dump fails");
        for (pid, before) in &self.before {
            before.assert_still(*pid);
        }
        self.assert_goes_on();
        assert!(!has_hidden(images), "hidden files are left");
    }
}

fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read(format!("/proc/{pid}/stat"));
    stat.is_err() || stat.is_ok_and(|stat| parse_stat(&stat).unwrap().state == State::Zombie)
}

/// What keeps a task of a process from running on.
fn moves(pid: i32) -> Result<(), String> {
    let gone = |error: std::io::Error| format!("gone ({error})");
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(gone)? {
        let path = task.map_err(gone)?.path();
        let status = std::fs::read_to_string(path.join("status")).map_err(gone)?;
        let line = |key: &str| {
            let mut lines = status.lines();
            let found = lines.find_map(|line| line.strip_prefix(key));
            found.unwrap_or_default().trim().to_owned()
        };
        let (state, tracer) = (line("State:"), line("TracerPid:"));
        if tracer != "0" || !state.starts_with(['R', 'S', 'D']) {
            return Err(format!("{} is {state}, traced by {tracer}", path.display()));
        }
    }
    Ok(())
}

fn has_hidden(images: &Path) -> bool {
    let mut names = std::fs::read_dir(images)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names.any(|name| name.as_encoded_bytes()[0] == b'.')
}

enum Dumper {
    Dedump,
    Criu(PathBuf),
}

impl Dumper {
    fn command(&self, tree: &Tree, images: &Path) -> Command {
        let pid = tree.guest.pid();
        let dumper = match self {
            Dumper::Dedump => dedump(pid, images, &["-R", "--tcp-established", "--overwrite"]),
            Dumper::Criu(folder) => {
                let _ = std::fs::remove_dir_all(images);
                std::fs::create_dir(images).unwrap();
                let mut criu = Command::new(folder.join("criu"));
                criu.args([
                    "dump",
                    "--no-default-config",
                    "-v0",
                    "-R",
                    "--tcp-established",
                ])
                .args(["-t", &pid.to_string(), "-D"])
                .arg(images);
                criu
            }
        };
        tree.beside(&dumper)
    }
}

/// What became of the trees.
struct Account {
    kills: u32,
    harmed: Vec<String>,
}

/// Kills dumpers of trees of one kind, with a new tree after each harm.
fn kill(dumper: &Dumper, command: &[&str], kills: u32) -> Account {
    let mut tree = Tree::start(command);
    let (_dir, images) = images();
    let length = {
        let started = Instant::now();
        let output = run(&mut dumper.command(&tree, &images));
        assert!(output.status.success());
        started.elapsed()
    };
    let mut account = Account {
        kills: 0,
        harmed: Vec::new(),
    };
    // xorshift: random moments, no further dependency
    let mut state = u64::from(std::process::id()) | 1 << 40;
    while account.kills < kills {
        let mut process = dumper.command(&tree, &images).spawn().unwrap();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let longest = u64::try_from(length.as_micros()).unwrap();
        std::thread::sleep(Duration::from_micros(state % longest));
        let was_killed = process.try_wait().unwrap().is_none();
        if was_killed {
            process.kill().unwrap();
            process.wait().unwrap();
            account.kills += 1;
        }
        let is_looked_at = was_killed
            && (account.kills.is_multiple_of(CHECK_AT_LEAST_EVERY) || account.kills == kills);
        let unharmed = catch_unwind(AssertUnwindSafe(|| {
            tree.assert_goes_on();
            if is_looked_at {
                tree.assert_clean(dumper, &images);
            }
        }));
        if account.kills.is_multiple_of(100) && was_killed {
            eprintln!(
                "{} kills, {} harmed {command:?}",
                account.kills,
                account.harmed.len()
            );
        }
        if let Err(panic) = unharmed {
            let words = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            account
                .harmed
                .push(words.lines().next().unwrap_or_default().to_owned());
            tree = Tree::start(command);
        }
    }
    account
}

#[test]
fn a_killed_dumper_harms_nobody() {
    const KILLS: &str = "DEDUMP_TEST_KILLS";
    let asked: Option<u32> = std::env::var(KILLS)
        .ok()
        .map(|kills| kills.parse().unwrap());
    let kills = asked.unwrap_or(60).div_ceil(3);
    let mut dumpers = vec![("dedump", Dumper::Dedump)];
    if asked.is_some()
        && let Some(folder) = folder(Release::Criu42)
    {
        dumpers.push(("criu 4.2", Dumper::Criu(folder)));
    }
    let mut report = String::new();
    let mut harmed_by_us = Vec::new();
    for (name, dumper) in dumpers {
        let (mut all, mut harmed) = (0, 0);
        for (kind, command) in KINDS {
            let account = kill(&dumper, command, kills);
            all += account.kills;
            harmed += account.harmed.len();
            writeln!(
                report,
                "{name}: {} kills, {} trees of {kind} harmed {:?}",
                account.kills,
                account.harmed.len(),
                account.harmed
            )
            .unwrap();
            if matches!(dumper, Dumper::Dedump) {
                harmed_by_us.extend(account.harmed);
            }
        }
        writeln!(report, "{name}: {harmed} of {all} harmed").unwrap();
        eprint!("{report}");
    }
    if asked.is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kills.txt");
        std::fs::write(path, report).unwrap();
    }
    assert!(harmed_by_us.is_empty(), "{harmed_by_us:#?}");
}
