//! `dedump dump`: its arguments, and the options they resolve to.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use dedump::freeze::After;
use dedump::hooks::{HookOptions, HookOutput};
use dedump::ids::Pid;
use dedump::options::{
    CgroupChoices, DEFAULT_TIMEOUT, DumpOptions, External, FileChoices, NetworkLock, SocketChoices,
};

use super::log::Log;

/// CRIU's level: errors and warnings.
const DEFAULT_VERBOSITY: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  dedump dump -t 4120 -D images            dump the tree under 4120 and end it
  dedump dump -t 4120 -D images -R         dump it and let it run on
  dedump dump -t $! -D images -j           dump a background job of this shell
  dedump dump -t 4120 -D images -o dump.log -v4
                                           the same, with everything in images/dump.log
  criu restore -D images                   bring it back";

/// Dump a process tree into a folder of images
#[derive(Debug, Args)]
#[command(
    before_help = EXAMPLES,
    override_usage = "dedump dump -t PID [-D DIR] [OPTIONS]"
)]
pub(super) struct DumpArgs {
    /// Root of the tree; a dump needs it
    #[arg(short, long, value_name = "PID", value_parser = pid)]
    tree: Option<Pid>,

    /// Folder for the images, made if need be
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    images_dir: PathBuf,

    /// Folder for the log and stats-dump [default: the images folder]
    #[arg(short = 'W', long, value_name = "DIR")]
    work_dir: Option<PathBuf>,

    /// Log to FILE in the work folder, - for stdout [default: stderr]
    #[arg(short = 'o', long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Level N, or up by v: 1 errors, 2 warnings, 3 news, 4 all [else 2]
    #[arg(
        short,
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        action = clap::ArgAction::Append,
        value_parser = louder,
    )]
    verbosity: Vec<Louder>,

    /// Let the tree run on after the dump
    #[arg(short = 'R', long, overrides_with = "leave_stopped")]
    leave_running: bool,

    /// Leave the tree stopped after the dump
    #[arg(short = 's', long, overrides_with = "leave_running")]
    leave_stopped: bool,

    /// Dump a shell's job: session or group led from outside the tree
    #[arg(short = 'j', long)]
    shell_job: bool,

    /// Unix datagram sockets, any with an inode INO, may talk to the outside
    #[arg(
        short = 'x',
        long,
        value_name = "INO",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        action = clap::ArgAction::Append,
        value_parser = inodes,
    )]
    ext_unix_sk: Vec<Inodes>,

    /// Dump TCP connections; restore needs the same option
    #[arg(long)]
    tcp_established: bool,

    /// Dump TCP connections as closed; restore needs the same option
    #[arg(long)]
    tcp_close: bool,

    /// Leave out TCP connections that wait to be accepted
    #[arg(long)]
    skip_in_flight: bool,

    /// Packets are kept away by iptables, nftables, or not: skip
    #[arg(long, value_name = "WAY", value_parser = network_lock)]
    network_lock: Option<NetworkLock>,

    /// Dump file locks and leases; restore needs the same option
    #[arg(short = 'l', long)]
    file_locks: bool,

    /// Make links for files that have lost the name they were opened by
    #[arg(long)]
    link_remap: bool,

    /// Keep deleted files up to SIZE bytes; K, M, G are known
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = size)]
    ghost_limit: u64,

    /// Look for watched files without handles below DIR, too
    #[arg(long, value_name = "DIR", action = clap::ArgAction::Append)]
    irmap_scan_path: Vec<PathBuf>,

    /// RES is given to restore: file[MNT:INO], tty[RDEV:DEV], unix[INO]
    #[arg(long, value_name = "RES", value_parser = resource)]
    external: Vec<Resource>,

    /// Seconds the tree may stand still, 0: no limit [else 10 till writing]
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,

    /// Freeze this cgroup, given by its folder, to catch the tree
    #[arg(long, value_name = "DIR")]
    freeze_cgroup: Option<PathBuf>,

    /// Run FILE before the dump and behind it; may be given again
    #[arg(long, value_name = "FILE", action = clap::ArgAction::Append)]
    action_script: Vec<PathBuf>,

    /// Cgroups: ignore, none, props, soft, full, strict [else soft]
    #[arg(
        long,
        value_name = "MODE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "soft",
        value_parser = records_cgroups,
    )]
    manage_cgroups: Option<bool>,

    /// Make cgroups again from PATH downwards, of hierarchy CTRL or of all
    #[arg(long, value_name = "[CTRL:]PATH", action = clap::ArgAction::Append)]
    cgroup_root: Vec<OsString>,

    /// Record further settings of cgroups, in criu's notation
    #[arg(long, value_name = "TEXT")]
    cgroup_props: Option<String>,

    /// The same from a file
    #[arg(long, value_name = "FILE")]
    cgroup_props_file: Option<PathBuf>,

    /// Record cgroups of hierarchy CTRL only; may be given again
    #[arg(long, value_name = "CTRL", action = clap::ArgAction::Append)]
    cgroup_dump_controller: Vec<OsString>,

    /// Folder in which hierarchies are mounted, instead of mounting them
    #[arg(long, value_name = "DIR")]
    cgroup_yard: Option<PathBuf>,

    /// Print the figures of the dump at its end
    #[arg(long)]
    display_stats: bool,

    /// Read options from FILE instead of the default files
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Do not read the default files, e.g. /etc/criu/default.conf
    #[arg(long)]
    no_default_config: bool,

    /// Replace images that lie in the folder already (not in criu)
    #[arg(long)]
    overwrite: bool,

    /// Kill even what no restorer brings back as it was (not in criu)
    #[arg(long)]
    allow_unrestorable: bool,

    /// Earlier dump, seen from the images folder: write only what changed
    #[arg(long, value_name = "DIR")]
    prev_images_dir: Option<PathBuf>,

    /// Write all pages of each task, shared ones too (not in criu)
    #[arg(long)]
    no_page_dedup: bool,

    /// With --leave-running, freeze until all is written (not in criu)
    #[arg(long)]
    no_snapshot: bool,

    /// Begin even if the disk has less room than needed (not in criu)
    #[arg(long)]
    no_space_check: bool,

    /// Have everything on the disk before any task is let go (not in criu)
    #[arg(long)]
    sync: bool,
}

