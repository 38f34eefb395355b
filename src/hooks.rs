//! Programs of the user's that are run at certain moments of a dump: `--action-script`.
//!
//! Every program is run at every moment, one after the other, and learns from its environment
//! which one it is:
//!
//! | Variable | |
//! |---|---|
//! | `CRTOOLS_SCRIPT_ACTION` | the moment |
//! | `CRTOOLS_IMAGE_DIR` | the images folder, as a path that is good while the dump lasts |
//! | `CRTOOLS_INIT_PID` | the root of the tree |
//!
//! A program that fails, at whichever moment, makes the dump fail, and the tree runs on.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tracing::{debug, error};

use crate::error::{Error, IoResultExt, Result};
use crate::ids::Pid;

/// A moment of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the tree is looked at or frozen.
    PreDump,
    /// The images are complete, and the tree still stands still.
    PostDump,
}

impl Moment {
    /// Its name in the environment of a program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreDump => "pre-dump",
            Self::PostDump => "post-dump",
        }
    }
}

/// What is run, and where it may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookOptions {
    /// The programs, in the order in which they are run.
    pub scripts: Vec<PathBuf>,
    /// Where their output goes.
    pub output: HookOutput,
}

/// Where the programs' output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HookOutput {
    /// To standard error.
    #[default]
    Stderr,
    /// To standard output.
    Stdout,
    /// To the end of this file.
    File(PathBuf),
}

/// The programs of one dump.
#[derive(Debug)]
pub struct Hooks<'a> {
    options: &'a HookOptions,
    work_dir: &'a Path,
    root: Pid,
    images: OwnedFd,
}

impl<'a> Hooks<'a> {
    /// Programs to be run in `work_dir`, about a tree and a folder of images.
    ///
    /// # Errors
    /// When no further descriptor can be had.
    pub fn new(
        options: &'a HookOptions,
        work_dir: &'a Path,
        root: Pid,
        images: BorrowedFd<'_>,
    ) -> Result<Self> {
        let images = images.try_clone_to_owned().at("open again", work_dir)?;
        Ok(Self {
            options,
            work_dir,
            root,
            images,
        })
    }

    /// Runs all programs, also those behind one that fails.
    ///
    /// # Errors
    /// [`Error::Hook`] names the first one that failed.
    pub fn run(&self, moment: Moment) -> Result<()> {
        let mut outcome = Ok(());
        for script in &self.options.scripts {
            debug!("{}: running {}", moment.name(), script.display());
            if let Err(error) = self.run_one(script, moment) {
                error!("{error}");
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    fn run_one(&self, script: &Path, moment: Moment) -> Result<()> {
        let failed = |how: String| Error::Hook {
            script: script.to_owned(),
            moment,
            how,
        };
        let images = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.images.as_raw_fd()
        );
        let output = || -> std::io::Result<Stdio> {
            Ok(match &self.options.output {
                HookOutput::Stderr => std::io::stderr().into(),
                HookOutput::Stdout => std::io::stdout().into(),
                HookOutput::File(path) => File::options().append(true).open(path)?.into(),
            })
        };
        let status = Command::new(script)
            .env("CRTOOLS_SCRIPT_ACTION", moment.name())
            .env("CRTOOLS_IMAGE_DIR", images)
            .env("CRTOOLS_INIT_PID", OsStr::new(&self.root.to_string()))
            .current_dir(self.work_dir)
            .stdin(Stdio::null())
            .stdout(output().map_err(|error| failed(error.to_string()))?)
            .stderr(output().map_err(|error| failed(error.to_string()))?)
            .status()
            .map_err(|error| failed(error.to_string()))?;
        if status.success() {
            Ok(())
        } else {
            Err(failed(status.to_string()))
        }
    }
}
