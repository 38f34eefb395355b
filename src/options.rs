//! What a dump is asked to do, resolved: no defaults to look up, no paths to combine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::freeze::After;
use crate::hooks::HookOptions;
use crate::ids::Pid;

/// How long a tree may stand still unless told otherwise: CRIU's default.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// One dump, as the pipeline takes it.
///
/// ```
/// use dedump::{freeze::After, ids::Pid, options::DumpOptions};
///
/// let mut options = DumpOptions::new(Pid(4120), "/var/tmp/images");
/// options.after = After::LeaveRunning;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpOptions {
    /// The root of the tree.
    pub tree: Pid,
    /// Where the images go. Made when it does not exist.
    pub images_dir: PathBuf,
    /// Where `stats-dump` goes (and the log of the command): CRIU's work dir.
    pub work_dir: PathBuf,
    /// What becomes of the tasks once the images are complete.
    pub after: After,
    /// Whether the tree may belong to a session or process group whose leader is not in it,
    /// as a job of a shell does. `criu restore` must then be told the same.
    pub shell_job: bool,
    /// How long the tree may stand still; `None` for as long as it takes.
    pub timeout: Option<Duration>,
    /// Whether that holds while the memory of a tree is written that does not run on before.
    pub timeout_covers_writing: bool,
    /// A cgroup that is frozen while its tasks, those of the tree among them, are caught.
    pub freeze_cgroup: Option<PathBuf>,
    /// Whether images that lie in `images_dir` already may be replaced.
    pub overwrite: bool,
    /// Whether a tree may be killed although no restorer can bring it back as it was.
    pub allow_unrestorable: bool,
    /// Whether a page that several tasks share is written once; otherwise each task's pages
    /// file holds all of its pages, and no folder `parent` is needed.
    pub page_dedup: bool,
    /// Whether a tree that runs on is let go before its memory is written, from a copy.
    pub snapshot: bool,
    /// An earlier dump of the same tree, as seen from `images_dir`: what did not change since
    /// is not written again.
    pub prev_images_dir: Option<PathBuf>,
    /// Whether a dump that would not fit on the disk is refused before anything is frozen.
    pub space_check: bool,
    /// Whether every file and folder is on the disk before the dump counts as done.
    pub sync: bool,
    /// Whether the figures of the dump are printed to standard output at its end.
    pub display_stats: bool,
    /// What is done about sockets that reach out of the tree.
    pub sockets: SocketChoices,
    /// What is done about files that restore needs help with.
    pub files: FileChoices,
    /// Programs to be run before the dump and at its end. With any, a tree that runs on is
    /// let go only when they are done, so that they find it standing still.
    pub hooks: HookOptions,
    /// What is recorded of cgroups.
    pub cgroups: CgroupChoices,
    /// Whether long stages may draw a bar on standard error, if that is a terminal.
    pub progress: bool,
}

impl DumpOptions {
    /// A dump of the tree under `tree` into `images_dir`, everything else as the command
    /// does it when not told otherwise, without a progress bar.
    #[must_use]
    pub fn new(tree: Pid, images_dir: impl AsRef<Path>) -> Self {
        Self {
            tree,
            images_dir: images_dir.as_ref().to_owned(),
            work_dir: images_dir.as_ref().to_owned(),
            after: After::Kill,
            shell_job: false,
            timeout: Some(DEFAULT_TIMEOUT),
            timeout_covers_writing: false,
            freeze_cgroup: None,
            overwrite: false,
            allow_unrestorable: false,
            page_dedup: true,
            snapshot: true,
            prev_images_dir: None,
            space_check: true,
            sync: false,
            display_stats: false,
            sockets: SocketChoices::default(),
            files: FileChoices::default(),
            hooks: HookOptions::default(),
            cgroups: CgroupChoices::default(),
            progress: false,
        }
    }
}

