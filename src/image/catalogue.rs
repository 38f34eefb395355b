//! Every image there is: its magic, its name, how it is framed.

/// What stands at the start of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The magic of all images, then that of the kind.
    Common,
    /// The magic of files beside the images (`stats-dump`), then that of the kind.
    Service,
    /// The magic of the kind alone.
    Own,
    /// Nothing: the whole file is content.
    Raw,
}

/// How the id of an object stands in the name of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Id {
    None,
    Decimal,
    Hexadecimal,
}

/// The magic in front of every image of format version 2.
pub const COMMON_MAGIC: u32 = 0x5456_4319;
/// The magic in front of files beside the images.
pub const SERVICE_MAGIC: u32 = 0x5510_5940;

struct Row {
    kind: Kind,
    magic: u32,
    head: Head,
    prefix: &'static str,
    id: Id,
    suffix: &'static str,
}

/// Declares [`Kind`] together with the table of what is known of each.
macro_rules! catalogue {
    ($($(#[$doc:meta])* $kind:ident $magic:literal $head:ident $prefix:literal $id:ident $suffix:literal;)*) => {
        /// A kind of image.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        const TABLE: &[Row] = &[$(Row {
            kind: Kind::$kind,
            magic: $magic,
            head: Head::$head,
            prefix: $prefix,
            id: Id::$id,
            suffix: $suffix,
        },)*];
    };
}

