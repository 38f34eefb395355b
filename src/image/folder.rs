//! The folder the images go to: staged out of sight, moved into place at the end.
//!
//! ```text
//!  DIR/                       opened once; everything below is reached through its descriptor
//!    .dedump-4120-9f3a/       staging, locked while its dumper lives
//!      core-7.img …           made with O_EXCL | O_NOFOLLOW, readable by the owner alone
//!    dump.log                 not ours, stays
//! ```
//!
//! [`ImageFolder::commit`] moves every image into DIR, `inventory.img` last: a folder with an
//! inventory is a complete dump. Without a commit nothing but the staging folder was touched,
//! and that goes with the [`ImageFolder`]. What a killed dumper leaves is removed by the next
//! dump into the same folder.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::catalogue::Kind;
use super::framing::{ImageFile, ImageWriter};
use crate::error::{Error, IoResultExt, Result};

const STAGING_PREFIX: &str = ".dedump-";

/// How images are put into their folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FolderOptions {
    /// Whether images that are there already may be replaced.
    pub overwrite: bool,
    /// Whether every file and folder is brought to the disk.
    pub sync: bool,
}

/// A folder about to hold a dump. Its methods may be called from several threads.
#[derive(Debug)]
pub struct ImageFolder {
    path: PathBuf,
    dir: OwnedFd,
    /// Locked, so that other dumpers see that it is in use.
    staging: Flock<File>,
    staging_name: String,
    options: FolderOptions,
    /// Whether DIR did not exist before.
    made: bool,
    committed: bool,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    names: Vec<String>,
    files: Vec<ImageFile>,
}

