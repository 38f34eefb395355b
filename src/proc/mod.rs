//! What `/proc` tells, as parsers over bytes; the code that opens files is [`ProcDir`] alone.

pub mod auxv;
pub mod cgroup;
pub mod children;
pub mod device;
pub mod fdinfo;
pub mod limits;
pub mod locks;
pub mod maps;
pub mod memory;
pub mod mountinfo;
pub mod smaps;
pub mod stat;
pub mod status;
pub mod text;
pub mod timens;
pub mod timers;

use std::ffi::OsString;
use std::fs::File;
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
        let mut content = Vec::new();
        let filled = self.read_into(name, &mut content)?;
        content.truncate(filled);
        Ok(content)
    }

    /// The same into a buffer that is used again and again, for thousands of small files: no
    /// call more than open, read, read, close. Returns how many bytes of it are the file's.
    ///
    /// # Errors
    /// Those of [`ProcDir::read`].
    pub fn read_into(&self, name: &str, buffer: &mut Vec<u8>) -> Result<usize> {
        const FIRST_ROOM: usize = 2048;
        let file = self.open_file(name, OFlag::O_RDONLY)?;
        let mut filled = 0;
        buffer.resize(buffer.len().max(FIRST_ROOM), 0);
        loop {
            let got = nix::unistd::read(file.as_fd(), &mut buffer[filled..])
                .on("read", self.below(name))?;
            if got == 0 {
                return Ok(filled);
            }
            filled += got;
            if filled == buffer.len() {
                buffer.resize(filled * 2, 0);
            }
        }
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
        .on("open", self.below(name))?;
        Ok(File::from(fd))
    }

    /// The text of a link below this folder, e.g. `exe` or `fd/3`; any bytes, ` (deleted)` included.
    ///
    /// # Errors
    /// Those of readlinkat(2).
    pub fn read_link(&self, name: &str) -> Result<PathBuf> {
        let text: OsString = readlinkat(self.dir.as_fd(), name).on("readlink", self.below(name))?;
        Ok(PathBuf::from(OsString::from_vec(text.into_vec())))
    }

    /// `stat` of what a link below this folder leads to.
    ///
    /// # Errors
    /// Those of fstatat(2).
    pub fn stat(&self, name: &str) -> Result<FileStat> {
        fstatat(self.dir.as_fd(), name, nix::fcntl::AtFlags::empty()).on("stat", self.below(name))
    }

    /// The numbers that entries of a folder below this one are named by, in the kernel's order:
    /// the threads in `task`, the descriptors in `fd`.
    ///
    /// # Errors
    /// Open and read errors, `ENOENT` or `ESRCH` when the task is gone.
    pub fn numbers(&self, name: &str) -> Result<Vec<i32>> {
        let path = self.path_of(name);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut folder =
            Dir::from_fd(self.open_file(name, flags)?.into()).on("open", path.as_path())?;
        let mut numbers = Vec::new();
        for entry in folder.iter() {
            let entry = entry.on("getdents", path.as_path())?;
            // Of the entries, only `.` and `..` are no numbers.
            let name = entry.file_name().to_bytes();
            numbers.extend(text::parse_decimal::<i32>(name));
        }
        Ok(numbers)
    }

    /// The full path of a file below this folder, for messages.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file below this folder as the target of an error: its path is put together when there is
    /// one.
    fn below<'a>(&'a self, name: &'a str) -> Below<'a> {
        Below { folder: self, name }
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

struct Below<'a> {
    folder: &'a ProcDir,
    name: &'a str,
}

impl From<Below<'_>> for Target {
    fn from(below: Below<'_>) -> Self {
        Target::Path(below.folder.path_of(below.name))
    }
}

