//! Reaching files and folders by paths that nobody else can bend.
//!
//! The dumper writes other people's secrets, often as root, often below a folder like `/tmp`
//! where everybody may make links. A path is walked name by name, and a link on the way is
//! followed only where whoever made it could not fool us: in a folder that not everybody may
//! write to, or made by us or by the folder's owner. It is what the kernel does by itself where
//! `fs.protected_symlinks` is set; we do not depend on that. What is made is made for its owner
//! alone, and what is there already is written into only where nobody else can have put it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;
const FOR_THE_OWNER: Mode = Mode::S_IRWXU;

/// A folder that was opened, and made if it was not there.
#[derive(Debug)]
pub struct Folder {
    /// The folder.
    pub dir: OwnedFd,
    /// Where it was made, if it was.
    made: Option<(OwnedFd, OsString)>,
}

impl Folder {
    /// Whether it was not there before.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.made.is_some()
    }

    /// Removes the folder, if it was made and holds nothing.
    pub fn remove_if_new(&self) {
        if let Some((parent, name)) = &self.made {
            let _ = unlinkat(parent.as_fd(), name.as_os_str(), UnlinkatFlags::RemoveDir);
        }
    }
}

/// Opens a folder.
///
/// # Errors
/// Those of open(2); `EACCES` for a link that somebody else may have put on the way.
pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let place = Walk::to(path)?.place()?;
    Ok(place.open_folder()?)
}

/// Opens a folder, or makes it for its owner alone.
///
/// # Errors
/// Those of [`open_folder`] and mkdir(2).
pub fn make_folder(path: &Path) -> io::Result<Folder> {
    let place = Walk::to(path)?.place()?;
    Ok(place.make_folder()?)
}

/// The same, and makes all folders above it.
///
/// # Errors
/// Those of [`make_folder`].
pub fn make_folders(path: &Path) -> io::Result<Folder> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.retain(|path| !path.as_os_str().is_empty());
    for folder in above.into_iter().rev() {
        match make_folder(folder) {
            // Perhaps one that may be passed, but not read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            answer => drop(answer?),
        }
    }
    make_folder(path)
}

/// Opens an empty file for its owner alone, to append to it.
///
/// What is there is emptied, or replaced where somebody else may have put it there.
///
/// # Errors
/// Those of open(2); `EACCES` for a link that somebody else may have put on the way.
pub fn empty_file(path: &Path) -> io::Result<File> {
    let place = Walk::to(path)?.place()?;
    Ok(place.empty_file()?)
}

/// Makes a file for its owner alone in place of what has that name in the folder.
///
/// # Errors
/// Those of unlink(2) and open(2).
pub fn replace_file(dir: &OwnedFd, name: &str) -> io::Result<File> {
    match unlinkat(dir.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(new_file(dir, name.as_ref(), OFlag::O_WRONLY)?)
}

fn new_file(dir: &OwnedFd, name: &OsStr, access: OFlag) -> nix::Result<File> {
    let flags = access | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(dir.as_fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(File::from(file))
}

/// A path on its way: where we are, and what is left to walk.
struct Walk {
    dir: OwnedFd,
    left: VecDeque<OsString>,
    links: usize,
}

/// The end of a path: a name in a folder, no link unless it is one of `/proc`.
struct Place {
    dir: OwnedFd,
    name: OsString,
    is_proc: bool,
}

impl Walk {
    fn to(path: &Path) -> nix::Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut walk = Self {
            dir: start(path)?,
            left: VecDeque::new(),
            links: 0,
        };
        walk.prepend(path);
        Ok(walk)
    }

    fn prepend(&mut self, path: &Path) {
        let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
        let names: Vec<_> = names
            .filter(|name| !name.is_empty() && *name != b".")
            .map(|name| OsStr::from_bytes(name).to_owned())
            .collect();
        for name in names.into_iter().rev() {
            self.left.push_front(name);
        }
    }

    /// Walks to the end.
    fn place(mut self) -> nix::Result<Place> {
        loop {
            let Some(name) = self.left.pop_front() else {
                return Ok(self.end(".".into(), false));
            };
            let is_proc = fstatfs(&self.dir)?.filesystem_type() == PROC_SUPER_MAGIC;
            let is_last = self.left.is_empty();
            if is_proc && is_last {
                return Ok(self.end(name, is_proc));
            }
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | no_follow(is_proc);
            let found = match openat(self.dir.as_fd(), name.as_os_str(), flags, Mode::empty()) {
                Err(Errno::ENOENT) if is_last => return Ok(self.end(name, is_proc)),
                answer => answer?,
            };
            let stat = fstat(&found)?;
            if is_link(&stat) {
                self.follow(found, &stat)?;
            } else if is_last {
                return Ok(self.end(name, is_proc));
            } else {
                // Going on from what is no folder fails.
                self.dir = found;
            }
        }
    }

    fn end(self, name: OsString, is_proc: bool) -> Place {
        Place {
            dir: self.dir,
            name,
            is_proc,
        }
    }

    fn follow(&mut self, link: OwnedFd, stat: &FileStat) -> nix::Result<()> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(Errno::ELOOP);
        }
        if !is_trusted(&fstat(&self.dir)?, stat) {
            return Err(Errno::EACCES);
        }
        let target = PathBuf::from(readlinkat(link, "")?);
        if target.is_absolute() {
            self.dir = start(&target)?;
        }
        self.prepend(&target);
        Ok(())
    }
}

