//! Trees in cgroups of their own: recorded as criu records them, and put back by criu.

use std::path::{Path, PathBuf};
use std::process::Command;

use dedump::inspect::show::{Style, show_path};
use serde_json::Value;

use crate::guest::{Guest, dedump, images, run};
use crate::oracle::{Release, folder, restore_with};
use crate::scenarios::check;
use crate::user::{UsersDedump, as_user};

/// A cgroup in one hierarchy, and one below it in which the guest is.
struct Place {
    /// As `/proc/PID/cgroup` has it.
    hierarchy: String,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// The outer cgroup, from there.
    outer: String,
}

/// The hierarchies that are mounted here, but by restorers at work: their names, as
/// `/proc/PID/cgroup` has them, and where.
pub(crate) fn hierarchies() -> Vec<(String, PathBuf)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mount = left.split(' ').nth(4)?;
        let name = match right.split(' ').next()? {
            "cgroup2" => "",
            "cgroup" => right.rsplit(',').next()?,
            _ => return None,
        };
        (!mount.contains(".criu.cgyard")).then(|| (name.to_owned(), PathBuf::from(mount)))
    });
    found.collect()
}

/// A setting that is recorded, by hierarchy: its file, a value, and another one.
const SETTINGS: &[(&str, &str, &str, &str)] = &[
    ("pids", "pids.max", "177", "150"),
    ("cpu", "cpu.shares", "512", "256"),
    ("", "cgroup.max.depth", "9", "8"),
];

impl Place {
    fn inner(&self) -> PathBuf {
        self.mount.join(&self.outer).join("inner")
    }

