//! Where the pages of all address spaces go: own pages, pages of a family, pages that an
//! earlier dump has.
//!
//! ```text
//!  pagemap-7.img    7's own pages PRESENT, everything else PARENT
//!  pages-2.img      7's own pages
//!  parent/          only if address spaces share pages
//!    pagemap-7.img  the family's pages PRESENT, what the earlier dump has PARENT
//!    pagemap-8.img  the same file, hard-linked
//!    pages-1.img    the family's pages, each once
//!    parent ──▶     the earlier dump
//! ```
//!
//! A pagemap has no offsets: the place of an entry in the pages file follows from the entries
//! before it. A family's pagemap must therefore name every page of the family's file, in
//! order. A member that has another page at an address than the first one listed there gets a
//! pagemap of its own, in which the pages that are not its own stand under the address before:
//! a reader takes the first entry that covers an address, and only steps over these.

use std::path::Path;

use super::catalogue::Kind;
use super::copy::{Before, Copied, Fate, Job, Piece, copy};
use super::folder::{ImageFolder, Level};
use super::framing::ImageFile;
use super::memory::{LAZY, PARENT, PRESENT};
use super::page_crcs;
use super::previous::Previous;
use super::proto;
use super::write::Written;
use crate::collect::files::Segment;
use crate::collect::memory::{PAGE_BYTES, PageKind, PageRun, PageSource};
use crate::collect::page_identity::{Family, Held, SharedPages, SharedRun, without};
use crate::error::Result;
use crate::ids::Pid;
use crate::progress::Progress;
use crate::watch::Watch;

/// An address space whose pages are to be written.
pub struct Space<'a> {
    /// The task under whose pid they are written.
    pub pid: Pid,
    /// Access to them.
    pub memory: &'a dyn PageSource,
    /// Which.
    pub runs: &'a [PageRun],
    /// The same in an earlier dump.
    pub previous: Option<Previous>,
}

/// Shared memory whose pages are to be written.
pub struct SharedMemory<'a> {
    /// Its name and extents.
    pub segment: &'a Segment,
    /// Access to its pages.
    pub content: &'a dyn PageSource,
    /// The same in an earlier dump.
    pub previous: Option<Previous>,
}

/// What is to be written.
pub struct Pages<'a> {
    /// Address spaces, each once.
    pub spaces: &'a [Space<'a>],
    /// What they share, in the same order.
    pub shared: &'a SharedPages,
    /// Shared memory.
    pub segments: &'a [SharedMemory<'a>],
    /// The folder of the earlier dump, as seen from the folder of this one.
    pub earlier: Option<&'a Path>,
    /// Whether the tree ends with the dump, so that pages need not stay shared.
    pub tree_ends: bool,
    /// Until when they must be written.
    pub watch: &'a Watch,
}

