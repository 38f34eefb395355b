//! Files as memory, and memory that begins at a page.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut};

/// `mmap(2)` of a whole file, read-only.
///
/// What another process writes to the file meanwhile is seen; where it cuts the file, reading
/// ends the process with `SIGBUS`. Images are not written to once they are in place.
///
/// # Errors
/// Those of `mmap(2)`; a file that cannot be mapped.
///
/// # Sources
/// mmap(2).
pub fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is read-only and owns itself. A finished image does not change; if
    // somebody changes it nevertheless, readers see other bytes, each of which they check.
    unsafe { Mmap::map(file) }
}

/// Memory of our own that begins at a page. The kernel copies into such a buffer more than twice
/// as fast as into one that begins 16 bytes further on, where the allocator puts it.
///
/// # Errors
/// Those of `mmap(2)`.
///
/// # Sources
/// mmap(2); `benches/copy.rs`.
pub fn buffer(bytes: usize) -> io::Result<MmapMut> {
    MmapMut::map_anon(bytes)
}
