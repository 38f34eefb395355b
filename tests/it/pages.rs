//! Memory: every page once, every byte right.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use crate::guest::{Guest, dedump, images, run};
use crate::oracle::{Release, decode, restore};

const PAGE: u64 = 4096;

/// The pool, and the orders given to it.
struct Pool {
    guest: Guest,
    tasks: usize,
    orders: u32,
}

impl Pool {
    fn start(mib: u32, shape: &str, children: usize, percent: u32) -> Self {
        let (mib, percent) = (mib.to_string(), percent.to_string());
        let arguments = [&mib, shape, &children.to_string(), &percent];
        Self {
            guest: Guest::of_ours_with("pool", &arguments),
            tasks: children + 1,
            orders: 0,
        }
    }

    /// Has every task do something, and waits until all have.
    fn order(&mut self, word: &str) {
        self.orders += 1;
        let dir = self.guest.dir.path();
        std::fs::write(dir.join("do.new"), format!("{} {word}\n", self.orders)).unwrap();
        std::fs::rename(dir.join("do.new"), dir.join("do")).unwrap();
        self.guest
            .wait_until_lines(&format!("{} done", self.orders), self.tasks);
    }

    fn pids(&self) -> Vec<i32> {
        let mut pids = vec![self.guest.pid()];
        let mut next = 0;
        while let Some(pid) = pids.get(next).copied() {
            let children = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(children).unwrap();
            pids.extend(
                children
                    .split_whitespace()
                    .map(|pid| pid.parse::<i32>().unwrap()),
            );
            next += 1;
        }
        assert_eq!(pids.len(), self.tasks);
        pids
    }

    /// Dumps the tree, which runs on.
    fn snapshot(&self, images: &Path, arguments: &[&str]) {
        let output = run(dedump(self.guest.pid(), images, arguments).arg("-R"));
        assert!(output.status.success());
    }

    /// Dumps the tree and ends it.
    fn dump(&mut self, images: &Path, arguments: &[&str]) {
        let output = run(&mut dedump(self.guest.pid(), images, arguments));
        assert!(output.status.success());
        decode(images);
        self.guest.reap(&[]);
    }

    /// Restores the tree and has it check every word.
    fn restore(&mut self, release: Release, images: &Path) {
        restore(release, images);
        self.order("verify");
    }

    /// Pages in frames of their own, counting each frame once: what there is to be written.
    fn distinct_pages(&self) -> u64 {
        const PRESENT: u64 = 1 << 63;
        const FILE_OR_SHARED: u64 = 1 << 61;
        let mut frames = HashSet::new();
        for pid in self.pids() {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
            let pagemap = std::fs::File::open(format!("/proc/{pid}/pagemap")).unwrap();
            for line in maps.lines().filter(|line| !line.contains("[v")) {
                let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
                let address = |text| u64::from_str_radix(text, 16).unwrap();
                for page in address(start) / PAGE..address(end) / PAGE {
                    let mut entry = [0; 8];
                    pagemap.read_exact_at(&mut entry, page * 8).unwrap();
                    let entry = u64::from_le_bytes(entry);
                    if entry & PRESENT != 0 && entry & FILE_OR_SHARED == 0 {
                        frames.insert(entry & ((1 << 55) - 1));
                    }
                }
            }
        }
        frames.len() as u64
    }

    /// Proportional and resident size of all tasks, in KiB.
    fn sizes(&self) -> HashMap<i32, (u64, u64)> {
        let sizes = |pid: i32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let field = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            };
            (field("Pss:"), field("Rss:"))
        };
        self.pids()
            .into_iter()
            .map(|pid| (pid, sizes(pid)))
            .collect()
    }
}

/// Bytes of all pages files of a folder, each inode once.
pub(crate) fn pages_bytes(images: &Path) -> u64 {
    bytes_of(images, |name| name.starts_with("pages-"))
}

/// Bytes of everything in a folder, each inode once.
fn folder_bytes(images: &Path) -> u64 {
    bytes_of(images, |_| true)
}

fn bytes_of(folder: &Path, counts: impl Fn(&str) -> bool) -> u64 {
    let mut inodes = HashMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            if metadata.is_dir() {
                folders.push(path);
            } else if counts(name) {
                inodes.insert(metadata.ino(), metadata.len());
            }
        }
    }
    inodes.values().sum()
}

