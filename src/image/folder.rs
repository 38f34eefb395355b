//! The folder the images go to: staged out of sight, moved into place at the end.
//!
//! ```text
//!  DIR/                       opened once; everything below is reached through its descriptor
//!    .dedump-4120-9f3a/       staging, locked while its dumper lives
//!      core-7.img …           made with O_EXCL | O_NOFOLLOW, readable by the owner alone
//!      parent/                pages that several tasks share, if there are any
//!    dump.log                 not ours, stays
//! ```
//!
//! [`ImageFolder::commit`] moves every image into DIR, `inventory.img` last: a folder with an
//! inventory is a complete dump. Without a commit nothing but the staging folder was touched,
//! and that goes with the [`ImageFolder`]. What a killed dumper leaves is removed by the next
//! dump into the same folder.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::catalogue::Kind;
use super::framing::{ImageFile, ImageWriter};
use super::opened::PARENT_NAME;
use crate::error::{Error, IoResultExt, Result};

const STAGING_PREFIX: &str = ".dedump-";
/// The text in the folder of common pages.
const NOTE_NAME: &str = "README";

/// Which folder of a dump a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The folder itself.
    Top,
    /// The folder of the pages that several tasks share: where restore looks for pages that
    /// are not in the folder itself.
    Common,
}

impl Level {
    /// The name of an image, as seen from the folder itself.
    #[must_use]
    pub fn name_of(self, kind: Kind, id: u64) -> String {
        self.path_of(&kind.file_name(id))
    }