    /// Makes both cgroups.
    fn make(&self) {
        for folder in [self.mount.join(&self.outer), self.inner()] {
            std::fs::create_dir(&folder)
                .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
    }

    fn remove(&self) {
        for folder in [self.inner(), self.mount.join(&self.outer)] {
            std::fs::remove_dir(&folder)
                .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
    }

    fn add(&self, pid: i32) {
        // criu makes the outer one without processors, in which then the inner can have none.
        if self.hierarchy == "cpuset" {
            return;
        }
        std::fs::write(self.inner().join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// The setting of this hierarchy, if one is tried: its file, a value, another one.
    fn setting(&self) -> Option<(PathBuf, &'static str, &'static str)> {
        let known = SETTINGS
            .iter()
            .find(|(hierarchy, ..)| *hierarchy == self.hierarchy)?;
        let (_, file, value, other) = *known;
        Some((self.inner().join(file), value, other))
    }
}

/// Cgroups in every hierarchy that is mounted here, removed on drop.
struct Places(Vec<Place>);

impl Places {
    fn make(name: &str) -> Self {
        let outer = format!("dedump-{name}-{}", std::process::id());
        let found = hierarchies().into_iter().map(|(hierarchy, mount)| Place {
            hierarchy,
            mount,
            outer: outer.clone(),
        });
        let places = Self(found.collect());
        assert!(!places.0.is_empty(), "no cgroups are mounted here");
        for place in &places.0 {
            place.make();
            if let Some((file, value, _)) = place.setting() {
                std::fs::write(file, value).unwrap();
            }
        }
        places
    }

    fn add(&self, pid: i32) {
        for place in &self.0 {
            place.add(pid);
        }
    }

    fn remove(&self) {
        self.0.iter().for_each(Place::remove);
    }

    /// Gives every setting its other value.
    fn change(&self) {
        for place in &self.0 {
            if let Some((file, _, other)) = place.setting() {
                std::fs::write(file, other).unwrap();
            }
        }
    }

    /// Whether every setting has its first value, or every one the other.
    fn assert_settings(&self, restored: bool) {
        for place in &self.0 {
            if let Some((file, value, other)) = place.setting() {
                let found = std::fs::read_to_string(&file).unwrap();
                let expected = if restored { value } else { other };
                assert_eq!(found.trim(), expected, "{}", file.display());
            }
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for place in &self.0 {
            for folder in [place.inner(), place.mount.join(&place.outer)] {
                match std::fs::remove_dir(&folder) {
                    Err(error) if !std::thread::panicking() && folder.exists() => {
                        panic!("{}: {error}", folder.display());
                    }
                    _ => {}
                }
            }
        }
    }
}

fn cgroups_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
}

/// A guest that is in these cgroups.
fn guest_in(places: &Places, scenario: &str) -> Guest {
    let guest = Guest::of_ours_with("scenarios", &[scenario]);
    for pid in guest.all_pids() {
        places.add(pid);
    }
    guest
}

/// Dumps, kills, lets `meanwhile` happen, restores in the same way and has the guest check itself.
fn round_trip(guest: &mut Guest, arguments: &[&str], meanwhile: impl FnOnce()) {
    let (_dir, images) = images();
    let pids = guest.all_pids();
    let output = run(&mut dedump(guest.pid(), &images, arguments));
    assert!(output.status.success());
    guest.reap(&pids);
    meanwhile();
    restore_with(Release::Criu42, &images, arguments);
}

#[test]
fn cgroups_that_are_gone_are_made_again() {
    for mode in [
        &[][..],
        &["--manage-cgroups"],
        &["--manage-cgroups=soft"],
        &["--manage-cgroups=full"],
        &["--manage-cgroups=strict"],
    ] {
        let places = Places::make("again");
        let mut guest = guest_in(&places, "sessions_and_groups");
        let before = cgroups_of(guest.pid());
        round_trip(&mut guest, mode, || places.remove());
        for pid in guest.all_pids() {
            assert_eq!(cgroups_of(pid), before, "{mode:?}");
        }
        places.assert_settings(true);
        check(&guest);
    }
}

#[test]
fn cgroups_that_are_there_are_treated_as_their_mode_says() {
    for (mode, sets) in [
        ("none", false),
        ("props", true),
        ("soft", false),
        ("full", true),
    ] {
        let places = Places::make("there");
        let mut guest = guest_in(&places, "sessions_and_groups");
        let before = cgroups_of(guest.pid());
        let mode = format!("--manage-cgroups={mode}");
        round_trip(&mut guest, &[&mode], || places.change());
        assert_eq!(cgroups_of(guest.pid()), before, "{mode}");
        places.assert_settings(sets);
        check(&guest);
    }
}

#[test]
fn cgroups_that_do_not_matter_are_left_out() {
    let places = Places::make("ignored");
    let mut guest = guest_in(&places, "sessions_and_groups");
    let own = cgroups_of(i32::try_from(std::process::id()).unwrap());
    round_trip(&mut guest, &["--manage-cgroups=ignore"], || places.remove());
    assert_eq!(cgroups_of(guest.pid()), own);
    check(&guest);
}

/// Processes, and threads where that is possible, in different cgroups.
#[test]
fn tasks_of_one_tree_in_different_cgroups() {
    let (first, second) = (Places::make("first"), Places::make("second"));
    let mut guest = guest_in(&first, "wide_tree");
    let pids = guest.all_pids();
    let moved = *pids.last().unwrap();
    assert_ne!(moved, guest.pid());
    second.add(moved);
    let before: Vec<String> = pids.iter().map(|pid| cgroups_of(*pid)).collect();
    round_trip(&mut guest, &[], || {
        first.remove();
        second.remove();
    });
    let after: Vec<String> = pids.iter().map(|pid| cgroups_of(*pid)).collect();
    assert_eq!(after, before);
    check(&guest);
    drop(guest);

    let (third, fourth) = (Places::make("third"), Places::make("fourth"));
    let mut guest = guest_in(&third, "names_of_threads");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap();
    let tids = tasks.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let tids: Vec<String> = tids.collect();
    let tid = tids.iter().max_by_key(|tid| tid.parse::<i32>().unwrap());
    let tid = tid.unwrap();
    // Version 1 alone lets threads of one process be in different cgroups.
    for place in &fourth.0 {
        if place.inner().join("tasks").exists() && place.hierarchy != "cpuset" {
            std::fs::write(place.inner().join("tasks"), tid).unwrap();
        }
    }
    let of_thread = |guest: &Guest| {
        std::fs::read_to_string(format!("/proc/{}/task/{tid}/cgroup", guest.pid())).unwrap()
    };
    let before = (cgroups_of(guest.pid()), of_thread(&guest));
    round_trip(&mut guest, &[], || {
        third.remove();
        fourth.remove();
    });
    assert_eq!((cgroups_of(guest.pid()), of_thread(&guest)), before);
    check(&guest);
}

/// What an image of cgroups says, in an order of its own, without what criu takes along of the
/// cgroup that is everybody's.
fn recorded(images: &Path) -> (Vec<Value>, Vec<Value>) {
    let mut json = Vec::new();
    show_path(&images.join("cgroup.img"), Style::Json, &mut json).unwrap();
    let image: Value = serde_json::from_slice(&json).unwrap();
    let entry = &image["entries"][0];
    let sorted = |field: &str, key: fn(&Value) -> String| {
        let mut list = entry[field].as_array().unwrap().clone();
        list.sort_by_key(key);
        list
    };
    let mut controllers = sorted("controllers", |one| one["cnames"].to_string());
    for controller in &mut controllers {
        if let Some(dirs) = controller["dirs"].as_array_mut() {
            dirs.retain(|dir| dir["dir_name"] != "");
            for dir in dirs.iter_mut() {
                sort_settings(dir);
            }
        }
    }
    controllers.retain(|one| one["dirs"].as_array().is_some_and(|dirs| !dirs.is_empty()));
    (sorted("sets", |set| set["ctls"].to_string()), controllers)
}

fn sort_settings(dir: &mut Value) {
    if let Some(settings) = dir["properties"].as_array_mut() {
        settings.sort_by_key(|one| one["name"].to_string());
    }
    for child in dir["children"].as_array_mut().into_iter().flatten() {
        sort_settings(child);
    }
}

#[test]
fn cgroups_are_recorded_as_by_criu() {
    let Some(criu) = folder(Release::Criu42) else {
        return;
    };
    let places = Places::make("recorded");
    let guest = guest_in(&places, "names_of_threads");
    for place in &places.0 {
        std::fs::create_dir(place.inner().join("below")).unwrap();
    }
    let outer = format!("/{}", places.0[0].outer);
    let more = "\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"cpu.stat\"]\n\
                \"pids\":\n - \"strategy\": \"replace\"\n - \"properties\": [\"pids.events\"]\n";
    let file = guest.dir.path().join("settings");
    std::fs::write(&file, more).unwrap();
    let yard = Yard::make(&places);
    for arguments in [
        vec![],
        vec!["--cgroup-root", &outer],
        vec!["--cgroup-root", &format!("pids:{outer}")],
        vec![
            "--cgroup-dump-controller",
            "pids",
            "--cgroup-dump-controller",
            "cpu",
        ],
        vec!["--cgroup-props", more],
        vec!["--cgroup-props-file", file.to_str().unwrap()],
        vec!["--cgroup-yard", yard.0.to_str().unwrap()],
    ] {
        let (_ours, ours) = images();
        let output = run(dedump(guest.pid(), &ours, &["-R"]).args(&arguments));
        assert!(output.status.success(), "{arguments:?}");
        let theirs = tempfile::tempdir().unwrap();
        let pid = guest.pid().to_string();
        let mut criu = Command::new(criu.join("criu"));
        criu.args(["dump", "--no-default-config", "-R", "-t", &pid, "-D"]);
        let output = run(criu.arg(theirs.path()).args(&arguments));
        assert!(output.status.success(), "{arguments:?}");
        let (ours, theirs) = (recorded(&ours), recorded(theirs.path()));
        assert!(!ours.1.is_empty(), "{arguments:?}");
        assert_eq!(ours, theirs, "{arguments:?}");
    }
    for place in &places.0 {
        std::fs::remove_dir(place.inner().join("below")).unwrap();
    }
}

/// A folder with all hierarchies under their names.
struct Yard(PathBuf);

impl Yard {
    fn make(places: &Places) -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        for place in &places.0 {
            let name = match place.hierarchy.strip_prefix("name=") {
                Some(name) => name,
                None if place.hierarchy.is_empty() => "unified",
                None => &place.hierarchy,
            };
            std::os::unix::fs::symlink(&place.mount, folder.join(name)).unwrap();
        }
        Self(folder)
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn wrong_words_about_cgroups_are_refused() {
    let guest = Guest::of_ours_with("scenarios", &["names_of_threads"]);
    for (argument, word) in [
        ("--manage-cgroups=all", "ignore"),
        ("--cgroup-props=cpu", "--cgroup-props"),
        ("--cgroup-props-file=/nowhere", "/nowhere"),
    ] {
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &[argument]));
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(word), "{said}");
    }
    check(&guest);
}

/// Who may not mount a hierarchy looks into those that are mounted.
#[test]
fn an_ordinary_user_dumps_out_of_other_cgroups() {
    let places = Places::make("users");
    let script = "import os, time
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.02)
print('done', flush=True)
time.sleep(1000)
";
    let mut command = Command::new("/usr/bin/python3");
    let mut guest = Guest::start(&mut as_user(command.args(["-c", script]), &[]), "ready\n");
    places.add(guest.pid());
    let before = cgroups_of(guest.pid());
    let dedump = UsersDedump::with(&[]);
    assert!(dedump.dump(guest.pid(), &[]).status.success());
    guest.reap(&[]);
    places.remove();
    restore_with(Release::Criu42, &dedump.images(), &[]);
    assert_eq!(cgroups_of(guest.pid()), before);
    places.assert_settings(true);
    check(&guest);
}