/// Dumps a pool, compares what was written with what there was, restores and verifies.
fn written_once(shape: &str, children: usize, percent: u32, most: f64) {
    for release in [Release::Criu42, Release::Criu41] {
        let mut pool = Pool::start(16, shape, children, percent);
        pool.order("verify");
        let distinct = pool.distinct_pages();
        let (_dir, images) = images();
        pool.dump(&images, &[]);
        #[allow(clippy::cast_precision_loss)]
        let ratio = (pages_bytes(&images) / PAGE) as f64 / distinct as f64;
        assert!(
            (0.9..=most).contains(&ratio),
            "{shape}: {ratio} of {distinct} pages"
        );
        pool.restore(release, &images);
    }
}

#[test]
fn a_pool_is_written_once() {
    written_once("star", 8, 5, 1.05);
}

#[test]
fn a_pool_in_which_everybody_changes_much_is_written_once() {
    written_once("star", 5, 60, 1.05);
}

#[test]
fn a_chain_of_forks_is_written_once() {
    written_once("chain", 4, 20, 1.15);
}

/// Pages that every task has changed in the same way lie in a frame of each, and are written once.
fn equal_pages_are_written_once(arguments: &[&str], runs_on: bool) {
    const MIB: u64 = 16;
    let mut pool = Pool::start(16, "star", 3, 50);
    pool.order("same");
    pool.order("same");
    pool.order("same");
    let (_dir, images) = images();
    if runs_on {
        pool.snapshot(&images, arguments);
        pool.order("verify");
        return assert_little_more_than(MIB << 20, &images);
    }
    pool.dump(&images, arguments);
    assert_little_more_than(MIB << 20, &images);
    pool.restore(Release::Criu42, &images);
}

/// What four tasks with `bytes` in common take: there are stacks and the like, and pages that
/// one of them did not change although the others did.
fn assert_little_more_than(bytes: u64, images: &Path) {
    let written = pages_bytes(images);
    assert!(written >= bytes && written < bytes * 5 / 3, "{written}");
}

#[test]
fn equal_pages_in_different_frames_are_written_once() {
    equal_pages_are_written_once(&[], false);
}

#[test]
fn equal_pages_of_a_tree_that_runs_on_are_written_once() {
    equal_pages_are_written_once(&[], true);
}

#[test]
fn idle_forked_processes_take_little() {
    const CHILDREN: u64 = 40;
    let guest = Guest::of_ours_with("crowd", &["processes", &CHILDREN.to_string()]);
    let mut written = Vec::new();
    for arguments in [&["-R"][..], &["-R", "--no-page-dedup"]] {
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, arguments));
        assert!(output.status.success());
        written.push(pages_bytes(&images));
    }
    // Of the stack, the data and the heap each has some pages of its own.
    assert!(written[0] < CHILDREN * 8 * PAGE, "{written:?}");
    assert!(written[0] * 4 < written[1], "{written:?}");
}

/// Runs a dump without the right to see frames.
fn without_frames(pid: i32, images: &Path, arguments: &[&str]) -> Command {
    let dump = dedump(pid, images, arguments);
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"])
        .arg(dump.get_program())
        .args(dump.get_args());
    command
}

#[test]
fn without_frame_numbers_pages_are_compared() {
    for runs_on in [true, false] {
        let mut pool = Pool::start(16, "star", 4, 5);
        pool.order("verify");
        let distinct = pool.distinct_pages();
        let (_dir, images) = images();
        let arguments: &[&str] = if runs_on { &["-R"] } else { &[] };
        let output = run(&mut without_frames(pool.guest.pid(), &images, arguments));
        assert!(output.status.success());
        let written = pages_bytes(&images) / PAGE;
        assert!(
            written <= distinct * 105 / 100 && written >= distinct * 9 / 10,
            "{written} of {distinct}"
        );
        if !runs_on {
            pool.guest.reap(&[]);
            pool.restore(Release::Criu42, &images);
        }
    }
}

#[test]
fn the_dumper_stays_small() {
    let pool = Pool::start(96, "star", 6, 10);
    for arguments in [
        &["-R"][..],
        &["-R", "--no-snapshot"],
        &["-R", "--no-page-dedup"],
    ] {
        let (_dir, images) = images();
        let mut dump = dedump(pool.guest.pid(), &images, arguments)
            .spawn()
            .unwrap();
        let status = format!("/proc/{}/status", dump.id());
        let mut most_kib = 0;
        while dump.try_wait().unwrap().is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak = peak.and_then(|peak| peak.split_whitespace().next()?.parse().ok());
            most_kib = most_kib.max(peak.unwrap_or(0));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(dump.wait().unwrap().success());
        assert!(pages_bytes(&images) > 96 << 20);
        let allowed_kib = 64 * 1024 + 96 * 1024 / 500;
        assert!(
            (1000..=allowed_kib).contains(&most_kib),
            "{arguments:?}: {most_kib} KiB"
        );
    }
}

