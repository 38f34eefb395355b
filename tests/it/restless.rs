//! Trees that never rest, and trees that others do things to while they stand still.
//!
//! Every dump ends, with an image that is right or an error; none panics. 66 dumps;
//! DEDUMP_TEST_FULL=1 makes it 2,000, or as many as `DEDUMP_TEST_DUMPS` says.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guest::{Guest, assert_sound, dedump, images, program, run};
use crate::options::Cgroup;
use crate::oracle::{Release, restore};
use crate::outside::Outside;
use crate::restores::dumped_tasks;

/// Kinds of `tests/guests/restless.c`, and whether an image of it can come back: what others do to
/// names, or in memory of the tree, is not in it.
const KINDS: [(&str, bool); 11] = [
    ("signals", true),
    ("stops", true),
    ("kills", true),
    ("tracer", true),
    ("limits", true),
    ("names", false),
    ("memory", false),
    ("files", false),
    ("threads", true),
    ("numbers", true),
    ("exec", true),
];

/// One in so many images is restored.
const RESTORED: usize = 20;

fn start(kind: &str) -> Guest {
    Guest::of_ours_with("restless", &[kind])
}

/// A dump that has to end by itself.
fn dump(guest: &Guest, images: &Path, arguments: &[&str]) -> Output {
    let dumper = dedump(guest.pid(), images, arguments);
    let mut bounded = Command::new("timeout");
    bounded
        .args(["--signal=KILL", "60"])
        .arg(dumper.get_program())
        .args(dumper.get_args());
    let output = run(&mut bounded);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    match output.status.code() {
        Some(0) => assert_sound(images),
        Some(1) => {
            assert!(said.contains("dedump: error: "), "{said}");
            assert!(!images.join("inventory.img").exists(), "{said}");
        }
        code => panic!("{code:?}: {said}"),
    }
    output
}

