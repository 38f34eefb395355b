//! What the outside can see of a task, to be compared before and after a dump.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::guest::Guest;

/// The visible state of a process and its threads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    maps: String,
    limits: String,
    /// Link, flags and close-on-exec of every descriptor.
    descriptors: BTreeMap<String, (String, String)>,
    /// Masks and queues of every thread.
    signals: BTreeMap<String, Vec<String>>,
    children: Vec<String>,
}

impl Outside {
    /// Looks at a process until it does not change any more, e.g. by loading its libraries.
    pub(crate) fn settled(pid: i32) -> Self {
        settled(Duration::from_millis(100), || Self::of(pid))
    }

    /// The same for all processes of a tree.
    pub(crate) fn settled_tree(guest: &Guest) -> Vec<(i32, Self)> {
        settled(Duration::from_millis(200), || {
            let pids = guest.all_pids();
            pids.iter().map(|pid| (*pid, Self::of(*pid))).collect()
        })
    }

    /// Looks at a process; fails if anybody traces it.
    pub(crate) fn of(pid: i32) -> Self {
        let proc = std::path::PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
        let names = |folder: &str| -> Vec<String> {
            let entries = std::fs::read_dir(proc.join(folder)).unwrap();
            let mut names: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let descriptors = names("fd").into_iter().map(|fd| {
            let link = std::fs::read_link(proc.join("fd").join(&fd)).unwrap_or_default();
            let info = read(&format!("fdinfo/{fd}"));
            let flags = info
                .lines()
                .find(|line| line.starts_with("flags:"))
                .unwrap_or_default()
                .to_owned();
            (fd, (link.to_string_lossy().into_owned(), flags))
        });
        let signals = names("task").into_iter().map(|tid| {
            let status = read(&format!("task/{tid}/status"));
            assert!(
                status.contains("TracerPid:\t0"),
                "{tid} is traced: {status}"
            );
            let lines = status.lines().filter(|line| {
                ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"]
                    .iter()
                    .any(|name| line.starts_with(name))
            });
            (tid, lines.map(str::to_owned).collect())
        });
        Self {
            maps: read("maps"),
            limits: read("limits"),
            descriptors: descriptors.collect(),
            signals: signals.collect(),
            children: read(&format!("task/{pid}/children"))
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Fails if a process does not come to look the same, and says what differs.
    ///
    /// It gets a moment: a thread that was let go has a call to enter again, and until it has
    /// run, one in `sigsuspend` shows the mask it has outside of it.
    pub(crate) fn assert_still(&self, pid: i32) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let mut now = Self::of(pid);
        while *self != now && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(20));
            now = Self::of(pid);
        }
        let (before, after) = (format!("{self:#?}"), format!("{now:#?}"));
        let lines = |text: &str| {
            text.replace("\\n", "\n")
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let (before, after) = (lines(&before), lines(&after));
        let gone = before.iter().filter(|line| !after.contains(line));
        let new = after.iter().filter(|line| !before.contains(line));
        let differences: Vec<_> = gone
            .map(|line| format!("- {line}"))
            .chain(new.map(|line| format!("+ {line}")))
            .collect();
        assert!(
            *self == now,
            "{pid} looks different:\n{}",
            differences.join("\n")
        );
    }
}

/// Looks until nothing has changed since the look before.
fn settled<T: PartialEq>(pause: Duration, look: impl Fn() -> T) -> T {
    let mut last = look();
    loop {
        std::thread::sleep(pause);
        let now = look();
        if now == last {
            return now;
        }
        last = now;
    }
}
