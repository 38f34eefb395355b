//! Pages of two folders, byte for byte.
//!
//! Where a page stands says whether it has to be read: both folders may build on the same earlier
//! dump, and tasks of one folder read the same pages. Every pair of places is read once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;

use memmap2::MmapMut;

use super::identity::{Names, Space};
use crate::collect::memory::PAGE_BYTES;
use crate::error::{IoResultExt, Result};
use crate::image::catalogue::Kind;
use crate::image::memory::status;
use crate::image::proto::VmaEntry;
use crate::inspect::defect::{Defects, Effect};
use crate::inspect::describe;
use crate::inspect::folder::{Folder, Segment, Task};
use crate::inspect::level::Inode;
use crate::inspect::pagemaps::{Memory, Stored};
use crate::inspect::scan::{read_up_to, spread};
use crate::sys::map;

/// What became of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCount {
    /// Both folders have the same bytes.
    pub same: u64,
    /// Both folders have them, with other bytes.
    pub changed: u64,
    /// Only the second folder has them.
    pub new: u64,
    /// Only the first folder has them.
    pub gone: u64,
}

impl PageCount {
    fn add(&mut self, other: Self) {
        self.same += other.same;
        self.changed += other.changed;
        self.new += other.new;
        self.gone += other.gone;
    }

    /// Whether a page differs.
    #[must_use]
    pub fn differs(self) -> bool {
        self.changed > 0 || self.new > 0 || self.gone > 0
    }
}

/// A mapping, or a piece of shared memory, with pages that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageChange {
    /// The task, or the shared memory.
    pub of: String,
    /// First address; in shared memory an offset.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// What is mapped there.
    pub what: String,
    /// What became of its pages.
    pub pages: PageCount,
}

/// A part of an address space with one story.
#[derive(Debug)]
struct Region {
    start: u64,
    end: u64,
    what: String,
    /// Whether a page that is not saved holds zeros, for either folder.
    is_zero_unless_saved: [bool; 2],
}

/// Pages whose fate is the same question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Question {
    /// Does each equal the one so much further on?
    EqualTo(i64),
    /// Does each hold zeros?
    IsZero,
}

/// A run of pages that is asked about for a row.
struct Asked {
    row: usize,
    question: Question,
    /// Places of pages, counted over all files.
    start: u64,
    end: u64,
    /// On which side they are, if only one folder has them.
    side: usize,
}

/// Compares the pages of all tasks and of all shared memory that both folders have.
pub(super) fn compare(
    folders: [&Folder; 2],
    names: &Names,
    defects: &mut [Defects; 2],
) -> Result<(PageCount, Vec<PageChange>)> {
    let mut work = Work {
        folders,
        files: Files::default(),
        rows: Vec::new(),
        asked: Vec::new(),
        cut: [const { BTreeMap::new() }; 2],
    };
    work.tasks(names);
    work.segments(names);
    for (side, cut) in work.cut.iter().enumerate() {
        for (name, pages) in cut {
            let what = format!("{pages} pages that are asked for are not in it");
            defects[side].add(name, "", what, Effect::RestoreFails);
        }
    }
    let answers = work.answers()?;
    for one in &work.asked {
        let pages = one.end - one.start;
        let differ = answers[&one.question].within(one.start, one.end);
        let mut count = PageCount::default();
        match one.question {
            Question::EqualTo(_) => {
                count.changed = differ;
                count.same = pages - differ;
            }
            // Zeros that one folder has and the other has not are no difference.
            Question::IsZero if one.side == 0 => count.gone = differ,
            Question::IsZero => count.new = differ,
        }
        work.rows[one.row].pages.add(count);
    }
    let mut all = PageCount::default();
    for row in &work.rows {
        all.add(row.pages);
    }
    work.rows.retain(|row| row.pages.differs());
    Ok((all, work.rows))
}

struct Work<'f> {
    folders: [&'f Folder; 2],
    files: Files,
    rows: Vec<PageChange>,
    asked: Vec<Asked>,
    /// Pages that are behind the ends of files.
    cut: [BTreeMap<String, u64>; 2],
}

