//! TEMP
use crate::error::*;
use std::fs::File;
use std::io::Write;
/// temp
pub struct ImageWriter {
    pub(crate) file: File,
    pub(crate) name: String,
    pub(crate) buf: Vec<u8>,
}
impl ImageWriter {
    /// temp
    pub fn entry<M: prost::Message>(&mut self, m: &M) -> Result<()> {
        self.buf
            .extend_from_slice(&(m.encoded_len() as u32).to_le_bytes());
        m.encode(&mut self.buf).unwrap();
        Ok(())
    }
    /// temp
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.buf.extend_from_slice(bytes);
        Ok(())
    }
    /// temp
    pub fn finish(mut self) -> Result<ImageFile> {
        self.file
            .write_all(&self.buf)
            .at("write", self.name.as_str())?;
        Ok(ImageFile {
            name: self.name,
            size_bytes: 0,
            crc32: 0,
        })
    }
}
/// temp
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ImageFile {
    pub name: String,
    pub size_bytes: u64,
    pub crc32: u32,
}
