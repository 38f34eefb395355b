//! Pages in different frames that hold the same bytes.
//!
//! Forked processes make many pages their own only to write the same into them, and without
//! `CAP_SYS_ADMIN` frames are not shown at all. So pages that no frame has told to be the same
//! are compared with what other address spaces have at the same address: by their CRC-32 first,
//! then, since a checksum proves nothing, byte by byte.

use memmap2::MmapMut;

use super::memory::{PAGE_BYTES, PageRun, PageSource};
use super::page_identity::{Gathered, SharedPages, Sighting, Windows, pages};
use crate::error::{IoResultExt, Result};
use crate::sys::map;

/// The pages of an address space, and access to them.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    /// Which, ascending.
    pub runs: &'a [PageRun],
    /// Their bytes. Of pages that the family holds, only those are read whose source it is.
    pub memory: &'a dyn PageSource,
}

/// Set in the home of a page that nobody is known to share; the rest is its address space.
const LOOSE: u64 = 1 << 57;
/// So many pages are compared at a time.
const BATCH: usize = 4096;
/// So many pages are read at once.
const READ_PAGES: usize = 64;
const PAGE: usize = 4096;

impl SharedPages {
    /// Adds pages that are equal, among all address spaces.
    ///
    /// # Errors
    /// A page that cannot be read.
    pub fn with_equal(self, spaces: &[Content<'_>]) -> Result<Self> {
        if spaces.len() < 2 {
            return Ok(self);
        }
        let mut comparison = Comparison {
            spaces,
            doubts: vec![Doubt::default(); spaces.len()],
            thorough: self.frames_hidden,
            buffer: map::buffer(READ_PAGES * PAGE).at("take memory for", "pages")?,
            wanted: Vec::new(),
        };
        let mut gathered = Gathered::default();
        let mut sightings = Vec::new();
        let mut held: Vec<_> = (0..spaces.len()).map(|space| self.held(space)).collect();
        let mut windows = Windows::over(spaces.iter().map(|space| space.runs).collect());
        while let Some((range, parts)) = windows.next() {
            let several = at_several(range.start, &parts);
            sightings.clear();
            for (space, part) in parts.iter().enumerate() {
                let number = u32::try_from(space).unwrap_or(u32::MAX);
                let family = self.held[space].as_ref().map_or(0, |(family, _)| *family);
                for (address, kind) in pages(part) {
                    if !kind.may_be_elsewhere() || !several.contains(address) {
                        continue;
                    }
                    let behind = held[space].partition_point(|run| run.end <= address);
                    held[space] = &held[space][behind..];
                    let home = match held[space].first() {
                        Some(run) if run.start <= address => {
                            (family as u64) << u16::BITS | u64::from(run.rank)
                        }
                        _ => LOOSE | u64::from(number),
                    };
                    sightings.push(Sighting::new(address, kind, home, number));
                }
            }
            sightings.sort_unstable();
            comparison.settle(&mut sightings)?;
            gathered.add(&sightings);
        }
        Ok(Self {
            frames_hidden: self.frames_hidden,
            ..gathered.finish(spaces.len())
        })
    }
}

/// Which pages of a window more than one address space has.
struct Several {
    start: u64,
    is_several: Vec<bool>,
}

fn at_several(start: u64, parts: &[Vec<PageRun>]) -> Several {
    let end = parts
        .iter()
        .filter_map(|part| part.last())
        .map(|run| run.end)
        .max();
    let place = |address: u64| usize::try_from((address - start) / PAGE_BYTES).unwrap_or(0);
    let len = end.map_or(0, place);
    let (mut is_there, mut is_several) = (vec![false; len], vec![false; len]);
    for run in parts.iter().flatten() {
        for at in place(run.start)..place(run.end) {
            is_several[at] |= is_there[at];
            is_there[at] = true;
        }
    }
    Several { start, is_several }
}

impl Several {
    fn contains(&self, address: u64) -> bool {
        let place = usize::try_from((address - self.start) / PAGE_BYTES).unwrap_or(usize::MAX);
        self.is_several.get(place).copied().unwrap_or(false)
    }
}

/// How little a comparison with the pages of an address space has yielded of late.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    failures: u32,
    skip: u32,
}

impl Doubt {
    /// So many pages are compared in vain before any is passed over.
    const PATIENCE: u32 = 64;
    /// The most that are passed over in a row, as a power of two.
    const MOST: u32 = 8;

