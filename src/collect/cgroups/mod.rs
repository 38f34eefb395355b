//! In which cgroups tasks are, and what these are like.
//!
//! A *set* is a place in each hierarchy. Most trees live in the one set in which the dumper lives,
//! too; then nothing is looked at but the few lines that tell so.

mod settings;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub use settings::Settings;

use super::files::mounts;
use crate::error::{Error, IoResultExt, Result, ResultExt, Target};
use crate::ids::Tid;
use crate::options::CgroupChoices;
use crate::proc::cgroup::{CgroupPlace, parse_cgroup};
use crate::proc::mountinfo::Mount;
use crate::sys::cgroupfs;

/// The set of the dumper.
pub const OWN_SET: u32 = 1;

/// A place in one hierarchy: its controllers as `/proc/PID/cgroup` has them, and the path.
type Place = (Vec<u8>, Vec<u8>);

/// A place in each hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupSet {
    /// Its number, above [`OWN_SET`].
    pub id: u32,
    /// By hierarchy.
    pub places: Vec<Place>,
}

/// A hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers or its name; one empty name for version 2.
    pub controllers: Vec<Vec<u8>>,
    /// Whether threads of one process may be in different cgroups.
    pub is_threaded: bool,
    /// The cgroups of the tree, with all below them.
    pub cgroups: Vec<Cgroup>,
}

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its path from the root, or from the one above.
    pub name: Vec<u8>,
    /// Owner and rights of its folder.
    pub rights: Rights,
    /// Its settings.
    pub settings: Vec<Setting>,
    /// Those below.
    pub below: Vec<Cgroup>,
}

/// A setting of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its file.
    pub file: String,
    /// What stands there.
    pub value: Vec<u8>,
    /// Owner and rights of the file.
    pub rights: Rights,
}

/// Owner and rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Where the tasks of a tree are, if not all of them where the dumper is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// All sets but the dumper's.
    pub sets: Vec<CgroupSet>,
    /// All hierarchies that the sets name.
    pub hierarchies: Vec<Hierarchy>,
}

/// The sets met so far.
#[derive(Debug)]
pub struct CgroupSets {
    choices: CgroupChoices,
    settings: Settings,
    own: Vec<Place>,
    /// By the text that `/proc` shows.
    ids: HashMap<Vec<u8>, u32>,
    sets: Vec<CgroupSet>,
}

impl CgroupSets {
    /// Starts with the dumper's own set.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings that make no sense; reading `/proc/self/cgroup`.
    pub fn start(choices: &CgroupChoices) -> Result<Self> {
        let mut settings = Settings::default();
        let wrong = |option: &str, error: String| Error::Usage(format!("{option}: {error}"));
        if let Some(text) = &choices.settings {
            settings
                .amend(text)
                .map_err(|error| wrong("--cgroup-props", error))?;
        }
        if let Some(path) = &choices.settings_file {
            let text = std::fs::read_to_string(path).at("read", path.as_path())?;
            settings
                .amend(&text)
                .map_err(|error| wrong("--cgroup-props-file", error))?;
        }
        let mut sets = Self {
            choices: choices.clone(),
            settings,
            own: Vec::new(),
            ids: HashMap::new(),
            sets: Vec::new(),
        };
        if choices.record {
            let path = "/proc/self/cgroup";
            let text = match std::fs::read(path) {
                // A kernel without cgroups.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                answer => answer.at("read", path)?,
            };
            sets.own = sets.places(&text, Path::new(path))?;
            sets.ids.insert(text, OWN_SET);
        }
        Ok(sets)
    }

