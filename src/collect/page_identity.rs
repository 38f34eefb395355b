//! Which pages of different address spaces are the same page.
//!
//! In a frozen tree the frame number is to a page what kcmp is to a file: equal frames at one
//! moment are one page. The kernel may move a page to another frame at any time, so frames
//! are read twice, every address space once before any is read again: what did not move in
//! between was in its frame at the same moment as everything else that did not.
//!
//! Address spaces that share pages at the same address form a *family*. Its pages are listed
//! once, by address; where several different pages at one address are shared, the most shared
//! one comes first (*rank* 0).
//!
//! All address spaces are gone through together, a window of addresses after the other, so that
//! not everything that is known of each page has to be held at once.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;

use super::memory::{PAGE_BYTES, PageKind, PageRun};
use crate::error::{Result, ResultExt};
use crate::ids::Tid;
use crate::sys::pagemap::{PageEntry, entries};

/// An address space whose pages may be shared.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Its place among all address spaces.
    pub space: usize,
    /// A task that lives in it.
    pub tid: Tid,
    /// Its `/proc/PID/pagemap`.
    pub pagemap: File,
    /// Its pages, ascending.
    pub runs: &'a [PageRun],
}

/// Pages that several address spaces of a family have at the same addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedRun {
    /// First byte.
    pub start: u64,
    /// First byte behind.
    pub end: u64,
    /// The first address space that has them.
    pub source: u32,
    /// Their place among the shared pages of the family at these addresses.
    pub rank: u16,
    /// Whether they are of [`PageKind::Lazy`], or else of [`PageKind::Plain`].
    pub lazy: bool,
}

/// Address spaces that share pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Its members, by their place among all address spaces, ascending.
    pub members: Vec<usize>,
    /// What at least two of them share, by address, then by rank.
    pub runs: Vec<SharedRun>,
}

/// Pages of one address space that its family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// First byte.
    pub start: u64,
    /// First byte behind.
    pub end: u64,
    /// Which of the family's pages at these addresses.
    pub rank: u16,
}

/// What was found out about some address spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedPages {
    /// The families.
    pub families: Vec<Family>,
    /// For each address space its family and what that holds of its pages, ascending.
    pub held: Vec<Option<(usize, Vec<Held>)>>,
    /// Whether the kernel keeps frames secret (it shows them with `CAP_SYS_ADMIN`).
    pub frames_hidden: bool,
}

impl SharedPages {
    /// Nothing is shared among `spaces` address spaces.
    #[must_use]
    pub fn none(spaces: usize) -> Self {
        Self {
            families: Vec::new(),
            held: vec![None; spaces],
            frames_hidden: false,
        }
    }

    /// Finds out which pages of the candidates, some of `spaces` address spaces, are the same.
    ///
    /// # Errors
    /// Reading `/proc/PID/pagemap`.
    pub fn find(candidates: &[Candidate<'_>], spaces: usize) -> Result<Self> {
        if candidates.len() < 2 {
            return Ok(Self::none(spaces));
        }
        let mut gathered = Gathered::default();
        let mut frames_hidden = false;
        let mut sightings = Vec::new();
        let mut windows = Windows::over(candidates.iter().map(|one| one.runs).collect());
        while let Some((_, parts)) = windows.next() {
            let mut first = Vec::with_capacity(candidates.len());
            for (candidate, part) in candidates.iter().zip(&parts) {
                first.push(candidate.entries(part)?);
            }
            sightings.clear();
            for ((candidate, part), first) in candidates.iter().zip(&parts).zip(first) {
                let again = candidate.entries(part)?;
                let space = u32::try_from(candidate.space).unwrap_or(u32::MAX);
                for ((address, kind), (first, again)) in pages(part).zip(first.iter().zip(again)) {
                    frames_hidden |= first.hides_frame();
                    let home = first.shared_home();
                    if let Some(home) = home.filter(|home| again.shared_home() == Some(*home))
                        && kind.may_be_elsewhere()
                    {
                        sightings.push(Sighting::new(address, kind, home, space));
                    }
                }
            }
            sightings.sort_unstable();
            gathered.add(&sightings);
        }
        Ok(Self {
            frames_hidden,
            ..gathered.finish(spaces)
        })
    }

    /// Adds what was found out about other address spaces, none of them known to both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let before = self.families.len();
        self.families.extend(other.families);
        for (held, other) in self.held.iter_mut().zip(other.held) {
            if let Some((family, runs)) = other {
                *held = Some((before + family, runs));
            }
        }
        self.frames_hidden |= other.frames_hidden;
        self
    }