impl Pages<'_> {
    /// Writes pages files and pagemaps.
    ///
    /// # Errors
    /// Reading pages, writing.
    pub fn write(&self, folder: &ImageFolder, progress: &Progress) -> Result<Written> {
        let has_common = !self.shared.families.is_empty();
        if has_common {
            folder.make_common()?;
            folder.note(NOTE)?;
        }
        if let Some(earlier) = self.earlier {
            folder.link_earlier(has_common, earlier)?;
        }
        let befores: Vec<FamilyBefore<'_>> = self
            .shared
            .families
            .iter()
            .map(|family| FamilyBefore::of(self, family))
            .collect();
        let jobs = self.jobs(folder, &befores)?;
        let copied = copy(&jobs, progress, self.watch)?;
        for one in &copied {
            folder.record(one.file.clone());
        }
        let (families, rest) = copied.split_at(self.shared.families.len());
        let families = families.iter().enumerate();
        let families = families.map(|(index, copied)| (Self::family_id(index), copied));
        page_crcs::write(folder, Level::Common, families)?;
        // Numbers of address spaces and segments follow each other, as their jobs do.
        let rest = rest.iter().enumerate();
        let rest = rest.map(|(index, copied)| (self.space_id(index), copied));
        page_crcs::write(folder, Level::Top, rest)?;
        self.pagemaps(folder, &jobs, &copied)
    }

    fn family_id(index: usize) -> u32 {
        u32::try_from(index + 1).unwrap_or(u32::MAX)
    }

    fn space_id(&self, index: usize) -> u32 {
        Self::family_id(self.shared.families.len() + index)
    }

    fn segment_id(&self, index: usize) -> u32 {
        self.space_id(self.spaces.len() + index)
    }

    /// The number of an empty file, for pagemaps that only lead further.
    fn bridge_id(&self) -> u32 {
        self.segment_id(self.segments.len())
    }

    /// The files to be filled: families, address spaces, segments.
    fn jobs<'b>(
        &'b self,
        folder: &ImageFolder,
        befores: &'b [FamilyBefore<'b>],
    ) -> Result<Vec<Job<'b>>> {
        let job = |level, id: u32, pieces| {
            Ok(Job {
                file: folder.raw_file(level, Kind::Pages, u64::from(id))?,
                name: folder.shown(&level.name_of(Kind::Pages, u64::from(id))),
                pieces,
            })
        };
        let mut jobs = Vec::new();
        for (index, (family, before)) in self.shared.families.iter().zip(befores).enumerate() {
            let pieces = self.family_pieces(family, before);
            jobs.push(job(Level::Common, Self::family_id(index), pieces)?);
        }
        for (index, space) in self.spaces.iter().enumerate() {
            let own = without(space.runs, self.shared.held(index));
            let pieces = own.into_iter().map(|run| Piece {
                source: space.memory,
                start: run.start,
                end: run.end,
                drop_zeros: run.kind.drops_zeros(),
                lazy: run.kind == PageKind::Lazy,
                last: self.tree_ends,
                before: space
                    .previous
                    .as_ref()
                    .filter(|_| run.kind.may_be_elsewhere())
                    .map(|before| before as &dyn Before),
            });
            jobs.push(job(Level::Top, self.space_id(index), pieces.collect())?);
        }
        for (index, shared) in self.segments.iter().enumerate() {
            let pieces = shared.segment.extents.iter().map(|extent| Piece {
                source: shared.content,
                start: extent.start,
                end: extent.end,
                drop_zeros: true,
                lazy: false,
                last: false,
                before: shared.previous.as_ref().map(|before| before as &dyn Before),
            });
            jobs.push(job(Level::Top, self.segment_id(index), pieces.collect())?);
        }
        Ok(jobs)
    }

    fn family_pieces<'b>(
        &'b self,
        family: &'b Family,
        before: &'b FamilyBefore<'b>,
    ) -> Vec<Piece<'b>> {
        let pieces = family.runs.iter().map(|run| Piece {
            source: self.spaces[run.source as usize].memory,
            start: run.start,
            end: run.end,
            drop_zeros: run.lazy,
            lazy: run.lazy,
            last: false,
            before: before.at_rank(run.rank),
        });
        pieces.collect()
    }

    /// Writes all pagemaps, now that is known what became of each page.
    fn pagemaps(
        &self,
        folder: &ImageFolder,
        jobs: &[Job<'_>],
        copied: &[Copied],
    ) -> Result<Written> {
        let families = self.shared.families.len();
        let (common, rest) = copied.split_at(families);
        let (own, segments) = rest.split_at(self.spaces.len());
        let (_, jobs) = jobs.split_at(families);
        let (own_jobs, segment_jobs) = jobs.split_at(self.spaces.len());
        let bridges = families > 0 && self.earlier.is_some();
        let bridge = |name: (Kind, u64), lines: &[Line]| {
            let earlier = in_parent(lines);
            if bridges && !earlier.is_empty() {
                let pages = (Kind::Pages, u64::from(self.bridge_id()));
                if !folder.has(Level::Common, pages) {
                    Self::bridge_file(folder, pages)?;
                }
                write_pagemap(folder, Level::Common, name, self.bridge_id(), &earlier)?;
            }
            Ok(())
        };
        let mut written = Written::default();
        for copied in common.iter().chain(own) {
            written.pages += copied.file.size_bytes / PAGE_BYTES;
            written.zero_pages += copied.pages(Fate::Zero);
            written.unchanged_pages += copied.pages(Fate::Unchanged);
        }
        let mut inherited_pages = 0;
        let mut own_lines_of = Vec::with_capacity(own.len());
        for (index, (space, copied)) in self.spaces.iter().zip(own).enumerate() {
            let own = own_lines(&own_jobs[index].pieces, copied);
            let name = (Kind::Pagemap, u64::from(space.pid.number()));
            let mut lines = own.clone();
            match &self.shared.held[index] {
                Some((family, held)) => {
                    let runs = &self.shared.families[*family].runs;
                    let inherited = inherited_lines(runs, &common[*family], held);
                    inherited_pages += inherited.iter().map(Line::pages).sum::<u64>();
                    lines = merged(&own, &inherited);
                }
                None => bridge(name, &own)?,
            }
            write_pagemap(folder, Level::Top, name, self.space_id(index), &lines)?;
            own_lines_of.push(in_parent(&own));
        }
        for (index, (family, copied)) in self.shared.families.iter().zip(common).enumerate() {
            self.common_pagemaps(folder, index, family, copied, &own_lines_of)?;
            let once = copied.pages(Fate::Written) + copied.pages(Fate::Unchanged);
            inherited_pages -= once.min(inherited_pages);
        }
        written.left_to_family_pages = inherited_pages;
        for (index, (shared, copied)) in self.segments.iter().zip(segments).enumerate() {
            written.shared_pages += copied.file.size_bytes / PAGE_BYTES;
            let lines = own_lines(&segment_jobs[index].pieces, copied);
            let name = (Kind::ShmemPagemap, shared.segment.stat.st_ino);
            bridge(name, &lines)?;
            write_pagemap(folder, Level::Top, name, self.segment_id(index), &lines)?;
        }
        Ok(written)
    }

    /// The empty file that pagemaps name which only lead further.
    fn bridge_file(folder: &ImageFolder, (kind, id): (Kind, u64)) -> Result<()> {
        folder.raw_file(Level::Common, kind, id)?;
        folder.record(ImageFile {
            name: Level::Common.name_of(kind, id),
            size_bytes: 0,
            crc32: 0,
        });
        Ok(())
    }

    /// The pagemaps of a family's members in the common folder: one file where they agree.
    fn common_pagemaps(
        &self,
        folder: &ImageFolder,
        index: usize,
        family: &Family,
        copied: &Copied,
        earlier: &[Vec<Line>],
    ) -> Result<()> {
        let mut known: Vec<(Vec<Line>, (Kind, u64))> = Vec::new();
        for &member in &family.members {
            let name = (Kind::Pagemap, u64::from(self.spaces[member].pid.number()));
            let lines = common_lines(
                &family.runs,
                copied,
                self.shared.held(member),
                &earlier[member],
            );
            if let Some((_, existing)) = known.iter().find(|known| known.0 == lines) {
                folder.link(Level::Common, *existing, name)?;
                continue;
            }
            write_pagemap(folder, Level::Common, name, Self::family_id(index), &lines)?;
            known.push((lines, name));
        }
        Ok(())
    }
}

