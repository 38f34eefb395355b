//! Moving pages into pages files, with several threads.
//!
//! A job fills one file from a list of pieces. Its pages are dealt out in chunks that stay in
//! the processor's cache: a thread reads a chunk, drops what need not be written, waits until
//! the place of the chunk in its file is known, and writes it there.

use std::fs::File;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::fcntl::{FallocateFlags, fallocate};

use super::framing::ImageFile;
use crate::collect::memory::PageSource;
use crate::error::{IoResultExt, Result};
use crate::progress::Progress;
use crate::sys::map;
use crate::threads;
use crate::watch::Watch;

const PAGE: usize = 4096;
/// Fits the second-level cache; larger and smaller ones are slower (`benches/copy.rs`).
const CHUNK_PAGES: u64 = 64;
/// Asking for room takes longer than it saves below this.
const LEAST_ALLOCATED_BYTES: usize = 64 << 10;

/// Pages of one source that follow each other.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    /// Where they are.
    pub source: &'a dyn PageSource,
    /// First byte.
    pub start: u64,
    /// First byte behind.
    pub end: u64,
    /// Whether pages that hold nothing but zeros are left out.
    pub drop_zeros: bool,
    /// Whether they may be served after the task runs again.
    pub lazy: bool,
    /// Whether this is the last that anybody does with them ([`PageSource::read_last`]).
    pub last: bool,
    /// What the pages held in an earlier dump, if that is known.
    pub before: Option<&'a dyn Before>,
}

/// An earlier state of some pages.
pub trait Before: Sync {
    /// Whether the page at `offset` held the same bytes.
    ///
    /// # Errors
    /// Reading the earlier images.
    fn holds(&self, offset: u64, page: &[u8]) -> Result<bool>;
}

/// A file to be filled.
pub struct Job<'a> {
    /// The file, empty.
    pub file: File,
    /// Its name, for messages and the manifest.
    pub name: String,
    /// What goes into it, in this order.
    pub pieces: Vec<Piece<'a>>,
}

/// What became of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are in the file.
    Written,
    /// They hold nothing but zeros and were left out.
    Zero,
    /// They are as they were in the earlier dump and were left out.
    Unchanged,
}

/// A filled file.
#[derive(Debug)]
pub struct Copied {
    /// Size and checksum.
    pub file: ImageFile,
    /// CRC-32 of each page in the file.
    pub page_crcs: Vec<u32>,
    /// What became of the pages, by their place in the job, ascending, without gaps.
    pub fates: Vec<(Range<u64>, Fate)>,
}

impl Copied {
    /// How many pages had this fate.
    #[must_use]
    pub fn pages(&self, fate: Fate) -> u64 {
        let ranges = self.fates.iter().filter(|(_, one)| *one == fate);
        ranges.map(|(range, _)| range.end - range.start).sum()
    }
}

/// Fills all files.
///
/// # Errors
/// The first page that cannot be read, or file that cannot be written;
/// [`crate::error::Error::TimedOut`].
pub fn copy(jobs: &[Job<'_>], progress: &Progress, watch: &Watch) -> Result<Vec<Copied>> {
    const MOST_THREADS: usize = 4;
    let dealer = Mutex::new(Dealer::new(jobs));
    let outputs: Vec<Output> = jobs.iter().map(|_| Output::default()).collect();
    let pages: u64 = jobs.iter().map(Job::pages).sum();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let chunks = usize::try_from(pages.div_ceil(CHUNK_PAGES)).unwrap_or(usize::MAX);
    let count = processors.clamp(2, MOST_THREADS).min(chunks).max(1);
    let work = || {
        let worked = copy_chunks(jobs, &dealer, &outputs, progress, watch);
        if worked.is_err() {
            lock(&dealer).stop();
            for output in &outputs {
                output.give_up();
            }
        }
        worked
    };
    if count == 1 {
        work()?;
    } else {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..count)
                .filter_map(|_| threads::start(scope, work).ok())
                .collect();
            if workers.is_empty() {
                return work();
            }
            let ends: Vec<_> = workers.into_iter().map(threads::joined).collect();
            ends.into_iter().collect()
        })?;
    }
    Ok(jobs
        .iter()
        .zip(outputs)
        .map(|(job, output)| output.finish(job))
        .collect())
}

impl Job<'_> {
    fn pages(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| (piece.end - piece.start) / PAGE as u64)
            .sum()
    }
}

/// A part of a job.
struct Chunk<'a> {
    job: usize,
    /// Its place among the chunks of the job.
    number: u64,
    pieces: Vec<Piece<'a>>,
    pages: u64,
}

/// Deals out chunks, those of a job in order.
struct Dealer<'a> {
    jobs: &'a [Job<'a>],
    job: usize,
    piece: usize,
    /// Pages of the current piece that were dealt out.
    dealt: u64,
    number: u64,
}