    /// What the family of an address space holds of its pages.
    #[must_use]
    pub fn held(&self, space: usize) -> &[Held] {
        let held = self.held[space].as_ref();
        held.map_or(&[], |(_, held)| held.as_slice())
    }

    /// The pages of an address space that are written from it: its own, and those of its family
    /// that it is the source of. Ascending.
    #[must_use]
    pub fn sourced(&self, space: usize, runs: &[PageRun]) -> Vec<PageRun> {
        let mut sourced = without(runs, self.held(space));
        if let Some((family, _)) = &self.held[space] {
            let shared = self.families[*family].runs.iter();
            for shared in shared.filter(|shared| shared.source as usize == space) {
                let run = PageRun {
                    start: shared.start,
                    end: shared.end,
                    kind: shared.kind(),
                };
                match sourced.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => sourced.push(run),
                }
            }
            sourced.sort_unstable_by_key(|run| run.start);
        }
        sourced
    }
}

impl SharedRun {
    fn kind(&self) -> PageKind {
        if self.lazy {
            PageKind::Lazy
        } else {
            PageKind::Plain
        }
    }

    /// The address of each page.
    pub fn addresses(&self) -> impl Iterator<Item = u64> + use<> {
        (self.start..self.end).step_by(4096)
    }
}

/// Pages that a number of address spaces have in common.
struct Same {
    start: u64,
    end: u64,
    /// Its place among the lists of address spaces.
    list: u32,
    lazy: bool,
    /// Whether nothing else is shared at this address.
    alone: bool,
}

/// What is the same, gathered window by window.
#[derive(Default)]
pub(super) struct Gathered {
    /// By address, then by the number of address spaces, the highest first.
    runs: Vec<Same>,
    /// Lists of address spaces that share something, ascending.
    lists: Vec<Box<[u32]>>,
    places: HashMap<Box<[u32]>, u32>,
    scratch: Vec<u32>,
}

impl Gathered {
    /// Adds all that was seen at some addresses behind those known. Sorted.
    pub(super) fn add(&mut self, sightings: &[Sighting]) {
        let mut here: Vec<&[Sighting]> = Vec::new();
        for all in sightings.chunk_by(|one, next| one.address() == next.address()) {
            here.clear();
            let groups = all.chunk_by(Sighting::is_same_page);
            here.extend(groups.filter(|group| group.len() > 1));
            here.sort_by_key(|group| std::cmp::Reverse(group.len()));
            let alone = here.len() == 1;
            for group in &here {
                let (start, lazy) = (group[0].address(), group[0].lazy());
                let list = self.list(group);
                let end = start + PAGE_BYTES;
                match self.runs.last_mut() {
                    Some(last)
                        if alone
                            && last.alone
                            && (last.end, last.list, last.lazy) == (start, list, lazy) =>
                    {
                        last.end = end;
                    }
                    _ => self.runs.push(Same {
                        start,
                        end,
                        list,
                        lazy,
                        alone,
                    }),
                }
            }
        }
    }

    fn list(&mut self, group: &[Sighting]) -> u32 {
        self.scratch.clear();
        self.scratch
            .extend(group.iter().map(|one| one.space_number()));
        if let Some(last) = self.runs.last()
            && *self.lists[last.list as usize] == *self.scratch
        {
            return last.list;
        }
        if let Some(place) = self.places.get(self.scratch.as_slice()) {
            return *place;
        }
        let place = u32::try_from(self.lists.len()).unwrap_or(u32::MAX);
        let list: Box<[u32]> = self.scratch.as_slice().into();
        self.lists.push(list.clone());
        self.places.insert(list, place);
        place
    }

