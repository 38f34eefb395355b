//! What the outside can see of a task, to be compared before and after a dump.

use std::collections::BTreeMap;

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
}
