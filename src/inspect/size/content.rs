//! Pages that are in the folder more than once, byte for byte.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;

use super::super::folder::Folder;
use super::super::scan::{Part, scan, spread};
use super::super::sharing::spaces;
use crate::collect::memory::PAGE_BYTES;
use crate::error::{self, IoResultExt};
use crate::image::catalogue::Kind;

const PAGE: usize = 4096;

/// What comparing all pages of a folder has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Pages in pages files.
    pub pages: u64,
    /// Of these, pages of zeros.
    pub zero_pages: u64,
    /// Pages that equal one at the same address in another task: what deduplication saves at
    /// once. Without zeros.
    pub twin_pages: u64,
    /// Further pages that equal some page anywhere. Without zeros.
    pub other_equal_pages: u64,
}

impl Content {
    /// What a dump would not hold in which zeros are left out and equal pages at one address
    /// are written once.
    #[must_use]
    pub fn could_save_bytes(&self) -> u64 {
        (self.zero_pages + self.twin_pages) * PAGE_BYTES
    }
}

/// A page of some address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Page {
    address: u64,
    crc32: u32,
    /// Where it stands, counted in pages over all files.
    place: u32,
}

/// All pages of the folder: what their checksums are, and where they stand.
struct Pages {
    files: Vec<File>,
    /// The place of the first page of each file.
    firsts: Vec<u32>,
    crcs: Vec<u32>,
    zeros: Vec<bool>,
}

/// Compares all pages of a folder, those of earlier dumps left out.
pub(super) fn compare(folder: &Folder) -> error::Result<Content> {
    let mut pages = Pages {
        files: Vec::new(),
        firsts: Vec::new(),
        crcs: Vec::new(),
        zeros: Vec::new(),
    };
    let mut known = HashMap::new();
    let mut by_name: HashMap<(usize, u32), u32> = HashMap::new();
    let mut parts = Vec::new();
    let mut next: u32 = 0;
    for (depth, level) in folder.levels.iter().enumerate() {
        if folder.is_earlier(depth) {
            break;
        }
        for (name, facts) in &level.files {
            let Some((Kind::Pages, id)) = Kind::of_file_name(name) else {
                continue;
            };
            let Ok(id) = u32::try_from(id) else { continue };
            if let Some(first) = known.get(&facts.inode) {
                by_name.insert((depth, id), *first);
                continue;
            }
            let Ok(file) = level.file(name) else { continue };
            let count = facts.size_bytes / PAGE_BYTES;
            // More than 16 TiB are not compared.
            let Some(behind) = u32::try_from(count)
                .ok()
                .and_then(|count| next.checked_add(count))
            else {
                continue;
            };
            known.insert(facts.inode, next);
            by_name.insert((depth, id), next);
            parts.push(Part {
                file: pages.files.len(),
                start: 0,
                end: count * PAGE_BYTES,
            });
            pages.files.push(file);
            pages.firsts.push(next);
            next = behind;
        }
    }
    let crc_of_zeros = crc32fast::hash(&[0; PAGE]);
    let scanned = scan(&pages.files, &parts, |_, bytes| {
        let one = |page: &[u8]| {
            let crc32 = crc32fast::hash(page);
            let is_zero = crc32 == crc_of_zeros && page.iter().all(|byte| *byte == 0);
            (crc32, is_zero)
        };
        bytes.chunks_exact(PAGE).map(one).collect::<Vec<_>>()
    });
    let scanned = scanned.at("read pages of", folder.top().path.as_path())?;
    pages.crcs.resize(next as usize, 0);
    pages.zeros.resize(next as usize, false);
    for (part, found) in scanned {
        let first = pages.firsts[part.file] as usize + place(part.start);
        for (place, (crc32, is_zero)) in (first..).zip(found) {
            pages.crcs[place] = crc32;
            pages.zeros[place] = is_zero;
        }
    }
    let zero_pages = pages.zeros.iter().filter(|is_zero| **is_zero).count() as u64;
    let path = folder.top().path.as_path();
    let twins = pages.twins(folder, &by_name).at("read pages of", path)?;
    let others = pages.equal(&twins).at("read pages of", path)?;
    Ok(Content {
        pages: u64::from(next),
        zero_pages,
        twin_pages: twins.len() as u64,
        other_equal_pages: others,
    })
}