const NOTE: &str = "\
The pages that several tasks of this dump share are in the folder parent, each once, where criu
restore finds them.

Never run `criu dedup` on this dump, nor `criu restore --auto-dedup`: both punch holes into files
that belong to more than one task, and say nothing. `dedump verify` tells whether that happened.
`dedump dump --no-page-dedup` writes images without this danger, and without this saving.
";

/// What the pages of a family held in an earlier dump.
struct FamilyBefore<'a> {
    ranks: Vec<RankBefore<'a>>,
}

/// The same for the pages of one rank: a page is unchanged if all who have it had it before.
struct RankBefore<'a> {
    rank: u16,
    members: Vec<(&'a [Held], Option<&'a Previous>)>,
}

impl<'a> FamilyBefore<'a> {
    fn of(pages: &'a Pages<'a>, family: &Family) -> Self {
        let members: Vec<_> = family
            .members
            .iter()
            .map(|&member| {
                (
                    pages.shared.held(member),
                    pages.spaces[member].previous.as_ref(),
                )
            })
            .collect();
        let known = members.iter().any(|(_, previous)| previous.is_some());
        let ranks = family
            .runs
            .iter()
            .map(|run| run.rank + 1)
            .max()
            .unwrap_or(0);
        let ranks = (0..if known { ranks } else { 0 }).map(|rank| RankBefore {
            rank,
            members: members.clone(),
        });
        Self {
            ranks: ranks.collect(),
        }
    }

    fn at_rank(&self, rank: u16) -> Option<&dyn Before> {
        self.ranks
            .get(usize::from(rank))
            .map(|before| before as &dyn Before)
    }
}

impl Before for RankBefore<'_> {
    fn holds(&self, offset: u64, page: &[u8]) -> Result<bool> {
        let mut compared = Vec::new();
        for (held, previous) in &self.members {
            if rank_at(held, offset) != Some(self.rank) {
                continue;
            }
            let Some((previous, place)) =
                previous.and_then(|previous| Some((previous, previous.place(offset)?)))
            else {
                return Ok(false);
            };
            // Members of a family had most of their pages in common before, too.
            if compared.contains(&place) {
                continue;
            }
            if !previous.holds(offset, page)? {
                return Ok(false);
            }
            compared.push(place);
        }
        Ok(true)
    }
}

/// Which of the family's pages at an address someone has.
fn rank_at(held: &[Held], address: u64) -> Option<u16> {
    let place = held.partition_point(|run| run.end <= address);
    held.get(place)
        .filter(|run| run.start <= address)
        .map(|run| run.rank)
}