impl AsFd for ProcDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use nix::errno::Errno;

    use super::*;
    use crate::error::Error;

    /// Parses one file of a task, unless the task is gone or the file is not for us.
    ///
    /// Mappings that change while they are listed may overlap: the task runs, so look again.
    fn check<T: std::fmt::Debug>(
        dir: &ProcDir,
        name: &str,
        parse: impl Fn(&[u8]) -> Result<T, text::ParseError>,
    ) -> Option<T> {
        const LOOKS: usize = 5;
        for look in 1..=LOOKS {
            match dir.read(name) {
                Ok(text) => match parse(&text).map_err(|e| e.at(dir.path_of(name))) {
                    Ok(parsed) => return Some(parsed),
                    Err(error) => assert!(look < LOOKS, "{error}"),
                },
                Err(Error::Syscall { errno, .. }) => {
                    // EINVAL: mountinfo of a task that is ending and has no mounts any more.
                    let expected = [
                        Errno::ESRCH,
                        Errno::ENOENT,
                        Errno::EACCES,
                        Errno::EPERM,
                        Errno::EINVAL,
                    ];
                    assert!(expected.contains(&errno), "{name}: {errno}");
                    return None;
                }
                Err(other) => panic!("{other}"),
            }
        }
        None
    }

    #[test]
    fn every_task_of_this_machine_can_be_parsed() {
        let all = ProcDir::open_path(PathBuf::from("/proc")).unwrap();
        let mut parsed = 0;
        for pid in all.numbers(".").unwrap().into_iter().map(Pid) {
            let Ok(process) = ProcDir::open(pid) else {
                continue;
            };
            check(&process, "timers", timers::parse_timers);
            check(&process, "maps", maps::parse_maps);
            check(&process, "mountinfo", mountinfo::parse_mountinfo);
            check(&process, "auxv", auxv::parse_auxv);
            check(&process, "cgroup", cgroup::parse_cgroup);
            check(&process, "smaps", smaps::parse_smaps);
            for tid in process.numbers("task").unwrap_or_default() {
                let Ok(thread) = ProcDir::open_thread(pid, Tid(tid)) else {
                    continue;
                };
                let stat = check(&thread, "stat", stat::parse_stat);
                let status = check(&thread, "status", status::parse_status);
                check(&thread, "children", children::parse_children);
                if let (Some(stat), Some(status)) = (stat, status) {
                    assert_eq!((stat.tid, status.process), (tid, pid.0));
                    parsed += 1;
                }
            }
        }
        assert!(parsed > 0);
    }

    #[test]
    fn a_timer_made_here_is_found() {
        use nix::sys::signal::{SigEvent, SigevNotify, Signal};
        use nix::sys::timer::Timer;
        use nix::time::ClockId;

        let event = SigEvent::new(SigevNotify::SigevSignal {
            signal: Signal::SIGUSR1,
            si_value: -2,
        });
        let _timer = Timer::new(ClockId::CLOCK_BOOTTIME, event).unwrap();
        let own = Pid(std::process::id().cast_signed());
        let found = check(&ProcDir::open(own).unwrap(), "timers", timers::parse_timers);
        let found = found.unwrap();
        let timer = found
            .iter()
            .find(|timer| timer.clock == libc::CLOCK_BOOTTIME);
        let timer = timer.unwrap();
        assert_eq!(timer.signal, libc::SIGUSR1);
        assert_eq!(timer.value, (-2_i64).cast_unsigned());
        assert_eq!(timer.notify, timers::Notify::Signal);
        assert_eq!(timer.receiver, timers::Receiver::Process(own.0));
    }

    #[test]
    fn what_is_read_of_ourselves_is_true() {
        let own = Pid(std::process::id().cast_signed());
        let dir = ProcDir::open(own).unwrap();
        assert!(dir.numbers("fd").unwrap().contains(&2));
        assert!(dir.numbers("task").unwrap().contains(&own.0));
        assert_eq!(dir.stat("fd/no such").unwrap_err().exit_code(), 1);

        let file = BufReader::new(dir.open_file("smaps", OFlag::O_RDONLY).unwrap());
        let vmas = smaps::read_smaps(file, dir.path_of("smaps")).unwrap();
        let here = &raw const own as u64;
        let stack = vmas
            .iter()
            .find(|vma| (vma.mapping.start..vma.mapping.end).contains(&here));
        let stack = stack.unwrap();
        assert!(stack.mapping.access.write && stack.flags.contains(smaps::VmFlag::Write));
        assert!(stack.resident_bytes > 0 && stack.page_bytes == 4096);
        assert!(
            vmas.iter()
                .any(|vma| vma.mapping.is_vdso() && vma.mapping.is_private_text())
        );
    }
}
