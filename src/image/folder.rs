//! TEMP
use super::catalogue::Kind;
use super::framing::{ImageFile, ImageWriter};
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
    pub fn writer(&self, kind: Kind, id: u64) -> Result<ImageWriter> {
        let file = self.raw_file(kind, id)?;
        let name = kind.file_name(id);
        let mut buf = Vec::new();
        if name != "inventory.img" {
            buf.extend_from_slice(&0x54564319u32.to_le_bytes());
        }
        buf.extend_from_slice(&kind.magic().to_le_bytes());
        Ok(ImageWriter { file, name, buf })
    }
    /// temp
    pub fn raw_file(&self, kind: Kind, id: u64) -> Result<File> {
        let name = kind.file_name(id);
        File::create(self.dir.join(&name)).at("create", name)
    }
    /// temp
    pub fn link(&self, a: (Kind, u64), b: (Kind, u64)) -> Result<()> {
        std::fs::hard_link(
            self.dir.join(a.0.file_name(a.1)),
            self.dir.join(b.0.file_name(b.1)),
        )
        .at("link", b.0.file_name(b.1))
    }
    /// temp
    pub fn record(&self, _f: ImageFile) {}
}
