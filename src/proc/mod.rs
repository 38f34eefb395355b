//! What `/proc` tells, as parsers over bytes; the code that opens files is [`ProcDir`] alone.

mod device;
pub mod children;
pub mod maps;
pub mod memory;
pub mod stat;
pub mod status;
pub mod text;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstatat};

use crate::error::{Result, ResultExt, Target};
use crate::ids::{Pid, Tid};

/// An open `/proc/TID` folder: it keeps naming the same task even if the number is used again.
#[derive(Debug)]
pub struct ProcDir {
    dir: OwnedFd,
    path: PathBuf,
}

impl ProcDir {
    /// Opens `/proc/PID` of a process.
    ///
    /// # Errors
    /// `ENOENT` no such process.
    pub fn open(pid: Pid) -> Result<Self> {
        Self::open_path(PathBuf::from(format!("/proc/{pid}")))
    }

    /// Opens `/proc/PID/task/TID`, the thread's own view.
    ///
    /// # Errors
    /// `ENOENT` no such thread in that process.
    pub fn open_thread(pid: Pid, tid: Tid) -> Result<Self> {
        Self::open_path(PathBuf::from(format!("/proc/{pid}/task/{tid}")))
    }

    fn open_path(path: PathBuf) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        let dir = open(&path, flags, Mode::empty()).on("open", path.as_path())?;
        Ok(Self { dir, path })
    }

    /// The whole content of a file below this folder, e.g. `status` or `task/7/comm`.
    ///
    /// # Errors
    /// Open and read errors, `ESRCH` when the task is gone.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let mut file = self.open_file(name, OFlag::O_RDONLY)?;
        let mut content = Vec::with_capacity(1024);
        file.read_to_end(&mut content)
            .map_err(|e| nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(0)))
            .on("read", self.path_of(name).as_path())?;
        Ok(content)
    }

    /// Opens a file below this folder.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open_file(&self, name: &str, flags: OFlag) -> Result<File> {
        let fd = openat(
            self.dir.as_fd(),
            name,
            flags | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .on("open", self.path_of(name).as_path())?;
        Ok(File::from(fd))
    }

    /// The entries of a folder below this one that are numbers, e.g. of `task` or `fd`, in the
    /// kernel's order.
    ///
    /// # Errors
    /// Those of opening and listing it.
    pub fn numbers(&self, name: &str) -> Result<Vec<i32>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut numbers = Vec::new();
        let mut folder = Dir::openat(self.dir.as_fd(), name, flags, Mode::empty())
            .on("open", self.path_of(name).as_path())?;
        for entry in folder.iter() {
            let entry = entry.on("list", self.path_of(name).as_path())?;
            let name = entry.file_name().to_str().unwrap_or_default();
            numbers.extend(name.parse::<i32>().ok());
        }
        Ok(numbers)
    }

    /// The text of a link below this folder, e.g. `exe` or `fd/3`; any bytes, ` (deleted)` included.
    ///
    /// # Errors
    /// Those of readlinkat(2).
    pub fn read_link(&self, name: &str) -> Result<PathBuf> {
        let text: OsString =
            readlinkat(self.dir.as_fd(), name).on("readlink", self.path_of(name).as_path())?;
        Ok(PathBuf::from(OsString::from_vec(text.into_vec())))
    }

    /// `stat` of what a link below this folder leads to.
    ///
    /// # Errors
    /// Those of fstatat(2).
    pub fn stat(&self, name: &str) -> Result<FileStat> {
        fstatat(self.dir.as_fd(), name, nix::fcntl::AtFlags::empty())
            .on("stat", self.path_of(name).as_path())
    }

    /// The full path of a file below this folder, for messages.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder itself as the target of an error.
    #[must_use]
    pub fn target(&self) -> Target {
        Target::Path(self.path.clone())
    }

    /// The path of the folder, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for ProcDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
