//! The vdso of a task that criu has restored under another kernel.
//!
//! Programs hold addresses of its functions, so there criu leaves the vdso of the images in its
//! place, as ordinary memory whose functions jump to those of the running kernel. That one's vdso
//! lies elsewhere, with a mark over its ELF header. Every restore makes this anew where it is
//! needed: the marked vdso and its data are left out, and what stands in the old place counts as
//! what it stands for.

use super::memory::{Backing, Vma};
use crate::error::Result;
use crate::proc::memory::TaskMemory;

/// What criu writes over the ELF header of the running kernel's vdso.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Where programs look for the vdso.
    vdso: u64,
    /// Where its data was.
    vvar: u64,
}

impl Mark {
    /// Room for all words of a mark.
    const BYTES: usize = 40;
    /// `criuvdso`, `criuvDSO` and `CRIUvDSO`: the first one has no word for the data.
    const SIGNATURES: [u64; 3] = [
        0x6f73_6476_7569_7263,
        0x4f53_4476_7569_7263,
        0x4f53_4476_5549_5243,
    ];

    /// Makes sense of the first bytes of a vdso; `None` for one that is in use itself.
    fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let word = |index: usize| {
            let word = bytes.as_chunks::<8>().0[index];
            u64::from_le_bytes(word)
        };
        let version = Self::SIGNATURES.iter().position(|one| *one == word(0))?;
        Some(Self {
            vdso: word(1),
            vvar: if version == 0 { u64::MAX } else { word(3) },
        })
    }
}

/// Takes the vdso of a running kernel that only serves another one out of the mappings.
///
/// # Errors
/// Reading the memory.
pub(super) fn leave_out_served(vmas: &mut Vec<Vma>, memory: &TaskMemory) -> Result<()> {
    let mut marked = Vec::new();
    for vma in vmas.iter().filter(|vma| vma.backing == Backing::Vdso) {
        let mapping = &vma.smap.mapping;
        let mut bytes = [0; Mark::BYTES];
        memory.read(mapping.start, &mut bytes)?;
        if let Some(mark) = Mark::parse(&bytes) {
            marked.push((mapping.start, mapping.end, mark));
        }
    }
    for (start, end, mark) in marked {
        vmas.retain(|vma| {
            let mapping = &vma.smap.mapping;
            // Its data was moved along with it.
            let is_data =
                vma.backing == Backing::Vvar && (mapping.end == start || mapping.start == end);
            mapping.start != start && !is_data
        });
        for vma in vmas.iter_mut() {
            match vma.smap.mapping.start {
                place if place == mark.vdso => vma.backing = Backing::Vdso,
                place if place == mark.vvar => vma.backing = Backing::Vvar,
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_all_versions_are_known() {
        let bytes = |signature: &[u8; 8]| {
            let mut bytes = [0; Mark::BYTES];
            bytes[..8].copy_from_slice(signature);
            bytes[8..16].copy_from_slice(&7_u64.to_le_bytes());
            bytes[24..32].copy_from_slice(&9_u64.to_le_bytes());
            Mark::parse(&bytes).map(|mark| (mark.vdso, mark.vvar))
        };
        assert_eq!(bytes(b"CRIUvDSO"), Some((7, 9)));
        assert_eq!(bytes(b"criuvDSO"), Some((7, 9)));
        assert_eq!(bytes(b"criuvdso"), Some((7, u64::MAX)));
        assert_eq!(bytes(b"\x7fELF\x02\x01\x01\0"), None);
    }
}