impl Work<'_> {
    fn tasks(&mut self, names: &Names) {
        let mut seen = HashSet::new();
        for (one, other) in names.pairs() {
            let tasks = [&self.folders[0].tasks[*one], &self.folders[1].tasks[*other]];
            let memories = tasks.map(|task| task.memory.as_ref());
            let spaces = memories.map(|memory| Some(memory?.pagemaps.first()?.inode));
            // Those of an address space that several tasks have are counted once.
            if spaces == [None, None] || !seen.insert(spaces) {
                continue;
            }
            let Some(identity) = names.task_pair(0, tasks[0].pid) else {
                continue;
            };
            let of = format!("{} {}", names.told(identity).text, tasks[1].name());
            let regions = regions(self.folders, tasks);
            self.memory(&of, &regions, memories);
        }
    }

    fn segments(&mut self, names: &Names) {
        let mut pairs: BTreeMap<usize, [Option<&Segment>; 2]> = BTreeMap::new();
        for (side, folder) in self.folders.into_iter().enumerate() {
            for segment in &folder.segments {
                let identity = names.identity(side, Space::Segment, segment.shmid);
                if let Some(identity) = identity.filter(|id| !names.told(*id).is_alien) {
                    pairs.entry(identity).or_default()[side] = Some(segment);
                }
            }
        }
        for (identity, segments) in pairs {
            let memories = segments.map(|segment| segment.and_then(|one| one.memory.as_ref()));
            let region = Region {
                start: 0,
                end: u64::MAX,
                what: "shared memory".to_owned(),
                is_zero_unless_saved: [true, true],
            };
            self.memory(&names.told(identity).text, &[region], memories);
        }
    }

    /// Asks about all pages of a memory, a row for each region.
    fn memory(&mut self, of: &str, regions: &[Region], memories: [Option<&Memory>; 2]) {
        let stored = memories.map(|memory| memory.map_or(&[][..], |memory| &memory.stored));
        let mut rows: HashMap<usize, usize> = HashMap::new();
        for piece in pieces(stored, regions) {
            let row = *rows.entry(piece.region).or_insert_with(|| {
                let region = regions.get(piece.region);
                self.rows.push(PageChange {
                    of: of.to_owned(),
                    start: region.map_or(piece.start, |region| region.start),
                    end: region.map_or(piece.end, |region| region.end),
                    what: region
                        .map_or("nothing is mapped", |region| &region.what)
                        .to_owned(),
                    pages: PageCount::default(),
                });
                self.rows.len() - 1
            });
            // What is mapped nowhere has no end of its own.
            if regions.get(piece.region).is_none() {
                self.rows[row].end = self.rows[row].end.max(piece.end);
            }
            let zeros = regions
                .get(piece.region)
                .map_or([false; 2], |region| region.is_zero_unless_saved);
            self.piece(row, &piece, zeros);
        }
    }

    fn piece(&mut self, row: usize, piece: &Piece, zeros: [bool; 2]) {
        let pages = (piece.end - piece.start) / PAGE_BYTES;
        let places = [0, 1].map(|side| {
            let stored = piece.stored[side]?;
            let folder = self.folders[side];
            let (first, there) = self.files.place(folder, &stored);
            let there = there.min(pages);
            if there < pages {
                let level = &folder.levels[stored.level];
                let name = level.shown(Kind::Pages, stored.pages_id.into());
                let cut = self.cut[side].entry(name).or_default();
                *cut = cut.saturating_add(pages - there);
            }
            Some((first, there))
        });
        let mut ask = |question, start: u64, pages: u64, side| {
            if pages > 0 {
                let end = start + pages;
                self.asked.push(Asked {
                    row,
                    question,
                    start,
                    end,
                    side,
                });
            }
        };
        match places {
            [Some((one, pages)), Some((other, also))] => {
                let distance = other.wrapping_sub(one).cast_signed();
                ask(Question::EqualTo(distance), one, pages.min(also), 0);
            }
            [Some((place, pages)), None] if zeros[0] => ask(Question::IsZero, place, pages, 0),
            [None, Some((place, pages))] if zeros[1] => ask(Question::IsZero, place, pages, 1),
            [Some((_, pages)), None] => self.rows[row].pages.gone += pages,
            [None, Some((_, pages))] => self.rows[row].pages.new += pages,
            [None, None] => {}
        }
    }

    /// Reads what has to be read, each pair of places once.
    fn answers(&self) -> Result<HashMap<Question, Differing>> {
        let mut parts: BTreeMap<Question, Vec<(u64, u64)>> = BTreeMap::new();
        for one in &self.asked {
            let parts = parts.entry(one.question).or_default();
            parts.push((one.start, one.end));
        }
        let mut chunks = Vec::new();
        for (question, parts) in &mut parts {
            // A page is equal to itself.
            if *question == Question::EqualTo(0) {
                continue;
            }
            for (start, end) in joined(parts) {
                self.files.cut(*question, start, end, &mut chunks);
            }
        }
        let files = &self.files;
        let read = spread(
            &chunks,
            || Ok([map::buffer(CHUNK_BYTES)?, map::buffer(CHUNK_BYTES)?]),
            |buffers, chunk| files.differing(chunk, buffers),
        );
        let read = read.at("read pages of", self.folders[0].top().path.as_path())?;
        let mut answers: HashMap<Question, Differing> = parts
            .keys()
            .map(|question| (*question, Differing::default()))
            .collect();
        for (chunk, runs) in chunks.iter().zip(read) {
            let answer = answers.entry(chunk.question).or_default();
            for (start, end) in runs {
                answer.push(start, end);
            }
        }
        Ok(answers)
    }
}

