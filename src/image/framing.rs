//! How entries stand in an image.
//!
//! ```text
//!  0        4        8
//!  ┌────────┬────────┬────────┬──────────────┬─ ─ ─ ─ ─ ─ ─┬────────┬─ ─
//!  │ common │ kind's │ length │ entry        │ raw payload │ length │ …
//!  │ magic  │ magic  │ (u32)  │ (protobuf)   │ (some kinds)│        │
//!  └────────┴────────┴────────┴──────────────┴─ ─ ─ ─ ─ ─ ─┴────────┴─ ─
//! ```
//!
//! All numbers are little-endian; the end of the file ends the list. The inventory has no
//! common magic. How long a raw payload is, its entry tells.

use std::fs::File;
use std::io::{BufWriter, Write};

use prost::Message;

use super::catalogue::{COMMON_MAGIC, Head, Kind, SERVICE_MAGIC};
use crate::error::{IoResultExt, Result};

/// A finished file: what the manifest keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// CRC-32 (IEEE) of its bytes.
    pub crc32: u32,
}

/// An image being written.
#[derive(Debug)]
pub struct ImageWriter {
    out: BufWriter<File>,
    name: String,
    size_bytes: u64,
    crc: crc32fast::Hasher,
    scratch: Vec<u8>,
}

impl ImageWriter {
    /// Starts an image of some kind in an empty file.
    ///
    /// # Errors
    /// Writing.
    pub fn start(file: File, kind: Kind, name: String) -> Result<Self> {
        let mut writer = Self {
            out: BufWriter::new(file),
            name,
            size_bytes: 0,
            crc: crc32fast::Hasher::new(),
            scratch: Vec::new(),
        };
        match kind.head() {
            Head::Common => writer.raw(&COMMON_MAGIC.to_le_bytes())?,
            Head::Service => writer.raw(&SERVICE_MAGIC.to_le_bytes())?,
            Head::Own | Head::Raw => {}
        }
        if kind.head() != Head::Raw {
            writer.raw(&kind.magic().to_le_bytes())?;
        }
        Ok(writer)
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// Writing.
    pub fn entry<M: Message>(&mut self, entry: &M) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(
            &u32::try_from(entry.encoded_len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        // A Vec grows as needed: encoding into one cannot fail.
        let _ = entry.encode(&mut scratch);
        let written = self.raw(&scratch);
        self.scratch = scratch;
        written
    }

    /// Appends bytes that no protobuf describes.
    ///
    /// # Errors
    /// Writing.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.size_bytes += bytes.len() as u64;
        self.out.write_all(bytes).at("write", self.name.as_str())
    }

    /// Writes what is still buffered.
    ///
    /// # Errors
    /// Writing.
    pub fn finish(mut self) -> Result<ImageFile> {
        self.out.flush().at("write", self.name.as_str())?;
        Ok(ImageFile {
            name: self.name,
            size_bytes: self.size_bytes,
            crc32: self.crc.finalize(),
        })
    }
}

/// Why an image cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {what}")]
pub struct Damage {
    /// Where, in bytes from the start of the file.
    pub offset: usize,
    /// What is wrong.
    pub what: String,
}

/// An image being read. Trusts nothing: every length is checked against what is there.
#[derive(Debug)]
pub struct ImageReader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> ImageReader<'a> {
    /// Checks the magics.
    ///
    /// # Errors
    /// A file that is too short or of another kind.
    pub fn start(kind: Kind, bytes: &'a [u8]) -> Result<Self, Damage> {
        let mut reader = Self { bytes, offset: 0 };
        let leading = match kind.head() {
            Head::Common => Some(COMMON_MAGIC),
            Head::Service => Some(SERVICE_MAGIC),
            Head::Own | Head::Raw => None,
        };
        let own = (kind.head() != Head::Raw).then(|| kind.magic());
        for expected in [leading, own].into_iter().flatten() {
            let offset = reader.offset;
            let found = reader.word()?;
            if found != expected {
                let what = format!("magic {found:#010x} where {expected:#010x} belongs");
                return Err(Damage { offset, what });
            }
        }
        Ok(reader)
    }

    /// The next entry; `None` at the end of the file.
    ///
    /// # Errors
    /// A length beyond the end of the file, or an entry that is no such message.
    pub fn entry<M: Message + Default>(&mut self) -> Result<Option<M>, Damage> {
        if self.offset == self.bytes.len() {
            return Ok(None);
        }
        let len = self.word()? as usize;
        let offset = self.offset;
        let bytes = self.raw(len)?;
        let entry = M::decode(bytes).map_err(|error| Damage {
            offset,
            what: error.to_string(),
        })?;
        Ok(Some(entry))
    }

    /// The next `len` bytes, as they are.
    ///
    /// # Errors
    /// Fewer bytes than that.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let rest = &self.bytes[self.offset..];
        let bytes = rest.get(..len).ok_or_else(|| Damage {
            offset: self.offset,
            what: format!("{len} bytes are announced, {} are there", rest.len()),
        })?;
        self.offset += len;
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u32, Damage> {
        let bytes = self.raw(4)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u32::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::proto::PipeDataEntry;

    fn write(contents: &[Vec<u8>]) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        let mut writer =
            ImageWriter::start(file.try_clone().unwrap(), Kind::PipesData, "t".to_owned()).unwrap();
        for (pipe_id, content) in contents.iter().enumerate() {
            let entry = PipeDataEntry {
                pipe_id: u32::try_from(pipe_id).unwrap(),
                bytes: u32::try_from(content.len()).unwrap(),
                size: None,
            };
            writer.entry(&entry).unwrap();
            writer.raw(content).unwrap();
        }
        let written = writer.finish().unwrap();
        let mut bytes = Vec::new();
        std::io::Seek::rewind(&mut file).unwrap();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        assert_eq!(written.size_bytes, bytes.len() as u64);
        assert_eq!(written.crc32, crc32fast::hash(&bytes));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Damage> {
        let mut reader = ImageReader::start(Kind::PipesData, bytes)?;
        let mut contents = Vec::new();
        while let Some(entry) = reader.entry::<PipeDataEntry>()? {
            contents.push(reader.raw(entry.bytes as usize)?.to_vec());
        }
        Ok(contents)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(contents: Vec<Vec<u8>>) {
            prop_assert_eq!(read(&write(&contents)).unwrap(), contents);
        }

        #[test]
        fn damage_never_panics(contents: Vec<Vec<u8>>, at: prop::sample::Index, xor in 1_u8..) {
            let mut bytes = write(&contents);
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            let read = read(&bytes);
            prop_assert!(at >= 8 || read.is_err(), "a wrong magic was accepted");
        }

        #[test]
        fn a_cut_is_noticed_or_between_entries(contents: Vec<Vec<u8>>, at: prop::sample::Index) {
            let bytes = write(&contents);
            let cut = at.index(bytes.len());
            if let Ok(fewer) = read(&bytes[..cut]) {
                prop_assert_eq!(&fewer[..], &contents[..fewer.len()]);
            }
        }
    }
}
