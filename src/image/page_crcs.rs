//! CRC-32 of every page that is written, in `dedump-page-crcs.img`: a later dump on top of this one need
//! not read the pages whose checksums differ. Checksums never decide that pages are equal.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::warn;

use super::catalogue::Kind;
use super::copy::Copied;
use super::folder::{ImageFolder, Level};
use super::opened::OpenedFolder;
use super::proto;
use crate::error::Result;

/// So many pages are in one entry, 64 KiB of checksums.
const ENTRY_PAGES: usize = 16 * 1024;

/// The checksums of the pages files of a folder, by pages id.
pub type PageCrcs = HashMap<u32, Arc<[u32]>>;

/// Writes the checksums of the pages files of one level, which have these pages ids.
///
/// # Errors
/// Writing.
pub fn write<'a>(
    folder: &ImageFolder,
    level: Level,
    files: impl Iterator<Item = (u32, &'a Copied)>,
) -> Result<()> {
    let mut files = files
        .filter(|(_, copied)| !copied.page_crcs.is_empty())
        .peekable();
    if files.peek().is_none() {
        return Ok(());
    }
    let mut writer = folder.writer_in(level, Kind::PageCrcs, 0)?;
    for (pages_id, copied) in files {
        for crcs in copied.page_crcs.chunks(ENTRY_PAGES) {
            writer.entry(&proto::PageCrcsEntry {
                pages_id,
                crc32s: crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect(),
            })?;
        }
    }
    folder.record(writer.finish()?);
    Ok(())
}

/// The checksums in a folder: none if it has none, as those by CRIU. Damaged ones are left alone:
/// without them everything is read.
#[must_use]
pub fn read(folder: &OpenedFolder) -> PageCrcs {
    let read = try_read(folder);
    read.unwrap_or_else(|failure| {
        warn!("{failure}: pages are compared without their checksums");
        PageCrcs::new()
    })
}

fn try_read(folder: &OpenedFolder) -> Result<PageCrcs> {
    let Some(image) = folder.image(Kind::PageCrcs, 0)? else {
        return Ok(PageCrcs::new());
    };
    let mut crcs: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in image.entries() {
        let entry = entry.and_then(|entry| entry.decode::<proto::PageCrcsEntry>());
        let entry = entry.map_err(|damage| damage.in_file(folder.path().join(image.name())))?;
        let (words, _) = entry.crc32s.as_chunks();
        let words = words.iter().map(|word| u32::from_le_bytes(*word));
        crcs.entry(entry.pages_id).or_default().extend(words);
    }
    let crcs = crcs.into_iter();
    Ok(crcs.map(|(id, crcs)| (id, crcs.into())).collect())
}