/// Kills a tree by a dump, brings it back and lets it go on; how many dumps that took.
fn restored(mut guest: Guest) -> usize {
    const ENOUGH: usize = 50;
    for tried in 1..ENOUGH {
        let (_dir, images) = images();
        if !dump(&guest, &images, &[]).status.success() {
            continue;
        }
        guest.reap(&dumped_tasks(&images));
        restore(Release::Criu42, &images);
        for pid in guest.all_pids() {
            // It may have been stopped at that moment.
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
        guest.goes_on();
        return tried;
    }
    panic!("{ENOUGH} dumps in a row have failed");
}

fn wanted_dumps() -> usize {
    let asked = std::env::var("DEDUMP_TEST_DUMPS").ok();
    let full = std::env::var_os("DEDUMP_TEST_FULL").map_or(66, |_| 2000);
    asked.map_or(full, |asked| asked.parse().unwrap())
}

#[test]
#[ignore = "takes minutes: tests/run --test it restless -- --ignored"]
fn trees_that_never_rest() {
    let each = wanted_dumps().div_ceil(KINDS.len());
    let mut outcomes = BTreeMap::new();
    for (kind, can_come_back) in KINDS {
        eprintln!("{kind}");
        let mut guest = start(kind);
        let (mut dumped, mut failed, mut came_back, mut number) = (0, 0, 0, 0);
        while number < each {
            let is_last = number + 1 == each;
            if can_come_back && (number % RESTORED == RESTORED - 1 || is_last) {
                let tried = restored(guest);
                guest = start(kind);
                failed += tried - 1;
                dumped += 1;
                came_back += 1;
                number += tried;
                continue;
            }
            let arguments: &[&str] = match number % 3 {
                0 => &["-R"],
                1 => &["-R", "--no-snapshot"],
                _ => &["-R", "--no-page-dedup"],
            };
            let (_dir, images) = images();
            if dump(&guest, &images, arguments).status.success() {
                dumped += 1;
            } else {
                failed += 1;
            }
            assert!(guest.is_alive());
            guest.goes_on();
            number += 1;
        }
        outcomes.insert(kind, (dumped, failed, came_back));
    }
    let all = |of: fn(&(usize, usize, usize)) -> usize| outcomes.values().map(of).sum::<usize>();
    let report = format!(
        "{} dumps: {} complete and verified ({} of them restored), {} errors\n\
         {outcomes:#?} (complete, errors, restored)\n",
        all(|of| of.0) + all(|of| of.1),
        all(|of| of.0),
        all(|of| of.2),
        all(|of| of.1),
    );
    eprint!("{report}");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::write(target.join("restless.txt"), report).unwrap();
    // Whatever is done to them, most can be dumped at the first try.
    assert!(all(|of| of.0) > all(|of| of.1), "{outcomes:#?}");
}

#[test]
fn a_task_that_cannot_be_stopped_is_named() {
    for cgroup in Cgroup::each("asleep") {
        let guest = Guest::of_ours_with("steady", &["restarted"]);
        let before = Outside::settled(guest.pid());
        cgroup.add(guest.pid());
        cgroup.set(true);
        let (_dir, images) = images();
        let output = dump(&guest, &images, &["-R", "--timeout", "1"]);
        let said = String::from_utf8_lossy(&output.stderr);
        // A freezer of version 2 lets tracers in.
        if !output.status.success() {
            let words = format!("waiting for {}", guest.pid());
            assert!(
                said.contains("timed out while") && said.contains(&words),
                "{said}"
            );
        }
        cgroup.set(false);
        before.assert_still(guest.pid());
        guest.goes_on();
        drop(guest);
    }
}

#[test]
fn ten_thousand_threads() {
    // The short form has a thousand.
    let count = std::env::var_os("DEDUMP_TEST_FULL").map_or(1_000, |_| 10_000);
    let guest = Guest::of_ours_with("crowd", &["threads", &count.to_string()]);
    let (_dir, images) = images();
    let before = Outside::settled(guest.pid());
    let dumper = dedump(guest.pid(), &images, &["-R", "--timeout", "120"]);
    let output = run(Command::new("timeout")
        .args(["--signal=KILL", "300"])
        .arg(dumper.get_program())
        .args(dumper.get_args()));
    assert!(output.status.success());
    // And the first one, and a heartbeat.
    assert_eq!(dumped_tasks(&images).len(), count + 2);
    before.assert_still(guest.pid());
}

/// A cgroup that bounds memory; removed on drop.
struct Bounded {
    dir: std::path::PathBuf,
    limit: &'static str,
    usage: &'static str,
}

impl Bounded {
    fn make() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let found = mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let place = Path::new(left.split(' ').nth(4)?);
            let (limit, usage) = match right.split(' ').next()? {
                "cgroup2" => ("memory.max", "memory.current"),
                "cgroup" if right.ends_with("memory") => {
                    ("memory.limit_in_bytes", "memory.usage_in_bytes")
                }
                _ => return None,
            };
            let dir = place.join(format!("dedump-memory-{}", std::process::id()));
            std::fs::create_dir(&dir).ok()?;
            if dir.join(limit).exists() {
                return Some(Self { dir, limit, usage });
            }
            std::fs::remove_dir(&dir).unwrap();
            None
        });
        if found.is_none() {
            assert!(std::env::var_os("CI").is_none(), "no cgroup bounds memory");
            eprintln!("SKIPPED: no cgroup bounds memory here");
        }
        found
    }

    fn usage(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir.join(self.usage)).unwrap();
        text.trim().parse().unwrap()
    }

    fn bound(&self, bytes: u64) {
        // What is in use already may be more, and not to be had back.
        let _ = std::fs::write(self.dir.join(self.limit), bytes.to_string());
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.dir);
    }
}

#[test]
fn a_target_that_is_killed_for_want_of_memory() {
    let Some(cgroup) = Bounded::make() else {
        return;
    };
    let (mut killed, mut dumped) = (0, 0);
    for pages in (0..40).step_by(2).chain([1 << 18]) {
        cgroup.bound(1 << 40);
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&cgroup.dir)
            .arg(program("crowd"))
            .args(["random", "16"]);
        let guest = Guest::start(&mut command, "ready");
        cgroup.bound(cgroup.usage() + pages * 4096);
        let (_dir, images) = images();
        let is_dumped = dump(&guest, &images, &["-R"]).status.success();
        dumped += usize::from(is_dumped);
        killed += usize::from(!guest.is_alive());
        assert!(is_dumped || pages < 1 << 18);
    }
    eprintln!("{dumped} dumped, {killed} killed by the kernel");
    assert!(dumped > 0);
}
