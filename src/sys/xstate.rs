//! `CPUID` leaf 0xD: where the parts of an XSAVE area stand.

use std::arch::x86_64::__cpuid_count;

/// Offset of the XSAVE header, whose first word says which parts are in use.
pub const HEADER_OFFSET: usize = 512;

/// Components that images have a place for: x87, SSE, AVX, MPX, AVX-512.
pub const SAVED: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// The component of protection keys, which images have a place for, too.
pub const PKRU: u32 = 9;

/// The tiles of AMX.
pub const AMX_TILE_DATA: u32 = 18;

/// The place of one state component in the standard format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
}

/// Which components are in use, one bit each; `None` if the area is too short to tell.
#[must_use]
pub fn present(area: &[u8]) -> Option<u64> {
    let word = area.get(HEADER_OFFSET..HEADER_OFFSET + 8)?;
    Some(u64::from_ne_bytes(word.try_into().ok()?))
}

/// The components that images have a place for, one bit each.
#[must_use]
pub fn kept() -> u64 {
    SAVED
        .iter()
        .chain(&[PKRU])
        .fold(0, |bits, component| bits | 1 << component)
}

/// Where component `number` (2 and up) stands; `None` when this CPU lacks it.
#[must_use]
pub fn component(number: u32) -> Option<Component> {
    let leaf = __cpuid_count(0xd, number);
    (leaf.eax != 0).then_some(Component {
        offset: leaf.ebx as usize,
        len: leaf.eax as usize,
    })
}