/// Runs of pages that are not what was asked, ascending.
#[derive(Debug, Default)]
struct Differing {
    runs: Vec<(u64, u64)>,
    /// How many pages are in the runs in front of each.
    before: Vec<u64>,
}

impl Differing {
    fn push(&mut self, start: u64, end: u64) {
        self.before.push(self.up_to_last());
        self.runs.push((start, end));
    }

    fn up_to_last(&self) -> u64 {
        match (self.runs.last(), self.before.last()) {
            (Some((start, end)), Some(before)) => before + (end - start),
            _ => 0,
        }
    }

    fn up_to(&self, place: u64) -> u64 {
        let next = self.runs.partition_point(|(start, _)| *start < place);
        match next.checked_sub(1) {
            None => 0,
            Some(last) => {
                let (start, end) = self.runs[last];
                self.before[last] + (end.min(place) - start)
            }
        }
    }

    /// How many of some pages are in it.
    fn within(&self, start: u64, end: u64) -> u64 {
        self.up_to(end) - self.up_to(start)
    }
}

/// Overlapping and neighbouring parts as one, ascending.
fn joined(parts: &mut Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    parts.sort_unstable();
    let mut all: Vec<(u64, u64)> = Vec::new();
    for &(start, end) in &*parts {
        match all.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => all.push((start, end)),
        }
    }
    all
}

const CHUNK_PAGES: u64 = 64;
const CHUNK_BYTES: usize = 64 * 4096;

/// Pages that are read at once.
#[derive(Debug)]
struct Chunk {
    question: Question,
    start: u64,
    pages: u64,
}

/// Pages files of both folders, those with several names once, and their pages in a row.
#[derive(Debug, Default)]
struct Files {
    /// The first place of each file that has pages, and the file.
    files: Vec<(u64, File)>,
    /// The first place and the pages of each; none of what cannot be opened.
    known: HashMap<Inode, (u64, u64)>,
    end: u64,
}

impl Files {
    /// The first place of a run, and how many pages are there.
    fn place(&mut self, folder: &Folder, stored: &Stored) -> (u64, u64) {
        let level = &folder.levels[stored.level];
        let id = u64::from(stored.pages_id);
        let Some(facts) = level.facts(Kind::Pages, id) else {
            return (0, 0);
        };
        let (first, pages) = *self.known.entry(facts.inode).or_insert_with(|| {
            let first = self.end;
            let pages = facts.size_bytes / PAGE_BYTES;
            match level.file(&Kind::Pages.file_name(id)) {
                Ok(file) if pages > 0 && self.end.checked_add(pages).is_some() => {
                    self.files.push((first, file));
                    self.end += pages;
                    (first, pages)
                }
                _ => (first, 0),
            }
        });
        let skipped = (stored.offset / PAGE_BYTES).min(pages);
        (first + skipped, pages - skipped)
    }