/// What is done about files that restore needs help with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChoices {
    /// Whether file locks and leases are dumped; `criu restore` must then be told the same.
    pub file_locks: bool,
    /// Whether a file that has lost the name it was opened by, but not every name, gets another
    /// link beside it.
    pub link_remap: bool,
    /// The largest deleted file that is kept, in bytes on disk.
    pub ghost_limit_bytes: u64,
    /// Resources that restore is given from outside, as `--external` names them.
    pub external: Vec<External>,
    /// Folders to be searched for a watched file that its handle does not lead to.
    pub irmap_scan_paths: Vec<PathBuf>,
}

/// CRIU's default: 1 MiB.
const DEFAULT_GHOST_LIMIT_BYTES: u64 = 1 << 20;

impl Default for FileChoices {
    fn default() -> Self {
        Self {
            file_locks: false,
            link_remap: false,
            ghost_limit_bytes: DEFAULT_GHOST_LIMIT_BYTES,
            external: Vec::new(),
            irmap_scan_paths: Vec::new(),
        }
    }
}

/// A resource that restore is given from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum External {
    /// A file, by its mount and inode.
    File {
        /// `mnt_id` of its fdinfo.
        mount: u64,
        /// `st_ino`.
        inode: u64,
    },
    /// A terminal, by `st_rdev` and `st_dev`.
    Terminal {
        /// The device that it is.
        rdev: u64,
        /// The device that its file is on.
        dev: u64,
    },
}

/// What is done about sockets that reach out of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketChoices {
    /// Whether unix sockets may have their other end outside, for restore to connect to again.
    pub external_unix: bool,
    /// Inodes of the unix sockets for which that goes beyond datagrams.
    pub external_unix_inodes: Vec<u32>,
    /// Whether TCP connections are dumped.
    pub tcp_established: bool,
    /// Whether TCP connections are dumped as closed sockets.
    pub tcp_close: bool,
    /// Whether connections that wait to be accepted are left out.
    pub skip_in_flight: bool,
    /// How packets of a connection are kept away while nobody is there to take them.
    /// `None` takes what the machine has.
    pub network_lock: Option<NetworkLock>,
}

impl SocketChoices {
    /// Whether TCP connections go into the images, one way or the other.
    #[must_use]
    pub fn dumps_connections(&self) -> bool {
        self.tcp_established || self.tcp_close
    }
}

/// What is recorded of cgroups. Hierarchies are named as in `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupChoices {
    /// Whether a tree in other cgroups than the dumper's is restored into those.
    pub record: bool,
    /// Below which cgroup those to be made again are, in one hierarchy, or in all; by default
    /// where the tasks are.
    pub roots: Vec<(Option<Vec<u8>>, Vec<u8>)>,
    /// The only hierarchies that are recorded; all if there are none.
    pub only: Vec<Vec<u8>>,
    /// Settings that are recorded besides those that criu records, in criu's notation.
    pub settings: Option<String>,
    /// A file with more such settings.
    pub settings_file: Option<PathBuf>,
    /// A folder in which all hierarchies are mounted, each under its name.
    pub yard: Option<PathBuf>,
}

impl Default for CgroupChoices {
    fn default() -> Self {
        Self {
            record: true,
            roots: Vec::new(),
            only: Vec::new(),
            settings: None,
            settings_file: None,
            yard: None,
        }
    }
}

impl CgroupChoices {
    /// The root that was given for a hierarchy; the last one given counts.
    #[must_use]
    pub fn root_of(&self, hierarchy: &[u8]) -> Option<&[u8]> {
        let given_for = |wanted: Option<&[u8]>| {
            let mut roots = self.roots.iter().rev();
            roots.find(|(of, _)| of.as_deref() == wanted)
        };
        let given = given_for(Some(hierarchy)).or_else(|| given_for(None));
        given.map(|(_, path)| path.as_slice())
    }
}

/// How the network is kept off a connection from its dump until its restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkLock {
    /// By rules of iptables(8) for each connection.
    Iptables,
    /// By a table of nft(8).
    Nftables,
    /// Not at all: somebody else sees to it.
    Skip,
}