    /// Puts address spaces that share something into families.
    pub(super) fn finish(self, spaces: usize) -> SharedPages {
        let mut relatives = Relatives::new(spaces);
        for list in &self.lists {
            for other in &list[1..] {
                relatives.join(list[0] as usize, *other as usize);
            }
        }
        let mut shared = SharedPages::none(spaces);
        let mut family_of_root = vec![None; spaces];
        for space in 0..spaces {
            let root = relatives.root(space);
            if relatives.size[root] < 2 {
                continue;
            }
            let family = *family_of_root[root].get_or_insert_with(|| {
                shared.families.push(Family::default());
                shared.families.len() - 1
            });
            shared.families[family].members.push(space);
            shared.held[space] = Some((family, Vec::new()));
        }
        let mut ranks: Vec<(usize, u16)> = Vec::new();
        for here in self.runs.chunk_by(|one, next| one.start == next.start) {
            ranks.clear();
            for same in here {
                let list = &self.lists[same.list as usize];
                let Some((family, _)) = shared.held[list[0] as usize] else {
                    continue;
                };
                let rank = match ranks.iter_mut().find(|known| known.0 == family) {
                    Some((_, rank)) => {
                        // So many different pages at one address need as many address spaces.
                        *rank = rank.saturating_add(1);
                        *rank
                    }
                    None => {
                        ranks.push((family, 0));
                        0
                    }
                };
                shared.add(family, rank, same, list);
            }
        }
        shared
    }
}

impl SharedPages {
    fn add(&mut self, family: usize, rank: u16, same: &Same, list: &[u32]) {
        let Same {
            start, end, lazy, ..
        } = *same;
        let source = list[0];
        let runs = &mut self.families[family].runs;
        match runs.last_mut() {
            Some(last)
                if (last.end, last.source, last.rank, last.lazy) == (start, source, rank, lazy) =>
            {
                last.end = end;
            }
            _ => runs.push(SharedRun {
                start,
                end,
                source,
                rank,
                lazy,
            }),
        }
        for space in list {
            let Some((_, held)) = &mut self.held[*space as usize] else {
                continue;
            };
            match held.last_mut() {
                Some(last) if last.end == start && last.rank == rank => last.end = end,
                _ => held.push(Held { start, end, rank }),
            }
        }
    }
}

/// The parts of ascending runs that a family does not hold.
pub fn without(runs: &[PageRun], held: &[Held]) -> Vec<PageRun> {
    let mut rest = Vec::with_capacity(runs.len());
    let mut held = held.iter().peekable();
    for run in runs {
        let mut start = run.start;
        while let Some(taken) = held.peek() {
            if taken.end <= start {
                held.next();
                continue;
            }
            if taken.start >= run.end {
                break;
            }
            if start < taken.start {
                rest.push(PageRun {
                    start,
                    end: taken.start,
                    ..*run
                });
            }
            start = taken.end.min(run.end);
            if taken.end > run.end {
                break;
            }
        }
        if start < run.end {
            rest.push(PageRun { start, ..*run });
        }
    }
    rest
}

impl Candidate<'_> {
    fn entries(&self, runs: &[PageRun]) -> Result<Vec<PageEntry>> {
        let mut found: Vec<PageEntry> = Vec::new();
        for run in runs {
            entries(&self.pagemap, run.start, run.end, &mut found).on("read pagemap", self.tid)?;
        }
        Ok(found)
    }
}

/// Address and kind of each page.
pub(super) fn pages(runs: &[PageRun]) -> impl Iterator<Item = (u64, PageKind)> {
    runs.iter().flat_map(|run| {
        let addresses = (run.start..run.end).step_by(4096);
        addresses.map(|address| (address, run.kind))
    })
}

/// Goes through several address spaces together, a range of addresses after the other.
pub(super) struct Windows<'a> {
    /// Ascending runs of each.
    spaces: Vec<&'a [PageRun]>,
    /// First address of the next range.
    next: u64,
    bytes: u64,
}

impl<'a> Windows<'a> {
    /// So many pages at most are looked at together.
    const MOST_PAGES: u64 = 1 << 18;

    pub(super) fn over(spaces: Vec<&'a [PageRun]>) -> Self {
        let pages = Self::MOST_PAGES / (spaces.len() as u64).max(1);
        Self {
            spaces,
            next: 0,
            bytes: pages.max(16) * PAGE_BYTES,
        }
    }

