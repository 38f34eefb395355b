//! lseek(2): where a file has holes.

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

/// The holes of a file: first byte, and first byte behind. File systems that know no holes have
/// none.
///
/// # Errors
/// Those of lseek(2).
///
/// # Sources
/// lseek(2), `SEEK_HOLE`.
pub fn holes(file: &File) -> Result<Vec<(u64, u64)>, Errno> {
    let end = lseek64(file.as_fd(), 0, Whence::SeekEnd)?;
    let mut found = Vec::new();
    let mut at = 0;
    while at < end {
        let hole = lseek64(file.as_fd(), at, Whence::SeekHole)?;
        if hole >= end {
            break;
        }
        at = match lseek64(file.as_fd(), hole, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => end,
            Err(errno) => return Err(errno),
        };
        found.push((hole.unsigned_abs(), at.unsigned_abs()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_was_never_written_is_a_hole() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 65536], 65536).unwrap();
        file.set_len(3 * 65536).unwrap();
        assert_eq!(holes(&file), Ok(vec![(0, 65536), (131_072, 196_608)]));
    }
}
