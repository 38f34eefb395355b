//! `/proc/PID/mem`: the memory of a stopped task, whatever its protection.
//!
//! Reading through it leaves copy-on-write pages shared, which `process_vm_readv` does not; that one
//! is a third faster, and used where the task is about to end.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::ProcDir;
use crate::error::{Error, Result, ResultExt, Target};
use crate::ids::Tid;

/// An open `/proc/PID/mem`; it keeps naming the address space it was opened on.
#[derive(Debug)]
pub struct TaskMemory {
    file: File,
    tid: Tid,
}

impl TaskMemory {
    /// Opens the memory of a task we trace, for reading and writing.
    ///
    /// # Errors
    /// `EACCES` no ptrace access; `ENOENT` gone.
    pub fn open(proc_dir: &ProcDir, tid: Tid) -> Result<Self> {
        let file = proc_dir
            .open_file("mem", OFlag::O_RDWR)
            .map_err(|error| match error {
                Error::Syscall {
                    errno: Errno::EACCES,
                    ..
                } => Error::unsupported(
                    tid,
                    "the memory of another user's task",
                    "run dedump as that user, with CAP_DAC_OVERRIDE, or as root",
                ),
                other => other,
            })?;
        Ok(Self { file, tid })
    }

    /// Fills `buffer` from `address` on.
    ///
    /// # Errors
    /// `EIO` nothing is mapped there, or it ends before the buffer is full.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        let target = self.range(address, buffer.len());
        errno(self.file.read_exact_at(buffer, address)).on("read memory of", target)
    }

    /// Fills `buffer` from `address` on, in less time than [`TaskMemory::read`], but each page that is
    /// shared copy-on-write is copied in the task.
    ///
    /// # Errors
    /// As [`TaskMemory::read`].
    pub fn read_unsharing(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        let range = RemoteIoVec {
            base: usize::try_from(address).unwrap_or(usize::MAX),
            len: buffer.len(),
        };
        let pid = Pid::from_raw(self.tid.0);
        match process_vm_readv(pid, &mut [IoSliceMut::new(buffer)], &[range]) {
            Ok(bytes) if bytes == buffer.len() => Ok(()),
            // It does not read what the task itself may not.
            _ => self.read(address, buffer),
        }
    }

    /// As much as can be read from `address` on, in one call.
    ///
    /// # Errors
    /// `EIO` nothing is mapped there.
    pub fn read_some(&self, address: u64, buffer: &mut [u8]) -> Result<usize> {
        let target = self.range(address, buffer.len());
        errno(self.file.read_at(buffer, address)).on("read memory of", target)
    }

    /// The 64-bit word at `address`.
    ///
    /// # Errors
    /// As [`TaskMemory::read`].
    pub fn word(&self, address: u64) -> Result<u64> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Writes `bytes` at `address`, also where the task itself may not write.
    ///
    /// # Errors
    /// `EIO` not mapped, or a kernel that forbids it (`proc_mem.force_override`).
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let target = self.range(address, bytes.len());
        errno(self.file.write_all_at(bytes, address)).on("write memory of", target)
    }

    fn range(&self, address: u64, len: usize) -> Target {
        Target::Memory(self.tid, address, address.saturating_add(len as u64))
    }
}

fn errno<T>(result: std::io::Result<T>) -> std::result::Result<T, Errno> {
    // A short read means that the mapping ended: the kernel's word for that is EIO.
    result.map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}