/// A dump as the command line asks for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dump {
    /// For the pipeline.
    pub(crate) options: DumpOptions,
    /// Where the log goes.
    pub(crate) log: Log,
    /// How much is logged: 0 nothing, 1 errors, 2 warnings, 3 news, 4 everything.
    pub(crate) verbosity: u8,
}

impl DumpArgs {
    /// Fills in what depends on other options; `None` without a tree to dump.
    pub(super) fn resolve(self) -> Option<Dump> {
        let tree = self.tree?;
        let verbosity = self
            .verbosity
            .iter()
            .fold(DEFAULT_VERBOSITY, |level, step| match step {
                Louder::By(more) => level.saturating_add(*more),
                Louder::To(level) => *level,
            });
        let work_dir = self.work_dir.unwrap_or_else(|| self.images_dir.clone());
        let log = match self.log_file {
            None => Log::Stderr,
            Some(file) if file.as_os_str() == OsStr::new("-") => Log::Stdout,
            Some(file) => Log::File(work_dir.join(file)),
        };
        let hooks = HookOptions {
            // As criu does it: the last one first.
            scripts: self.action_script.into_iter().rev().collect(),
            output: match &log {
                Log::Stderr => HookOutput::Stderr,
                Log::Stdout => HookOutput::Stdout,
                Log::File(path) => HookOutput::File(path.clone()),
            },
        };
        let after = match (self.leave_running, self.leave_stopped) {
            (true, _) => After::LeaveRunning,
            (_, true) => After::LeaveStopped,
            _ => After::Kill,
        };
        // A bar between the lines of a talkative log helps nobody.
        let progress = verbosity > 0 && (verbosity <= DEFAULT_VERBOSITY || log != Log::Stderr);
        let mut external_unix_inodes: Vec<u32> = self
            .ext_unix_sk
            .iter()
            .flat_map(|inodes| inodes.0.iter().copied())
            .collect();
        let mut external = Vec::new();
        for resource in self.external {
            match resource {
                Resource::OfFiles(one) => external.push(one),
                Resource::UnixSocket(inode) => external_unix_inodes.push(inode),
                Resource::OfMounts => {}
            }
        }
        let options = DumpOptions {
            tree,
            images_dir: self.images_dir,
            work_dir,
            after,
            shell_job: self.shell_job,
            timeout: match self.timeout {
                None => Some(DEFAULT_TIMEOUT),
                Some(0) => None,
                Some(seconds) => Some(Duration::from_secs(seconds)),
            },
            timeout_covers_writing: self.timeout.is_some() || after == After::LeaveRunning,
            freeze_cgroup: self.freeze_cgroup,
            overwrite: self.overwrite,
            allow_unrestorable: self.allow_unrestorable,
            page_dedup: !self.no_page_dedup,
            snapshot: !self.no_snapshot,
            prev_images_dir: self.prev_images_dir,
            space_check: !self.no_space_check,
            sync: self.sync,
            display_stats: self.display_stats,
            sockets: SocketChoices {
                external_unix: !self.ext_unix_sk.is_empty(),
                external_unix_inodes,
                tcp_established: self.tcp_established,
                tcp_close: self.tcp_close,
                skip_in_flight: self.skip_in_flight,
                network_lock: self.network_lock,
            },
            files: FileChoices {
                file_locks: self.file_locks,
                link_remap: self.link_remap,
                ghost_limit_bytes: self.ghost_limit,
                external,
                irmap_scan_paths: self.irmap_scan_path,
            },
            hooks,
            cgroups: CgroupChoices {
                // The modes but `ignore` differ only in what restore does.
                record: self.manage_cgroups.unwrap_or(true),
                roots: self
                    .cgroup_root
                    .iter()
                    .map(|root| cgroup_root(root))
                    .collect(),
                only: self
                    .cgroup_dump_controller
                    .into_iter()
                    .map(OsString::into_vec)
                    .collect(),
                settings: self.cgroup_props,
                settings_file: self.cgroup_props_file,
                yard: self.cgroup_yard,
            },
            progress,
        };
        Some(Dump {
            options,
            log,
            verbosity,
        })
    }
}

