//! Where each saved page stands, down the chain of folders.
//!
//! A pagemap says which pages are in the pages file beside it and which are one folder further
//! down. The place in the file is not written anywhere: it follows from the lines before. A reader
//! goes through a pagemap once and takes the first line that covers an address; further down, lines
//! that it does not want are stepped over.

use std::collections::HashMap;
use std::rc::Rc;

use super::defect::{Defects, Effect};
use super::folder::say_damage;
use super::level::{Inode, Level};
use crate::collect::memory::PAGE_BYTES;
use crate::image::catalogue::Kind;
use crate::image::framing::{Damage, Image};
use crate::image::memory::{PARENT, PRESENT};
use crate::image::proto::{PagemapEntry, PagemapHead};

/// A line of a pagemap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// First address; in shared memory an offset.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// Whether the bytes are one folder further down.
    pub in_parent: bool,
    /// Where its bytes are in the pages file; `None` if they are not in it.
    pub offset: Option<u64>,
    /// Whether the count that restorers before 4.2 read is missing.
    pub only_new_count: bool,
}

/// One pagemap image.
#[derive(Debug)]
pub struct Pagemap {
    /// Its name, as shown.
    pub name: String,
    /// Names the pages file.
    pub pages_id: u32,
    /// Its lines, as they stand there.
    pub lines: Vec<Line>,
    /// How long the pages file has to be.
    pub pages_bytes: u64,
    /// Which file it is: tasks may have one in common.
    pub inode: Inode,
}

/// Reads one pagemap; what is damaged is said, and the rest kept.
pub(super) fn read_pagemap(
    level: &Level,
    kind: Kind,
    id: u64,
    defects: &mut Defects,
) -> Option<Pagemap> {
    let facts = *level.facts(kind, id)?;
    let name = level.shown(kind, id);
    let image = match level.image(&kind.file_name(id)) {
        Ok(image) => image,
        Err(what) => {
            defects.add(name, "", what, Effect::RestoreFails);
            return None;
        }
    };
    let mut pagemap = Pagemap {
        name,
        pages_id: 0,
        lines: Vec::new(),
        pages_bytes: 0,
        inode: facts.inode,
    };
    let read = fill(&mut pagemap, &image, defects);
    match read {
        Ok(true) => Some(pagemap),
        Ok(false) => {
            defects.add(pagemap.name, "", "it has no head", Effect::RestoreFails);
            None
        }
        Err(damage) => {
            say_damage(pagemap.name.clone(), kind, damage, defects);
            // Without a head there is no telling where the bytes are.
            (pagemap.pages_id != 0).then_some(pagemap)
        }
    }
}

/// Reads the lines; `false` if there is not even a head.
fn fill(pagemap: &mut Pagemap, image: &Image, defects: &mut Defects) -> Result<bool, Damage> {
    let mut entries = image.entries();
    let Some(head) = entries.next() else {
        return Ok(false);
    };
    pagemap.pages_id = head?.decode::<PagemapHead>()?.pages_id;
    for (number, entry) in (1..).zip(entries) {
        let entry: PagemapEntry = entry?.decode()?;
        let mut complain = |what: String, effect| {
            defects.add(&pagemap.name, format!("entry {number}"), what, effect);
        };
        let pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
        let length = pages.checked_mul(PAGE_BYTES);
        let end = length.and_then(|length| entry.vaddr.checked_add(length));
        let (Some(length), Some(end)) = (length, end) else {
            complain(
                format!(
                    "{pages} pages at {:#x} reach beyond all addresses",
                    entry.vaddr
                ),
                Effect::RestoreFails,
            );
            return Ok(true);
        };
        if pages == 0 {
            complain("it names no page".to_owned(), Effect::RestoreFails);
        }
        let old = u64::from(entry.compat_nr_pages);
        if entry.nr_pages.is_some() && old != 0 && old != pages {
            let what = format!("it counts {pages} pages for criu 4.2 and {old} for older releases");
            complain(what, Effect::WrongContent);
        }
        if !entry.vaddr.is_multiple_of(PAGE_BYTES) {
            let what = format!("address {:#x} is inside a page", entry.vaddr);
            complain(what, Effect::RestoreFails);
        }
        let flags = match entry.in_parent {
            Some(true) => PARENT,
            _ => entry.flags.unwrap_or(PRESENT),
        };
        let in_parent = flags & PARENT != 0;
        let is_here = !in_parent && flags & PRESENT != 0;
        if in_parent && flags & PRESENT != 0 {
            let what = "it says that the pages are here and in the folder below".to_owned();
            complain(what, Effect::WrongContent);
        }
        pagemap.lines.push(Line {
            start: entry.vaddr,
            end,
            in_parent,
            offset: is_here.then_some(pagemap.pages_bytes),
            only_new_count: entry.nr_pages.is_some() && old == 0,
        });
        if is_here {
            let Some(bytes) = pagemap.pages_bytes.checked_add(length) else {
                complain("no file is that long".to_owned(), Effect::RestoreFails);
                return Ok(true);
            };
            pagemap.pages_bytes = bytes;
        }
    }
    Ok(true)
}

/// Where a run of pages stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// How far down the chain.
    pub level: usize,
    /// Names the pages file there.
    pub pages_id: u32,
    /// Where in it, in bytes.
    pub offset: u64,
}

impl Stored {
    /// How many pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE_BYTES
    }
}