fn start(path: &Path) -> nix::Result<OwnedFd> {
    let from = if path.is_absolute() { "/" } else { "." };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(from, flags, Mode::empty())
}

impl Place {
    fn open_folder(&self) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let flags = flags | no_follow(self.is_proc);
        openat(
            self.dir.as_fd(),
            self.name.as_os_str(),
            flags,
            Mode::empty(),
        )
    }

    fn make_folder(self) -> nix::Result<Folder> {
        let made = match mkdirat(self.dir.as_fd(), self.name.as_os_str(), FOR_THE_OWNER) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            // Where nothing can be made, something may be nevertheless.
            Err(errno) => match self.open_folder() {
                Ok(_) => false,
                Err(_) => return Err(errno),
            },
        };
        let dir = match self.open_folder() {
            Ok(dir) => dir,
            Err(errno) => {
                if made {
                    let _ = unlinkat(
                        self.dir.as_fd(),
                        self.name.as_os_str(),
                        UnlinkatFlags::RemoveDir,
                    );
                }
                return Err(errno);
            }
        };
        let folder = Folder {
            dir,
            made: made.then_some((self.dir, self.name)),
        };
        if made && let Err(errno) = fchmod(folder.dir.as_fd(), FOR_THE_OWNER) {
            folder.remove_if_new();
            return Err(errno);
        }
        Ok(folder)
    }

    fn empty_file(&self) -> nix::Result<File> {
        let (dir, name) = (&self.dir, self.name.as_os_str());
        if !self.is_proc && everybody_may_write(&fstat(dir)?) {
            match fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if stat.st_uid == geteuid().as_raw() && stat.st_nlink == 1 => {}
                Err(Errno::ENOENT) => {}
                _ => unlinkat(dir.as_fd(), name, UnlinkatFlags::NoRemoveDir)?,
            }
        }
        match new_file(dir, name, OFlag::O_WRONLY | OFlag::O_APPEND) {
            Err(Errno::EEXIST) => {
                let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
                let flags = flags | no_follow(self.is_proc);
                openat(dir.as_fd(), name, flags, Mode::empty()).map(File::from)
            }
            answer => answer,
        }
    }
}

/// Links in `/proc` lead to things, not to names: only the kernel can follow them.
fn no_follow(is_proc: bool) -> OFlag {
    if is_proc {
        OFlag::empty()
    } else {
        OFlag::O_NOFOLLOW
    }
}

fn is_link(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK
}

fn everybody_may_write(folder: &FileStat) -> bool {
    Mode::from_bits_truncate(folder.st_mode).contains(Mode::S_IWOTH)
}

