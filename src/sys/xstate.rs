//! `CPUID` leaf 0xD: where the parts of an XSAVE area stand.

use std::arch::x86_64::__cpuid_count;

/// Offset of the XSAVE header, whose first word says which parts are in use.
pub const HEADER_OFFSET: usize = 512;

/// The place of one state component in the standard format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
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