/// A line of a pagemap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    start: u64,
    end: u64,
    flags: u32,
}

impl Line {
    fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE_BYTES
    }
}

/// Appends a line, or makes the last one longer.
fn push(lines: &mut Vec<Line>, line: Line) {
    match lines.last_mut() {
        Some(last) if last.end == line.start && last.flags == line.flags => last.end = line.end,
        _ => lines.push(line),
    }
}

/// The lines of the pages of a job.
fn own_lines(pieces: &[Piece<'_>], copied: &Copied) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut fates = copied.fates.iter().peekable();
    let mut place = 0;
    for piece in pieces {
        let mut start = piece.start;
        while start < piece.end {
            while fates.next_if(|(range, _)| range.end <= place).is_some() {}
            let Some((range, fate)) = fates.peek() else {
                break;
            };
            let end = piece.end.min(start + (range.end - place) * PAGE_BYTES);
            let flags = match fate {
                Fate::Written if piece.lazy => Some(PRESENT | LAZY),
                Fate::Written => Some(PRESENT),
                Fate::Unchanged => Some(PARENT),
                Fate::Zero => None,
            };
            if let Some(flags) = flags {
                push(&mut lines, Line { start, end, flags });
            }
            place += (end - start) / PAGE_BYTES;
            start = end;
        }
    }
    lines
}

/// A page of a family.
#[derive(Clone, Copy)]
struct FamilyPage {
    address: u64,
    rank: u16,
    fate: Fate,
}

/// All pages of a family.
fn family_pages(runs: &[SharedRun], copied: &Copied) -> impl Iterator<Item = FamilyPage> {
    let fates = copied.fates.iter();
    let fates = fates.flat_map(|(range, fate)| range.clone().map(|_| *fate));
    let pages = runs.iter();
    let pages = pages.flat_map(|run| run.addresses().map(|address| (address, run.rank)));
    pages.zip(fates).map(|((address, rank), fate)| FamilyPage {
        address,
        rank,
        fate,
    })
}

/// What a member finds in the common folder.
fn inherited_lines(runs: &[SharedRun], copied: &Copied, held: &[Held]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut held = held.iter().peekable();
    for page in family_pages(runs, copied) {
        while held.next_if(|run| run.end <= page.address).is_some() {}
        let is_held = held
            .peek()
            .is_some_and(|run| run.start <= page.address && run.rank == page.rank);
        if is_held && page.fate != Fate::Zero {
            push(
                &mut lines,
                Line {
                    start: page.address,
                    end: page.address + PAGE_BYTES,
                    flags: PARENT,
                },
            );
        }
    }
    lines
}

/// A member's pagemap in the common folder: every page of the family's file, and what the
/// earlier dump has. `earlier` are pages of its own that are to be found there.
fn common_lines(runs: &[SharedRun], copied: &Copied, held: &[Held], earlier: &[Line]) -> Vec<Line> {
    let page_line = |start, flags| Line {
        start,
        end: start + PAGE_BYTES,
        flags,
    };
    let mut lines: Vec<Line> = Vec::new();
    let mut earlier = earlier
        .iter()
        .flat_map(|line| (line.start..line.end).step_by(4096))
        .peekable();
    let mut pages = family_pages(runs, copied).peekable();
    let mut group = Vec::new();
    while let Some(first) = pages.next() {
        let address = first.address;
        group.clear();
        group.push(first);
        while let Some(next) = pages.next_if(|next| next.address == address) {
            group.push(next);
        }
        while let Some(own) = earlier.next_if(|own| *own < address) {
            push(&mut lines, page_line(own, PARENT));
        }
        let wanted = rank_at(held, address);
        let wanted_fate = group
            .iter()
            .find(|page| Some(page.rank) == wanted)
            .map(|page| page.fate);
        let own = earlier.next_if_eq(&address).is_some();
        if own || wanted_fate == Some(Fate::Unchanged) {
            push(&mut lines, page_line(address, PARENT));
        }
        let mut stepped_over = wanted_fate == Some(Fate::Written);
        for page in &group {
            if page.fate != Fate::Written {
                continue;
            }
            stepped_over &= Some(page.rank) != wanted;
            if stepped_over {
                lines.push(page_line(address - PAGE_BYTES, PRESENT));
            } else {
                push(&mut lines, page_line(address, PRESENT));
            }
        }
    }
    for own in earlier {
        push(&mut lines, page_line(own, PARENT));
    }
    lines
}

/// The lines that lead to the folder below.
fn in_parent(lines: &[Line]) -> Vec<Line> {
    lines
        .iter()
        .copied()
        .filter(|line| line.flags == PARENT)
        .collect()
}

/// Two ascending lists without an address in common, as one.
fn merged(one: &[Line], other: &[Line]) -> Vec<Line> {
    let mut lines = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    loop {
        let next = match (one.peek(), other.peek()) {
            (Some(a), Some(b)) if b.start < a.start => other.next(),
            (Some(_), _) => one.next(),
            (None, _) => other.next(),
        };
        match next {
            Some(line) => push(&mut lines, *line),
            None => return lines,
        }
    }
}

/// Writes a pagemap whose lines name pages of `pages-<pages_id>` beside it.
fn write_pagemap(
    folder: &ImageFolder,
    level: Level,
    name: (Kind, u64),
    pages_id: u32,
    lines: &[Line],
) -> Result<()> {
    let mut writer = folder.writer_in(level, name.0, name.1)?;
    writer.entry(&proto::PagemapHead { pages_id })?;
    for line in lines {
        // More pages than 32 bits can count are split.
        let longest = u64::from(u32::MAX) * PAGE_BYTES;
        let mut start = line.start;
        while start < line.end {
            let end = line.end.min(start.saturating_add(longest));
            writer.entry(&pagemap_entry(
                start,
                (end - start) / PAGE_BYTES,
                line.flags,
            ))?;
            start = end;
        }
    }
    folder.record(writer.finish()?);
    Ok(())
}

/// The entry of a run of pages.
fn pagemap_entry(vaddr: u64, pages: u64, flags: u32) -> proto::PagemapEntry {
    // Restorers before 4.2 read the 32-bit count, later ones the other: both are written.
    proto::PagemapEntry {
        vaddr,
        compat_nr_pages: u32::try_from(pages).unwrap_or(u32::MAX),
        nr_pages: Some(pages),
        flags: Some(flags),
        in_parent: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE_BYTES;

    fn shared(pages: &[(u64, u16)]) -> Vec<SharedRun> {
        let page = |&(address, rank)| SharedRun {
            start: address * P,
            end: (address + 1) * P,
            source: 0,
            rank,
            lazy: true,
        };
        pages.iter().map(page).collect()
    }

    fn copied(fates: &[Fate]) -> Copied {
        Copied {
            file: crate::image::framing::ImageFile {
                name: String::new(),
                size_bytes: 0,
                crc32: 0,
            },
            page_crcs: Vec::new(),
            fates: (0..)
                .zip(fates)
                .map(|(at, fate)| (at..at + 1, *fate))
                .collect(),
        }
    }

    fn held(runs: &[(u64, u64, u16)]) -> Vec<Held> {
        let held = |&(start, end, rank)| Held {
            start: start * P,
            end: end * P,
            rank,
        };
        runs.iter().map(held).collect()
    }

    fn told(lines: &[Line]) -> Vec<(u64, u64, u32)> {
        lines
            .iter()
            .map(|line| (line.start / P, line.end / P, line.flags))
            .collect()
    }

    #[test]
    fn a_member_steps_over_pages_that_are_not_its_own() {
        let pages = shared(&[(1, 0), (2, 0), (2, 1), (3, 0)]);
        let all = copied(&[Fate::Written; 4]);
        let usual = common_lines(&pages, &all, &held(&[(1, 4, 0)]), &[]);
        assert_eq!(told(&usual), [(1, 3, PRESENT), (2, 4, PRESENT)]);
        let other = common_lines(&pages, &all, &held(&[(2, 3, 1)]), &[]);
        // The page of rank 0 stands under the address before; four pages are named in order.
        assert_eq!(told(&other), [(1, 2, PRESENT), (1, 4, PRESENT)]);
        let places: u64 = other.iter().map(Line::pages).sum();
        assert_eq!(places, 4);
    }

    #[test]
    fn what_an_earlier_dump_has_is_found_first() {
        let pages = shared(&[(1, 0), (2, 0), (3, 0)]);
        let some = copied(&[Fate::Written, Fate::Unchanged, Fate::Zero]);
        let own = [Line {
            start: P,
            end: 2 * P,
            flags: PARENT,
        }];
        let lines = common_lines(&pages, &some, &held(&[(2, 4, 0)]), &own);
        assert_eq!(
            told(&lines),
            [(1, 2, PARENT), (1, 2, PRESENT), (2, 3, PARENT)]
        );
        let inherited = inherited_lines(&pages, &some, &held(&[(2, 4, 0)]));
        assert_eq!(told(&inherited), [(2, 3, PARENT)]);
    }
}