    /// The file with a place, the place in it, and where its last page ends.
    fn find(&self, place: u64) -> (&File, u64, u64) {
        let number = self.files.partition_point(|(first, _)| *first <= place) - 1;
        let (first, file) = &self.files[number];
        let end = self
            .files
            .get(number + 1)
            .map_or(self.end, |(first, _)| *first);
        (file, place - first, end)
    }

    /// Cuts a run into chunks that lie in one file each.
    fn cut(&self, question: Question, mut start: u64, end: u64, chunks: &mut Vec<Chunk>) {
        while start < end {
            let mut pages = CHUNK_PAGES.min(end - start);
            pages = pages.min(self.find(start).2 - start);
            if let Question::EqualTo(distance) = question {
                let other = start.wrapping_add_signed(distance);
                pages = pages.min(self.find(other).2 - other);
            }
            chunks.push(Chunk {
                question,
                start,
                pages,
            });
            start += pages;
        }
    }

    /// Runs of a chunk that are not what was asked.
    fn differing(
        &self,
        chunk: &Chunk,
        [one, other]: &mut [MmapMut; 2],
    ) -> std::io::Result<Vec<(u64, u64)>> {
        const PAGE: usize = 4096;
        let len = usize::try_from(chunk.pages * PAGE_BYTES).unwrap_or(CHUNK_BYTES);
        let read = |place: u64, buffer: &mut [u8]| {
            let (file, at, _) = self.find(place);
            // What somebody cuts meanwhile is zeros.
            buffer.fill(0);
            read_up_to(file, buffer, at * PAGE_BYTES).map(drop)
        };
        read(chunk.start, &mut one[..len])?;
        match chunk.question {
            Question::EqualTo(distance) => {
                let place = chunk.start.wrapping_add_signed(distance);
                read(place, &mut other[..len])?;
            }
            Question::IsZero => other[..len].fill(0),
        }
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let pages = one[..len]
            .chunks_exact(PAGE)
            .zip(other[..len].chunks_exact(PAGE));
        for (place, (one, other)) in (chunk.start..).zip(pages) {
            if one != other {
                match runs.last_mut() {
                    Some(last) if last.1 == place => last.1 += 1,
                    _ => runs.push((place, place + 1)),
                }
            }
        }
        Ok(runs)
    }
}

/// Neighbouring pages of one region, each folder's in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u64,
    end: u64,
    stored: [Option<Stored>; 2],
    /// By place; behind the last one for pages that are mapped nowhere.
    region: usize,
}

/// Cuts the runs of both sides so that each piece lies in one run of either and in one region.
fn pieces(stored: [&[Stored]; 2], regions: &[Region]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut next = [0, 0];
    let mut region = 0;
    let mut at = 0;
    loop {
        let mut runs = [None, None];
        let mut end = u64::MAX;
        for side in [0, 1] {
            while stored[side]
                .get(next[side])
                .is_some_and(|run| run.end <= at)
            {
                next[side] += 1;
            }
            match stored[side].get(next[side]) {
                Some(run) if run.start <= at => {
                    runs[side] = Some(Stored {
                        start: at,
                        offset: run.offset + (at - run.start),
                        ..*run
                    });
                    end = end.min(run.end);
                }
                Some(run) => end = end.min(run.start),
                None => {}
            }
        }
        if runs == [None, None] {
            if end == u64::MAX {
                return pieces;
            }
            at = end;
            continue;
        }
        while regions.get(region).is_some_and(|region| region.end <= at) {
            region += 1;
        }
        let here = match regions.get(region) {
            Some(one) if one.start <= at => {
                end = end.min(one.end);
                region
            }
            Some(later) => {
                end = end.min(later.start);
                regions.len()
            }
            None => regions.len(),
        };
        pieces.push(Piece {
            start: at,
            end,
            stored: runs,
            region: here,
        });
        at = end;
    }
}

