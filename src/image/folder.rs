//! TEMP
use super::framing::ImageWriter;
use crate::error::*;
use std::fs::File;
use std::path::{Path, PathBuf};
/// temp
pub struct ImageFolder {
    dir: PathBuf,
}
impl ImageFolder {
    /// temp
    pub fn prepare(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).at("create", dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }
    /// temp
    pub fn writer(&self, name: &str, magic: u32) -> Result<ImageWriter> {
        let file = self.raw_file(name)?;
        let mut buf = Vec::new();
        if name != "inventory.img" {
            buf.extend_from_slice(&0x54564319u32.to_le_bytes());
        }
        buf.extend_from_slice(&magic.to_le_bytes());
        Ok(ImageWriter {
            file,
            name: name.to_owned(),
            buf,
        })
    }
    /// temp
    pub fn raw_file(&self, name: &str) -> Result<File> {
        File::create(self.dir.join(name)).at("create", name)
    }
}
