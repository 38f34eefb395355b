//! A busy tree that is dumped again and again, and goes on; with `tests/soak MINUTES` long enough
//! to tell whether anything grows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dedump::freeze::After;
use dedump::options::DumpOptions;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::guest::{Guest, assert_sound, dedump, images, program, run};

/// redis under load, a pool of workers that share nothing any more, and a program with threads; each
/// in a folder of its own.
const BUSY: &str = r#"
programs=$0
mkdir redis pool steady
(cd redis && exec redis-server --port 0 --unixsocket sock --save '' --daemonize no >>log) &
(cd pool && exec $programs/pool 8 star 4 100 >>log) &
(cd steady && exec $programs/steady restarted >>log) &
until [ -S redis/sock ] && grep -q ready pool/log && grep -q ready steady/log; do sleep 0.05; done
(cd redis && exec redis-benchmark -s sock -c 4 -r 1000 -l -q -t set,get,incr,lpop >/dev/null) &
echo ready
wait
"#;

/// How much of everything a process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    maps: usize,
    fds: usize,
    threads: usize,
    children: usize,
    pss_kib: usize,
}

impl Size {
    fn of(pid: u32) -> Option<Self> {
        let proc = Path::new("/proc").join(pid.to_string());
        let read = |name: &str| std::fs::read_to_string(proc.join(name)).ok();
        let count = |name: &str| Some(std::fs::read_dir(proc.join(name)).ok()?.count());
        let rollup = read("smaps_rollup")?;
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(Self {
            maps: read("maps")?.lines().count(),
            fds: count("fd")?,
            threads: count("task")?,
            children: read(&format!("task/{pid}/children"))?
                .split_whitespace()
                .count(),
            pss_kib: pss.split_whitespace().next()?.parse().ok()?,
        })
    }

    /// The median of each number.
    fn middle(sizes: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> usize| {
            let mut all: Vec<usize> = sizes.iter().map(of).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        Self {
            maps: middle(|size| size.maps),
            fds: middle(|size| size.fds),
            threads: middle(|size| size.threads),
            children: middle(|size| size.children),
            pss_kib: middle(|size| size.pss_kib),
        }
    }

    /// Whether there is more than there was.
    fn has_grown_from(&self, before: &Self) -> bool {
        const SOME_KIB: usize = 1024;
        self.maps > before.maps + 2
            || self.fds > before.fds
            || self.threads > before.threads
            || self.children > before.children
            || self.pss_kib > before.pss_kib + before.pss_kib / 20 + SOME_KIB
    }
}

/// What a copy of a task's memory was becomes ours to reap, like everything that outlives its
/// parent.
fn reap_copies() {
    let me = std::process::id();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if stat.contains("(dedump-copy) Z ") && stat.contains(&format!(") Z {me} ")) {
            let pid = entry.file_name().to_str().unwrap().parse().unwrap();
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn soak_length() -> (Duration, bool) {
    match std::env::var("DEDUMP_TEST_SOAK_SECONDS") {
        Ok(seconds) => (Duration::from_secs(seconds.parse().unwrap()), true),
        Err(_) => (Duration::from_secs(10), false),
    }
}

#[test]
#[ignore = "needs a machine to itself: tests/soak MINUTES"]
fn a_busy_tree_does_not_grow() {
    /// For medians of a quarter of them.
    const ENOUGH: usize = 8;
    let (length, is_alone) = soak_length();
    let mut command = Command::new("bash");
    command
        .args(["-c", BUSY])
        .arg(program("steady").parent().unwrap());
    let guest = Guest::start(&mut command, "ready");
    let (_dir, images) = images();
    let pids = guest.all_pids();
    assert!(pids.len() >= 9, "{pids:?}");
    let numbers = pids.iter().map(|pid| u32::try_from(*pid).unwrap());
    // The dumper itself, as a library, can be seen where no other test runs beside it.
    let watched: Vec<u32> = numbers.chain(is_alone.then(std::process::id)).collect();
    let mut sizes: BTreeMap<u32, Vec<Size>> = BTreeMap::new();
    let mut options = DumpOptions::new(dedump::ids::Pid(guest.pid()), &images);
    options.after = After::LeaveRunning;
    options.overwrite = true;
    // How long a busy machine takes is not what this is about.
    options.timeout = Some(Duration::from_secs(60));
    let started = Instant::now();
    let (mut dumps, mut refused, mut orders) = (0, 0, 0);
    while started.elapsed() < length || dumps < ENOUGH {
        let refusal = if dumps % 2 == 0 {
            let output = run(&mut dedump(
                guest.pid(),
                &images,
                &["-R", "--overwrite", "--timeout", "60"],
            ));
            (!output.status.success()).then(|| String::from_utf8(output.stderr).unwrap())
        } else {
            dedump::dump::run(&options)
                .err()
                .map(|error| error.to_string())
        };
        if let Some(refusal) = refusal {
            // The benchmark opens new connections now and then.
            assert!(refusal.contains("not accepted yet"), "{refusal}");
            refused += 1;
            continue;
        }
        dumps += 1;
        if dumps % 10 == 0 {
            assert_sound(&images);
            orders += 1;
            let word = if orders % 2 == 0 { "verify" } else { "change" };
            let order = guest.dir.path().join("pool/do");
            std::fs::write(order.with_extension("new"), format!("{orders} {word}")).unwrap();
            std::fs::rename(order.with_extension("new"), order).unwrap();
        }
        reap_copies();
        // Others want to work, too.
        std::thread::sleep(Duration::from_millis(50));
        for pid in &watched {
            let size = Size::of(*pid).unwrap_or_else(|| panic!("{pid} is gone"));
            sizes.entry(*pid).or_default().push(size);
        }
    }
    for program in ["redis", "pool", "steady"] {
        let log = guest.dir.path().join(program).join("log");
        let log = std::fs::read_to_string(log).unwrap();
        assert!(!log.contains("BAD"), "{program}: {log}");
    }
    let mut report = format!(
        "{dumps} dumps in {} s of a tree of {} processes, {refused} refused\n",
        started.elapsed().as_secs(),
        pids.len()
    );
    let mut grown = Vec::new();
    for (pid, sizes) in &sizes {
        let quarter = sizes.len() / 4;
        let before = Size::middle(&sizes[..quarter]);
        let after = Size::middle(&sizes[sizes.len() - quarter..]);
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        let line = format!("{}: {before:?} → {after:?}", comm.trim());
        writeln!(report, "{line}").unwrap();
        if after.has_grown_from(&before) {
            grown.push(line);
        }
    }
    eprint!("{report}");
    if is_alone {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak.txt");
        std::fs::write(path, report).unwrap();
    }
    // So few dumps as the short form makes tell nothing about growth: it only lets all of this run.
    assert!(!is_alone || grown.is_empty(), "{grown:#?}");
}
