//! What this kernel and these privileges allow, feature by feature.
//!
//! Nothing is looked up in a table of versions: each feature is used once, on a small process of
//! our own that only waits.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde_json::{Value, json};

use super::tree;
use crate::collect::files::count_descriptors;
use crate::collect::sockets::Lock;
use crate::error::{Error, IoResultExt, Result, ResultExt, Target};
use crate::freeze::{After, Seized, Stopped};
use crate::ids::{Fd, Pid};
use crate::options::DumpOptions;
use crate::proc::ProcDir;
use crate::proc::maps::parse_maps;
use crate::sys::kcmp::{Order, Resource, kcmp};
use crate::sys::pagemap::{Categories, Query, scan};
use crate::sys::pidfd::{pidfd_getfd, pidfd_open, pidfd_open_thread};
use crate::sys::{netlink, ptrace, tcp};

/// What becomes of dumps without a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// There are none.
    All,
    /// Some are refused, or take longer.
    Some,
}

/// Something that a dump uses.
#[derive(Debug)]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// Who needs it.
    pub need: Need,
    /// What it costs to be without it.
    pub cost: &'static str,
    /// Why it does not work, if it does not.
    pub trouble: Option<String>,
}

impl Feature {
    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "works": self.trouble.is_none(),
            "needed": self.need == Need::All,
            "trouble": self.trouble,
            "cost": self.cost,
        })
    }

    /// Whether no dump is possible for lack of it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.need == Need::All && self.trouble.is_some()
    }

    /// It in one line.
    #[must_use]
    pub fn line(&self) -> String {
        match &self.trouble {
            None => format!("{:<26} works", self.name),
            Some(trouble) => format!(
                "{:<26} {}: {trouble}; {}",
                self.name,
                if self.is_fatal() {
                    "MISSING"
                } else {
                    "missing"
                },
                self.cost
            ),
        }
    }
}

/// Tries every feature.
///
/// # Errors
/// When not even a process to try them on can be had.
pub fn features() -> Result<Vec<Feature>> {
    let subject = Subject::start()?;
    let pid = subject.pid();
    let stopped = stop(pid);
    let mut features = Vec::new();
    let mut add = |name, need, cost, outcome: Result<()>| {
        let trouble = outcome.err().map(|error| error.to_string());
        features.push(Feature {
            name,
            need,
            cost,
            trouble,
        });
    };
    let on_stopped = |probe: &dyn Fn(&Stopped) -> Result<()>| match &stopped {
        Ok(stopped) => probe(stopped),
        Err(_) => Err(Error::Vanished { tid: pid.leader() }),
    };
    let rseq = on_stopped(&|_| {
        let answer = ptrace::rseq_configuration(pid.leader());
        answer.map(drop).on("ptrace GET_RSEQ_CONFIGURATION", pid)
    });
    let dispatch = on_stopped(&|_| {
        let answer = ptrace::dispatches_syscalls(pid.leader());
        answer
            .map(drop)
            .on("ptrace GET_SYSCALL_USER_DISPATCH_CONFIG", pid)
    });
    let seccomp = on_stopped(&Stopped::suspend_seccomp);
    let outcome = stopped.and_then(Stopped::release);
    add("ptrace", Need::All, "no task can be stopped", outcome);
    add(
        "rseq",
        Need::All,
        "a thread would lose its restartable sequences (Linux 5.13 has it)",
        rseq,
    );
    add(
        "kcmp",
        Need::All,
        "what tasks share cannot be told (CONFIG_KCMP)",
        compared(pid),
    );
    add(
        "pidfd_getfd",
        Need::All,
        "descriptors cannot be examined (Linux 5.6 has it)",
        duplicated(pid),
    );
    add(
        "PAGEMAP_SCAN",
        Need::All,
        "pages in use cannot be found (Linux 6.7 has it)",
        scanned(),
    );
    add(
        "children in /proc",
        Need::All,
        "the tree cannot be walked (CONFIG_PROC_CHILDREN)",
        children(),
    );
    add(
        "timers in /proc",
        Need::All,
        "POSIX timers are not seen (CONFIG_CHECKPOINT_RESTORE)",
        read(pid, "timers"),
    );
    add(
        "links of map_files",
        Need::Some,
        "mapped files without a path of their own are refused (CAP_CHECKPOINT_RESTORE)",
        map_files(pid),
    );
    add(
        "page frame numbers",
        Need::Some,
        "pages that tasks share are found by comparing content, which takes longer (CAP_SYS_ADMIN)",
        frame_numbers(),
    );
    add(
        "seccomp suspension",
        Need::Some,
        "tasks in a seccomp sandbox are refused (CAP_SYS_ADMIN, and no sandbox around dedump)",
        seccomp,
    );
    add(
        "syscall user dispatch",
        Need::Some,
        "threads that use it are not noticed, and lose it (Linux 6.4 tells)",
        dispatch,
    );
    add(
        "pidfd of a thread",
        Need::Some,
        "threads with descriptors of their own are refused (Linux 6.9 has it)",
        thread_pidfd(pid),
    );
    add(
        "counted descriptors",
        Need::Some,
        "a tree that runs on stands still a little longer (Linux 6.2 tells)",
        counted(pid),
    );
    add(
        "unix sockets listed",
        Need::Some,
        "unix sockets are refused (CONFIG_UNIX_DIAG)",
        unix_sockets(),
    );
    add(
        "TCP sockets listed",
        Need::Some,
        "TCP sockets are refused (CONFIG_INET_DIAG)",
        tcp_sockets(),
    );
    add(
        "repair of TCP connections",
        Need::Some,
        "--tcp-established and --tcp-close are refused (CAP_NET_ADMIN)",
        tcp_repair(),
    );
    add(
        "iptables or nft",
        Need::Some,
        "TCP connections need --network-lock skip",
        Lock::choose(None).map(drop),
    );
    add(
        "freezer of cgroups",
        Need::Some,
        "--freeze-cgroup cannot be used",
        freezer(),
    );
    drop(subject);
    let small = small_dump();
    add(
        "a dump of a small process",
        Need::All,
        "no process can be dumped",
        small,
    );
    Ok(features)
}

