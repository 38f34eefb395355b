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

use std::fs::File;

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

/// A page that several address spaces of a family have at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedPage {
    /// Where it is, in bytes.
    pub address: u64,
    /// The first address space that has it.
    pub source: u32,
    /// Its place among the shared pages of the family at this address.
    pub rank: u16,
    /// Whether it is of [`PageKind::Lazy`], or else of [`PageKind::Plain`].
    pub lazy: bool,
}

impl SharedPage {
    fn kind(&self) -> PageKind {
        if self.lazy {
            PageKind::Lazy
        } else {
            PageKind::Plain
        }
    }
}

/// Address spaces that share pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Its members, by their place among all address spaces, ascending.
    pub members: Vec<usize>,
    /// What at least two of them share, by address, then by rank.
    pub pages: Vec<SharedPage>,
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
}

impl SharedPages {
    /// Nothing is shared among `spaces` address spaces.
    #[must_use]
    pub fn none(spaces: usize) -> Self {
        Self {
            families: Vec::new(),
            held: vec![None; spaces],
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
        let mut first = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            first.push(candidate.homes()?);
        }
        let mut sightings = Vec::new();
        for (candidate, first) in candidates.iter().zip(first) {
            let again = candidate.homes()?;
            let index = u32::try_from(candidate.space).unwrap_or(u32::MAX);
            let pages = candidate.pages().zip(first.into_iter().zip(again));
            sightings.extend(pages.filter_map(|((address, kind), (first, again))| {
                let home = first.filter(|_| first == again && kind.may_be_elsewhere())?;
                Some(Sighting::new(address, home, kind == PageKind::Lazy, index))
            }));
        }
        sightings.sort_unstable();
        Ok(Self::of(&sightings, spaces))
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
            let pages = self.families[*family].pages.iter();
            for page in pages.filter(|page| page.source as usize == space) {
                let run = PageRun {
                    start: page.address,
                    end: page.address + PAGE_BYTES,
                    kind: page.kind(),
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

    /// Groups sightings, which are sorted.
    fn of(sightings: &[Sighting], spaces: usize) -> Self {
        let mut relatives = Relatives::new(spaces);
        let groups = || {
            sightings
                .chunk_by(Sighting::is_same_page)
                .filter(|group| group.len() > 1)
        };
        for group in groups() {
            for other in &group[1..] {
                relatives.join(group[0].space(), other.space());
            }
        }
        let mut shared = Self::none(spaces);
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
        let mut here: Vec<&[Sighting]> = Vec::new();
        let mut groups = groups().peekable();
        while let Some(group) = groups.next() {
            here.push(group);
            let goes_on =
                matches!(groups.peek(), Some(next) if next[0].address() == group[0].address());
            if !goes_on {
                here.sort_by_key(|group| std::cmp::Reverse(group.len()));
                shared.add(&here);
                here.clear();
            }
        }
        shared
    }

    /// Adds the shared pages at one address, the most shared one first.
    fn add(&mut self, groups: &[&[Sighting]]) {
        let mut ranks: Vec<(usize, u16)> = Vec::with_capacity(1);
        for group in groups {
            let Some((family, _)) = self.held[group[0].space()] else {
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
            let address = group[0].address();
            self.families[family].pages.push(SharedPage {
                address,
                source: group[0].space_number(),
                rank,
                lazy: group[0].lazy(),
            });
            for one in *group {
                let Some((_, held)) = &mut self.held[one.space()] else {
                    continue;
                };
                match held.last_mut() {
                    Some(last) if last.end == address && last.rank == rank => {
                        last.end += PAGE_BYTES;
                    }
                    _ => held.push(Held {
                        start: address,
                        end: address + PAGE_BYTES,
                        rank,
                    }),
                }
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
    fn homes(&self) -> Result<Vec<Option<u64>>> {
        let mut found: Vec<PageEntry> = Vec::new();
        for run in self.runs {
            entries(&self.pagemap, run.start, run.end, &mut found).on("read pagemap", self.tid)?;
        }
        Ok(found.into_iter().map(PageEntry::shared_home).collect())
    }

    /// Address and kind of each page.
    fn pages(&self) -> impl Iterator<Item = (u64, PageKind)> {
        self.runs.iter().flat_map(|run| {
            let addresses = (run.start..run.end).step_by(4096);
            addresses.map(|address| (address, run.kind))
        })
    }
}

/// A page as seen in one address space, in one number whose order is that of the address,
/// then of the home: 36 bits of page number, 57 of home and laziness, 32 of candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sighting(u128);

impl Sighting {
    const HOME_BITS: u32 = 57;

    fn new(address: u64, home: u64, lazy: bool, space: u32) -> Self {
        // What may be left out as zero must not be confused with what may not.
        let home = u128::from(home << 1 | u64::from(lazy));
        let page = u128::from(address / PAGE_BYTES);
        Self((page << Self::HOME_BITS | home) << u32::BITS | u128::from(space))
    }

    fn is_same_page(&self, other: &Self) -> bool {
        self.0 >> u32::BITS == other.0 >> u32::BITS
    }

    fn address(self) -> u64 {
        // Page numbers of 47-bit addresses fit.
        u64::try_from(self.0 >> (u32::BITS + Self::HOME_BITS)).unwrap_or(0) * PAGE_BYTES
    }

    fn lazy(self) -> bool {
        self.0 >> u32::BITS & 1 == 1
    }

    fn space_number(self) -> u32 {
        u32::try_from(self.0 & u128::from(u32::MAX)).unwrap_or(0)
    }

    fn space(self) -> usize {
        self.space_number() as usize
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
                    sightings.push(Sighting::new(page * PAGE_BYTES, *frame, true, space));
                }
            }
        }
        sightings.sort_unstable();
        SharedPages::of(&sightings, spaces.len())
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
        let pages = &shared.families[0].pages;
        let places: Vec<_> = pages.iter().map(|page| page.address / PAGE_BYTES).collect();
        assert_eq!(places, [16, 17, 18, 19]);
        assert_eq!(held(&shared, 0), [(16, 4, 0)]);
        assert_eq!(held(&shared, 1), [(16, 1, 0), (18, 2, 0)]);
        assert_eq!(held(&shared, 2), [(16, 3, 0)]);
    }

    #[test]
    fn the_most_shared_of_several_comes_first() {
        let shared = find(&[&[7, 1], &[7, 1], &[8, 1], &[8, 1], &[8, 1]]);
        let pages = &shared.families[0].pages;
        let ranks: Vec<_> = pages
            .iter()
            .map(|page| (page.address / PAGE_BYTES, page.source, page.rank))
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
}
