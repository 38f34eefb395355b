//! Every option and command of CRIU 4.2, and what dedump does with it.
//!
//! The one place that knows CRIU's command line: [`super::getopt`] reads arguments by this
//! table, so that whoever types `criu dump …` types the same here, and what is not built is
//! refused by its name instead of being taken for a mistake, or worse, ignored.

use self::Fate::{Idle, Later, Other, Taken};
use self::Value::{Never, Optional, Required, Switch};

/// Whether an option takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// None.
    Never,
    /// None, and `--no-…` takes the option back.
    Switch,
    /// One that must be attached: `-v4`, `--verbosity=4`.
    Optional,
    /// One, attached or as the next argument.
    Required,
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// An argument of [`super::dump::DumpArgs`].
    Taken,
    /// Accepted; nothing is left to do for it, for this reason.
    Idle(&'static str),
    /// Not built yet; the text says what that means.
    Later(&'static str),
    /// Belongs to another command.
    Other(&'static str),
}

/// One option.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opt {
    /// The name behind `--`.
    pub(super) long: &'static str,
    /// The letter behind `-`.
    pub(super) short: Option<u8>,
    /// Its value.
    pub(super) value: Value,
    /// What becomes of it.
    pub(super) fate: Fate,
}

const fn long(long: &'static str, value: Value, fate: Fate) -> Opt {
    Opt {
        long,
        short: None,
        value,
        fate,
    }
}

const fn both(short: u8, long: &'static str, value: Value, fate: Fate) -> Opt {
    Opt {
        long,
        short: Some(short),
        value,
        fate,
    }
}

const MEMORY: Fate = Later("memory is read while the tree is dumped, not before");
const MOUNTS: Fate = Later("trees in a mount namespace of their own are not dumped");
const NAMESPACES: Fate = Later("trees in namespaces of their own are not dumped");
const PAGES_AWAY: Fate = Later("pages go to the images folder only");
const RESTORE: Fate = Other("restore");
const CHECK: Fate = Other("check");

/// CRIU 4.2's table, then the options of our own.
pub(super) const OPTIONS: &[Opt] = &[
    both(b't', "tree", Required, Taken),
    both(b'D', "images-dir", Required, Taken),
    both(b'W', "work-dir", Required, Taken),
    both(b'o', "log-file", Required, Taken),
    both(b'v', "verbosity", Optional, Taken),
    both(b'R', "leave-running", Never, Taken),
    both(b's', "leave-stopped", Never, Taken),
    both(b'j', "shell-job", Switch, Taken),
    both(b'x', "ext-unix-sk", Optional, Taken),
    long("tcp-established", Switch, Taken),
    long("tcp-close", Switch, Taken),
    long("skip-in-flight", Switch, Taken),
    long("network-lock", Required, Taken),
    long("timeout", Required, Taken),
    long("freeze-cgroup", Required, Taken),
    long("action-script", Required, Taken),
    long("manage-cgroups", Optional, Taken),
    long("cgroup-root", Required, Taken),
    long("cgroup-props", Required, Taken),
    long("cgroup-props-file", Required, Taken),
    long("cgroup-dump-controller", Required, Taken),
    long("cgroup-yard", Required, Taken),
    long("prev-images-dir", Required, Taken),
    long("display-stats", Switch, Taken),
    long("config", Required, Taken),
    long("no-default-config", Never, Taken),
    both(b'h', "help", Never, Taken),
    both(b'V', "version", Never, Taken),
    // Nothing to do.
    long(
        "log-pid",
        Switch,
        Idle("a dump writes one log, in criu too"),
    ),
    long(
        "unprivileged",
        Switch,
        Idle("a right is asked for only where it is needed"),
    ),
    long(
        "track-mem",
        Switch,
        Idle("what changed is found by comparing with the earlier dump"),
    ),
    long(
        "deprecated",
        Switch,
        Idle("dedump has no deprecated features"),
    ),
    long(
        "ghost-fiemap",
        Switch,
        Idle("holes of deleted files are found without it"),
    ),
    long(
        "pidfile",
        Required,
        Idle("a dump starts nothing whose pid could be written, in criu too"),
    ),
    long(
        "force-irmap",
        Switch,
        Idle("every watch is recorded with the name of its file"),
    ),
    long(
        "status-fd",
        Required,
        Idle("it tells when others may connect, which is not so in a plain dump"),
    ),
    // Not yet.
    long("address", Required, PAGES_AWAY),
    long(
        "allow-uprobes",
        Switch,
        Later("mappings of uprobes are not dumped"),
    ),
    long(
        "auto-dedup",
        Switch,
        Later("pages are never removed from an earlier dump"),
    ),
    long(
        "close",
        Required,
        Later("close the descriptor in the shell: dedump … N>&-"),
    ),
    long(
        "cpu-cap",
        Optional,
        Later("the processor is recorded in one way only"),
    ),
    long("empty-ns", Required, NAMESPACES),
    long("enable-external-masters", Never, MOUNTS),
    long("enable-external-sharing", Never, MOUNTS),
    long("enable-fs", Required, MOUNTS),
    long(
        "evasive-devices",
        Switch,
        Later("a device is dumped by its own path only"),
    ),
    both(b'M', "ext-mount-map", Required, MOUNTS),
    long("external", Required, Taken),
    both(b'l', "file-locks", Switch, Taken),
    long(
        "file-validation",
        Required,
        Later("files are recorded in one way only"),
    ),
    long("ghost-limit", Required, Taken),
    long("irmap-scan-path", Required, Taken),
    long("lazy-pages", Never, PAGES_AWAY),
    both(b'L', "libdir", Required, Later("there are no plugins")),
    long("link-remap", Switch, Taken),
    long(
        "lsm-profile",
        Required,
        Later("security profiles are not changed"),
    ),
    long("page-server", Switch, PAGES_AWAY),
    long("port", Required, PAGES_AWAY),
    long("pre-dump-mode", Required, MEMORY),
    long("ps-socket", Required, PAGES_AWAY),
    both(b'r', "root", Required, MOUNTS),
    long("skip-mnt", Required, MOUNTS),
    long(
        "stream",
        Switch,
        Later("images are written to a folder only"),
    ),
    long("tls", Switch, PAGES_AWAY),
    long("tls-cacert", Required, PAGES_AWAY),
    long("tls-cacrl", Required, PAGES_AWAY),
    long("tls-cert", Required, PAGES_AWAY),
    long("tls-key", Required, PAGES_AWAY),
    long("tls-no-cn-verify", Never, PAGES_AWAY),
    // For other commands.
    long("all", Never, CHECK),
    long("experimental", Switch, CHECK),
    long("extra", Switch, CHECK),
    long("feature", Required, CHECK),
    long("ms", Never, CHECK),
    long("daemon", Switch, Other("page-server")),
    long("exec-cmd", Never, RESTORE),
    long("inherit-fd", Required, RESTORE),
    both(b'J', "join-ns", Required, RESTORE),
    long("lsm-mount-context", Required, RESTORE),
    long("mntns-compat-mode", Switch, RESTORE),
    both(b'd', "restore-detached", Switch, RESTORE),
    both(b'S', "restore-sibling", Switch, RESTORE),
    long("skip-file-rwx-check", Switch, RESTORE),
    long("veth-pair", Required, RESTORE),
    long("weak-sysctls", Switch, RESTORE),
    // Our own.
    long("json", Switch, CHECK),
    long("allow-unrestorable", Switch, Taken),
    long("no-page-dedup", Switch, Taken),
    long("no-snapshot", Switch, Taken),
    long("no-space-check", Switch, Taken),
    long("overwrite", Switch, Taken),
    long("sync", Switch, Taken),
];

/// Why a command of CRIU's other than `dump` is refused; `None` for a word that is no command.
pub(super) fn refusal(command: &str) -> Option<&'static str> {
    Some(match command {
        "restore" => "unmodified criu restores the folders of dedump: criu restore -D DIR",
        "pre-dump" | "page-server" | "lazy-pages" => "every dump is a full one, into a folder",
        "service" | "swrk" => "call dedump dump",
        "cpuinfo" | "dedup" => "call criu for it",
        "exec" => "criu has dropped it, too",
        _ => return None,
    })
}
