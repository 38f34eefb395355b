//! A look at a running tree, for everything that would be refused.
//!
//! It is the dump's own examination, so that both say the same: the tree stands still for that one
//! look, and nothing is written.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::ahead::LookAhead;
use crate::clock::Clock;
use crate::collect::here::Here;
use crate::collect::tree::Before;
use crate::dump::raise_descriptor_limit;
use crate::error::{Blockers, Error, Result, Target};
use crate::examination::examined;
use crate::freeze::{After, FreezerCgroup, examine, freeze};
use crate::ids::{Pid, Tid};
use crate::options::DumpOptions;
use crate::proc::ProcDir;
use crate::watch::Watch;

/// What a look at a tree has found.
#[derive(Debug)]
pub struct Findings {
    /// The root of the tree.
    pub root: Pid,
    /// How many processes it has, and how many threads these have.
    pub size: (usize, usize),
    /// How long it stood still.
    pub frozen: Duration,
    /// What stands in the way.
    pub blockers: Vec<Blocker>,
}

/// Something that stands in the way of a dump.
#[derive(Debug)]
pub struct Blocker {
    /// The process it is about, if it is about one.
    pub pid: Option<Pid>,
    /// Its thread, descriptor or memory.
    pub target: Target,
    /// What it is, what is wrong with it, and what to do about it.
    pub error: Error,
}

impl Blocker {
    fn new(error: Error) -> Self {
        let target = match &error {
            Error::Unsupported { target, .. }
            | Error::Refused { target, .. }
            | Error::Syscall { target, .. } => target.clone(),
            _ => Target::Here,
        };
        let pid = match &target {
            Target::Process(pid) => Some(*pid),
            Target::Thread(tid) | Target::Descriptor(tid, _) | Target::Memory(tid, ..) => {
                Some(process_of(*tid))
            }
            Target::Here | Target::Path(_) | Target::Pair(..) => None,
        };
        Self { pid, target, error }
    }

    /// Of what kind the thing is that stands in the way.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.target {
            Target::Process(_) => "process",
            Target::Thread(_) => "thread",
            Target::Descriptor(..) => "descriptor",
            Target::Memory(..) => "memory",
            Target::Path(_) => "file",
            Target::Here | Target::Pair(..) => "other",
        }
    }

    fn json(&self) -> Value {
        let mut fields = Map::new();
        let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        add("kind", self.kind().into());
        if let Some(pid) = self.pid {
            add("pid", pid.0.into());
        }
        match &self.target {
            Target::Thread(tid) => drop(add("tid", tid.0.into())),
            Target::Descriptor(tid, fd) => {
                add("tid", tid.0.into());
                add("fd", fd.0.into());
            }
            Target::Memory(tid, start, end) => {
                add("tid", tid.0.into());
                add("start", format!("{start:#x}").into());
                add("end", format!("{end:#x}").into());
            }
            Target::Path(path) => drop(add("path", path.to_string_lossy().into())),
            Target::Here | Target::Process(_) | Target::Pair(..) => {}
        }
        let (why, remedy) = match &self.error {
            Error::Unsupported { what, remedy, .. } | Error::Refused { what, remedy, .. } => {
                (what.clone(), Some(remedy.clone()))
            }
            other => (other.to_string(), None),
        };
        add("why", why.into());
        add("remedy", remedy.into());
        fields.into()
    }
}

impl Findings {
    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "tree": self.root.0,
            "dumpable": self.blockers.is_empty(),
            "processes": self.size.0,
            "threads": self.size.1,
            "frozen_us": u64::try_from(self.frozen.as_micros()).unwrap_or(u64::MAX),
            "blockers": self.blockers.iter().map(Blocker::json).collect::<Vec<_>>(),
        })
    }

    /// All of it in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let (processes, threads) = self.size;
        let count = match self.blockers.len() {
            0 => "nothing stands".to_owned(),
            1 => "one thing stands".to_owned(),
            several => format!("{several} things stand"),
        };
        format!(
            "{}: {count} in the way of a dump (processes: {processes}, threads: {threads}, stood still for {:.1} ms)",
            self.root,
            self.frozen.as_secs_f64() * 1000.0
        )
    }
}

/// Looks at a tree for what would stand in the way of the dump that `options` ask for.
///
/// # Errors
/// What keeps it from being looked at: a pid that makes no sense, a task that ended meanwhile, a
/// tree that does not stop in time or could not be let go.
pub fn check(options: &DumpOptions) -> Result<Findings> {
    let mut blockers = Blockers::default();
    let mut findings = Findings {
        root: options.tree,
        size: (0, 0),
        frozen: Duration::ZERO,
        blockers: Vec::new(),
    };
    if blockers.gather(examine(options.tree))?.is_some() {
        raise_descriptor_limit();
        let ahead = LookAhead::of(options.tree);
        let before = Before {
            ahead: &ahead,
            here: Here::look(options)?,
            snapshots: false,
        };
        let cgroup = options.freeze_cgroup.as_deref();
        let cgroup = cgroup.map(FreezerCgroup::open).transpose()?;
        let watch = Watch::default();
        watch.bound(options.timeout.map(|length| Instant::now() + length));
        watch.at("stopping the tree", options.tree)?;
        let mut clock = Clock::start();
        clock.freeze();
        let frozen = freeze(options.tree, watch.deadline(), cgroup);
        if let Some(mut tree) = blockers.gather(frozen)? {
            clock.stage("seize");
            findings.size = (tree.processes.len(), tree.threads().count());
            let outcome = examined(&mut tree, options, before, &watch, &mut clock);
            tree.end(After::LeaveRunning)?;
            clock.stage("release");
            findings.frozen = clock.frozen();
            blockers.gather(outcome.map(drop))?;
        }
    }
    findings.blockers = blockers
        .into_errors()
        .into_iter()
        .map(Blocker::new)
        .collect();
    Ok(findings)
}

/// The process that a thread belongs to; the thread itself if that is gone.
fn process_of(tid: Tid) -> Pid {
    let status = ProcDir::open(Pid(tid.0)).and_then(|dir| dir.read("status"));
    let status = status.unwrap_or_default();
    let group = status.split(|byte| *byte == b'\n').find_map(|line| {
        let number = line.strip_prefix(b"Tgid:")?.trim_ascii();
        std::str::from_utf8(number).ok()?.parse().ok()
    });
    Pid(group.unwrap_or(tid.0))
}