impl ImageFolder {
    /// Opens or makes the folder and a staging folder in it. Done before anything is frozen.
    ///
    /// # Errors
    /// A folder that holds images already, unless they may be overwritten; one that cannot be
    /// made or written to.
    pub fn prepare(path: &Path, options: FolderOptions) -> Result<Self> {
        let made = match std::fs::DirBuilder::new().create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            answer => answer.map(|()| true).at("make folder", path)?,
        };
        let prepared = Self::prepare_existing(path, options, made);
        if prepared.is_err() && made {
            let _ = std::fs::remove_dir(path);
        }
        prepared
    }

    fn prepare_existing(path: &Path, options: FolderOptions, made: bool) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = io(nix::fcntl::open(path, flags, Mode::empty())).at("open folder", path)?;
        if made {
            io(nix::sys::stat::fchmod(dir.as_fd(), Mode::S_IRWXU)).at("chmod", path)?;
        }
        for (name, kind) in list(&dir, path)? {
            if kind == Some(Type::Directory) && name.starts_with(STAGING_PREFIX) {
                remove_abandoned(&dir, &name);
            } else if is_image(&name) && !options.overwrite {
                return Err(Error::Refused {
                    target: path.into(),
                    what: format!("the folder holds images already ({name})"),
                    remedy: "choose another with --images-dir, or replace them with --overwrite"
                        .to_owned(),
                });
            }
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let staging_name = format!(
            "{STAGING_PREFIX}{}-{:x}",
            std::process::id(),
            now.as_nanos()
        );
        io(mkdirat(dir.as_fd(), staging_name.as_str(), Mode::S_IRWXU))
            .at("make folder", path.join(&staging_name))?;
        let opened = openat(
            dir.as_fd(),
            staging_name.as_str(),
            flags | OFlag::O_NOFOLLOW,
            Mode::empty(),
        );
        let staging = io(opened).at("open folder", path.join(&staging_name))?;
        let staging = io(
            Flock::lock(File::from(staging), FlockArg::LockExclusiveNonblock)
                .map_err(|(_, errno)| errno),
        )
        .at("lock", path.join(&staging_name))?;
        Ok(Self {
            path: path.to_owned(),
            dir,
            staging,
            staging_name,
            options,
            made,
            committed: false,
            contents: Mutex::default(),
        })
    }

    /// Starts an image.
    ///
    /// # Errors
    /// Making or writing the file.
    pub fn writer(&self, kind: Kind, id: u64) -> Result<ImageWriter> {
        ImageWriter::start(
            self.raw_file(kind, id)?,
            kind,
            self.shown(&kind.file_name(id)),
        )
    }

    /// Starts a file without framing.
    ///
    /// # Errors
    /// Making the file.
    pub fn raw_file(&self, kind: Kind, id: u64) -> Result<File> {
        let name = kind.file_name(id);
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = io(openat(self.staging.as_fd(), name.as_str(), flags, mode))
            .at("create", self.shown(&name))?;
        self.contents().names.push(name);
        Ok(File::from(file))
    }

    /// Gives an image a second name.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn link(&self, existing: (Kind, u64), new: (Kind, u64)) -> Result<()> {
        let (existing, name) = (existing.0.file_name(existing.1), new.0.file_name(new.1));
        let staging = self.staging.as_fd();
        let linked = linkat(
            staging,
            existing.as_str(),
            staging,
            name.as_str(),
            AtFlags::empty(),
        );
        io(linked).at("link", self.shown(&name))?;
        let mut contents = self.contents();
        let file = contents
            .files
            .iter()
            .find(|file| file.name == existing)
            .cloned();
        contents.files.extend(file.map(|file| ImageFile {
            name: name.clone(),
            ..file
        }));
        contents.names.push(name);
        Ok(())
    }

    /// Remembers a finished file for the manifest.
    pub fn record(&self, mut file: ImageFile) {
        if let Some(name) = Path::new(&file.name).file_name() {
            file.name = name.to_string_lossy().into_owned();
        }
        self.contents().files.push(file);
    }

    /// The files finished so far.
    #[must_use]
    pub fn files(&self) -> Vec<ImageFile> {
        self.contents().files.clone()
    }

    /// With `sync`, brings every staged file to the disk.
    ///
    /// # Errors
    /// Those of fsync(2), naming the file.
    pub fn seal(&self) -> Result<()> {
        if !self.options.sync {
            return Ok(());
        }
        for name in &self.contents().names {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file = io(openat(
                self.staging.as_fd(),
                name.as_str(),
                flags,
                Mode::empty(),
            ))
            .at("open", self.shown(name))?;
            File::from(file).sync_all().at("sync", self.shown(name))?;
        }
        self.staging.sync_all().at("sync", self.shown(""))
    }

    /// Moves every image into place, the inventory last.
    ///
    /// # Errors
    /// Those of renameat(2) and fsync(2); images that were moved already are taken back.
    pub fn commit(mut self) -> Result<()> {
        if self.options.overwrite {
            self.remove_old()?;
        }
        let mut names = self.contents().names.clone();
        names.sort_by_key(|name| name == &Kind::Inventory.file_name(0));
        for (index, name) in names.iter().enumerate() {
            let moved = renameat(
                self.staging.as_fd(),
                name.as_str(),
                self.dir.as_fd(),
                name.as_str(),
            );
            if let Err(error) = io(moved).at("move into place", self.path.join(name)) {
                for name in &names[..index] {
                    let _ = unlinkat(self.dir.as_fd(), name.as_str(), UnlinkatFlags::NoRemoveDir);
                }
                return Err(error);
            }
        }
        if self.options.sync {
            io(nix::unistd::fsync(self.dir.as_fd())).at("sync", self.path.as_path())?;
        }
        self.committed = true;
        Ok(())
    }

    fn remove_old(&self) -> Result<()> {
        let mut old: Vec<String> = list(&self.dir, &self.path)?
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| is_image(name))
            .collect();
        old.sort_by_key(|name| name != &Kind::Inventory.file_name(0));
        for name in old {
            io(unlinkat(
                self.dir.as_fd(),
                name.as_str(),
                UnlinkatFlags::NoRemoveDir,
            ))
            .at("remove", self.path.join(&name))?;
        }
        Ok(())
    }

    fn contents(&self) -> std::sync::MutexGuard<'_, Contents> {
        // Whoever panicked with the lock held left at worst a name too few.
        self.contents
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A path for messages.
    fn shown(&self, name: &str) -> String {
        self.path
            .join(&self.staging_name)
            .join(name)
            .to_string_lossy()
            .into_owned()
    }
}

