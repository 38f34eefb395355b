//! The folder the images go to: staged out of sight, moved into place at the end.
//!
//! ```text
//!  DIR/                       opened once; everything below is reached through its descriptor
//!    .dedump-4120-9f3a/       staging, locked while its dumper lives
//!      core-7.img …           made with O_EXCL | O_NOFOLLOW, readable by the owner alone
//!      parent/                pages that several tasks share, if there are any
//!      aside/, then old/      images that are replaced, from their way out to the end
//!    dump.log                 not ours, stays
//! ```
//!
//! [`ImageFolder::commit`] moves every image into DIR, `inventory.img` last: a folder with an
//! inventory is a complete dump. Without a commit nothing but the staging folder was touched,
//! and that goes with the [`ImageFolder`]. Images that are replaced are set aside, inventory
//! first, and removed when the new ones are in their place; if these do not get there, the old
//! ones come back. What a killed dumper leaves is put right in the same way by the next dump
//! into the same folder.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::signal::kill;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Pid, UnlinkatFlags, geteuid, linkat, symlinkat, unlinkat};
use tracing::warn;

use super::catalogue::Kind;
use super::framing::{ImageFile, ImageWriter};
use super::opened::PARENT_NAME;
use super::trusted::{self, Folder};
use crate::error::{Error, IoResultExt, Result};

const STAGING_PREFIX: &str = ".dedump-";
/// The text beside images whose pages files belong to several tasks.
const NOTE_NAME: &str = "dedump-shared-pages.txt";
/// Where old images are while some of them are still in their place.
const ASIDE_NAME: &str = "aside";
/// The same folder once all of them are there.
const OLD_NAME: &str = "old";

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
    folder: Folder,
    /// Locked, so that other dumpers see that it is in use.
    staging: Flock<File>,
    staging_name: String,
    options: FolderOptions,
    committed: AtomicBool,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    names: BTreeSet<String>,
    files: Vec<ImageFile>,
    /// Where in `files` one is.
    place_of: HashMap<String, usize>,
}

impl Contents {
    fn add(&mut self, file: ImageFile) {
        self.place_of.insert(file.name.clone(), self.files.len());
        self.files.push(file);
    }
}

impl ImageFolder {
    /// Opens or makes the folder and a staging folder in it. Done before anything is frozen.
    ///
    /// # Errors
    /// A folder that holds images already, unless they may be overwritten; one that cannot be
    /// made or written to.
    pub fn prepare(path: &Path, options: FolderOptions) -> Result<Self> {
        let folder = trusted::make_folder(path).at("open folder", path)?;
        let staging = match Self::stage(path, &folder, options) {
            Ok(staging) => staging,
            Err(error) => {
                folder.remove_if_new();
                return Err(error);
            }
        };
        Ok(Self {
            path: path.to_owned(),
            folder,
            staging: staging.0,
            staging_name: staging.1,
            options,
            committed: AtomicBool::new(false),
            contents: Mutex::default(),
        })
    }