    /// The next range, and what is in it of each address space.
    pub(super) fn next(&mut self) -> Option<(Range<u64>, Vec<Vec<PageRun>>)> {
        let firsts = self.spaces.iter().filter_map(|runs| runs.first());
        let start = firsts.map(|run| run.start).min()?.max(self.next);
        let end = start.saturating_add(self.bytes);
        self.next = end;
        let parts = self.spaces.iter_mut().map(|runs| {
            let inside = runs.partition_point(|run| run.start < end);
            let part = runs[..inside].iter().map(|run| PageRun {
                start: run.start.max(start),
                end: run.end.min(end),
                ..*run
            });
            let part = part.collect();
            // What goes on behind the range is looked at again.
            let done = runs[..inside].partition_point(|run| run.end <= end);
            *runs = &runs[done..];
            part
        });
        Some((start..end, parts.collect()))
    }
}

/// A page as seen in one address space, in one number whose order is that of the address,
/// then of laziness, then of the home: 36 bits of page number, 1 of laziness, 58 of home, 32 of
/// address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sighting(u128);

impl Sighting {
    const HOME_BITS: u32 = 58;

    /// `home` tells pages at the same address apart; below 2⁵⁸.
    pub(super) fn new(address: u64, kind: PageKind, home: u64, space: u32) -> Self {
        let page = u128::from(address / PAGE_BYTES);
        // What may be left out as zero must not be confused with what may not.
        let lazy = u128::from(kind == PageKind::Lazy);
        let place = (page << 1 | lazy) << Self::HOME_BITS | u128::from(home);
        Self(place << u32::BITS | u128::from(space))
    }

    /// The same address space's sighting of another page there.
    pub(super) fn moved(self, home: u64) -> Self {
        let kind = if self.lazy() {
            PageKind::Lazy
        } else {
            PageKind::Plain
        };
        Self::new(self.address(), kind, home, self.space_number())
    }

    pub(super) fn is_same_page(&self, other: &Self) -> bool {
        self.0 >> u32::BITS == other.0 >> u32::BITS
    }

    /// Whether both are at one address and may be the same.
    pub(super) fn is_comparable(&self, other: &Self) -> bool {
        let shift = u32::BITS + Self::HOME_BITS;
        self.0 >> shift == other.0 >> shift
    }

    pub(super) fn home(self) -> u64 {
        let mask = (1 << Self::HOME_BITS) - 1;
        u64::try_from(self.0 >> u32::BITS & mask).unwrap_or(0)
    }

    pub(super) fn address(self) -> u64 {
        // Page numbers of 47-bit addresses fit.
        u64::try_from(self.0 >> (u32::BITS + Self::HOME_BITS + 1)).unwrap_or(0) * PAGE_BYTES
    }

    pub(super) fn lazy(self) -> bool {
        self.0 >> (u32::BITS + Self::HOME_BITS) & 1 == 1
    }

    pub(super) fn space_number(self) -> u32 {
        u32::try_from(self.0 & u128::from(u32::MAX)).unwrap_or(0)
    }
}

/// Disjoint sets of address spaces.
struct Relatives {
    parent: Vec<usize>,
    size: Vec<usize>,
}

impl Relatives {
    fn new(len: usize) -> Self {
        Self {
            parent: (0..len).collect(),
            size: vec![1; len],
        }
    }

