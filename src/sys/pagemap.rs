//! `/proc/PID/pagemap`: which pages are worth looking at, and where they live.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

/// What is known of a range of pages (`PAGE_IS_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Categories(pub u64);

impl Categories {
    /// File-backed or shared memory, not a private copy.
    pub const FILE: Categories = Categories(1 << 2);
    /// In memory.
    pub const PRESENT: Categories = Categories(1 << 3);
    /// In swap.
    pub const SWAPPED: Categories = Categories(1 << 4);
    /// The one zero page of the system.
    pub const PFNZERO: Categories = Categories(1 << 5);
    /// A transparent or explicit huge page.
    pub const HUGE: Categories = Categories(1 << 6);
    /// A guard page (`MADV_GUARD_INSTALL`), since Linux 6.15.
    pub const GUARD: Categories = Categories(1 << 8);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Categories) -> Categories {
        Categories(self.0 | other.0)
    }

    /// Whether all of `other` hold.
    #[must_use]
    pub const fn has(self, other: Categories) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A run of pages that agree in the categories asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PageRegion {
    /// First byte.
    pub start: u64,
    /// First byte behind.
    pub end: u64,
    /// What they have in common.
    pub categories: Categories,
}

/// Which pages a scan reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// All of these must hold …
    pub required: Categories,
    /// … none of these …
    pub excluded: Categories,
    /// … and at least one of these, if any is given.
    pub any_of: Categories,
    /// These are told apart in the answer.
    pub report: Categories,
}

#[repr(C)]
struct PmScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `PAGEMAP_SCAN` over `start..end`, appended to `regions` in ascending order.
///
/// # Errors
/// `ENOTTY` a kernel before 6.7; `ESRCH` the address space is gone; `EINVAL` a category the
/// kernel does not know.
///
/// # Sources
/// Documentation/admin-guide/mm/pagemap.rst.
pub fn scan(
    pagemap: &File,
    start: u64,
    end: u64,
    query: Query,
    regions: &mut Vec<PageRegion>,
) -> Result<(), Errno> {
    const BATCH: usize = 1024;
    let mut batch = [PageRegion::default(); BATCH];
    let mut from = start;
    while from < end {
        let mut argument = PmScanArg {
            size: size_of::<PmScanArg>() as u64,
            flags: 0,
            start: from,
            end,
            walk_end: 0,
            vec: batch.as_mut_ptr() as u64,
            vec_len: BATCH as u64,
            max_pages: 0,
            category_inverted: query.excluded.0,
            category_mask: query.required.0 | query.excluded.0,
            category_anyof_mask: query.any_of.0,
            return_mask: query.report.0,
        };
        let number = nix::request_code_readwrite!(b'f', 16, size_of::<PmScanArg>());
        // SAFETY: the argument is live and describes the batch buffer, which is live too.
        let answer = unsafe { libc::ioctl(pagemap.as_raw_fd(), number, &raw mut argument) };
        let filled = usize::try_from(Errno::result(answer)?)
            .unwrap_or(0)
            .min(BATCH);
        for region in &batch[..filled] {
            match regions.last_mut() {
                Some(last) if last.end == region.start && last.categories == region.categories => {
                    last.end = region.end
                }
                _ => regions.push(*region),
            }
        }
        // With room left it has got to the end. What it tells then is where it was when a buffer
        // of its own was full, half as many regions ago.
        if filled < BATCH || argument.walk_end <= from {
            break;
        }
        from = argument.walk_end;
    }
    Ok(())
}

/// What `/proc/PID/pagemap` says of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry(u64);

impl PageEntry {
    /// Bits of an entry.
    pub const BYTES: u64 = 8;

    const PLACE: u64 = (1 << 55) - 1;
    const EXCLUSIVE: u64 = 1 << 56;
    const SWAPPED: u64 = 1 << 62;
    const PRESENT: u64 = 1 << 63;

    /// The frame or the swap slot that holds the page, as one number below 2⁵⁶: pages with
    /// equal homes at one moment are the same page. `None` for a page that is in neither, is
    /// mapped by nobody else, or whose frame the kernel does not show (`CAP_SYS_ADMIN`).
    #[must_use]
    pub fn shared_home(self) -> Option<u64> {
        let place = self.0 & Self::PLACE;
        if self.0 & Self::SWAPPED != 0 {
            return Some(place | (1 << 55));
        }
        let shared = self.0 & Self::PRESENT != 0 && self.0 & Self::EXCLUSIVE == 0;
        (shared && place != 0).then_some(place)
    }
}

impl PageEntry {
    /// Whether the page is in memory, but not told in which frame (`CAP_SYS_ADMIN`).
    #[must_use]
    pub fn hides_frame(self) -> bool {
        let in_memory = self.0 & Self::PRESENT != 0 && self.0 & Self::SWAPPED == 0;
        in_memory && self.0 & Self::PLACE == 0
    }
}

/// Appends the entries of the pages `start..end`, both in bytes.
///
/// # Errors
/// `ESRCH` the address space is gone.
///
/// # Sources
/// Documentation/admin-guide/mm/pagemap.rst.
pub fn entries(
    pagemap: &File,
    start: u64,
    end: u64,
    found: &mut Vec<PageEntry>,
) -> Result<(), Errno> {
    const PAGE: u64 = 4096;
    const BATCH_BYTES: usize = 64 * 1024;
    let mut buffer = [0; BATCH_BYTES];
    let (mut at, last) = (
        start / PAGE * PageEntry::BYTES,
        end / PAGE * PageEntry::BYTES,
    );
    while at < last {
        let wanted = usize::try_from(last - at)
            .unwrap_or(BATCH_BYTES)
            .min(BATCH_BYTES);
        let read = pagemap.read_exact_at(&mut buffer[..wanted], at);
        read.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        found.extend(
            buffer[..wanted]
                .chunks_exact(8)
                .map(|word| {
                    word.iter()
                        .rev()
                        .fold(0, |all, byte| all << 8 | u64::from(*byte))
                })
                .map(PageEntry),
        );
        at += wanted as u64;
    }
    Ok(())
}
