//! A folder of images, opened to be read: one level of a chain of incremental dumps.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::catalogue::Kind;
use super::framing::Image;
use crate::error::{IoResultExt, Result};

/// The name under which a folder has the earlier dump it builds on.
pub const PARENT_NAME: &str = "parent";

/// A folder of images.
#[derive(Debug)]
pub struct OpenedFolder {
    dir: OwnedFd,
    path: PathBuf,
}

impl OpenedFolder {
    /// Opens the folder `path`.
    ///
    /// # Errors
    /// A folder that cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(path, flags, Mode::empty()).map_err(std::io::Error::from);
        Ok(Self {
            dir: dir.at("open the folder", path)?,
            path: path.to_owned(),
        })
    }

    /// The folder below, if there is one: the dump that this one builds on.
    ///
    /// # Errors
    /// A folder that cannot be opened.
    pub fn below(&self) -> Result<Option<Self>> {
        let path = self.path.join(PARENT_NAME);
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        match openat(self.dir.as_fd(), PARENT_NAME, flags, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { dir, path })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(std::io::Error::from(errno)).at("open the earlier dump", path),
        }
    }

    /// The same folder once more.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> Result<Self> {
        let dir = self.dir.try_clone();
        Ok(Self {
            dir: dir.at("open the folder", self.path.as_path())?,
            path: self.path.clone(),
        })
    }

    /// Where the folder is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its images, in the order of kinds and numbers, and of everything else.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn names(&self) -> Result<(Vec<String>, Vec<String>)> {
        let mut images = Vec::new();
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.path).at("read", self.path.as_path())? {
            let name = entry.at("read", self.path.as_path())?.file_name();
            let name = name.to_string_lossy().into_owned();
            match Kind::of_file_name(&name) {
                Some((kind, id)) => images.push((kind as usize, id, name)),
                None => others.push(name),
            }
        }
        images.sort();
        others.sort();
        Ok((images.into_iter().map(|(.., name)| name).collect(), others))
    }

    /// A file of the folder, if it is there.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn file(&self, name: &str) -> Result<Option<File>> {
        // Not blocking: a FIFO of this name must not stop us.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        match openat(self.dir.as_fd(), name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(std::io::Error::from(errno)).at("open", self.path.join(name)),
        }
    }

    /// An image of the folder, by the name of its file, if it is there.
    ///
    /// # Errors
    /// A file that cannot be read, or is no image.
    pub fn image_named(&self, name: &str) -> Result<Option<Image>> {
        let file = self.file(name)?;
        file.map(|file| Image::from_file(&file, &self.path.join(name)))
            .transpose()
    }

    /// An image of the folder, if it is there.
    ///
    /// # Errors
    /// A file that cannot be read, or is no image.
    pub fn image(&self, kind: Kind, id: u64) -> Result<Option<Image>> {
        self.image_named(&kind.file_name(id))
    }
}