catalogue! {
    /// The entry point: version and ids of the dumper.
    Inventory 0x5831_3116 Own "inventory.img" None "";
    /// A descriptor table, by files id.
    Fdinfo 0x5621_3732 Common "fdinfo-" Decimal ".img";
    /// Which pages of a task are saved, by pid.
    Pagemap 0x5608_4025 Common "pagemap-" Decimal ".img";
    /// Which pages of shared memory are saved, by inode.
    ShmemPagemap 0x5608_4025 Common "pagemap-shmem-" Decimal ".img";
    /// `reg-files.img`, of older dumpers.
    RegFiles 0x5036_3636 Common "reg-files.img" None "";
    /// `ext-files.img`, of older dumpers.
    ExtFiles 0x5925_5641 Common "ext-files.img" None "";
    /// `ns-files.img`, of older dumpers.
    NsFiles 0x6139_4011 Common "ns-files.img" None "";
    /// `eventfd.img`, of older dumpers.
    EventfdFile 0x4452_3722 Common "eventfd.img" None "";
    /// `eventpoll.img`, of older dumpers.
    EventpollFile 0x4502_3858 Common "eventpoll.img" None "";
    /// `eventpoll-tfd.img`, of older dumpers.
    EventpollTfd 0x4443_3746 Common "eventpoll-tfd.img" None "";
    /// `signalfd.img`, of older dumpers.
    Signalfd 0x5732_3820 Common "signalfd.img" None "";
    /// `inotify.img`, of older dumpers.
    InotifyFile 0x4842_4431 Common "inotify.img" None "";
    /// `inotify-wd.img`, of older dumpers.
    InotifyWd 0x5456_2009 Common "inotify-wd.img" None "";
    /// `fanotify.img`, of older dumpers.
    FanotifyFile 0x5509_6122 Common "fanotify.img" None "";
    /// `fanotify-mark.img`, of older dumpers.
    FanotifyMark 0x5650_6035 Common "fanotify-mark.img" None "";
    /// A thread, by tid.
    Core 0x5505_3847 Common "core-" Decimal ".img";
    /// Which kernel objects a task holds, by pid.
    Ids 0x5443_2030 Common "ids-" Decimal ".img";
    /// An address space, by pid.
    Mm 0x5749_2820 Common "mm-" Decimal ".img";
    /// `vmas-N.img`, of older dumpers.
    Vmas 0x5412_3737 Common "vmas-" Decimal ".img";
    /// `pipes.img`, of older dumpers.
    Pipes 0x5651_3555 Common "pipes.img" None "";
    /// What waits in pipes.
    PipesData 0x5645_3709 Common "pipes-data.img" None "";
    /// `fifo.img`, of older dumpers.
    Fifo 0x5836_4939 Common "fifo.img" None "";
    /// What waits in FIFOs.
    FifoData 0x5933_3054 Common "fifo-data.img" None "";
    /// The process tree.
    Pstree 0x5027_3030 Common "pstree.img" None "";
    /// `sigacts-N.img`, of older dumpers.
    Sigact 0x5534_4201 Common "sigacts-" Decimal ".img";
    /// `unixsk.img`, of older dumpers.
    Unixsk 0x5437_3943 Common "unixsk.img" None "";
    /// `inetsk.img`, of older dumpers.
    Inetsk 0x5644_3851 Common "inetsk.img" None "";
    /// `packetsk.img`, of older dumpers.
    Packetsk 0x6045_4618 Common "packetsk.img" None "";
    /// `netlinksk.img`, of older dumpers.
    NetlinkSk 0x5800_5614 Common "netlinksk.img" None "";
    /// What waits in sockets.
    SkQueues 0x5626_4026 Common "sk-queues.img" None "";
    /// `itimers-N.img`, of older dumpers.
    Itimers 0x5746_4056 Common "itimers-" Decimal ".img";
    /// `posix-timers-N.img`, of older dumpers.
    PosixTimers 0x5260_3957 Common "posix-timers-" Decimal ".img";
    /// `creds-N.img`, of older dumpers.
    Creds 0x5402_3547 Common "creds-" Decimal ".img";
    /// `utsns-N.img`, of a dumped namespace.
    Utsns 0x5447_3203 Common "utsns-" Decimal ".img";
    /// `ipcns-var-N.img`, of a dumped namespace.
    IpcVar 0x5311_5007 Common "ipcns-var-" Decimal ".img";
    /// `ipcns-shm-N.img`, of a dumped namespace.
    IpcnsShm 0x4628_3044 Common "ipcns-shm-" Decimal ".img";
    /// `ipcns-msg-N.img`, of a dumped namespace.
    IpcnsMsg 0x5545_3737 Common "ipcns-msg-" Decimal ".img";
    /// `ipcns-sem-N.img`, of a dumped namespace.
    IpcnsSem 0x5957_3019 Common "ipcns-sem-" Decimal ".img";
    /// Working folder, root, umask, by pid.
    Fs 0x5140_3912 Common "fs-" Decimal ".img";
    /// Paths that need help at restore.
    RemapFpath 0x5913_3954 Common "remap-fpath.img" None "";
    /// A deleted file.
    GhostFile 0x5258_3605 Common "ghost-file-" Hexadecimal ".img";
    /// Nameless shared memory.
    MemfdInode 0x4845_3499 Common "memfd.img" None "";
    /// A connection, by socket inode.
    TcpStream 0x5146_5506 Common "tcp-stream-" Hexadecimal ".img";
    /// `mountpoints-N.img`, of a dumped namespace.
    Mnts 0x5556_3928 Common "mountpoints-" Decimal ".img";
    /// `netdev-N.img`, of a dumped namespace.
    Netdev 0x5737_3951 Common "netdev-" Decimal ".img";
    /// `netns-N.img`, of a dumped namespace.
    Netns 0x5593_3752 Common "netns-" Decimal ".img";
    /// `ifaddr-N.img`, of a dumped namespace.
    Ifaddr 0x0000_0000 Raw "ifaddr-" Decimal ".img";
    /// `route-N.img`, of a dumped namespace.
    Route 0x0000_0000 Raw "route-" Decimal ".img";
    /// `route6-N.img`, of a dumped namespace.
    Route6 0x0000_0000 Raw "route6-" Decimal ".img";
    /// `rule-N.img`, of a dumped namespace.
    Rule 0x0000_0000 Raw "rule-" Decimal ".img";
    /// `iptables-N.img`, of a dumped namespace.
    Iptables 0x0000_0000 Raw "iptables-" Decimal ".img";
    /// `ip6tables-N.img`, of a dumped namespace.
    Ip6tables 0x0000_0000 Raw "ip6tables-" Decimal ".img";
    /// `nftables-N.img`, of a dumped namespace.
    Nftables 0x0000_0000 Raw "nftables-" Decimal ".img";
    /// `tmpfs-N.tar.gz.img`, of a dumped namespace.
    TmpfsImg 0x0000_0000 Raw "tmpfs-" Decimal ".tar.gz.img";
    /// `tmpfs-dev-N.tar.gz.img`, of a dumped namespace.
    TmpfsDev 0x0000_0000 Raw "tmpfs-dev-" Decimal ".tar.gz.img";
    /// `autofs-N.img`, of a dumped namespace.
    Autofs 0x4935_3943 Common "autofs-" Decimal ".img";
    /// `binfmt-misc-N.img`, of older dumpers.
    BinfmtMiscOld 0x6734_3323 Common "binfmt-misc-" Decimal ".img";
    /// `binfmt-misc.img`, of a dumped namespace.
    BinfmtMisc 0x6734_3323 Common "binfmt-misc.img" None "";
    /// `tty.img`, of older dumpers.
    TtyFiles 0x5943_3025 Common "tty.img" None "";
    /// Terminals.
    TtyInfo 0x5945_3036 Common "tty-info.img" None "";
    /// What waits in terminals.
    TtyData 0x5941_3026 Common "tty-data.img" None "";
    /// File locks.
    FileLocks 0x5432_3616 Common "filelocks.img" None "";
    /// `rlimit-N.img`, of older dumpers.
    Rlimit 0x5711_3925 Common "rlimit-" Decimal ".img";
    /// The bytes of saved pages, by pages id.
    Pages 0x0000_0000 Raw "pages-" Decimal ".img";
    /// `signal-s-N.img`, of older dumpers.
    Signal 0x5925_5647 Common "signal-s-" Decimal ".img";
    /// `signal-p-N.img`, of older dumpers.
    Psignal 0x5925_5647 Common "signal-p-" Decimal ".img";
    /// `tunfile.img`, of older dumpers.
    Tunfile 0x5714_3751 Common "tunfile.img" None "";
    /// Cgroup sets and their hierarchies.
    Cgroup 0x5938_3330 Common "cgroup.img" None "";
    /// `timerfd.img`, of older dumpers.
    Timerfd 0x5049_3712 Common "timerfd.img" None "";
    /// The CPU that was dumped on.
    Cpuinfo 0x6140_4013 Common "cpuinfo.img" None "";
    /// Seccomp filters.
    Seccomp 0x6441_3049 Common "seccomp.img" None "";
    /// `userns-N.img`, of a dumped namespace.
    Userns 0x5547_4906 Common "userns-" Decimal ".img";
    /// `netns-ct-N.img`, of a dumped namespace.
    NetnfCt 0x0000_0000 Raw "netns-ct-" Decimal ".img";
    /// `netns-exp-N.img`, of a dumped namespace.
    NetnfExp 0x0000_0000 Raw "netns-exp-" Decimal ".img";
    /// Open files.
    Files 0x5630_3138 Common "files.img" None "";
    /// Clock offsets.
    Timens 0x4311_4433 Common "timens-" Decimal ".img";
    /// `pidns-N.img`, of a dumped namespace.
    Pidns 0x6115_7326 Common "pidns-" Decimal ".img";
    /// `bpfmap-file.img`.
    BpfmapFile 0x5750_6142 Common "bpfmap-file.img" None "";
    /// `bpfmap-data.img`.
    BpfmapData 0x6432_4033 Common "bpfmap-data.img" None "";
    /// `apparmor.img`.
    Apparmor 0x5942_3047 Common "apparmor.img" None "";
    /// `pidfd.img`, of older dumpers.
    Pidfd 0x5443_5556 Common "pidfd.img" None "";
    /// Figures of the dump.
    Stats 0x5709_3306 Service "stats-dump" None "";
    /// `irmap-cache`.
    IrmapCache 0x5700_4059 Service "irmap-cache" None "";
    /// Our own account of a dump, which restorers do not look at.
    Manifest 0x4445_4455 Common "dedump-manifest.img" None "";
}