    fn root(&mut self, mut one: usize) -> usize {
        while self.parent[one] != one {
            self.parent[one] = self.parent[self.parent[one]];
            one = self.parent[one];
        }
        one
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        if one != other {
            self.parent[other] = one;
            self.size[one] += self.size[other];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates as lists of frames from page 16 on; 0 is a page of its own.
    fn find(spaces: &[&[u64]]) -> SharedPages {
        let mut sightings = Vec::new();
        for (space, frames) in (0..).zip(spaces) {
            for (page, frame) in (16..).zip(*frames) {
                if *frame != 0 {
                    let address = page * PAGE_BYTES;
                    sightings.push(Sighting::new(address, PageKind::Lazy, *frame, space));
                }
            }
        }
        sightings.sort_unstable();
        let mut gathered = Gathered::default();
        gathered.add(&sightings);
        gathered.finish(spaces.len())
    }

    fn held(shared: &SharedPages, space: usize) -> Vec<(u64, u64, u16)> {
        let (_, held) = shared.held[space].as_ref().unwrap();
        held.iter()
            .map(|held| {
                (
                    held.start / PAGE_BYTES,
                    (held.end - held.start) / PAGE_BYTES,
                    held.rank,
                )
            })
            .collect()
    }

    #[test]
    fn what_two_have_at_one_address_is_held_once() {
        let shared = find(&[&[1, 2, 3, 4], &[1, 9, 3, 4], &[1, 2, 3, 5]]);
        assert_eq!(shared.families.len(), 1);
        let runs = &shared.families[0].runs;
        let places: Vec<_> = runs
            .iter()
            .map(|run| (run.start / P, run.end / P, run.source))
            .collect();
        assert_eq!(places, [(16, 20, 0)]);
        assert_eq!(held(&shared, 0), [(16, 4, 0)]);
        assert_eq!(held(&shared, 1), [(16, 1, 0), (18, 2, 0)]);
        assert_eq!(held(&shared, 2), [(16, 3, 0)]);
    }

    #[test]
    fn the_most_shared_of_several_comes_first() {
        let shared = find(&[&[7, 1], &[7, 1], &[8, 1], &[8, 1], &[8, 1]]);
        let runs = &shared.families[0].runs;
        let ranks: Vec<_> = runs
            .iter()
            .map(|run| (run.start / P, run.source, run.rank))
            .collect();
        assert_eq!(ranks, [(16, 2, 0), (16, 0, 1), (17, 0, 0)]);
        assert_eq!(held(&shared, 0), [(16, 1, 1), (17, 1, 0)]);
        assert_eq!(held(&shared, 4), [(16, 2, 0)]);
    }

    #[test]
    fn strangers_are_no_family_and_a_moved_page_is_none() {
        // The same frame at another address is not asked for.
        let shared = find(&[&[1, 2], &[2, 1], &[5, 6], &[5, 7]]);
        assert_eq!(shared.families.len(), 1);
        assert_eq!(shared.families[0].members, [2, 3]);
        assert!(shared.held[0].is_none() && shared.held[1].is_none());
    }

    const P: u64 = PAGE_BYTES;

    fn runs_held(runs: &[(u64, u64, u16)]) -> Vec<Held> {
        let held = |&(start, end, rank)| Held {
            start: start * P,
            end: end * P,
            rank,
        };
        runs.iter().map(held).collect()
    }

    #[test]
    fn own_pages_are_what_no_family_holds() {
        let run = |start, end| PageRun {
            start: start * P,
            end: end * P,
            kind: PageKind::Lazy,
        };
        let runs = [run(1, 4), run(6, 10), run(12, 13)];
        let rest = without(&runs, &runs_held(&[(0, 2, 0), (3, 7, 0), (8, 9, 1)]));
        assert_eq!(rest, [run(2, 3), run(7, 8), run(9, 10), run(12, 13)]);
        assert_eq!(without(&runs, &[]), runs);
        assert_eq!(without(&runs, &runs_held(&[(0, 20, 0)])), []);
    }

    #[test]
    fn windows_cover_everything_once_and_in_order() {
        let run = |start, end| PageRun {
            start: start * P,
            end: end * P,
            kind: PageKind::Plain,
        };
        let wide = Windows::MOST_PAGES;
        let one = [run(1, 5), run(7, 3 * wide), run(1 << 34, (1 << 34) + 2)];
        let other = [run(2, 3), run(wide, wide + 1)];
        let mut windows = Windows::over(vec![&one, &other]);
        let mut seen = [Vec::new(), Vec::new()];
        let mut last = 0;
        while let Some((range, parts)) = windows.next() {
            assert!(range.start >= last);
            last = range.end;
            for (seen, part) in seen.iter_mut().zip(parts) {
                assert!(
                    part.iter()
                        .all(|run| run.start >= range.start && run.end <= range.end)
                );
                seen.extend(pages(&part).map(|page| page.0));
            }
        }
        assert!(seen[0].iter().copied().eq(pages(&one).map(|page| page.0)));
        assert!(seen[1].iter().copied().eq(pages(&other).map(|page| page.0)));
    }
}