/// The mappings of a task that both folders have: those of the second one, and of the first one
/// where there are none.
fn regions(folders: [&Folder; 2], tasks: [&Task; 2]) -> Vec<Region> {
    let [before, after] = tasks.map(|task| {
        let vmas = task.mm.iter().flat_map(|mm| &mm.vmas);
        let vmas = vmas.filter(|vma| vma.start < vma.end && vma.status & status::GUARD == 0);
        let mut vmas: Vec<&VmaEntry> = vmas.collect();
        vmas.sort_by_key(|vma| vma.start);
        vmas
    });
    let is_zero = |vma: &VmaEntry| vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) == 0;
    let what = |side: usize, vma: &VmaEntry| {
        let what = describe::mapping(folders[side], vma);
        format!("{} {what}", describe::protection(vma))
            .trim()
            .to_owned()
    };
    let at = |vmas: &[&VmaEntry], address: u64| -> Option<usize> {
        let place = vmas.partition_point(|vma| vma.end <= address);
        (vmas.get(place)?.start <= address).then_some(place)
    };
    let mut edges: Vec<u64> = before
        .iter()
        .chain(&after)
        .flat_map(|vma| [vma.start, vma.end])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let mut regions: Vec<(Region, (bool, usize))> = Vec::new();
    for pair in edges.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let (one, other) = (at(&before, start), at(&after, start));
        let is_zero_unless_saved = [
            one.is_some_and(|place| is_zero(before[place])),
            other.is_some_and(|place| is_zero(after[place])),
        ];
        let (is_after, place) = match (one, other) {
            (_, Some(place)) => (true, place),
            (Some(place), None) => (false, place),
            (None, None) => continue,
        };
        // One mapping is one region, as long as zeros mean the same.
        if let Some((last, of)) = regions.last_mut()
            && *of == (is_after, place)
            && last.end == start
            && last.is_zero_unless_saved == is_zero_unless_saved
        {
            last.end = end;
            continue;
        }
        let what = if is_after {
            what(1, after[place])
        } else {
            what(0, before[place])
        };
        let region = Region {
            start,
            end,
            what,
            is_zero_unless_saved,
        };
        regions.push((region, (is_after, place)));
    }
    regions.into_iter().map(|(region, _)| region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE_BYTES;

    fn run(start: u64, end: u64, offset: u64) -> Stored {
        Stored {
            start: start * P,
            end: end * P,
            level: 0,
            pages_id: 1,
            offset: offset * P,
        }
    }

    #[test]
    fn runs_are_cut_where_either_side_or_the_region_ends() {
        let region = |start: u64, end: u64| Region {
            start: start * P,
            end: end * P,
            what: String::new(),
            is_zero_unless_saved: [true, true],
        };
        let stored = [&[run(1, 5, 0)][..], &[run(2, 3, 0), run(4, 8, 1)][..]];
        let pieces = pieces(stored, &[region(1, 4), region(6, 7)]);
        let place = |run: Option<Stored>| run.map(|run| run.offset / P);
        let told = pieces.iter().map(|piece| {
            let places = piece.stored.map(place);
            (piece.start / P, piece.end / P, places, piece.region)
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                (1, 2, [Some(0), None], 0),
                (2, 3, [Some(1), Some(0)], 0),
                (3, 4, [Some(2), None], 0),
                (4, 5, [Some(3), Some(1)], 2),
                (5, 6, [None, Some(2)], 2),
                (6, 7, [None, Some(3)], 1),
                (7, 8, [None, Some(4)], 2),
            ]
        );
    }

    #[test]
    fn pages_in_runs_are_counted() {
        let mut differing = Differing::default();
        differing.push(2, 4);
        differing.push(4, 5);
        differing.push(9, 12);
        assert_eq!(differing.within(0, 100), 6);
        assert_eq!(differing.within(3, 10), 3);
        assert_eq!(differing.within(5, 9), 0);
        assert_eq!(joined(&mut vec![(5, 6), (1, 3), (2, 4), (4, 5)]), [(1, 6)]);
    }
}