impl Kind {
    #[expect(clippy::expect_used, reason = "the macro makes one row for every kind")]
    fn row(self) -> &'static Row {
        TABLE
            .iter()
            .find(|row| row.kind == self)
            .expect("every kind has a row")
    }

    /// The number that tells this kind of image.
    #[must_use]
    pub fn magic(self) -> u32 {
        self.row().magic
    }

    /// What stands at the start of such an image.
    #[must_use]
    pub fn head(self) -> Head {
        self.row().head
    }

    /// The name of the image of object `id`; the id is left out where there is but one.
    #[must_use]
    pub fn file_name(self, id: u64) -> String {
        let row = self.row();
        match row.id {
            Id::None => row.prefix.to_owned(),
            Id::Decimal => format!("{}{id}{}", row.prefix, row.suffix),
            Id::Hexadecimal => format!("{}{id:x}{}", row.prefix, row.suffix),
        }
    }

    /// Which image a file name stands for.
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<(Kind, u64)> {
        TABLE.iter().find_map(|row| {
            let radix = match row.id {
                Id::None => return (name == row.prefix).then_some((row.kind, 0)),
                Id::Decimal => 10,
                Id::Hexadecimal => 16,
            };
            let id = name.strip_prefix(row.prefix)?.strip_suffix(row.suffix)?;
            let is_number = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            let id = is_number
                .then(|| u64::from_str_radix(id, radix).ok())
                .flatten()?;
            Some((row.kind, id))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_kinds() {
        for row in TABLE {
            let id = if row.id == Id::None { 0 } else { 0x1234 };
            let name = row.kind.file_name(id);
            let (kind, found) = Kind::of_file_name(&name).expect("a catalogue name");
            // An old and a new image may share a name.
            assert_eq!(kind.file_name(found), name);
            assert_eq!(found, id);
        }
    }

    #[test]
    fn other_names_are_no_images() {
        for name in [
            "core-.img",
            "core-1x.img",
            "core-+1.img",
            "inventory.img.bak",
            "dump.log",
            "pages-1",
        ] {
            assert_eq!(Kind::of_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn shared_memory_is_not_taken_for_a_task() {
        assert_eq!(
            Kind::of_file_name("pagemap-shmem-7.img"),
            Some((Kind::ShmemPagemap, 7))
        );
        assert_eq!(
            Kind::of_file_name("pagemap-7.img"),
            Some((Kind::Pagemap, 7))
        );
        assert_eq!(Kind::GhostFile.file_name(255), "ghost-file-ff.img");
    }
}
