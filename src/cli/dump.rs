//! `dedump dump`: its arguments, and the options they resolve to.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use dedump::freeze::After;
use dedump::ids::Pid;
use dedump::options::{CgroupChoices, DEFAULT_TIMEOUT, DumpOptions, NetworkLock, SocketChoices};

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
    /// Root of the tree; this option is needed
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

    /// Seconds the tree may take to stop; 0 waits for ever
    #[arg(long, value_name = "S", default_value_t = DEFAULT_TIMEOUT.as_secs())]
    timeout: u64,

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

    /// Do not warn of criu's configuration files; dedump reads none
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
    /// Whether criu would read its configuration files.
    pub(crate) criu_reads_config: bool,
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
        let after = match (self.leave_running, self.leave_stopped) {
            (true, _) => After::LeaveRunning,
            (_, true) => After::LeaveStopped,
            _ => After::Kill,
        };
        // A bar between the lines of a talkative log helps nobody.
        let progress = verbosity > 0 && (verbosity <= DEFAULT_VERBOSITY || log != Log::Stderr);
        let options = DumpOptions {
            tree,
            images_dir: self.images_dir,
            work_dir,
            after,
            shell_job: self.shell_job,
            timeout: (self.timeout > 0).then(|| Duration::from_secs(self.timeout)),
            overwrite: self.overwrite,
            allow_unrestorable: self.allow_unrestorable,
            page_dedup: !self.no_page_dedup,
            snapshot: !self.no_snapshot,
            prev_images_dir: self.prev_images_dir,
            sync: self.sync,
            display_stats: self.display_stats,
            sockets: SocketChoices {
                external_unix: !self.ext_unix_sk.is_empty(),
                external_unix_inodes: self
                    .ext_unix_sk
                    .into_iter()
                    .flat_map(|inodes| inodes.0)
                    .collect(),
                tcp_established: self.tcp_established,
                tcp_close: self.tcp_close,
                skip_in_flight: self.skip_in_flight,
                network_lock: self.network_lock,
            },
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
            criu_reads_config: !self.no_default_config,
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
