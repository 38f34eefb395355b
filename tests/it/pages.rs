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
    let mut inodes = HashMap::new();
    let mut folders = vec![images.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            if metadata.is_dir() {
                folders.push(path);
            } else if name.starts_with("pages-") {
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
