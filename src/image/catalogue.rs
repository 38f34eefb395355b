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

/// What follows an entry, as bytes that no protobuf describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    None,
    /// What waits in a pipe: as many bytes as the entry says.
    Pipe,
    /// What waits in a socket: as many bytes as the entry says.
    Socket,
    /// Both queues of a TCP connection, received bytes first.
    Tcp,
    /// A deleted file: the rest of the image, or chunks, each behind an entry of its own.
    Ghost,
    /// The messages of a queue, each an entry and its text.
    Queue,
    /// The values of semaphores, 16 bits each, filled up to 8 bytes.
    Semaphores,
    /// A segment of shared memory, filled up to 4 bytes; nothing where it has a pagemap.
    Segment,
    /// Keys and values of a map.
    Map,
}

/// How many entries an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    One,
    Many,
}

/// The magic in front of every image of format version 2.
pub const COMMON_MAGIC: u32 = 0x5456_4319;
/// The magic in front of files beside the images.
pub const SERVICE_MAGIC: u32 = 0x5510_5940;

struct Row {
    kind: Kind,
    name: &'static str,
    magic: u32,
    head: Head,
    prefix: &'static str,
    id: Id,
    suffix: &'static str,
    message: &'static str,
    count: Count,
    payload: Payload,
}

/// Declares [`Kind`] together with the table of what is known of each.
macro_rules! catalogue {
    ($($(#[$doc:meta])* $kind:ident $name:literal $magic:literal $head:ident $prefix:literal $id:ident $suffix:literal
        $message:ident $count:ident $payload:ident;)*) => {
        /// A kind of image.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// All of them, in the order of the catalogue.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];
        }

        const TABLE: &[Row] = &[$(Row {
            kind: Kind::$kind,
            name: $name,
            magic: $magic,
            head: Head::$head,
            prefix: $prefix,
            id: Id::$id,
            suffix: $suffix,
            message: stringify!($message),
            count: Count::$count,
            payload: Payload::$payload,
        },)*];
    };
}