/// A small process that waits, ended on drop.
struct Subject(Child);

impl Subject {
    fn start() -> Result<Self> {
        let child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn();
        child.map(Self).at("start", "cat")
    }

    fn pid(&self) -> Pid {
        Pid(self.0.id().cast_signed())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn stop(pid: Pid) -> Result<Stopped> {
    let deadline = Instant::now() + Duration::from_secs(5);
    Seized::interrupt(pid.leader())?
        .stopped(deadline)?
        .map_err(|seized| Error::TimedOut {
            stage: "stopping a process of our own",
            target: seized.tid().into(),
            remedy: "try again".to_owned(),
        })
}

fn missing(what: &str) -> Error {
    Error::Refused {
        target: Target::Here,
        what: what.to_owned(),
        remedy: String::new(),
    }
}

fn compared(pid: Pid) -> Result<()> {
    let answer = kcmp(pid.leader(), pid.leader(), Resource::Vm).on(Resource::Vm.op(), pid)?;
    match answer {
        Order::Equal => Ok(()),
        other => Err(missing(&format!("a task's memory is {other:?} to itself"))),
    }
}

fn duplicated(pid: Pid) -> Result<()> {
    let pidfd = pidfd_open(pid).on("pidfd_open", pid)?;
    let fd = Fd(0);
    pidfd_getfd(pidfd.as_fd(), fd)
        .map(drop)
        .on("pidfd_getfd", (pid.leader(), fd))
}

fn thread_pidfd(pid: Pid) -> Result<()> {
    pidfd_open_thread(pid.leader())
        .map(drop)
        .on("pidfd_open THREAD", pid)
}

fn scanned() -> Result<()> {
    let pagemap = File::open("/proc/self/pagemap").at("open", "/proc/self/pagemap")?;
    let query = Query {
        any_of: Categories::PRESENT,
        ..Query::default()
    };
    scan(&pagemap, 0, 1 << 20, query, &mut Vec::new()).on("PAGEMAP_SCAN", Target::Here)
}

fn children() -> Result<()> {
    let path = format!("/proc/self/task/{}/children", std::process::id());
    fs::read(&path).map(drop).at("read", path)
}

fn read(pid: Pid, name: &str) -> Result<()> {
    ProcDir::open(pid)?.read(name).map(drop)
}

fn map_files(pid: Pid) -> Result<()> {
    let proc_dir = ProcDir::open(pid)?;
    let maps = parse_maps(&proc_dir.read("maps")?).map_err(|e| e.at(proc_dir.path_of("maps")))?;
    let mapped = maps.iter().find(|mapping| mapping.inode != 0);
    let mapped = mapped.ok_or_else(|| missing("no mapped file"))?;
    let name = format!("map_files/{:x}-{:x}", mapped.start, mapped.end);
    proc_dir.stat(&name).map(drop)
}

fn frame_numbers() -> Result<()> {
    use std::os::unix::fs::FileExt;
    const FRAME: u64 = (1 << 55) - 1;
    let on_the_stack = 0_u8;
    let page = std::ptr::from_ref(&on_the_stack).addr() / 4096;
    let path = "/proc/self/pagemap";
    let pagemap = File::open(path).at("open", path)?;
    let mut entry = [0; 8];
    pagemap
        .read_exact_at(&mut entry, page as u64 * 8)
        .at("read", path)?;
    if u64::from_ne_bytes(entry) & FRAME == 0 {
        return Err(missing("the kernel does not show them"));
    }
    Ok(())
}

fn counted(pid: Pid) -> Result<()> {
    match count_descriptors(&ProcDir::open(pid)?)? {
        Some(_) => Ok(()),
        None => Err(missing("the kernel does not tell")),
    }
}

fn unix_sockets() -> Result<()> {
    netlink::unix_sockets()
        .map(drop)
        .on("sock_diag unix", Target::Here)
}

fn tcp_sockets() -> Result<()> {
    const INET: u8 = 2;
    const TCP: u8 = 6;
    netlink::inet_sockets(INET, TCP)
        .map(drop)
        .on("sock_diag TCP", Target::Here)
}

fn tcp_repair() -> Result<()> {
    let (family, kind) = (AddressFamily::Inet, SockType::Stream);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).on("socket", Target::Here)?;
    tcp::repair_on(socket.as_fd()).on("setsockopt TCP_REPAIR", Target::Here)
}

fn freezer() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").at("read", "/proc/self/mountinfo")?;
    let is_freezer = |line: &str| {
        line.split_once(" - ").is_some_and(|(_, right)| {
            right.starts_with("cgroup2 ")
                || (right.starts_with("cgroup ") && right.contains("freezer"))
        })
    };
    if mounts.lines().any(is_freezer) {
        Ok(())
    } else {
        Err(missing("no cgroup with a freezer is mounted"))
    }
}

/// Looks at a small process as a dump would.
fn small_dump() -> Result<()> {
    let subject = Subject::start()?;
    let mut options = DumpOptions::new(subject.pid(), Path::new("."));
    options.shell_job = true;
    options.after = After::LeaveRunning;
    let findings = tree::check(&options)?;
    match findings.blockers.into_iter().next() {
        None => Ok(()),
        Some(blocker) => Err(blocker.error),
    }
}