fn place(bytes: u64) -> usize {
    usize::try_from(bytes / PAGE_BYTES).unwrap_or(usize::MAX)
}

impl Pages {
    /// Pages that equal one at the same address.
    fn twins(&self, folder: &Folder, by_name: &HashMap<(usize, u32), u32>) -> Result<HashSet<u32>> {
        let mut all = Vec::new();
        for task in spaces(folder) {
            for run in task.memory.iter().flat_map(|memory| &memory.stored) {
                let Some(first) = by_name.get(&(run.level, run.pages_id)) else {
                    continue;
                };
                let offset = place(run.offset);
                // A file that was cut ends before its pagemap does.
                let count = usize::try_from(run.pages()).unwrap_or(usize::MAX);
                let from = (*first as usize)
                    .saturating_add(offset)
                    .min(self.crcs.len());
                let to = from.saturating_add(count).min(self.crcs.len());
                for (place, address) in (from..to).zip((run.start..).step_by(PAGE)) {
                    if !self.zeros[place] {
                        all.push(Page {
                            address,
                            crc32: self.crcs[place],
                            place: u32::try_from(place).unwrap_or(u32::MAX),
                        });
                    }
                }
            }
        }
        all.sort_unstable();
        // What several tasks read from one place is one page.
        all.dedup();
        let of = |page: &Page| (page.address, page.crc32);
        let groups = all.chunk_by(|one, next| of(one) == of(next));
        let groups = groups.filter(|group| group.len() > 1);
        let groups = groups.map(|group| group.iter().map(|page| page.place).collect());
        let repeated = self.repeated(&groups.collect::<Vec<Vec<u32>>>())?;
        Ok(repeated.into_iter().collect())
    }

    /// How many pages equal another one, wherever that is, besides those that are `known` to.
    fn equal(&self, known: &HashSet<u32>) -> Result<u64> {
        let mut places: Vec<u32> = (0..)
            .zip(&self.zeros)
            .filter(|(place, is_zero)| !**is_zero && !known.contains(place))
            .map(|(place, _)| place)
            .collect();
        let crc = |place: &u32| self.crcs[*place as usize];
        places.sort_unstable_by_key(|place| (crc(place), *place));
        let groups = places.chunk_by(|one, next| crc(one) == crc(next));
        let groups: Vec<&[u32]> = groups.filter(|group| group.len() > 1).collect();
        Ok(self.repeated(&groups)?.len() as u64)
    }

    /// Which pages of groups with one checksum really equal the first of their group.
    fn repeated<G: AsRef<[u32]> + Sync>(&self, groups: &[G]) -> Result<Vec<u32>> {
        let some: Vec<&[G]> = groups.chunks(64).collect();
        let found = spread(
            &some,
            || Ok([[0; PAGE]; 2]),
            |[first, other], groups| {
                let mut repeated = Vec::new();
                for group in groups.iter().map(AsRef::as_ref) {
                    let Some((place, others)) = group.split_first() else {
                        continue;
                    };
                    self.read(*place, first)?;
                    for place in others {
                        self.read(*place, other)?;
                        if first == other {
                            repeated.push(*place);
                        }
                    }
                }
                Ok(repeated)
            },
        );
        Ok(found?.concat())
    }

    fn read(&self, place: u32, page: &mut [u8; PAGE]) -> Result<()> {
        // Files without pages begin where the next one does.
        let file = self.firsts.partition_point(|first| *first <= place) - 1;
        let offset = u64::from(place - self.firsts[file]) * PAGE_BYTES;
        self.files[file].read_exact_at(page, offset)
    }
}
