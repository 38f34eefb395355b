//! Programs to be dumped, and the dumper itself.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dedump::inspect::verify::verify;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Whoever has terminals of his own takes this: a restore needs the numbers of those that were
/// dumped, which somebody else would get meanwhile.
pub(crate) static TERMINALS: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A program in a session of its own, writing to a file, killed with its whole tree on drop.
pub(crate) struct Guest {
    pub(crate) dir: TempDir,
    pid: i32,
    child: Option<Child>,
}

impl Guest {
    /// Starts a program and waits until its output shows `ready`.
    pub(crate) fn start(command: &mut Command, ready: &str) -> Self {
        // What outlives its parent, and what criu restores, becomes ours to reap.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // The guest may be somebody else's.
        let everybodys = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path(), everybodys).unwrap();
        // Appended to: restore does not insist on the size that it had at the dump.
        let output = File::options()
            .append(true)
            .create(true)
            .open(dir.path().join("output"))
            .unwrap();
        let child = in_own_session(command)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pid = i32::try_from(child.id()).unwrap();
        let guest = Self {
            dir,
            pid,
            child: Some(child),
        };
        guest.wait_for(ready);
        guest
    }

    /// One of the programs of `tests/guests`.
    pub(crate) fn of_ours(name: &str) -> Self {
        Self::of_ours_with(name, &[])
    }

    /// One of the programs of `tests/guests`, with arguments.
    pub(crate) fn of_ours_with(name: &str, arguments: &[&str]) -> Self {
        Self::start(Command::new(program(name)).args(arguments), "ready")
    }

    /// A script of Python.
    pub(crate) fn of_python(script: &str, ready: &str) -> Self {
        Self::start(Command::new("/usr/bin/python3").args(["-c", script]), ready)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("output")).unwrap()
    }

    /// Waits until the output shows `text`; a complaint of the program ends the test.
    pub(crate) fn wait_for(&self, text: &str) {
        self.wait_until(&format!("{text:?} in its output"), || {
            self.output().contains(text)
        });
    }

    /// Waits until `text` stands in at least `count` lines of the output.
    pub(crate) fn wait_until_lines(&self, text: &str, count: usize) {
        let enough = || {
            self.output()
                .lines()
                .filter(|line| line.contains(text))
                .count()
                >= count
        };
        self.wait_until(&format!("{count} lines with {text:?}"), enough);
    }

    /// Waits until the output has grown by some lines.
    pub(crate) fn goes_on(&self) {
        let before = self.output().lines().count();
        self.wait_until("more output", || {
            self.output().lines().count() >= before + 3
        });
    }

    fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done() {
            let output = self.output();
            assert!(!output.contains("BAD"), "{}: {output}", self.pid);
            assert!(Instant::now() < end, "{}: no {what}: {output}", self.pid);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(
            !self.output().contains("BAD"),
            "{}: {}",
            self.pid,
            self.output()
        );
    }

    /// The pids of the tree, the root's first, in no other order.
    pub(crate) fn all_pids(&self) -> Vec<i32> {
        with_descendants(vec![self.pid])
    }

    /// The pids below the root that are in sessions of their own.
    pub(crate) fn other_sessions(&self) -> Vec<i32> {
        let mut found = with_descendants(session(self.pid));
        found.retain(|pid| session_of(*pid) != Some(self.pid));
        found
    }

    /// Reaps a tree that a dump has killed, so that its pids, and its session, are free.
    pub(crate) fn reap(&mut self, others: &[i32]) {
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let mut left = session(self.pid);
            left.extend(others.iter().filter(|pid| session_of(**pid).is_some()));
            if left.is_empty() {
                return;
            }
            for pid in &left {
                let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
            }
            assert!(Instant::now() < end, "{left:?} are still there");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }
}

/// Copies a program that is to be started: by cp(1), since a file that we had open for writing
/// ourselves may be so still in a process that another test has just forked.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "{}", to.display());
}

/// The command in a session of its own: a spawned child leads no group yet, so that
/// setsid(1) needs no fork and keeps the pid.
fn in_own_session(command: &Command) -> Command {
    let mut wrapped = Command::new("setsid");
    wrapped.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(key, value);
        }
    }
    wrapped
}

/// These processes and all that descend from them.
fn with_descendants(mut found: Vec<i32>) -> Vec<i32> {
    let mut index = 0;
    while let Some(pid) = found.get(index).copied() {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        for task in tasks.flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            let pids = children
                .split_whitespace()
                .map(|word| word.parse::<i32>().unwrap());
            let new: Vec<i32> = pids.filter(|pid| !found.contains(pid)).collect();
            found.extend(new);
        }
        index += 1;
    }
    found
}

/// The pids of a session, zombies included: as long as one is there its number is taken.
pub(crate) fn session(sid: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| session_of(*pid) == Some(sid))
        .collect()
}

/// The session of a process; `None` when it is gone.
fn session_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    stat.rsplit(") ").next()?.split(' ').nth(3)?.parse().ok()
}

impl Drop for Guest {
    fn drop(&mut self) {
        let others = self.other_sessions();
        for pid in session(self.pid).iter().chain(&others) {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if !std::thread::panicking() {
            self.reap(&others);
        }
    }
}

/// The path of one of the programs of `tests/guests`.
pub(crate) fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/guests")
        .join(name)
}

/// Runs a command to its end; what it said is part of any later complaint.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    eprintln!(
        "$ {command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// `dedump dump` of a tree into a folder, with further arguments.
pub(crate) fn dedump(pid: i32, images: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dedump"));
    command
        .arg("dump")
        .arg("-t")
        .arg(pid.to_string())
        .arg("-D")
        .arg(images)
        .args(arguments);
    command
}

/// A folder for folders of images, removed at the end of the test. Every dump that then is in
/// it must be without a defect.
pub(crate) struct Images(TempDir);

impl std::ops::Deref for Images {
    type Target = TempDir;

    fn deref(&self) -> &TempDir {
        &self.0
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for entry in std::fs::read_dir(self.path()).unwrap() {
            let folder = entry.unwrap().path();
            if folder.join("inventory.img").exists() {
                assert_sound(&folder);
            }
        }
    }
}

/// A folder has no defect.
pub(crate) fn assert_sound(folder: &Path) {
    let verdict = verify(folder).unwrap();
    assert!(verdict.is_sound(), "{}: {verdict}", folder.display());
}

/// A folder for images.
pub(crate) fn images() -> (Images, PathBuf) {
    let dir = Images(tempfile::tempdir().unwrap());
    let images = dir.path().join("images");
    (dir, images)
}
