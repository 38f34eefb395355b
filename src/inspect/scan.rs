//! Going through the bytes of large files once, on all processors.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::sys::map;

/// Fits the second-level cache, with room for what is made of it.
const CHUNK_BYTES: usize = 512 << 10;

/// A part of a file: its first byte and the one behind its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Which file, by place.
    pub(super) file: usize,
    /// First byte.
    pub(super) start: u64,
    /// First byte behind.
    pub(super) end: u64,
}

/// Hands all `parts` to `work`, in pieces that it sees in no particular order, and returns what it made of
/// them in the order of the parts. A file that ends too early ends the piece.
///
/// # Errors
/// Those of pread(2).
pub(super) fn scan<R: Send>(
    files: &[File],
    parts: &[Part],
    work: impl Fn(Part, &[u8]) -> R + Sync,
) -> Result<Vec<(Part, R)>> {
    let chunk = CHUNK_BYTES as u64;
    let pieces: Vec<Part> = parts
        .iter()
        .flat_map(|part| {
            let starts = (part.start..part.end).step_by(CHUNK_BYTES);
            starts.map(|start| Part {
                start,
                end: part.end.min(start.saturating_add(chunk)),
                ..*part
            })
        })
        .collect();
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results = Mutex::new(Vec::with_capacity(pieces.len()));
    let worker = || -> Result<()> {
        let mut buffer = map::buffer(CHUNK_BYTES)?;
        while !failed.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(place) else {
                break;
            };
            let wanted = usize::try_from(piece.end - piece.start).unwrap_or(CHUNK_BYTES);
            let read = read_up_to(&files[piece.file], &mut buffer[..wanted], piece.start);
            let bytes = read.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            let result = work(*piece, bytes);
            let mut results = results
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            results.push((place, result));
        }
        Ok(())
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let others = (1..processors.min(pieces.len()))
            .map(|_| scope.spawn(worker))
            .collect::<Vec<_>>();
        let mut end = worker();
        for other in others {
            let other = other.join();
            let other = other.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            end = end.and(other);
        }
        end
    })?;
    let mut results = results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_unstable_by_key(|(place, _)| *place);
    let in_order = results.into_iter();
    Ok(in_order
        .map(|(place, result)| (pieces[place], result))
        .collect())
}

fn read_up_to<'a>(file: &File, buffer: &'a mut [u8], offset: u64) -> Result<&'a [u8]> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[..done])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..CHUNK_BYTES * 3 + 5)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        std::fs::write(&path, &content).unwrap();
        let files = [File::open(&path).unwrap()];
        let part = |start, end| Part {
            file: 0,
            start,
            end,
        };
        let parts = [part(7, content.len() as u64 + 9), part(0, 2)];
        let scanned = scan(&files, &parts, |_, bytes| bytes.to_vec()).unwrap();
        let whole: Vec<u8> = scanned.into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(whole, [&content[7..], &content[..2]].concat());
    }
}
