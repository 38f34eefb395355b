//! `capget(2)`: what this thread may do beyond what its user may.
#![allow(unsafe_code)]

use std::fmt;

use nix::errno::Errno;

/// A capability that some part of a dump needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// `CAP_NET_ADMIN`
    NetAdmin,
    /// `CAP_CHECKPOINT_RESTORE`
    CheckpointRestore,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Capability {
    fn bit(self) -> u32 {
        match self {
            Self::NetAdmin => 12,
            Self::CheckpointRestore => 40,
        }
    }

    /// Whether it is in force.
    ///
    /// # Errors
    /// None that the kernel documents for a call about the calling thread.
    pub fn is_held(self) -> Result<bool, Errno> {
        const VERSION_3: u32 = 0x2008_0522;
        let mut header = Header {
            version: VERSION_3,
            pid: 0,
        };
        let mut sets = [Sets::default(); 2];
        // SAFETY: version 3 takes this header and fills two of these sets; all are live.
        let answer = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
        Errno::result(answer)?;
        let word = sets[self.bit() as usize / 32].effective;
        Ok(word >> (self.bit() % 32) & 1 == 1)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_the_same_in_status() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
        for capability in [Capability::NetAdmin, Capability::CheckpointRestore] {
            let expected = effective >> capability.bit() & 1 == 1;
            assert_eq!(capability.is_held(), Ok(expected), "{capability}");
        }
    }
}