    /// Whether to compare the next page.
    fn compares(&mut self) -> bool {
        let compares = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        compares
    }

    fn learn(&mut self, found: bool) {
        self.failures = if found { 0 } else { self.failures + 1 };
        self.skip = match self.failures.checked_sub(Self::PATIENCE) {
            None => 0,
            Some(beyond) => (1 << (beyond / 16).min(Self::MOST)) - 1,
        };
    }
}

/// A page to be compared: the first sighting of its home.
struct Wanted {
    /// Its place among the sightings.
    at: usize,
    sighting: Sighting,
    crc: u32,
}

struct Comparison<'a> {
    spaces: &'a [Content<'a>],
    doubts: Vec<Doubt>,
    /// Whether nothing is passed over, since frames have told nothing.
    thorough: bool,
    buffer: MmapMut,
    wanted: Vec<Wanted>,
}

impl Comparison<'_> {
    /// Gives equal pages the same home. Sorted before and after.
    fn settle(&mut self, sightings: &mut [Sighting]) -> Result<()> {
        let mut at = 0;
        let mut moved = false;
        while at < sightings.len() {
            let len = sightings[at..]
                .iter()
                .take_while(|one| one.is_comparable(&sightings[at]))
                .count();
            self.want(at, &sightings[at..at + len]);
            at += len;
            if self.wanted.len() >= BATCH {
                moved |= self.compare(sightings)?;
            }
        }
        moved |= self.compare(sightings)?;
        if moved {
            sightings.sort_unstable();
        }
        Ok(())
    }

    /// Decides which pages at one address are compared; `at` is the place of the first.
    fn want(&mut self, at: usize, here: &[Sighting]) {
        let known = self.wanted.len();
        let mut has_loose = false;
        let mut place = at;
        for group in here.chunk_by(Sighting::is_same_page) {
            let sighting = group[0];
            let is_loose = sighting.home() & LOOSE != 0;
            let doubt = &mut self.doubts[sighting.space_number() as usize];
            if !is_loose || self.thorough || doubt.compares() {
                has_loose |= is_loose;
                self.wanted.push(Wanted {
                    at: place,
                    sighting,
                    crc: 0,
                });
            }
            place += group.len();
        }
        if !has_loose || self.wanted.len() < known + 2 {
            self.wanted.truncate(known);
        }
    }

    /// Compares what is wanted; whether any page was found to be equal to another.
    fn compare(&mut self, sightings: &mut [Sighting]) -> Result<bool> {
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.sort_unstable_by_key(|one| (one.sighting.space_number(), one.sighting.address()));
        let follows = |one: &Wanted, next: &Wanted| {
            (next.sighting.space_number(), next.sighting.address())
                == (
                    one.sighting.space_number(),
                    one.sighting.address() + PAGE_BYTES,
                )
        };
        for run in wanted.chunk_by_mut(follows) {
            for part in run.chunks_mut(READ_PAGES) {
                let (space, address) =
                    (part[0].sighting.space_number(), part[0].sighting.address());
                let bytes = &mut self.buffer[..part.len() * PAGE];
                let memory = self.spaces[space as usize].memory;
                memory.read_pages(address, bytes)?;
                for (one, page) in part.iter_mut().zip(bytes.chunks_exact(PAGE)) {
                    one.crc = crc32fast::hash(page);
                }
            }
        }
        // Homes that are shared come before loose ones, which are moved to them.
        wanted.sort_unstable_by_key(|one| (one.at, one.crc));
        let mut moved = false;
        for here in wanted.chunk_by_mut(|one, next| one.sighting.is_comparable(&next.sighting)) {
            here.sort_by_key(|one| one.crc);
            for alike in here.chunk_by(|one, next| one.crc == next.crc) {
                moved |= self.confirm(alike, sightings)?;
            }
        }
        wanted.clear();
        self.wanted = wanted;
        Ok(moved)
    }

    /// Moves those pages to the home of the first that hold the same bytes.
    fn confirm(&mut self, alike: &[Wanted], sightings: &mut [Sighting]) -> Result<bool> {
        let [first, others @ ..] = alike else {
            return Ok(false);
        };
        let mut pages = [[0; PAGE]; 2];
        if !others.is_empty() {
            self.read(first, &mut pages[0])?;
        }
        let mut found = false;
        for other in others {
            self.read(other, &mut pages[1])?;
            let is_equal = pages[0] == pages[1];
            self.learn(other, is_equal);
            if !is_equal {
                continue;
            }
            found = true;
            let old = other.sighting.home();
            let same = sightings[other.at..]
                .iter_mut()
                .take_while(|one| one.is_comparable(&other.sighting) && one.home() == old);
            for sighting in same {
                *sighting = sighting.moved(first.sighting.home());
            }
        }
        self.learn(first, found);
        Ok(found)
    }

    fn read(&self, wanted: &Wanted, page: &mut [u8; PAGE]) -> Result<()> {
        let space = wanted.sighting.space_number() as usize;
        let memory = self.spaces[space].memory;
        memory.read_pages(wanted.sighting.address(), page)
    }

    fn learn(&mut self, wanted: &Wanted, found: bool) {
        if wanted.sighting.home() & LOOSE != 0 {
            self.doubts[wanted.sighting.space_number() as usize].learn(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::memory::PageKind;
    use crate::collect::page_identity::Held;

    const P: u64 = PAGE_BYTES;

    /// Pages from page 16 on, each filled with a letter.
    struct Letters(&'static [u8]);

    impl PageSource for Letters {
        fn read_pages(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            let first = usize::try_from(offset / P).unwrap() - 16;
            for (page, letter) in buffer.chunks_exact_mut(PAGE).zip(&self.0[first..]) {
                page.fill(*letter);
            }
            Ok(())
        }
    }

    fn with_equal(before: SharedPages, all: &[Letters]) -> SharedPages {
        let runs: Vec<[PageRun; 1]> = all
            .iter()
            .map(|letters| {
                [PageRun {
                    start: 16 * P,
                    end: (16 + letters.0.len() as u64) * P,
                    kind: PageKind::Lazy,
                }]
            })
            .collect();
        let spaces: Vec<_> = all
            .iter()
            .zip(&runs)
            .map(|(memory, runs)| Content { runs, memory })
            .collect();
        before.with_equal(&spaces).unwrap()
    }

    fn held(shared: &SharedPages, space: usize) -> Vec<(u64, u64, u16)> {
        shared
            .held(space)
            .iter()
            .map(|held: &Held| (held.start / P, held.end / P, held.rank))
            .collect()
    }

    #[test]
    fn equal_pages_at_one_address_are_shared() {
        let all = [Letters(b"abcd"), Letters(b"abxd"), Letters(b"qbxz")];
        let shared = with_equal(SharedPages::none(3), &all);
        assert_eq!(shared.families.len(), 1);
        assert_eq!(held(&shared, 0), [(16, 18, 0), (19, 20, 0)]);
        assert_eq!(held(&shared, 1), [(16, 20, 0)]);
        assert_eq!(held(&shared, 2), [(17, 19, 0)]);
    }

    #[test]
    fn what_is_shared_already_stays_so_and_takes_in_equal_pages() {
        let one = Held {
            start: 16 * P,
            end: 18 * P,
            rank: 0,
        };
        let before = SharedPages {
            families: vec![crate::collect::page_identity::Family {
                members: vec![0, 1],
                runs: vec![crate::collect::page_identity::SharedRun {
                    start: 16 * P,
                    end: 18 * P,
                    source: 0,
                    rank: 0,
                    lazy: true,
                }],
            }],
            held: vec![Some((0, vec![one])), Some((0, vec![one])), None],
            frames_hidden: false,
        };
        let all = [Letters(b"aab"), Letters(b"aac"), Letters(b"xac")];
        let shared = with_equal(before, &all);
        assert_eq!(shared.families[0].members, [0, 1, 2]);
        assert_eq!(held(&shared, 0), [(16, 18, 0)]);
        assert_eq!(held(&shared, 1), [(16, 19, 0)]);
        assert_eq!(held(&shared, 2), [(17, 19, 0)]);
        let sources: Vec<u32> = shared.families[0]
            .runs
            .iter()
            .map(|run| run.source)
            .collect();
        assert_eq!(sources, [0, 1]);
    }

    #[test]
    fn without_success_fewer_and_fewer_pages_are_compared() {
        let mut doubt = Doubt::default();
        let mut compared = 0;
        for _ in 0..100_000 {
            if doubt.compares() {
                doubt.learn(false);
                compared += 1;
            }
        }
        assert!((200..2000).contains(&compared), "{compared}");
        doubt.learn(true);
        assert!(doubt.compares() && doubt.compares());
    }
}