impl Drop for ImageFolder {
    fn drop(&mut self) {
        for name in &self.contents().names {
            let _ = unlinkat(
                self.staging.as_fd(),
                name.as_str(),
                UnlinkatFlags::NoRemoveDir,
            );
        }
        let _ = unlinkat(
            self.dir.as_fd(),
            self.staging_name.as_str(),
            UnlinkatFlags::RemoveDir,
        );
        if self.made && !self.committed {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// Files beside the images, such as statistics, do not make a folder one that holds a dump.
fn is_image(name: &str) -> bool {
    !matches!(
        Kind::of_file_name(name),
        None | Some((Kind::Stats | Kind::IrmapCache, _))
    )
}

fn list(dir: &OwnedFd, path: &Path) -> Result<Vec<(String, Option<Type>)>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut opened = io(Dir::openat(dir.as_fd(), ".", flags, Mode::empty())).at("list", path)?;
    let mut found = Vec::new();
    for entry in opened.iter() {
        let entry = io(entry).at("list", path)?;
        found.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.file_type(),
        ));
    }
    Ok(found)
}

/// Removes the staging folder of a dumper that no longer holds its lock.
fn remove_abandoned(dir: &OwnedFd, name: &str) {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(staging) = openat(dir.as_fd(), name, flags, Mode::empty()) else {
        return;
    };
    let Ok(staging) = Flock::lock(File::from(staging), FlockArg::LockExclusiveNonblock) else {
        return;
    };
    let Ok(mut opened) = Dir::openat(staging.as_fd(), ".", flags, Mode::empty()) else {
        return;
    };
    for entry in opened.iter().flatten() {
        let _ = unlinkat(
            staging.as_fd(),
            entry.file_name(),
            UnlinkatFlags::NoRemoveDir,
        );
    }
    let _ = unlinkat(dir.as_fd(), name, UnlinkatFlags::RemoveDir);
}

fn io<T>(result: std::result::Result<T, Errno>) -> std::io::Result<T> {
    result.map_err(std::io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn fill(folder: &ImageFolder) {
        for kind in [Kind::Inventory, Kind::Core] {
            folder.record(folder.writer(kind, 7).unwrap().finish().unwrap());
        }
        folder.link((Kind::Core, 7), (Kind::Core, 8)).unwrap();
    }

    #[test]
    fn images_appear_at_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("dump.log"), "").unwrap();
        let folder = ImageFolder::prepare(
            dir.path(),
            FolderOptions {
                overwrite: false,
                sync: true,
            },
        )
        .unwrap();
        fill(&folder);
        assert!(!dir.path().join("inventory.img").exists());
        assert_eq!(folder.files().len(), 3);
        folder.seal().unwrap();
        folder.commit().unwrap();
        assert_eq!(
            names(dir.path()),
            ["core-7.img", "core-8.img", "dump.log", "inventory.img"]
        );
    }

    #[test]
    fn without_a_commit_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("made");
        fill(&ImageFolder::prepare(&made, FolderOptions::default()).unwrap());
        fill(&ImageFolder::prepare(dir.path(), FolderOptions::default()).unwrap());
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn images_are_replaced_only_on_demand() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pages-9.img"), "old").unwrap();
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let error = ImageFolder::prepare(dir.path(), FolderOptions::default()).unwrap_err();
        assert!(error.to_string().contains("--overwrite"), "{error}");
        let folder = ImageFolder::prepare(
            dir.path(),
            FolderOptions {
                overwrite: true,
                sync: false,
            },
        )
        .unwrap();
        fill(&folder);
        assert!(dir.path().join("pages-9.img").exists());
        folder.commit().unwrap();
        assert_eq!(
            names(dir.path()),
            ["core-7.img", "core-8.img", "inventory.img", "notes.txt"]
        );
    }

    #[test]
    fn what_a_dead_dumper_left_is_removed_and_a_living_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".dedump-1-1")).unwrap();
        std::fs::write(dir.path().join(".dedump-1-1/core-1.img"), "half").unwrap();
        let living = ImageFolder::prepare(dir.path(), FolderOptions::default()).unwrap();
        assert!(!dir.path().join(".dedump-1-1").exists());
        let _second = ImageFolder::prepare(dir.path(), FolderOptions::default()).unwrap();
        assert!(dir.path().join(&living.staging_name).exists());
    }
}
