//! Going through the bytes of large files once, on all processors.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
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
    let results = spread(
        &pieces,
        || map::buffer(CHUNK_BYTES),
        |buffer, piece| {
            let wanted = usize::try_from(piece.end - piece.start).unwrap_or(CHUNK_BYTES);
            let bytes = read_up_to(&files[piece.file], &mut buffer[..wanted], piece.start)?;
            Ok(work(*piece, bytes))
        },
    )?;
    Ok(pieces.into_iter().zip(results).collect())
}

/// Has all processors work on `pieces`, each with a state of its own, and returns what they made of
/// them, in order.
///
/// # Errors
/// The first one of `work`, after which no further piece is begun.
pub(super) fn spread<P: Sync, S, R: Send>(
    pieces: &[P],
    state: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, &P) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if pieces.is_empty() {
        return Ok(Vec::new());
    }
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let worker = || -> Result<Vec<(usize, R)>> {
        let mut state = state()?;
        let mut results = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(place) else {
                break;
            };
            let result = work(&mut state, piece);
            let result = result.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            results.push((place, result));
        }
        Ok(results)
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let mut results = thread::scope(|scope| {
        // Where no further thread is to be had, fewer do it.
        let others = (1..processors.min(pieces.len()))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, worker).ok())
            .collect::<Vec<_>>();
        let mut all = worker();
        for other in others {
            let other = other.join();
            let other = other.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all = all.and_then(|mut all| {
                all.extend(other?);
                Ok(all)
            });
        }
        all
    })?;
    results.sort_unstable_by_key(|(place, _)| *place);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// Reads until the buffer is full or the file ends.
///
/// # Errors
/// Those of pread(2).
pub(super) fn read_up_to<'a>(file: &File, buffer: &'a mut [u8], offset: u64) -> Result<&'a [u8]> {
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