    /// The number of the set that a thread is in, by its `/proc/PID/task/TID/cgroup`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a cgroup that is gone, or that the dumper cannot name.
    pub fn set_of(&mut self, tid: Tid, text: &[u8]) -> Result<u32> {
        if !self.choices.record {
            return Ok(OWN_SET);
        }
        if let Some(id) = self.ids.get(text) {
            return Ok(*id);
        }
        let places = self.places(text, Path::new(&format!("/proc/{tid}/cgroup")))?;
        for (hierarchy, path) in &places {
            let what = if path.ends_with(b" (deleted)") {
                "that was removed"
            } else if path.starts_with(b"/..") {
                "outside of the dumper's cgroup namespace"
            } else {
                continue;
            };
            let (hierarchy, path) = (text_of(hierarchy), text_of(path));
            return Err(Error::unsupported(
                tid,
                format!("a task in a cgroup {what} ({hierarchy}:{path})"),
                "move it to another one, or give --manage-cgroups=ignore",
            ));
        }
        let known = self.sets.iter().find(|set| set.places == places);
        let id = match known {
            _ if places == self.own => OWN_SET,
            Some(set) => set.id,
            None => {
                let id = OWN_SET + 1 + u32::try_from(self.sets.len()).unwrap_or(u32::MAX - 2);
                self.sets.push(CgroupSet { id, places });
                id
            }
        };
        self.ids.insert(text.to_vec(), id);
        Ok(id)
    }

    /// Reads the cgroups of all sets but the dumper's; `None` if there is no other set.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without the right to look; reading them.
    pub fn finish(&mut self) -> Result<Option<Cgroups>> {
        if self.sets.is_empty() {
            return Ok(None);
        }
        let mut paths: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
        for (hierarchy, path) in self.sets.iter().flat_map(|set| &set.places) {
            let start = self.choices.root_of(hierarchy).unwrap_or(path);
            paths.entry(hierarchy).or_default().insert(start);
        }
        let mut hierarchies = Vec::with_capacity(paths.len());
        for (name, paths) in paths {
            hierarchies.push(self.hierarchy(name, &paths)?);
        }
        Ok(Some(Cgroups {
            hierarchies,
            sets: std::mem::take(&mut self.sets),
        }))
    }

    /// The places that a `cgroup` file names, without hierarchies that are left out.
    fn places(&self, text: &[u8], path: &Path) -> Result<Vec<Place>> {
        let places = parse_cgroup(text).map_err(|e| e.at(path.to_owned()))?;
        let is_kept = |place: &CgroupPlace| {
            let only = &self.choices.only;
            only.is_empty() || only.contains(&place.controllers)
        };
        let mut places: Vec<Place> = places
            .into_iter()
            .filter(is_kept)
            .map(|place| (place.controllers, place.path))
            .collect();
        places.sort_unstable();
        Ok(places)
    }