catalogue! {
    /// The entry point: version and ids of the dumper.
    Inventory "INVENTORY" 0x5831_3116 Own "inventory.img" None "" InventoryEntry One None;
    /// A descriptor table, by files id.
    Fdinfo "FDINFO" 0x5621_3732 Common "fdinfo-" Decimal ".img" FdinfoEntry Many None;
    /// Which pages of a task are saved, by pid.
    Pagemap "PAGEMAP" 0x5608_4025 Common "pagemap-" Decimal ".img" PagemapEntry Many None;
    /// Which pages of shared memory are saved, by inode.
    ShmemPagemap "SHMEM_PAGEMAP" 0x5608_4025 Common "pagemap-shmem-" Decimal ".img" PagemapEntry Many None;
    /// `reg-files.img`, of older dumpers.
    RegFiles "REG_FILES" 0x5036_3636 Common "reg-files.img" None "" RegFileEntry Many None;
    /// `ext-files.img`, of older dumpers.
    ExtFiles "EXT_FILES" 0x5925_5641 Common "ext-files.img" None "" ExtFileEntry Many None;
    /// `ns-files.img`, of older dumpers.
    NsFiles "NS_FILES" 0x6139_4011 Common "ns-files.img" None "" NsFileEntry Many None;
    /// `eventfd.img`, of older dumpers.
    EventfdFile "EVENTFD_FILE" 0x4452_3722 Common "eventfd.img" None "" EventfdFileEntry Many None;
    /// `eventpoll.img`, of older dumpers.
    EventpollFile "EVENTPOLL_FILE" 0x4502_3858 Common "eventpoll.img" None "" EventpollFileEntry Many None;
    /// `eventpoll-tfd.img`, of older dumpers.
    EventpollTfd "EVENTPOLL_TFD" 0x4443_3746 Common "eventpoll-tfd.img" None "" EventpollTfdEntry Many None;
    /// `signalfd.img`, of older dumpers.
    Signalfd "SIGNALFD" 0x5732_3820 Common "signalfd.img" None "" SignalfdEntry Many None;
    /// `inotify.img`, of older dumpers.
    InotifyFile "INOTIFY_FILE" 0x4842_4431 Common "inotify.img" None "" InotifyFileEntry Many None;
    /// `inotify-wd.img`, of older dumpers.
    InotifyWd "INOTIFY_WD" 0x5456_2009 Common "inotify-wd.img" None "" InotifyWdEntry Many None;
    /// `fanotify.img`, of older dumpers.
    FanotifyFile "FANOTIFY_FILE" 0x5509_6122 Common "fanotify.img" None "" FanotifyFileEntry Many None;
    /// `fanotify-mark.img`, of older dumpers.
    FanotifyMark "FANOTIFY_MARK" 0x5650_6035 Common "fanotify-mark.img" None "" FanotifyMarkEntry Many None;
    /// A thread, by tid.
    Core "CORE" 0x5505_3847 Common "core-" Decimal ".img" CoreEntry One None;
    /// Which kernel objects a task holds, by pid.
    Ids "IDS" 0x5443_2030 Common "ids-" Decimal ".img" TaskKobjIdsEntry One None;
    /// An address space, by pid.
    Mm "MM" 0x5749_2820 Common "mm-" Decimal ".img" MmEntry One None;
    /// `vmas-N.img`, of older dumpers.
    Vmas "VMAS" 0x5412_3737 Common "vmas-" Decimal ".img" VmaEntry Many None;
    /// `pipes.img`, of older dumpers.
    Pipes "PIPES" 0x5651_3555 Common "pipes.img" None "" PipeEntry Many None;
    /// What waits in pipes.
    PipesData "PIPES_DATA" 0x5645_3709 Common "pipes-data.img" None "" PipeDataEntry Many Pipe;
    /// `fifo.img`, of older dumpers.
    Fifo "FIFO" 0x5836_4939 Common "fifo.img" None "" FifoEntry Many None;
    /// What waits in FIFOs.
    FifoData "FIFO_DATA" 0x5933_3054 Common "fifo-data.img" None "" PipeDataEntry Many Pipe;
    /// The process tree.
    Pstree "PSTREE" 0x5027_3030 Common "pstree.img" None "" PstreeEntry Many None;
    /// `sigacts-N.img`, of older dumpers.
    Sigact "SIGACT" 0x5534_4201 Common "sigacts-" Decimal ".img" SaEntry Many None;
    /// `unixsk.img`, of older dumpers.
    Unixsk "UNIXSK" 0x5437_3943 Common "unixsk.img" None "" UnixSkEntry Many None;
    /// `inetsk.img`, of older dumpers.
    Inetsk "INETSK" 0x5644_3851 Common "inetsk.img" None "" InetSkEntry Many None;
    /// `packetsk.img`, of older dumpers.
    Packetsk "PACKETSK" 0x6045_4618 Common "packetsk.img" None "" PacketSockEntry Many None;
    /// `netlinksk.img`, of older dumpers.
    NetlinkSk "NETLINK_SK" 0x5800_5614 Common "netlinksk.img" None "" NetlinkSkEntry Many None;
    /// What waits in sockets.
    SkQueues "SK_QUEUES" 0x5626_4026 Common "sk-queues.img" None "" SkPacketEntry Many Socket;
    /// `itimers-N.img`, of older dumpers.
    Itimers "ITIMERS" 0x5746_4056 Common "itimers-" Decimal ".img" ItimerEntry Many None;
    /// `posix-timers-N.img`, of older dumpers.
    PosixTimers "POSIX_TIMERS" 0x5260_3957 Common "posix-timers-" Decimal ".img" PosixTimerEntry Many None;
    /// `creds-N.img`, of older dumpers.
    Creds "CREDS" 0x5402_3547 Common "creds-" Decimal ".img" CredsEntry One None;
    /// `utsns-N.img`, of a dumped namespace.
    Utsns "UTSNS" 0x5447_3203 Common "utsns-" Decimal ".img" UtsnsEntry One None;
    /// `ipcns-var-N.img`, of a dumped namespace.
    IpcVar "IPC_VAR" 0x5311_5007 Common "ipcns-var-" Decimal ".img" IpcVarEntry One None;
    /// `ipcns-shm-N.img`, of a dumped namespace.
    IpcnsShm "IPCNS_SHM" 0x4628_3044 Common "ipcns-shm-" Decimal ".img" IpcShmEntry Many Segment;
    /// `ipcns-msg-N.img`, of a dumped namespace.
    IpcnsMsg "IPCNS_MSG" 0x5545_3737 Common "ipcns-msg-" Decimal ".img" IpcMsgEntry Many Queue;
    /// `ipcns-sem-N.img`, of a dumped namespace.
    IpcnsSem "IPCNS_SEM" 0x5957_3019 Common "ipcns-sem-" Decimal ".img" IpcSemEntry Many Semaphores;
    /// Working folder, root, umask, by pid.
    Fs "FS" 0x5140_3912 Common "fs-" Decimal ".img" FsEntry One None;
    /// Paths that need help at restore.
    RemapFpath "REMAP_FPATH" 0x5913_3954 Common "remap-fpath.img" None "" RemapFilePathEntry Many None;
    /// A deleted file.
    GhostFile "GHOST_FILE" 0x5258_3605 Common "ghost-file-" Hexadecimal ".img" GhostFileEntry Many Ghost;
    /// Nameless shared memory.
    MemfdInode "MEMFD_INODE" 0x4845_3499 Common "memfd.img" None "" MemfdInodeEntry Many None;
    /// A connection, by socket inode.
    TcpStream "TCP_STREAM" 0x5146_5506 Common "tcp-stream-" Hexadecimal ".img" TcpStreamEntry One Tcp;
    /// `mountpoints-N.img`, of a dumped namespace.
    Mnts "MNTS" 0x5556_3928 Common "mountpoints-" Decimal ".img" MntEntry Many None;
    /// `netdev-N.img`, of a dumped namespace.
    Netdev "NETDEV" 0x5737_3951 Common "netdev-" Decimal ".img" NetDeviceEntry Many None;
    /// `netns-N.img`, of a dumped namespace.
    Netns "NETNS" 0x5593_3752 Common "netns-" Decimal ".img" NetnsEntry One None;
    /// `ifaddr-N.img`, of a dumped namespace.
    Ifaddr "IFADDR" 0x0000_0000 Raw "ifaddr-" Decimal ".img" Nothing Many None;
    /// `route-N.img`, of a dumped namespace.
    Route "ROUTE" 0x0000_0000 Raw "route-" Decimal ".img" Nothing Many None;
    /// `route6-N.img`, of a dumped namespace.
    Route6 "ROUTE6" 0x0000_0000 Raw "route6-" Decimal ".img" Nothing Many None;
    /// `rule-N.img`, of a dumped namespace.
    Rule "RULE" 0x0000_0000 Raw "rule-" Decimal ".img" Nothing Many None;
    /// `iptables-N.img`, of a dumped namespace.
    Iptables "IPTABLES" 0x0000_0000 Raw "iptables-" Decimal ".img" Nothing Many None;
    /// `ip6tables-N.img`, of a dumped namespace.
    Ip6tables "IP6TABLES" 0x0000_0000 Raw "ip6tables-" Decimal ".img" Nothing Many None;
    /// `nftables-N.img`, of a dumped namespace.
    Nftables "NFTABLES" 0x0000_0000 Raw "nftables-" Decimal ".img" Nothing Many None;
    /// `tmpfs-N.tar.gz.img`, of a dumped namespace.
    TmpfsImg "TMPFS_IMG" 0x0000_0000 Raw "tmpfs-" Decimal ".tar.gz.img" Nothing Many None;
    /// `tmpfs-dev-N.tar.gz.img`, of a dumped namespace.
    TmpfsDev "TMPFS_DEV" 0x0000_0000 Raw "tmpfs-dev-" Decimal ".tar.gz.img" Nothing Many None;
    /// `autofs-N.img`, of a dumped namespace.
    Autofs "AUTOFS" 0x4935_3943 Common "autofs-" Decimal ".img" AutofsEntry One None;
    /// `binfmt-misc.img`, of a dumped namespace.
    BinfmtMisc "BINFMT_MISC" 0x6734_3323 Common "binfmt-misc.img" None "" BinfmtMiscEntry Many None;
    /// `binfmt-misc-N.img`, of older dumpers.
    BinfmtMiscOld "BINFMT_MISC_OLD" 0x6734_3323 Common "binfmt-misc-" Decimal ".img" BinfmtMiscEntry Many None;
    /// `tty.img`, of older dumpers.
    TtyFiles "TTY_FILES" 0x5943_3025 Common "tty.img" None "" TtyFileEntry Many None;
    /// Terminals.
    TtyInfo "TTY_INFO" 0x5945_3036 Common "tty-info.img" None "" TtyInfoEntry Many None;
    /// What waits in terminals.
    TtyData "TTY_DATA" 0x5941_3026 Common "tty-data.img" None "" TtyDataEntry Many None;
    /// File locks.
    FileLocks "FILE_LOCKS" 0x5432_3616 Common "filelocks.img" None "" FileLockEntry Many None;
    /// `rlimit-N.img`, of older dumpers.
    Rlimit "RLIMIT" 0x5711_3925 Common "rlimit-" Decimal ".img" RlimitEntry Many None;
    /// The bytes of saved pages, by pages id.
    Pages "PAGES" 0x0000_0000 Raw "pages-" Decimal ".img" Nothing Many None;
    /// `signal-s-N.img`, of older dumpers.
    Signal "SIGNAL" 0x5925_5647 Common "signal-s-" Decimal ".img" SiginfoEntry Many None;
    /// `signal-p-N.img`, of older dumpers.
    Psignal "PSIGNAL" 0x5925_5647 Common "signal-p-" Decimal ".img" SiginfoEntry Many None;
    /// `tunfile.img`, of older dumpers.
    Tunfile "TUNFILE" 0x5714_3751 Common "tunfile.img" None "" TunfileEntry Many None;
    /// Cgroup sets and their hierarchies.
    Cgroup "CGROUP" 0x5938_3330 Common "cgroup.img" None "" CgroupEntry One None;
    /// `timerfd.img`, of older dumpers.
    Timerfd "TIMERFD" 0x5049_3712 Common "timerfd.img" None "" TimerfdEntry Many None;
    /// The CPU that was dumped on.
    Cpuinfo "CPUINFO" 0x6140_4013 Common "cpuinfo.img" None "" CpuinfoEntry One None;
    /// Seccomp filters.
    Seccomp "SECCOMP" 0x6441_3049 Common "seccomp.img" None "" SeccompEntry One None;
    /// `userns-N.img`, of a dumped namespace.
    Userns "USERNS" 0x5547_4906 Common "userns-" Decimal ".img" UsernsEntry One None;
    /// `netns-ct-N.img`, of a dumped namespace.
    NetnfCt "NETNF_CT" 0x0000_0000 Raw "netns-ct-" Decimal ".img" Nothing Many None;
    /// `netns-exp-N.img`, of a dumped namespace.
    NetnfExp "NETNF_EXP" 0x0000_0000 Raw "netns-exp-" Decimal ".img" Nothing Many None;
    /// Open files.
    Files "FILES" 0x5630_3138 Common "files.img" None "" FileEntry Many None;
    /// Clock offsets.
    Timens "TIMENS" 0x4311_4433 Common "timens-" Decimal ".img" TimensEntry One None;
    /// `pidns-N.img`, of a dumped namespace.
    Pidns "PIDNS" 0x6115_7326 Common "pidns-" Decimal ".img" PidnsEntry One None;
    /// `bpfmap-file.img`.
    BpfmapFile "BPFMAP_FILE" 0x5750_6142 Common "bpfmap-file.img" None "" BpfmapFileEntry One None;
    /// `bpfmap-data.img`.
    BpfmapData "BPFMAP_DATA" 0x6432_4033 Common "bpfmap-data.img" None "" BpfmapDataEntry Many Map;
    /// `apparmor.img`.
    Apparmor "APPARMOR" 0x5942_3047 Common "apparmor.img" None "" ApparmorEntry One None;
    /// `pidfd.img`, of older dumpers.
    Pidfd "PIDFD" 0x5443_5556 Common "pidfd.img" None "" PidfdEntry Many None;
    /// Figures of the dump.
    Stats "STATS" 0x5709_3306 Service "stats-dump" None "" StatsEntry One None;
    /// Figures of a restore.
    RestoreStats "STATS" 0x5709_3306 Service "stats-restore" None "" StatsEntry One None;
    /// `irmap-cache`.
    IrmapCache "IRMAP_CACHE" 0x5700_4059 Service "irmap-cache" None "" IrmapCacheEntry Many None;
    /// Checksums of pages, for later dumps; restorers do not look at them.
    PageCrcs "DEDUMP_PAGE_CRCS" 0x4445_4350 Common "dedump-page-crcs.img" None "" PageCrcsEntry Many None;
    /// Our own account of a dump, which restorers do not look at.
    Manifest "DEDUMP_MANIFEST" 0x4445_4455 Common "dedump-manifest.img" None "" Manifest One None;
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

    /// Its name in CRIU's catalogue.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The name that `crit` gives images of this kind; kinds with equal magics are one to it.
    #[must_use]
    pub fn magic_name(self) -> &'static str {
        match Kind::of_magic(self.magic()) {
            Some(kind) => kind.name(),
            None => self.name(),
        }
    }

    /// The first kind with this magic.
    #[must_use]
    pub fn of_magic(magic: u32) -> Option<Kind> {
        let row = TABLE
            .iter()
            .find(|row| row.head != Head::Raw && row.magic == magic);
        row.map(|row| row.kind)
    }

    /// The message that entry number `index` is; `None` where the whole file is bytes.
    #[must_use]
    pub fn message(self, index: usize) -> Option<&'static str> {
        match self {
            Kind::Pagemap | Kind::ShmemPagemap if index == 0 => Some("PagemapHead"),
            Kind::GhostFile if index > 0 => Some("GhostChunkEntry"),
            _ if self.head() == Head::Raw => None,
            _ => Some(self.row().message),
        }
    }

    /// Whether such an image has exactly one entry.
    #[must_use]
    pub fn is_single(self) -> bool {
        self.row().count == Count::One
    }

    /// What follows its entries.
    #[must_use]
    pub fn payload(self) -> Payload {
        self.row().payload
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