#[test]
fn a_dump_is_not_felt_in_memory() {
    let mut pool = Pool::start(16, "star", 3, 10);
    pool.order("verify");
    let before = pool.sizes();
    let (_dir, images) = images();
    pool.snapshot(&images, &[]);
    for (pid, (pss, rss)) in pool.sizes() {
        let (pss_before, rss_before) = before[&pid];
        // A visit makes one page of the vdso the task's own.
        assert!(
            pss <= pss_before + 64 && rss <= rss_before + 64,
            "{pid}: {before:?}"
        );
    }
    pool.order("verify");
}

#[test]
fn the_plain_layout_has_no_parent() {
    let mut pool = Pool::start(4, "star", 2, 10);
    let (_dir, images) = images();
    pool.dump(&images, &["--no-page-dedup"]);
    assert!(!images.join("parent").exists());
    assert!(pages_bytes(&images) > 12 << 20);
    pool.restore(Release::Criu42, &images);
}

#[test]
fn a_folder_survives_being_copied() {
    for copy in [
        "cp -a images copy",
        "mkdir copy; tar -C images -c . | tar -C copy -x",
    ] {
        let mut pool = Pool::start(4, "star", 3, 10);
        let (dir, images) = images();
        pool.dump(&images, &[]);
        let done = run(Command::new("sh")
            .args(["-c", copy])
            .current_dir(dir.path()));
        assert!(done.status.success());
        std::fs::remove_dir_all(&images).unwrap();
        pool.restore(Release::Criu42, &dir.path().join("copy"));
    }
}

#[test]
fn five_dumps_on_top_of_each_other() {
    for release in [Release::Criu42, Release::Criu41] {
        let mut pool = Pool::start(16, "star", 2, 5);
        let (dir, _) = images();
        let folder = |number: u32| dir.path().join(number.to_string());
        pool.snapshot(&folder(1), &[]);
        for number in 2..5 {
            pool.order("change");
            let earlier = format!("../{}", number - 1);
            pool.snapshot(&folder(number), &["--prev-images-dir", &earlier]);
        }
        pool.order("change");
        pool.dump(&folder(5), &["--prev-images-dir", "../4"]);
        let full = pages_bytes(&folder(1));
        for number in 2..=5 {
            let changed = pages_bytes(&folder(number));
            assert!(changed < full / 4, "{number}: {changed} of {full}");
        }
        pool.restore(release, &folder(5));
    }
}

/// Checksums spare reading what differs; that pages are equal is decided by their bytes.
#[test]
fn checksums_do_not_decide_that_pages_are_equal() {
    let mut pool = Pool::start(8, "star", 1, 5);
    // Folders will be damaged that are sound otherwise.
    let dir = tempfile::tempdir().unwrap();
    let folder = |name: &str| dir.path().join(name);
    pool.snapshot(&folder("1"), &[]);
    for level in ["", "parent"] {
        assert!(
            folder("1")
                .join(level)
                .join("dedump-page-crcs.img")
                .exists()
        );
    }
    pool.snapshot(&folder("2"), &["--prev-images-dir", "../1"]);
    let full = pages_bytes(&folder("1"));
    assert!(pages_bytes(&folder("2")) < full / 4);

    // Without checksums everything is read.
    std::fs::remove_file(folder("1/dedump-page-crcs.img")).unwrap();
    std::fs::write(folder("1/parent/dedump-page-crcs.img"), "nonsense").unwrap();
    let again = ["-R", "--prev-images-dir", "../1"];
    let output = run(&mut dedump(pool.guest.pid(), &folder("3"), &again));
    assert!(output.status.success());
    assert!(pages_bytes(&folder("3")) < full / 4);

    // Every page differs from what its checksum was made of.
    pool.snapshot(&folder("4"), &[]);
    flip_a_bit_of_each_page(&folder("4"));
    let again = ["-R", "--prev-images-dir", "../4"];
    let output = run(&mut dedump(pool.guest.pid(), &folder("5"), &again));
    assert!(output.status.success());
    assert!(pages_bytes(&folder("5")) > full * 9 / 10);
    flip_a_bit_of_each_page(&folder("4"));
    pool.dump(&folder("6"), &["--prev-images-dir", "../5"]);
    pool.restore(Release::Criu42, &folder("6"));
}