/// One `-v…` on the command line.
#[derive(Clone, Copy, Debug)]
enum Louder {
    /// `-v`, `-vvv`
    By(u8),
    /// `-v3`, `--verbosity=3`
    To(u8),
}

/// getopt has eaten the first `v` of `-vvv` as the option itself.
fn louder(text: &str) -> Result<Louder, String> {
    if text.bytes().all(|byte| byte == b'v') {
        return Ok(Louder::By(u8::try_from(text.len() + 1).unwrap_or(u8::MAX)));
    }
    text.parse()
        .map(Louder::To)
        .map_err(|_| "a level is a number from 0 to 4".to_owned())
}

/// The value of one `-x`.
#[derive(Clone, Debug)]
struct Inodes(Vec<u32>);

fn inodes(text: &str) -> Result<Inodes, String> {
    let words = text.split(',').filter(|word| !word.is_empty());
    let inodes: Result<Vec<u32>, _> = words.map(str::parse).collect();
    inodes
        .map(Inodes)
        .map_err(|_| "sockets are given by their inode numbers".to_owned())
}

/// The value of one `--external`.
#[derive(Clone, Copy, Debug)]
enum Resource {
    /// A file or terminal.
    OfFiles(External),
    /// The far end of a unix socket.
    UnixSocket(u32),
    /// A mount or block device, which matters only for mount namespaces.
    OfMounts,
}

fn resource(text: &str) -> Result<Resource, String> {
    const FORMS: &str =
        "the forms are file[MNT:INO], tty[RDEV:DEV], unix[INO], mnt[PATH]:NAME, dev[MAJ/MIN]:NAME";
    let wrong = || FORMS.to_owned();
    let (kind, rest) = text.split_once('[').ok_or_else(wrong)?;
    let (inner, _) = rest.rsplit_once(']').ok_or_else(wrong)?;
    let pair = || {
        let (first, second) = inner.split_once(':')?;
        let hex = |word| u64::from_str_radix(word, 16).ok();
        Some((hex(first)?, hex(second)?))
    };
    match kind {
        "file" => {
            let (mount, inode) = pair().ok_or_else(wrong)?;
            Ok(Resource::OfFiles(External::File { mount, inode }))
        }
        "tty" => {
            let (rdev, dev) = pair().ok_or_else(wrong)?;
            Ok(Resource::OfFiles(External::Terminal { rdev, dev }))
        }
        "unix" => inner.parse().map(Resource::UnixSocket).map_err(|_| wrong()),
        "mnt" | "dev" => Ok(Resource::OfMounts),
        "net" | "pid" => Err("trees in namespaces of their own are not dumped".to_owned()),
        _ => Err(wrong()),
    }
}

/// A size as criu reads it: a number, with K, M or G behind it if need be.
fn size(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| {
            "a size is a number of bytes, with K, M or G behind it if need be".to_owned()
        })
}

/// Whether a mode looks at cgroups at all.
fn records_cgroups(mode: &str) -> Result<bool, String> {
    match mode {
        "ignore" => Ok(false),
        "none" | "props" | "soft" | "full" | "strict" => Ok(true),
        _ => Err("the modes are ignore, none, props, soft, full and strict".to_owned()),
    }
}

/// `[CTRL:]PATH`: a hierarchy and a path in it.
fn cgroup_root(text: &OsStr) -> (Option<Vec<u8>>, Vec<u8>) {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b':') {
        Some(colon) => (Some(bytes[..colon].to_vec()), bytes[colon + 1..].to_vec()),
        None => (None, bytes.to_vec()),
    }
}

fn network_lock(text: &str) -> Result<NetworkLock, String> {
    match text {
        "iptables" => Ok(NetworkLock::Iptables),
        "nftables" => Ok(NetworkLock::Nftables),
        "skip" => Ok(NetworkLock::Skip),
        _ => Err("the ways are iptables, nftables and skip".to_owned()),
    }
}

fn pid(text: &str) -> Result<Pid, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(Pid(number)),
        _ => Err("a process is given by its number".to_owned()),
    }
}