    fn hierarchy(&self, name: &[u8], paths: &BTreeSet<&[u8]>) -> Result<Hierarchy> {
        let controllers: Vec<Vec<u8>> = name
            .split(|byte| *byte == b',')
            .map(<[u8]>::to_vec)
            .collect();
        let opened = self.open(name)?;
        let walk = Walk {
            root: match &opened {
                Opened::Mounted(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
                Opened::Folder(path) => path.clone(),
            },
            files: self.settings.of(&controllers),
        };
        let mut cgroups: Vec<Cgroup> = Vec::new();
        let mut last: Option<&[u8]> = None;
        for path in paths {
            // What lies below another one came with that; the root is there, and everybody's.
            let is_below = last.is_some_and(|last| {
                path.strip_prefix(last)
                    .is_some_and(|rest| rest.starts_with(b"/"))
            });
            if !is_below && *path != b"/" {
                let is_given = self.choices.root_of(name).is_some();
                if is_given && !walk.folder(path).exists() {
                    let (path, name) = (text_of(path), text_of(name));
                    return Err(Error::Usage(format!(
                        "--cgroup-root: hierarchy {name:?} has no cgroup {path}"
                    )));
                }
                cgroups.push(walk.cgroup(path, path.strip_prefix(b"/").unwrap_or(path))?);
                last = Some(path);
            }
        }
        Ok(Hierarchy {
            is_threaded: !name.is_empty() || cgroups.iter().any(Cgroup::is_threaded),
            controllers,
            cgroups,
        })
    }

    fn open(&self, hierarchy: &[u8]) -> Result<Opened> {
        if let Some(yard) = &self.choices.yard {
            let folder = match hierarchy {
                b"" => &b"unified"[..],
                _ => hierarchy.strip_prefix(b"name=").unwrap_or(hierarchy),
            };
            return Ok(Opened::Folder(yard.join(OsStr::from_bytes(folder))));
        }
        match cgroupfs::open_hierarchy(hierarchy) {
            Err(Errno::EPERM) => {
                let mounted = mounts()?
                    .into_iter()
                    .find(|mount| shows_hierarchy(mount, hierarchy));
                let mounted = mounted.ok_or_else(|| {
                    Error::unsupported(
                        Target::Here,
                        "a tree in other cgroups than the dumper's",
                        "run dedump as root, or give --manage-cgroups=ignore",
                    )
                })?;
                Ok(Opened::Folder(
                    OsStr::from_bytes(&mounted.mount_point).into(),
                ))
            }
            answer => answer
                .map(Opened::Mounted)
                .on("fsopen cgroup", Path::new(&text_of(hierarchy))),
        }
    }
}

/// Whether a mount shows a whole hierarchy.
fn shows_hierarchy(mount: &Mount, hierarchy: &[u8]) -> bool {
    let of_type = match hierarchy {
        b"" => mount.file_system == b"cgroup2",
        _ => mount.file_system == b"cgroup",
    };
    let options = || mount.file_system_options.split(|byte| *byte == b',');
    let mut controllers = hierarchy.split(|byte| *byte == b',');
    of_type
        && mount.root == b"/"
        && controllers.all(|one| one.is_empty() || options().any(|option| option == one))
}

enum Opened {
    Mounted(OwnedFd),
    Folder(PathBuf),
}

/// Reading the cgroups of one hierarchy.
struct Walk {
    root: PathBuf,
    files: Vec<String>,
}

impl Walk {
    fn folder(&self, path: &[u8]) -> PathBuf {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        self.root.join(OsStr::from_bytes(relative))
    }

    /// Reads a cgroup and all below it.
    fn cgroup(&self, path: &[u8], name: &[u8]) -> Result<Cgroup> {
        let folder = self.folder(path);
        let stat = std::fs::metadata(&folder).at("stat", folder.as_path())?;
        let mut settings = Vec::new();
        for file in &self.files {
            settings.extend(setting(&folder, file)?);
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).at("list", folder.as_path())? {
            let entry = entry.at("list", folder.as_path())?;
            if entry.file_type().at("stat", entry.path())?.is_dir() {
                names.push(entry.file_name().as_bytes().to_vec());
            }
        }
        names.sort_unstable();
        let below = names.iter();
        let below = below.map(|name| self.cgroup(&[path, b"/", name].concat(), name));
        let below = below.collect::<Result<Vec<_>>>()?;
        Ok(Cgroup {
            name: name.to_vec(),
            rights: Rights::of(&stat),
            settings,
            below,
        })
    }
}

impl Cgroup {
    /// Version 1 always is; version 2 where a cgroup says so.
    fn is_threaded(&self) -> bool {
        let says_so =
            |setting: &Setting| setting.file == "cgroup.type" && setting.value == b"threaded";
        self.settings.iter().any(says_so) || self.below.iter().any(Self::is_threaded)
    }
}

impl Rights {
    fn of(stat: &std::fs::Metadata) -> Self {
        Self {
            mode: stat.mode(),
            uid: stat.uid(),
            gid: stat.gid(),
        }
    }
}

/// Reads a setting; `None` where this kernel has no such file.
fn setting(folder: &Path, name: &str) -> Result<Option<Setting>> {
    /// What criu reads of a file, and what it can set again.
    const MOST_BYTES: u64 = 1023;
    let path = folder.join(name);
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        answer => answer.at("open", path.as_path())?,
    };
    let stat = file.metadata().at("stat", path.as_path())?;
    let mut value = Vec::new();
    // Who is in a cgroup is known from the tasks; of these files only owner and rights count.
    if !["cgroup.procs", "tasks"].contains(&name) {
        let read = file.take(MOST_BYTES).read_to_end(&mut value);
        read.at("read", path.as_path())?;
    }
    Ok(Some(Setting {
        file: name.to_owned(),
        value: as_written(name, value),
        rights: Rights::of(&stat),
    }))
}