/// Whether a link in a folder leads where we, or the owner of the folder, want it to.
fn is_trusted(folder: &FileStat, link: &FileStat) -> bool {
    !everybody_may_write(folder)
        || link.st_uid == geteuid().as_raw()
        || link.st_uid == folder.st_uid
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use super::*;

    const SOMEBODY_ELSE: u32 = 4242;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// A folder in which everybody may make links, and one that nobody shall get into.
    fn shared() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (shared, private) = (dir.path().join("shared"), dir.path().join("private"));
        std::fs::create_dir(&shared).unwrap();
        std::fs::create_dir(&private).unwrap();
        std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o1777)).unwrap();
        (dir, shared, private)
    }

    #[test]
    fn links_of_others_in_shared_folders_lead_nowhere() {
        let (_dir, shared, private) = shared();
        let link = shared.join("images");
        symlink(&private, &link).unwrap();
        // Our own is followed, as is one by the owner of the folder.
        open_folder(&link).unwrap();
        assert!(!make_folder(&link).unwrap().is_new());
        if !geteuid().is_root() {
            return;
        }
        lchown(&link, Some(SOMEBODY_ELSE), None).unwrap();
        for answer in [
            open_folder(&link).map(drop),
            make_folder(&link).map(drop),
            make_folder(&link.join("below")).map(drop),
            empty_file(&link).map(drop),
            empty_file(&link.join("dump.log")).map(drop),
        ] {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
        chown(&shared, Some(SOMEBODY_ELSE), None).unwrap();
        open_folder(&link).unwrap();
        assert_eq!(std::fs::read_dir(&private).unwrap().count(), 0);
    }

    #[test]
    fn what_others_put_into_a_shared_folder_is_replaced() {
        let (_dir, shared, private) = shared();
        let secret = private.join("secret");
        std::fs::write(&secret, "kept").unwrap();
        let log = shared.join("dump.log");
        std::fs::hard_link(&secret, &log).unwrap();
        empty_file(&log).unwrap().write_all(b"log").unwrap();
        assert_eq!(std::fs::read(&secret).unwrap(), b"kept");
        assert_eq!(std::fs::read(&log).unwrap(), b"log");
        assert_eq!(mode(&log), 0o600);
        // Elsewhere it is emptied in its place.
        let other = private.join("other");
        std::fs::hard_link(&secret, &other).unwrap();
        empty_file(&other).unwrap();
        assert_eq!(std::fs::read(&secret).unwrap(), b"");
    }

    #[test]
    fn what_is_made_is_its_owners_alone() {
        let (_dir, shared, _) = shared();
        let folder = make_folders(&shared.join("a/b/c")).unwrap();
        assert!(folder.is_new());
        for name in ["a", "a/b", "a/b/c"] {
            assert_eq!(mode(&shared.join(name)), 0o700);
        }
        replace_file(&folder.dir, "stats").unwrap();
        assert_eq!(mode(&shared.join("a/b/c/stats")), 0o600);
        folder.remove_if_new();
        assert!(shared.join("a/b/c").exists());
        std::fs::remove_file(shared.join("a/b/c/stats")).unwrap();
        folder.remove_if_new();
        assert!(!shared.join("a/b/c").exists());
    }

    #[test]
    fn paths_are_walked_as_the_kernel_does() {
        let (_dir, shared, private) = shared();
        let inside = private.join("inside");
        std::fs::create_dir(&inside).unwrap();
        symlink("../private/./inside/..", shared.join("relative")).unwrap();
        symlink("loop", shared.join("loop")).unwrap();
        let inode = |dir: &OwnedFd| fstat(dir).unwrap().st_ino;
        let opened = open_folder(&shared.join("relative//inside/")).unwrap();
        assert_eq!(inode(&opened), inode(&open_folder(&inside).unwrap()));
        let error = open_folder(&shared.join("loop")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        let kind = |path: &Path| open_folder(path).unwrap_err().kind();
        assert_eq!(kind(&shared.join("no/where")), io::ErrorKind::NotFound);
        assert_eq!(kind(Path::new("")), io::ErrorKind::NotFound);
        open_folder(Path::new("/")).unwrap();
        open_folder(Path::new(".")).unwrap();
        // Where a link in /proc leads has no name.
        let held = File::open(&private).unwrap();
        let through = format!(
            "/proc/self/fd/{}/inside",
            std::os::fd::AsRawFd::as_raw_fd(&held)
        );
        open_folder(Path::new(&through)).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
        empty_file(Path::new(&path))
            .unwrap()
            .write_all(b"x")
            .unwrap();
        drop(writer);
        assert_eq!(io::read_to_string(reader).unwrap(), "x");
    }
}
