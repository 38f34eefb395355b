//! The cgroup freezer: all tasks of a cgroup are stopped at once, however fast they fork.
//!
//! A frozen cgroup is no place to look around in: nothing can be run inside a task there, and in
//! version 1 a task does not even notice that it is traced. So the cgroup is frozen only for as
//! long as it takes to seize every task in it; when it thaws, each of them runs into the stop
//! that was asked for, without having taken a step. What is in the cgroup and not in the tree
//! stands still with it.
//!
//! In the end the cgroup is frozen again if it was found frozen. A process of its own sees to
//! that should we be killed.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::error::{Error, IoResultExt, Result, ResultExt, Target};
use crate::ids::Tid;
use crate::sys::guardian::Guardian;

/// Which of the kernel's two freezers it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// `freezer.state`.
    One,
    /// `cgroup.freeze`.
    Two,
}

impl Version {
    fn control_name(self) -> &'static str {
        match self {
            Self::One => "freezer.state",
            Self::Two => "cgroup.freeze",
        }
    }

    fn tasks_name(self) -> &'static str {
        match self {
            Self::One => "tasks",
            Self::Two => "cgroup.threads",
        }
    }

    /// What is written to freeze, or to thaw.
    fn word(self, frozen: bool) -> &'static [u8] {
        match (self, frozen) {
            (Self::One, true) => b"FROZEN",
            (Self::One, false) => b"THAWED",
            (Self::Two, true) => b"1",
            (Self::Two, false) => b"0",
        }
    }
}

/// A cgroup that is about to be frozen or was. Put back as it was found when dropped.
#[derive(Debug)]
pub struct FreezerCgroup {
    dir: PathBuf,
    version: Version,
    control: File,
    /// Whether it was frozen before us.
    found_frozen: bool,
    guardian: Option<Guardian>,
}

impl FreezerCgroup {
    /// Opens a cgroup by its folder and finds out whether it is frozen.
    ///
    /// # Errors
    /// [`Error::Refused`] for a folder that is no cgroup with a freezer, or whose cgroup holds
    /// the dumper.
    pub fn open(dir: &Path) -> Result<Self> {
        let refuse = |what: &str, remedy: &str| Error::Refused {
            target: dir.into(),
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        };
        let found = [Version::One, Version::Two]
            .into_iter()
            .find(|version| dir.join(version.control_name()).exists());
        let version = found.ok_or_else(|| {
            refuse(
                "not the folder of a cgroup with a freezer",
                "give --freeze-cgroup a folder that holds freezer.state or cgroup.freeze",
            )
        })?;
        let path = dir.join(version.control_name());
        let control = File::options().read(true).write(true).open(&path);
        let mut cgroup = Self {
            dir: dir.to_owned(),
            version,
            control: control.at("open", path)?,
            found_frozen: false,
            guardian: None,
        };
        let own = Tid(std::process::id().cast_signed());
        if cgroup.tasks()?.contains(&own) {
            return Err(refuse(
                "the cgroup holds dedump itself, which would freeze with it",
                "start dedump from another cgroup",
            ));
        }
        // One on its way to be frozen will be.
        cgroup.found_frozen = cgroup.is_asked_to_freeze()?;
        Ok(cgroup)
    }

    /// Every thread in the cgroup and in those below it.
    ///
    /// # Errors
    /// Reading it.
    pub fn tasks(&self) -> Result<Vec<Tid>> {
        let mut tasks = Vec::new();
        let mut folders = vec![self.dir.clone()];
        while let Some(folder) = folders.pop() {
            let path = folder.join(self.version.tasks_name());
            let text = fs::read_to_string(&path).at("read", path)?;
            tasks.extend(text.lines().filter_map(|line| line.parse().ok().map(Tid)));
            let entries = fs::read_dir(&folder).at("list", folder.as_path())?;
            for entry in entries {
                let entry = entry.at("list", folder.as_path())?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        Ok(tasks)
    }

    /// Freezes the cgroup and waits until everything in it stands still.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn freeze(&mut self, deadline: Instant) -> Result<()> {
        let (control, version, found_frozen) = (&self.control, self.version, self.found_frozen);
        let thaw = || {
            let _ = set(control, version, found_frozen);
        };
        let guardian = Guardian::post(|| (), thaw);
        self.guardian = Some(guardian.on("fork", Target::Here)?);
        self.set(true)?;
        while !self.is_frozen()? {
            if Instant::now() >= deadline {
                return Err(Error::TimedOut {
                    stage: "freezing a cgroup",
                    target: self.dir.as_path().into(),
                    remedy: "a task in it sits in an uninterruptible call; try again, or raise --timeout"
                        .to_owned(),
                });
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Lets the tasks of the cgroup go on, into whatever waits for them.
    ///
    /// # Errors
    /// Writing to it.
    pub fn thaw(&self) -> Result<()> {
        self.set(false)
    }

    fn set(&self, frozen: bool) -> Result<()> {
        let path = self.dir.join(self.version.control_name());
        set(&self.control, self.version, frozen).at("write", path)
    }

    /// Whether it is frozen or is to be.
    fn is_asked_to_freeze(&self) -> Result<bool> {
        let mut text = String::new();
        let mut control = &self.control;
        let path = self.dir.join(self.version.control_name());
        control.rewind().at("read", path.as_path())?;
        control.read_to_string(&mut text).at("read", path)?;
        Ok(!matches!(text.trim(), "THAWED" | "0"))
    }

    fn is_frozen(&self) -> Result<bool> {
        let name = match self.version {
            Version::One => "freezer.state",
            Version::Two => "cgroup.events",
        };
        let path = self.dir.join(name);
        let text = fs::read_to_string(&path).at("read", path)?;
        let is_frozen = |line: &str| line == "FROZEN" || line == "frozen 1";
        Ok(text.lines().any(is_frozen))
    }
}

impl Drop for FreezerCgroup {
    fn drop(&mut self) {
        if self.guardian.is_some()
            && let Err(error) = self.set(self.found_frozen)
        {
            warn!("{error}");
        }
    }
}

fn set(mut control: &File, version: Version, frozen: bool) -> std::io::Result<()> {
    control.write_all(version.word(frozen))
}
