//! One folder on the disk, and the files in it.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoResultExt, Result};
use crate::image::catalogue::Kind;
use crate::image::framing::Image;
use crate::image::opened::{OpenedFolder, PARENT_NAME};

/// Device and inode.
pub type Inode = (u64, u64);

/// What a folder is to the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is the one.
    Top,
    /// Pages that its tasks share.
    Common,
    /// An earlier dump that it builds on.
    Earlier,
}

/// A file as its folder knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Its length.
    pub size_bytes: u64,
    /// What it takes on the disk.
    pub allocated_bytes: u64,
    /// Which file it is.
    pub inode: Inode,
    /// Whether it is a plain file.
    pub is_regular: bool,
}

/// A folder.
#[derive(Debug)]
pub struct Level {
    /// Where it is.
    pub path: PathBuf,
    /// What stands in front of names in messages: nothing, or `parent/` as often as need be.
    pub prefix: String,
    /// What it is for.
    pub role: Role,
    /// All files by name; subfolders are left out.
    pub files: BTreeMap<String, FileFacts>,
    /// Which folder it is.
    pub inode: Inode,
    opened: OpenedFolder,
}

impl Level {
    /// Opens the folder that was asked for.
    ///
    /// # Errors
    /// Opening and listing it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::listed(OpenedFolder::open(path)?, String::new(), Role::Top)
    }

    /// The folder in which the pages are that are not in this one; `None` at the end of the chain.
    ///
    /// # Errors
    /// Opening and listing it, also when it is a link to nowhere.
    pub fn below(&self) -> Result<Option<Self>> {
        let path = self.path.join(PARENT_NAME);
        let Ok(link) = path.symlink_metadata() else {
            return Ok(None);
        };
        let Some(below) = self.opened.below()? else {
            return Err(io::Error::from(io::ErrorKind::NotFound)).at("follow the link", path);
        };
        let prefix = format!("{}{PARENT_NAME}/", self.prefix);
        let mut level = Self::listed(below, prefix, Role::Earlier)?;
        let has_inventory = level.facts(Kind::Inventory, 0).is_some();
        if !link.is_symlink() && !has_inventory {
            level.role = Role::Common;
        }
        Ok(Some(level))
    }

    fn listed(opened: OpenedFolder, prefix: String, role: Role) -> Result<Self> {
        let path = opened.path().to_owned();
        let mut files = BTreeMap::new();
        for entry in path.read_dir().at("list", path.as_path())? {
            let entry = entry.at("list", path.as_path())?;
            // No image has a name that is not text.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // What links lead to counts.
            match std::fs::metadata(entry.path()) {
                Ok(metadata) if !metadata.is_dir() => files.insert(name, facts(&metadata)),
                _ => continue,
            };
        }
        let inode = inode(&path.metadata().at("stat", path.as_path())?);
        Ok(Self {
            path,
            prefix,
            role,
            files,
            inode,
            opened,
        })
    }

    /// An image of this folder.
    #[must_use]
    pub fn facts(&self, kind: Kind, id: u64) -> Option<&FileFacts> {
        self.files.get(&kind.file_name(id))
    }

    /// How a file of this folder is called in messages.
    #[must_use]
    pub fn shown(&self, kind: Kind, id: u64) -> String {
        format!("{}{}", self.prefix, kind.file_name(id))
    }

    /// Opens a plain file.
    ///
    /// # Errors
    /// Those of openat(2); a file of another kind.
    pub fn file(&self, name: &str) -> Result<File> {
        let path = || self.path.join(name);
        let file = self.opened.file(name)?;
        let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let file = file.at("open", path())?;
        if !file.metadata().at("stat", path())?.is_file() {
            let what = io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file");
            return Err(what).at("read", path());
        }
        Ok(file)
    }

    /// An image of this folder.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn image(&self, name: &str) -> std::result::Result<Image, String> {
        let file = self.file(name);
        let image = file.and_then(|file| Image::from_file(&file, &self.path.join(name)));
        image.map_err(|error| reason(&error))
    }
}

/// What went wrong, without the path.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::Image { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

fn facts(metadata: &Metadata) -> FileFacts {
    const BLOCK_BYTES: u64 = 512;
    FileFacts {
        size_bytes: metadata.size(),
        allocated_bytes: metadata.blocks() * BLOCK_BYTES,
        inode: inode(metadata),
        is_regular: metadata.is_file(),
    }
}