impl<'a> Dealer<'a> {
    fn new(jobs: &'a [Job<'a>]) -> Self {
        Self {
            jobs,
            job: 0,
            piece: 0,
            dealt: 0,
            number: 0,
        }
    }

    fn stop(&mut self) {
        self.job = self.jobs.len();
    }

    fn next(&mut self) -> Option<Chunk<'a>> {
        loop {
            let job = self.jobs.get(self.job)?;
            let mut chunk = Chunk {
                job: self.job,
                number: self.number,
                pieces: Vec::new(),
                pages: 0,
            };
            while let Some(piece) = job.pieces.get(self.piece)
                && chunk.pages < CHUNK_PAGES
            {
                let start = piece.start + self.dealt * PAGE as u64;
                let pages = ((piece.end - start) / PAGE as u64).min(CHUNK_PAGES - chunk.pages);
                let end = start + pages * PAGE as u64;
                chunk.pieces.push(Piece {
                    start,
                    end,
                    ..*piece
                });
                chunk.pages += pages;
                self.dealt += pages;
                if end == piece.end {
                    self.piece += 1;
                    self.dealt = 0;
                }
            }
            self.number += 1;
            if chunk.pages > 0 {
                return Some(chunk);
            }
            (self.job, self.piece, self.dealt, self.number) = (self.job + 1, 0, 0, 0);
        }
    }
}

/// The state of a file that several threads fill.
#[derive(Default)]
struct Output {
    state: Mutex<OutputState>,
    turn: Condvar,
}

#[derive(Default)]
struct OutputState {
    /// The chunk whose place in the file is known.
    next: u64,
    size_bytes: u64,
    pages: u64,
    crc: crc32fast::Hasher,
    page_crcs: Vec<u32>,
    fates: Vec<(Range<u64>, Fate)>,
    given_up: bool,
}

impl Output {
    /// Waits for the turn of a chunk and takes its place in the file; `None` after a failure.
    fn place(
        &self,
        number: u64,
        bytes: &[u8],
        page_crcs: &[u32],
        fates: &[(u64, Fate)],
    ) -> Option<u64> {
        let mut crc = crc32fast::Hasher::new();
        crc.update(bytes);
        let mut state = lock(&self.state);
        while state.next != number {
            if state.given_up {
                return None;
            }
            state = self
                .turn
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.next += 1;
        let place = state.size_bytes;
        state.size_bytes += bytes.len() as u64;
        state.crc.combine(&crc);
        state.page_crcs.extend_from_slice(page_crcs);
        for (pages, fate) in fates {
            let end = state.pages + pages;
            match state.fates.last_mut() {
                Some((range, last)) if last == fate => range.end = end,
                _ => {
                    let start = state.pages;
                    state.fates.push((start..end, *fate));
                }
            }
            state.pages = end;
        }
        drop(state);
        self.turn.notify_all();
        Some(place)
    }

    fn give_up(&self) {
        lock(&self.state).given_up = true;
        self.turn.notify_all();
    }

    fn finish(self, job: &Job<'_>) -> Copied {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Copied {
            file: ImageFile {
                name: job.name.clone(),
                size_bytes: state.size_bytes,
                crc32: state.crc.finalize(),
            },
            page_crcs: state.page_crcs,
            fates: state.fates,
        }
    }
}