    fn stage(
        path: &Path,
        folder: &Folder,
        options: FolderOptions,
    ) -> Result<(Flock<File>, String)> {
        let dir = folder.dir.as_fd();
        for (name, kind) in list(dir).at("list", path)? {
            if kind == Some(Type::Directory) && name.starts_with(STAGING_PREFIX) {
                put_abandoned_right(dir, &name, path);
            }
        }
        let listed = list(dir).at("list", path)?;
        if let Some((name, _)) = listed.iter().find(|(name, _)| is_image(name))
            && !options.overwrite
        {
            return Err(Error::Refused {
                target: path.into(),
                what: format!("the folder holds images already ({name})"),
                remedy: "choose another with --images-dir, or replace them with --overwrite"
                    .to_owned(),
            });
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let staging_name = format!(
            "{STAGING_PREFIX}{}-{:x}",
            std::process::id(),
            now.as_nanos()
        );
        io(mkdirat(dir, staging_name.as_str(), Mode::S_IRWXU))
            .at("make folder", path.join(&staging_name))?;
        let staging = lock_folder(dir, &staging_name);
        if staging.is_err() {
            let _ = unlinkat(dir, staging_name.as_str(), UnlinkatFlags::RemoveDir);
        }
        let staging = io(staging).at("open folder", path.join(&staging_name))?;
        Ok((staging, staging_name))
    }

    /// Refuses to begin what would not fit.
    ///
    /// # Errors
    /// [`Error::Refused`] when less than `needed_bytes` are free on the disk of the folder.
    pub fn expect_room(&self, needed_bytes: u64) -> Result<()> {
        match self.free_bytes() {
            Some(free) if free < needed_bytes => Err(Error::Refused {
                target: self.path.as_path().into(),
                what: format!(
                    "the images take up to {needed_bytes} bytes, and {free} are free there"
                ),
                remedy: "make room, choose a folder on another disk with --images-dir, or try all the same with --no-space-check"
                    .to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// The room that we may use; `None` where the file system does not tell.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        let room = fstatvfs(&*self.staging).ok()?;
        let blocks = if geteuid().is_root() {
            room.blocks_free()
        } else {
            room.blocks_available()
        };
        (room.blocks() > 0).then(|| blocks * room.fragment_size())
    }

    /// Adds to a failure what the state of the folder tells about it.
    #[must_use]
    pub fn explain(&self, failure: Error, needed_bytes: u64) -> Error {
        let Error::Image { op, path, source } = failure else {
            return failure;
        };
        let is_gone = fstat(&*self.staging).is_ok_and(|stat| stat.st_nlink == 0);
        if !path.starts_with(&self.path) {
            return Error::Image { op, path, source };
        }
        let note = match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EIO) => {
                let free = self.free_bytes();
                let free = free.map_or("an unknown number".to_owned(), |free| free.to_string());
                format!("the images take up to {needed_bytes} bytes, and {free} are free there")
            }
            Some(Errno::ENOENT) if is_gone => "somebody has removed the folder".to_owned(),
            _ => return Error::Image { op, path, source },
        };
        let source = std::io::Error::new(source.kind(), format!("{source}: {note}"));
        Error::Image { op, path, source }
    }

    /// The folder itself, where images are in place only after the commit.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.folder.dir.as_fd()
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
        self.contents().names.insert(PARENT_NAME.to_owned());
        Ok(())
    }

    /// Puts a text beside the images for whoever looks into the folder.
    ///
    /// # Errors
    /// Writing it.
    pub fn note(&self, text: &str) -> Result<()> {
        let file = self.new_file(NOTE_NAME.to_owned())?;
        (&file)
            .write_all(text.as_bytes())
            .at("write", self.shown(NOTE_NAME))
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
        self.contents().names.insert(name);
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
        self.contents().names.insert(name);
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
        if let Some(&place) = contents.place_of.get(&existing) {
            let file = contents.files[place].clone();
            contents.add(ImageFile {
                name: name.clone(),
                ..file
            });
        }
        contents.names.insert(name);
        Ok(())
    }

    /// Remembers a finished file for the manifest.
    pub fn record(&self, mut file: ImageFile) {
        if let Some(name) = file.name.strip_prefix(&self.shown("")) {
            file.name = name.to_owned();
        }
        self.contents().add(file);
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
    /// Those of renameat(2) and fsync(2); images that were moved already are taken back, and
    /// those that were there before are back in their place.
    pub fn commit(&self) -> Result<()> {
        let (dir, staging) = (self.folder.dir.as_fd(), self.staging.as_fd());
        if self.options.overwrite {
            self.set_aside()?;
        }
        // The folder of the common pages is moved as a whole.
        let contents = self.contents();
        let names = contents.names.iter().filter(|name| !name.contains('/'));
        let names = inventory_last(names.cloned().collect());
        drop(contents);
        for (index, name) in names.iter().enumerate() {
            let moved = renameat(staging, name.as_str(), dir, name.as_str());
            if let Err(error) = io(moved).at("move into place", self.path.join(name)) {
                for name in names[..index].iter().rev() {
                    let _ = renameat(dir, name.as_str(), staging, name.as_str());
                }
                return Err(error);
            }
        }
        if self.options.sync {
            io(nix::unistd::fsync(dir)).at("sync", self.path.as_path())?;
        }
        self.committed.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes everything that was made, although it may still be worked on.
    pub fn abandon(&self) {
        let dir = self.folder.dir.as_fd();
        if let Err(errno) = put_right(dir, &self.staging, &self.staging_name)
            && errno != Errno::ENOENT
        {
            warn!(
                "{}: {errno}: not all of it could be removed",
                self.shown("")
            );
        }
        if !self.committed.load(Ordering::Acquire) {
            self.folder.remove_if_new();
        }
    }

    /// Sets aside the images that are there, the inventory first. Whoever drops the folder
    /// without a commit puts them back.
    fn set_aside(&self) -> Result<()> {
        let (dir, staging) = (self.folder.dir.as_fd(), self.staging.as_fd());
        let old = list(dir).at("list", self.path.as_path())?;
        let old = old.into_iter().map(|(name, _)| name);
        let old = inventory_last(old.filter(|name| is_of_a_dump(name)).collect());
        if old.is_empty() {
            return Ok(());
        }
        io(mkdirat(staging, ASIDE_NAME, Mode::S_IRWXU))
            .at("make folder", self.shown(ASIDE_NAME))?;
        for name in old.iter().rev() {
            let to = format!("{ASIDE_NAME}/{name}");
            io(renameat(dir, name.as_str(), staging, to.as_str()))
                .at("set aside", self.path.join(name))?;
        }
        io(renameat(staging, ASIDE_NAME, staging, OLD_NAME)).at("rename", self.shown(ASIDE_NAME))
    }

    fn contents(&self) -> std::sync::MutexGuard<'_, Contents> {
        // Whoever panicked with the lock held left at worst a name too few.
        self.contents
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The path of a file for messages; [`ImageFolder::record`] takes it for the name.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        self.path
            .join(&self.staging_name)
            .join(name)
            .to_string_lossy()
            .into_owned()
    }
}

impl Drop for ImageFolder {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Files beside the images, such as statistics, do not make a folder one that holds a dump.
fn is_image(name: &str) -> bool {
    let kind = Kind::of_file_name(name);
    name == PARENT_NAME || !matches!(kind, None | Some((Kind::Stats | Kind::IrmapCache, _)))
}

/// Images, and what is written for readers beside them.
fn is_of_a_dump(name: &str) -> bool {
    is_image(name) || name == NOTE_NAME
}

fn inventory_last(mut names: Vec<String>) -> Vec<String> {
    names.sort_by_key(|name| name == &Kind::Inventory.file_name(0));
    names
}

fn list(dir: BorrowedFd<'_>) -> std::io::Result<Vec<(String, Option<Type>)>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut opened = Dir::openat(dir, ".", flags, Mode::empty())?;
    let mut found = Vec::new();
    for entry in opened.iter() {
        let entry = entry?;
        found.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.file_type(),
        ));
    }
    Ok(found)
}

/// Opens and locks a staging folder.
fn lock_folder(dir: BorrowedFd<'_>, name: &str) -> nix::Result<Flock<File>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let staging = File::from(openat(dir, name, flags, Mode::empty())?);
    Flock::lock(staging, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}

/// Locks a staging folder. Of a dumper that was killed a process may still be there that undoes
/// what it did to others (`sys::guardian`), and that keeps the lock for a moment.
fn lock_when_undone(dir: BorrowedFd<'_>, name: &str) -> nix::Result<Flock<File>> {
    const MOMENT: Duration = Duration::from_secs(2);
    let end = Instant::now() + MOMENT;
    loop {
        match lock_folder(dir, name) {
            Err(Errno::EWOULDBLOCK) if Instant::now() < end && is_abandoned(name) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            answer => return answer,
        }
    }
}

/// Whether the dumper in the name of a staging folder is gone.
fn is_abandoned(name: &str) -> bool {
    let rest = name.strip_prefix(STAGING_PREFIX).unwrap_or_default();
    let pid = rest.split('-').next().and_then(|pid| pid.parse().ok());
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

/// Puts right what a dumper left that no longer holds its lock.
fn put_abandoned_right(dir: BorrowedFd<'_>, name: &str, path: &Path) {
    let outcome = match lock_when_undone(dir, name) {
        // Somebody is at work there.
        Err(Errno::EWOULDBLOCK) => return,
        Err(errno) => Err(errno),
        Ok(staging) => match fstat(&*staging) {
            Ok(FileStat { st_uid, .. }) if st_uid != geteuid().as_raw() => Err(Errno::EPERM),
            _ => put_right(dir, &staging, name),
        },
    };
    if let Err(errno) = outcome {
        warn!(
            "{}: left by a dump that was ended, and cannot be removed: {errno}",
            path.join(name).display()
        );
    }
}

/// Removes a staging folder. Images that it holds because they were to be replaced come back,
/// unless those that replace them are complete.
fn put_right(dir: BorrowedFd<'_>, staging: &Flock<File>, name: &str) -> nix::Result<()> {
    let holds =
        |dir: BorrowedFd<'_>, name: &str| fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok();
    let staged = staging.as_fd();
    if holds(staged, OLD_NAME) {
        if !holds(dir, &Kind::Inventory.file_name(0)) {
            // What is there belongs to the dump that did not get ready.
            for (name, kind) in list(dir).map_err(|error| errno(&error))? {
                if is_of_a_dump(&name) {
                    remove(dir, &name, kind)?;
                }
            }
            put_back(dir, staged, OLD_NAME)?;
        } else {
            remove_images(staged, OLD_NAME)?;
        }
    } else if holds(staged, ASIDE_NAME) {
        put_back(dir, staged, ASIDE_NAME)?;
    }
    remove_images(dir, name)
}

/// Moves all images of a folder to where they were, the inventory last.
fn put_back(dir: BorrowedFd<'_>, staged: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let from = openat(staged, name, flags, Mode::empty())?;
    let old = list(from.as_fd()).map_err(|error| errno(&error))?;
    let old = old.into_iter().map(|(name, _)| name);
    for name in inventory_last(old.filter(|name| is_of_a_dump(name)).collect()) {
        renameat(from.as_fd(), name.as_str(), dir, name.as_str())?;
    }
    unlinkat(staged, name, UnlinkatFlags::RemoveDir)
}

/// Removes a folder with the images in it, and the folder of common pages in that; anything
/// else stays, and the folder with it.
fn remove_images(dir: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut folder = Dir::openat(dir, name, flags, Mode::empty())?;
    let entries: Vec<_> = folder.iter().collect::<nix::Result<_>>()?;
    for entry in entries {
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        let is_ours = Kind::of_file_name(name).is_some() || name == NOTE_NAME;
        if is_ours || name == PARENT_NAME {
            remove(folder.as_fd(), name, entry.file_type())?;
        }
    }
    unlinkat(dir, name, UnlinkatFlags::RemoveDir)
}

/// Removes an image, or the folder of common pages.
fn remove(dir: BorrowedFd<'_>, name: &str, kind: Option<Type>) -> nix::Result<()> {
    if name == PARENT_NAME && kind == Some(Type::Directory) {
        remove_images(dir, name)
    } else {
        unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
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
        folder.note("note").unwrap();
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
        drop(folder);
        assert_eq!(
            names(dir.path()),
            [
                "core-7.img",
                "core-8.img",
                "dedump-shared-pages.txt",
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
        let folder = ImageFolder::prepare(dir.path(), OVERWRITE).unwrap();
        fill(&folder);
        assert!(dir.path().join("pages-9.img").exists());
        folder.commit().unwrap();
        drop(folder);
        assert_eq!(
            names(dir.path()),
            [
                "core-7.img",
                "core-8.img",
                "dedump-shared-pages.txt",
                "inventory.img",
                "notes.txt",
                "parent"
            ]
        );
    }

    /// A folder with an old dump and something of its owner's.
    fn with_old_images() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["inventory.img", "pages-9.img", "core-7.img", "notes.txt"] {
            std::fs::write(dir.path().join(name), "old").unwrap();
        }
        std::fs::create_dir(dir.path().join("parent")).unwrap();
        std::fs::write(dir.path().join("parent/pagemap-9.img"), "old").unwrap();
        dir
    }

    fn assert_old_images(dir: &Path) {
        let all = ["core-7.img", "inventory.img", "notes.txt", "pages-9.img"];
        assert_eq!(names(dir), [&all[..], &["parent"]].concat());
        for name in all.into_iter().chain(["parent/pagemap-9.img"]) {
            assert_eq!(std::fs::read(dir.join(name)).unwrap(), b"old", "{name}");
        }
    }

    const OVERWRITE: FolderOptions = FolderOptions {
        overwrite: true,
        sync: false,
    };

    #[test]
    fn old_images_come_back_if_new_ones_do_not_get_in_their_place() {
        let dir = with_old_images();
        let folder = ImageFolder::prepare(dir.path(), OVERWRITE).unwrap();
        fill(&folder);
        // One that is not there cannot be moved.
        folder.contents().names.insert("pstree.img".to_owned());
        folder.commit().unwrap_err();
        drop(folder);
        assert_old_images(dir.path());
    }

    #[test]
    fn the_next_dump_puts_right_a_commit_that_was_cut_short() {
        for reached in ["some aside", "all aside", "some new", "all new"] {
            let dir = with_old_images();
            let staging = dir.path().join(".dedump-1-1");
            std::fs::create_dir_all(staging.join(ASIDE_NAME)).unwrap();
            std::fs::write(staging.join("core-1.img"), "half").unwrap();
            let old = ["inventory.img", "core-7.img", "pages-9.img", "parent"];
            let count = if reached == "some aside" { 2 } else { 4 };
            for name in &old[..count] {
                let to = staging.join(ASIDE_NAME).join(name);
                std::fs::rename(dir.path().join(name), to).unwrap();
            }
            if reached != "some aside" {
                std::fs::rename(staging.join(ASIDE_NAME), staging.join(OLD_NAME)).unwrap();
            }
            let new = ["core-7.img", "core-8.img", "inventory.img"];
            let count = match reached {
                "some new" => 2,
                "all new" => 3,
                _ => 0,
            };
            for name in &new[..count] {
                std::fs::write(dir.path().join(name), "new").unwrap();
            }
            drop(ImageFolder::prepare(dir.path(), OVERWRITE).unwrap());
            if reached == "all new" {
                let left = [&new[..], &["notes.txt"]].concat();
                assert_eq!(names(dir.path()), left);
            } else {
                assert_old_images(dir.path());
            }
        }
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