/// The saved pages of one task or one piece of shared memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Its pagemap in each folder, from the top; the chain ends where there is none.
    pub pagemaps: Vec<Rc<Pagemap>>,
    /// Where its pages are: ascending, disjoint.
    pub stored: Vec<Stored>,
    /// Pages that should be further down, and are not: first address, first behind, and the
    /// level that says so.
    pub missing: Vec<(u64, u64, usize)>,
}

impl Memory {
    /// How many pages were saved.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.stored.iter().map(Stored::pages).sum()
    }

    /// The runs of pages in `start..end`, cut to it.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = Stored> {
        cut(&self.stored, start, end)
    }
}

/// Pagemaps that were read already: many tasks may have one in common.
pub(super) type Known = HashMap<(usize, Inode), Option<Rc<Pagemap>>>;

/// The saved pages of a task (`Kind::Pagemap`, its pid) or of a piece of shared memory
/// (`Kind::ShmemPagemap`, its inode); `None` if the folder has no pagemap of it.
pub(super) fn read_memory(
    levels: &[Level],
    kind: Kind,
    id: u64,
    known: &mut Known,
    defects: &mut Defects,
) -> Option<Memory> {
    let mut pagemaps = Vec::new();
    for (depth, level) in levels.iter().enumerate() {
        let Some(facts) = level.facts(kind, id) else {
            break;
        };
        let pagemap = known
            .entry((depth, facts.inode))
            .or_insert_with(|| read_pagemap(level, kind, id, defects).map(Rc::new));
        match pagemap {
            Some(pagemap) => pagemaps.push(Rc::clone(pagemap)),
            None => break,
        }
    }
    if pagemaps.is_empty() {
        return None;
    }
    let mut stored = Vec::new();
    let mut missing = Vec::new();
    for (depth, pagemap) in pagemaps.iter().enumerate().rev() {
        (stored, missing) = resolved(pagemap, depth, &stored);
    }
    Some(Memory {
        pagemaps,
        stored,
        missing,
    })
}

/// The runs of one pagemap, of which `below` has what is not in its own pages file.
fn resolved(
    pagemap: &Pagemap,
    level: usize,
    below: &[Stored],
) -> (Vec<Stored>, Vec<(u64, u64, usize)>) {
    let mut stored: Vec<Stored> = Vec::new();
    let mut missing = Vec::new();
    let mut covered = 0;
    for line in &pagemap.lines {
        // What a line before this one covers, that one has answered.
        let start = line.start.max(covered);
        if start >= line.end {
            continue;
        }
        covered = line.end;
        if line.in_parent {
            let mut at = start;
            for part in cut(below, start, line.end) {
                if at < part.start {
                    missing.push((at, part.start, level));
                }
                at = part.end;
                stored.push(part);
            }
            if at < line.end {
                missing.push((at, line.end, level));
            }
        } else if let Some(offset) = line.offset {
            stored.push(Stored {
                start,
                end: line.end,
                level,
                pages_id: pagemap.pages_id,
                offset: offset + (start - line.start),
            });
        }
    }
    (stored, missing)
}

fn cut(stored: &[Stored], start: u64, end: u64) -> impl Iterator<Item = Stored> {
    let first = stored.partition_point(|run| run.end <= start);
    let inside = stored[first..]
        .iter()
        .take_while(move |run| run.start < end);
    inside.map(move |run| {
        let from = run.start.max(start);
        Stored {
            start: from,
            end: run.end.min(end),
            offset: run.offset + (from - run.start),
            ..*run
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE_BYTES;

    /// A pagemap of lines: first page, page behind, and whether it is in the parent.
    fn pagemap(lines: &[(u64, u64, bool)]) -> Pagemap {
        let mut offset = 0;
        let lines = lines.iter().map(|&(start, end, in_parent)| {
            let line = Line {
                start: start * P,
                end: end * P,
                in_parent,
                offset: (!in_parent).then_some(offset),
                only_new_count: false,
            };
            offset += if in_parent { 0 } else { line.end - line.start };
            line
        });
        Pagemap {
            name: String::new(),
            pages_id: 1,
            lines: lines.collect(),
            pages_bytes: 0,
            inode: (0, 0),
        }
    }

    /// Runs as page numbers: first, behind, level, place.
    fn told(stored: &[Stored]) -> Vec<(u64, u64, usize, u64)> {
        stored
            .iter()
            .map(|run| (run.start / P, run.end / P, run.level, run.offset / P))
            .collect()
    }

    #[test]
    fn places_follow_from_the_lines_before() {
        let (stored, missing) = resolved(&pagemap(&[(1, 3, false), (7, 8, false)]), 0, &[]);
        assert_eq!(told(&stored), [(1, 3, 0, 0), (7, 8, 0, 2)]);
        assert!(missing.is_empty());
    }

    #[test]
    fn lines_of_others_are_stepped_over() {
        // As `image/pages.rs` writes it: the first page at 2 is another member's.
        let (stored, _) = resolved(&pagemap(&[(1, 2, false), (1, 4, false)]), 1, &[]);
        assert_eq!(told(&stored), [(1, 2, 1, 0), (2, 4, 1, 2)]);
    }

    #[test]
    fn what_is_nowhere_is_missing() {
        let (below, _) = resolved(&pagemap(&[(2, 4, false)]), 1, &[]);
        let (stored, missing) = resolved(&pagemap(&[(0, 1, false), (1, 5, true)]), 0, &below);
        assert_eq!(told(&stored), [(0, 1, 0, 0), (2, 4, 1, 0)]);
        assert_eq!(missing, [(P, 2 * P, 0), (4 * P, 5 * P, 0)]);
    }
}