fn flip_a_bit_of_each_page(folder: &Path) {
    for level in [folder.to_owned(), folder.join("parent")] {
        for entry in std::fs::read_dir(level).unwrap() {
            let path = entry.unwrap().path();
            if path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("pages-")
            {
                let mut bytes = std::fs::read(&path).unwrap();
                bytes.iter_mut().step_by(4096).for_each(|byte| *byte ^= 1);
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }
}

/// What an earlier dump has is not written again: 1 % of 128 MiB, with everything around it.
#[test]
fn a_little_changed_takes_little() {
    let is_full = std::env::var_os("DEDUMP_TEST_FULL").is_some();
    let pool_mib = if is_full { 1024 } else { 128 };
    let mut pool = Pool::start(pool_mib, "star", 0, 1);
    let (dir, _) = images();
    pool.snapshot(&dir.path().join("1"), &[]);
    pool.order("change");
    pool.dump(&dir.path().join("2"), &["--prev-images-dir", "../1"]);
    let (full, little) = (
        folder_bytes(&dir.path().join("1")),
        folder_bytes(&dir.path().join("2")),
    );
    // The pool notes in a word for each page what it holds now: these are changed memory, too.
    let notes = u64::from(pool_mib) * 256 * 8;
    assert!(
        little * 1000 <= full * 12 + notes * 1000,
        "{little} of {full}"
    );
    pool.restore(Release::Criu42, &dir.path().join("2"));
}

/// Memory is shared again after a restore, as after one from criu's own images.
#[test]
fn a_restored_pool_is_no_larger_than_one_from_images_of_criu() {
    let mut pool = Pool::start(16, "star", 3, 5);
    let Some(oracle) = crate::oracle::folder(Release::Criu42) else {
        return;
    };
    let pss = |pool: &Pool| pool.sizes().values().map(|(pss, _)| pss).sum::<u64>();
    let (dir, images) = images();
    pool.dump(&images, &[]);
    pool.restore(Release::Criu42, &images);
    let from_ours = pss(&pool);
    let theirs = dir.path().join("criu");
    std::fs::create_dir(&theirs).unwrap();
    let dumped = run(Command::new(oracle.join("criu"))
        .args(["dump", "-t", &pool.guest.pid().to_string(), "-D"])
        .arg(&theirs));
    assert!(dumped.status.success());
    pool.guest.reap(&[]);
    pool.restore(Release::Criu42, &theirs);
    let from_theirs = pss(&pool);
    assert!(
        from_ours <= from_theirs + 256,
        "{from_ours} KiB and {from_theirs} KiB"
    );
}

#[test]
fn zeros_of_shared_memory_are_not_written() {
    let guest = Guest::of_ours_with("scenarios", &["shared_memory_of_zeros"]);
    let (_dir, images) = images();
    let output = run(dedump(guest.pid(), &images, &[]).arg("-R"));
    assert!(output.status.success());
    assert!(folder_bytes(&images) < 2 << 20);
    crate::restores::check_restored(guest, Release::Criu42, &[], &[]);
}

#[test]
fn zeros_of_a_deleted_file_are_not_written() {
    let guest = Guest::of_ours_with("scenarios", &["a_deleted_file_of_zeros"]);
    let (_dir, images) = images();
    let output = run(dedump(guest.pid(), &images, &[]).arg("-R"));
    assert!(output.status.success());
    let ghost = std::fs::metadata(images.join("ghost-file-1.img")).unwrap();
    assert!(ghost.len() < 3 * PAGE, "{}", ghost.len());
    crate::restores::check_restored(guest, Release::Criu42, &[], &[]);
}

#[test]
fn a_dump_on_top_of_one_by_criu() {
    let mut pool = Pool::start(8, "star", 2, 5);
    let (dir, images) = images();
    let earlier = dir.path().join("criu");
    std::fs::create_dir(&earlier).unwrap();
    let Some(oracle) = crate::oracle::folder(Release::Criu42) else {
        return;
    };
    let pid = pool.guest.pid().to_string();
    let dumped = run(Command::new(oracle.join("criu"))
        .args(["dump", "-R", "-t", &pid, "-D"])
        .arg(&earlier));
    assert!(dumped.status.success());
    pool.order("change");
    pool.dump(&images, &["--prev-images-dir", "../criu"]);
    assert!(pages_bytes(&images) < pages_bytes(&earlier) / 4);
    pool.restore(Release::Criu42, &images);
}

#[test]
fn an_earlier_dump_that_is_none_is_refused() {
    let mut pool = Pool::start(1, "star", 0, 5);
    let (dir, images) = images();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    for earlier in ["../nowhere", "../empty"] {
        let output = run(&mut dedump(
            pool.guest.pid(),
            &images,
            &["--prev-images-dir", earlier],
        ));
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(&earlier[3..]));
        assert!(!images.exists());
    }
    pool.order("verify");
}