/// A value as it is written to have it again: most files take what they show.
fn as_written(name: &str, mut value: Vec<u8>) -> Vec<u8> {
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    if name == "memory.oom_control" {
        let text = String::from_utf8_lossy(&value);
        let disabled = text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill_disable "));
        return disabled.unwrap_or("0").as_bytes().to_vec();
    }
    // The largest number stands for no limit.
    match std::str::from_utf8(&value) {
        Ok(text) if text == i64::MAX.to_string() => b"-1".to_vec(),
        _ => value,
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::mountinfo::parse_mountinfo;

    fn sets(only: &[&str]) -> CgroupSets {
        let choices = CgroupChoices {
            only: only.iter().map(|name| name.as_bytes().to_vec()).collect(),
            ..CgroupChoices::default()
        };
        let mut sets = CgroupSets::start(&choices).unwrap();
        sets.ids.clear();
        let own = b"2:cpu:/\n1:name=systemd:/a\n0::/\n";
        sets.own = sets.places(own, Path::new("own")).unwrap();
        sets
    }

    #[test]
    fn places_have_numbers_and_the_dumpers_is_the_first() {
        let mut sets = sets(&[]);
        let mut id = |text: &[u8]| sets.set_of(Tid(7), text).unwrap();
        assert_eq!(id(b"2:cpu:/\n1:name=systemd:/a\n0::/\n"), 1);
        assert_eq!(id(b"2:cpu:/x\n1:name=systemd:/a\n0::/\n"), 2);
        assert_eq!(id(b"2:cpu:/\n1:name=systemd:/a\n0::/y\n"), 3);
        // In another order, the same place.
        assert_eq!(id(b"0::/\n2:cpu:/x\n1:name=systemd:/a\n"), 2);
    }

    #[test]
    fn what_is_left_out_makes_no_difference() {
        let mut sets = sets(&["cpu"]);
        assert_eq!(sets.set_of(Tid(7), b"2:cpu:/\n0::/elsewhere\n").unwrap(), 1);
        assert_eq!(sets.set_of(Tid(7), b"2:cpu:/x\n0::/\n").unwrap(), 2);
        assert_eq!(sets.sets[0].places, [(b"cpu".to_vec(), b"/x".to_vec())]);
    }

    #[test]
    fn what_cannot_be_found_again_is_refused() {
        for bad in [&b"2:cpu:/x (deleted)\n"[..], b"2:cpu:/../x\n"] {
            assert!(matches!(
                sets(&[]).set_of(Tid(7), bad),
                Err(Error::Unsupported { .. })
            ));
        }
    }

    #[test]
    fn a_mounted_hierarchy_is_known_by_its_controllers() {
        let text = b"30 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            31 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            32 24 0:29 /part /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            33 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let mounts = parse_mountinfo(text).unwrap();
        let place = |name: &[u8]| mounts.iter().position(|mount| shows_hierarchy(mount, name));
        assert_eq!(place(b"cpu,cpuacct"), Some(0));
        assert_eq!(place(b"name=systemd"), Some(1));
        assert_eq!(place(b"pids"), None);
        assert_eq!(place(b""), Some(3));
    }

    #[test]
    fn values_are_what_can_be_written() {
        assert_eq!(as_written("pids.max", b"max\n".to_vec()), b"max");
        let text = b"oom_kill_disable 1\nunder_oom 0\n".to_vec();
        assert_eq!(as_written("memory.oom_control", text), b"1");
        assert_eq!(as_written("x", b"9223372036854775807\n".to_vec()), b"-1");
    }
}