fn copy_chunks(
    jobs: &[Job<'_>],
    dealer: &Mutex<Dealer<'_>>,
    outputs: &[Output],
    progress: &Progress,
    watch: &Watch,
) -> Result<()> {
    let bytes = usize::try_from(CHUNK_PAGES).unwrap_or(0) * PAGE;
    let mut buffer = map::buffer(bytes).at("take memory for", "pages")?;
    let mut fates = Vec::new();
    let mut page_crcs = Vec::new();
    loop {
        let chunk = lock(dealer).next();
        let Some(chunk) = chunk else { return Ok(()) };
        watch.check()?;
        fates.clear();
        let mut filled = 0;
        for piece in &chunk.pieces {
            let bytes = usize::try_from(piece.end - piece.start).unwrap_or(0);
            let read = filled..filled + bytes;
            let room = &mut buffer[read.clone()];
            if piece.last {
                piece.source.read_last(piece.start, room)?;
            } else {
                piece.source.read_pages(piece.start, room)?;
            }
            if piece.drop_zeros || piece.before.is_some() {
                filled = sift(piece, &mut buffer, read, &mut fates)?;
            } else {
                note(&mut fates, (bytes / PAGE) as u64, Fate::Written);
                filled += bytes;
            }
        }
        progress.advance(chunk.pages * PAGE as u64);
        let bytes = &buffer[..filled];
        page_crcs.clear();
        page_crcs.extend(bytes.chunks_exact(PAGE).map(crc32fast::hash));
        let job = &jobs[chunk.job];
        let output = &outputs[chunk.job];
        let Some(place) = output.place(chunk.number, bytes, &page_crcs, &fates) else {
            return Ok(());
        };
        if filled >= LEAST_ALLOCATED_BYTES {
            allocate(&job.file, place, filled);
        }
        job.file
            .write_all_at(bytes, place)
            .at("write", job.name.as_str())?;
    }
}

/// Asks for room in one piece: ext4, which otherwise looks for it block by block while it is written
/// to, takes a tenth less time. What cannot be had shows when it is written.
fn allocate(file: &File, place: u64, bytes: usize) {
    let place = i64::try_from(place).unwrap_or(i64::MAX);
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let _ = fallocate(file, FallocateFlags::empty(), place, bytes);
}

/// Moves the pages of `read` that must be written to its start; returns where they end.
fn sift(
    piece: &Piece<'_>,
    buffer: &mut [u8],
    read: Range<usize>,
    fates: &mut Vec<(u64, Fate)>,
) -> Result<usize> {
    let mut filled = read.start;
    for at in read.clone().step_by(PAGE) {
        let page = &buffer[at..at + PAGE];
        let address = piece.start + (at - read.start) as u64;
        let fate = if piece.drop_zeros && is_zero(page) {
            Fate::Zero
        } else {
            match piece.before {
                Some(before) if before.holds(address, page)? => Fate::Unchanged,
                _ => Fate::Written,
            }
        };
        note(fates, 1, fate);
        if fate == Fate::Written {
            if filled != at {
                buffer.copy_within(at..at + PAGE, filled);
            }
            filled += PAGE;
        }
    }
    Ok(filled)
}

fn note(fates: &mut Vec<(u64, Fate)>, pages: u64, fate: Fate) {
    match fates.last_mut() {
        Some((count, last)) if *last == fate => *count += pages,
        _ => fates.push((pages, fate)),
    }
}

fn is_zero(page: &[u8]) -> bool {
    const LINE: [u8; 64] = [0; 64];
    page.chunks_exact(LINE.len()).all(|line| line == LINE)
}

/// Whoever panicked with a lock held ends the copying by panicking.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages whose every byte is the low byte of their number, every third one zero.
    struct Numbered;

    impl PageSource for Numbered {
        fn read_pages(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            for (number, page) in (offset / PAGE as u64..).zip(buffer.chunks_exact_mut(PAGE)) {
                page.fill(value(number));
            }
            Ok(())
        }
    }

    fn value(number: u64) -> u8 {
        if number.is_multiple_of(3) {
            0
        } else {
            number.to_le_bytes()[0] | 1
        }
    }

    struct EveryFifth;

    impl Before for EveryFifth {
        fn holds(&self, offset: u64, _page: &[u8]) -> Result<bool> {
            Ok((offset / PAGE as u64).is_multiple_of(5))
        }
    }

    #[test]
    fn chunks_of_all_threads_come_out_in_order() {
        const PAGES: u64 = 10_000;
        let piece = |start: u64, end: u64, drop_zeros| Piece {
            source: &Numbered,
            start: start * PAGE as u64,
            end: end * PAGE as u64,
            drop_zeros,
            lazy: drop_zeros,
            last: false,
            before: drop_zeros.then_some(&EveryFifth as &dyn Before),
        };
        let job = |pieces| Job {
            file: tempfile::tempfile().unwrap(),
            name: "pages".to_owned(),
            pieces,
        };
        let pieces = vec![
            piece(0, 1, false),
            piece(7, PAGES, true),
            piece(3, 9, false),
        ];
        let jobs = [job(pieces), job(Vec::new()), job(vec![piece(5, 6, false)])];
        let copied = copy(&jobs, &Progress::silent(), &Watch::default()).unwrap();

        let mut expected = vec![0];
        let kept = |number: &u64| !number.is_multiple_of(3) && !number.is_multiple_of(5);
        expected.extend((7..PAGES).filter(kept).map(value));
        expected.extend((3..9).map(value));
        let mut bytes = vec![0; expected.len() * PAGE];
        jobs[0].file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(
            bytes
                .chunks_exact(PAGE)
                .zip(&expected)
                .all(|(page, byte)| page[PAGE - 1] == *byte)
        );
        assert_eq!(copied[0].file.size_bytes, bytes.len() as u64);
        assert_eq!(copied[0].file.crc32, crc32fast::hash(&bytes));
        let pages = bytes.chunks_exact(PAGE).map(crc32fast::hash);
        assert!(copied[0].page_crcs.iter().copied().eq(pages));
        assert_eq!(copied[0].pages(Fate::Written), expected.len() as u64);
        let zeros = (7..PAGES).filter(|number| number.is_multiple_of(3)).count();
        assert_eq!(copied[0].pages(Fate::Zero), zeros as u64);
        assert!(copied[1].fates.is_empty());
        assert_eq!(copied[2].file.size_bytes, PAGE as u64);
    }

    struct Broken;

    impl PageSource for Broken {
        fn read_pages(&self, _offset: u64, _buffer: &mut [u8]) -> Result<()> {
            Err(crate::error::Error::Usage("broken".to_owned()))
        }
    }

    #[test]
    fn a_failure_ends_all_threads() {
        let source: [&dyn PageSource; 2] = [&Numbered, &Broken];
        let pieces = source.map(|source| Piece {
            source,
            start: 0,
            end: 1000 * PAGE as u64,
            drop_zeros: false,
            lazy: false,
            last: true,
            before: None,
        });
        let jobs = pieces.map(|piece| Job {
            file: tempfile::tempfile().unwrap(),
            name: "pages".to_owned(),
            pieces: vec![piece],
        });
        assert!(copy(&jobs, &Progress::silent(), &Watch::default()).is_err());
    }
}