    fn path_of(self, name: &str) -> String {
        match self {
            Level::Top => name.to_owned(),
            Level::Common => format!("{PARENT_NAME}/{name}"),
        }
    }
}

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
        self.writer_in(Level::Top, kind, id)
    }

    /// The same in one of the folders.
    ///
    /// # Errors
    /// Making or writing the file.
    pub fn writer_in(&self, level: Level, kind: Kind, id: u64) -> Result<ImageWriter> {
        let file = self.raw_file(level, kind, id)?;
        ImageWriter::start(file, kind, self.shown(&level.name_of(kind, id)))
    }

    /// Makes the folder of [`Level::Common`].
    ///
    /// # Errors
    /// Those of mkdirat(2).
    pub fn make_common(&self) -> Result<()> {
        io(mkdirat(self.staging.as_fd(), PARENT_NAME, Mode::S_IRWXU))
            .at("make folder", self.shown(PARENT_NAME))?;
        self.contents().names.push(PARENT_NAME.to_owned());
        Ok(())
    }

    /// Puts a text for whoever looks into the folder of [`Level::Common`].
    ///
    /// # Errors
    /// Writing it.
    pub fn note_in_common(&self, text: &str) -> Result<()> {
        let name = Level::Common.path_of(NOTE_NAME);
        let file = self.new_file(name.clone())?;
        (&file)
            .write_all(text.as_bytes())
            .at("write", self.shown(&name))
    }

    /// Names the earlier dump in which restore finds what is neither in the folder itself nor,
    /// with `behind_common`, in the one of [`Level::Common`].
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub fn link_earlier(&self, behind_common: bool, earlier: &Path) -> Result<()> {
        let (level, target) = if behind_common && earlier.is_relative() {
            (Level::Common, Path::new("..").join(earlier))
        } else if behind_common {
            (Level::Common, earlier.to_owned())
        } else {
            (Level::Top, earlier.to_owned())
        };
        let name = level.path_of(PARENT_NAME);
        io(symlinkat(&target, self.staging.as_fd(), name.as_str()))
            .at("link", self.shown(&name))?;
        self.contents().names.push(name);
        Ok(())
    }

    /// Starts a file without framing.
    ///
    /// # Errors
    /// Making the file.
    pub fn raw_file(&self, level: Level, kind: Kind, id: u64) -> Result<File> {
        self.new_file(level.name_of(kind, id))
    }

    fn new_file(&self, name: String) -> Result<File> {
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = io(openat(self.staging.as_fd(), name.as_str(), flags, mode))
            .at("create", self.shown(&name))?;
        self.contents().names.push(name);
        Ok(File::from(file))
    }

    /// A file without a name, on the disk of the folder where that can do it.
    ///
    /// # Errors
    /// Making it.
    pub fn nameless_file(&self) -> Result<File> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = openat(self.staging.as_fd(), ".", flags, mode).or_else(|_| {
            use nix::sys::memfd::{MFdFlags, memfd_create};
            memfd_create("dedump", MFdFlags::MFD_CLOEXEC)
        });
        Ok(File::from(io(file).at("create a file in", self.shown(""))?))
    }

    /// Whether an image was started.
    #[must_use]
    pub fn has(&self, level: Level, image: (Kind, u64)) -> bool {
        let name = level.name_of(image.0, image.1);
        self.contents().names.contains(&name)
    }

    /// Gives an image a second name.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn link(&self, level: Level, existing: (Kind, u64), new: (Kind, u64)) -> Result<()> {
        let existing = level.name_of(existing.0, existing.1);
        let name = level.name_of(new.0, new.1);
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
        if let Some(name) = file.name.strip_prefix(&self.shown("")) {
            file.name = name.to_owned();
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
            let opened = openat(self.staging.as_fd(), name.as_str(), flags, Mode::empty());
            if matches!(opened, Err(Errno::ELOOP)) {
                // The link to an earlier dump goes with its folder.
                continue;
            }
            let file = io(opened).at("open", self.shown(name))?;
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
        // The folder of the common pages is moved as a whole.
        names.retain(|name| !name.contains('/'));
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
                    let _ = renameat(
                        self.dir.as_fd(),
                        name.as_str(),
                        self.staging.as_fd(),
                        name.as_str(),
                    );
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
            let removed = unlinkat(self.dir.as_fd(), name.as_str(), UnlinkatFlags::NoRemoveDir);
            let removed = match removed {
                Err(Errno::EISDIR) => remove_images(self.dir.as_fd(), &name),
                answer => answer,
            };
            io(removed).at("remove", self.path.join(&name))?;
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
        let _ = remove_images(self.dir.as_fd(), &self.staging_name);
        if self.made && !self.committed {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// Files beside the images, such as statistics, do not make a folder one that holds a dump.
fn is_image(name: &str) -> bool {
    let kind = Kind::of_file_name(name);
    name == PARENT_NAME || !matches!(kind, None | Some((Kind::Stats | Kind::IrmapCache, _)))
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
    let _ = remove_images(dir.as_fd(), name);
    drop(staging);
}

/// Removes a folder with the images in it, and the folder of common pages in that; anything
/// else stays, and the folder with it.
fn remove_images(dir: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut folder = Dir::openat(dir, name, flags, Mode::empty())?;
    let entries: Vec<_> = folder.iter().collect::<nix::Result<_>>()?;
    for entry in entries {
        let bytes = entry.file_name();
        let Ok(name) = bytes.to_str() else { continue };
        let is_ours = Kind::of_file_name(name).is_some() || name == NOTE_NAME;
        if name == PARENT_NAME && entry.file_type() == Some(Type::Directory) {
            remove_images(folder.as_fd(), name)?;
        } else if is_ours || name == PARENT_NAME {
            unlinkat(folder.as_fd(), bytes, UnlinkatFlags::NoRemoveDir)?;
        }
    }
    unlinkat(dir, name, UnlinkatFlags::RemoveDir)
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
        let top = Level::Top;
        folder.link(top, (Kind::Core, 7), (Kind::Core, 8)).unwrap();
        folder.make_common().unwrap();
        folder.note_in_common("note").unwrap();
        folder.link_earlier(true, "../old".as_ref()).unwrap();
        folder.raw_file(Level::Common, Kind::Pages, 1).unwrap();
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
            [
                "core-7.img",
                "core-8.img",
                "dump.log",
                "inventory.img",
                "parent"
            ]
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
        std::fs::create_dir(dir.path().join("parent")).unwrap();
        std::fs::write(dir.path().join("parent/pagemap-9.img"), "old").unwrap();
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
            [
                "core-7.img",
                "core-8.img",
                "inventory.img",
                "notes.txt",
                "parent"
            ]
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
