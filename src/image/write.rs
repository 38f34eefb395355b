//! The write stage: a collection becomes a folder of images.
//!
//! What several tasks share is written by its first holder. Where the format names an image
//! by pid, the others' names are hard links to that one file.

use std::collections::HashMap;
use std::path::PathBuf;

use super::catalogue::Kind;
use super::cgroups::cgroup_entry;
use super::files::{
    FileTypes, memfd_entry, write_fdinfo, write_files, write_ghost, write_pipe_content,
    write_remaps,
};
use super::folder::{ImageFolder, Level};
use super::locks::file_lock_entry;
use super::memory::mm_entry;
use super::pages::{self, Pages, SharedMemory};
use super::previous::PreviousFolder;
use super::seccomp::Filters;
use super::sockets::write_queue;
use super::tcp::{lock_method, run_id, write_stream};
use super::terminals::{tty_data_entry, tty_info_entry};
use super::{proto, tasks};
use crate::collect::cgroups::OWN_SET;
use crate::collect::clocks::Clocks;
use crate::collect::files::{DescriptorTable, Files, Segment};
use crate::collect::memory::AddressSpace;
use crate::collect::page_identity::SharedPages;
use crate::collect::sockets::Lock;
use crate::collect::task::{Living, Task};
use crate::collect::tree::{CollectedTask, Collection, Filesystem, Holdings, Owned};
use crate::error::Result;
use crate::hold::KeptMemory;
use crate::ids::{Pid, Tid};
use crate::kcmp::{Identities, TaskIds};
use crate::options::SocketChoices;
use crate::progress::Progress;
use crate::watch::Watch;

/// Version 2 of the format: a leading magic in every image.
const IMAGE_VERSION: u32 = 2;

/// What writing amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Pages of private memory.
    pub pages: u64,
    /// Pages of shared memory.
    pub shared_pages: u64,
    /// Pages of private memory left out because they hold nothing but zeros.
    pub zero_pages: u64,
    /// Pages of private memory left out because another task's copy is the same page.
    pub left_to_family_pages: u64,
    /// Pages of private memory left out because an earlier dump has them.
    pub unchanged_pages: u64,
}

/// The earlier dump of the same tree that a dump builds on.
#[derive(Debug)]
pub struct Earlier {
    /// Its images.
    pub folder: PreviousFolder,
    /// Where it is, as seen from the folder of the new dump.
    pub link: PathBuf,
}

/// What is known of the memory to be written, apart from where it is.
#[derive(Clone, Copy, Debug)]
pub struct MemoryToWrite<'a> {
    /// Which pages are the same.
    pub shared: &'a SharedPages,
    /// The memory as it was when the tree was let go; `None` while it stands still.
    pub kept: Option<&'a KeptMemory>,
    /// What need not be written again.
    pub earlier: Option<&'a Earlier>,
    /// Whether the tree ends with the dump.
    pub tree_ends: bool,
    /// Until when it must be done.
    pub watch: &'a Watch,
}

/// Writes every image but the inventory, which makes the folder complete.
///
/// # Errors
/// Reading pages, writing.
pub fn write(
    folder: &ImageFolder,
    collection: Collection,
    memory: &MemoryToWrite<'_>,
    progress: &Progress,
) -> Result<Written> {
    let Collection {
        tasks,
        spaces,
        tables,
        filesystems,
        files,
        cgroups,
        clocks,
        ..
    } = collection;
    let types = FileTypes::of(&files.open);
    let writer = Writer {
        folder,
        filters: Filters::of(tasks.iter().filter_map(|one| one.task.living.as_ref())),
    };
    let mut pstree = folder.writer(Kind::Pstree, 0)?;
    for one in &tasks {
        pstree.entry(&tasks::pstree_entry(
            &one.task,
            one.parent.map_or(0, Pid::number),
        ))?;
    }
    folder.record(pstree.finish()?);
    if let Some(entry) = writer.filters.entry() {
        writer.single(Kind::Seccomp, 0, entry)?;
    }
    if let Some(cgroups) = &cgroups {
        writer.single(Kind::Cgroup, 0, &cgroup_entry(cgroups))?;
    }
    if let Some(clocks) = clocks {
        writer.single(Kind::Timens, TREES_TIME, &timens_entry(clocks))?;
    }
    for one in &tasks {
        match (&one.task.living, &one.holdings) {
            (Some(living), Some(holdings)) => writer.task(&one.task, living, holdings)?,
            _ => writer.zombie(&one.task)?,
        }
    }
    let written = writer.spaces(spaces, &tasks, &files.segments, memory, progress)?;
    writer.filesystems(filesystems, &tasks)?;
    for table in tables {
        writer.table(table, &types)?;
    }
    writer.files(files)?;
    Ok(written)
}

/// Writes the inventory.
///
/// # Errors
/// Writing.
pub fn write_inventory(folder: &ImageFolder, sockets: &SocketChoices, lock: &Lock) -> Result<()> {
    let mut writer = folder.writer(Kind::Inventory, 0)?;
    writer.entry(&proto::InventoryEntry {
        img_version: IMAGE_VERSION,
        fdinfo_per_id: Some(true),
        root_ids: Some(kobj_ids(Identities::DUMPER)),
        ns_per_id: Some(true),
        root_cg_set: Some(OWN_SET),
        lsmtype: Some(0),
        tcp_close: sockets.tcp_close.then_some(true),
        network_lock_method: Some(lock_method(lock)),
        dump_criu_run_id: run_id(lock),
        plugins_entry: Some(proto::PluginsEntry::default()),
        ..Default::default()
    })?;
    folder.record(writer.finish()?);
    Ok(())
}

/// Every task of a host tree lives in the dumper's namespaces, which are numbered from 1.
fn kobj_ids(ids: TaskIds) -> proto::TaskKobjIdsEntry {
    proto::TaskKobjIdsEntry {
        vm_id: ids.vm.number(),
        files_id: ids.files.number(),
        fs_id: ids.fs.number(),
        sighand_id: ids.sighand.number(),
        pid_ns_id: Some(1),
        net_ns_id: Some(2),
        ipc_ns_id: Some(3),
        uts_ns_id: Some(4),
        time_ns_id: Some(5),
        mnt_ns_id: Some(6),
        user_ns_id: Some(7),
        cgroup_ns_id: Some(8),
    }
}

/// Number of the clocks of a tree that is not in a time namespace by the words of its ids.
const TREES_TIME: u32 = 0;

/// The clocks with which a restored tree goes on.
fn timens_entry(clocks: Clocks) -> proto::TimensEntry {
    let timespec = |time: std::time::Duration| proto::Timespec {
        tv_sec: time.as_secs(),
        tv_nsec: u64::from(time.subsec_nanos()),
    };
    proto::TimensEntry {
        monotonic: timespec(clocks.monotonic),
        boottime: timespec(clocks.boottime),
    }
}

struct Writer<'a> {
    folder: &'a ImageFolder,
    filters: Filters,
}

impl Writer<'_> {
    fn single<M: prost::Message>(&self, kind: Kind, id: u32, entry: &M) -> Result<()> {
        let mut writer = self.folder.writer(kind, u64::from(id))?;
        writer.entry(entry)?;
        self.folder.record(writer.finish()?);
        Ok(())
    }

    /// An image with these entries; none at all without any.
    fn entries<M: prost::Message>(
        &self,
        kind: Kind,
        entries: impl Iterator<Item = M>,
    ) -> Result<()> {
        let mut entries = entries.peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        let mut writer = self.folder.writer(kind, 0)?;
        for entry in entries {
            writer.entry(&entry)?;
        }
        self.folder.record(writer.finish()?);
        Ok(())
    }

    fn zombie(&self, task: &Task) -> Result<()> {
        self.single(Kind::Core, task.pid.number(), &tasks::zombie_core(task))
    }

    fn task(&self, task: &Task, living: &Living, holdings: &Holdings) -> Result<()> {
        for (index, thread) in living.threads.iter().enumerate() {
            let mut core = if index == 0 {
                tasks::leader_core(task, living, thread)?
            } else {
                tasks::thread_core(thread)?
            };
            self.filters.note(thread.capture.tid, &mut core);
            self.single(Kind::Core, thread.capture.tid.number(), &core)?;
        }
        self.single(Kind::Ids, task.pid.number(), &kobj_ids(holdings.ids))?;
        for (tid, ids) in &holdings.private_threads {
            self.single(Kind::Ids, tid.number(), &kobj_ids(*ids))?;
        }
        Ok(())
    }

    fn spaces(
        &self,
        spaces: Vec<Owned<AddressSpace>>,
        tasks: &[CollectedTask],
        segments: &[Segment],
        memory: &MemoryToWrite<'_>,
        progress: &Progress,
    ) -> Result<Written> {
        let MemoryToWrite {
            shared,
            kept,
            earlier,
            tree_ends,
            watch,
        } = *memory;
        let by_leader: HashMap<Tid, &CollectedTask> = tasks
            .iter()
            .map(|one| (one.task.pid.leader(), one))
            .collect();
        let previous = |kind, id| match earlier {
            Some(earlier) => earlier.folder.pages(kind, id),
            None => Ok(None),
        };
        let mut holders = HashMap::new();
        let mut objects = Vec::with_capacity(spaces.len());
        for space in spaces {
            holders.insert(space.claim.id(), space.holder);
            space.claim.spend();
            objects.push((space.holder, space.object));
        }
        let mut to_write = Vec::with_capacity(objects.len());
        for (index, (holder, space)) in objects.iter().enumerate() {
            let one = by_leader.get(holder);
            let Some((one, living, holdings)) =
                one.and_then(|one| Some((one, one.task.living.as_ref()?, one.holdings.as_ref()?)))
            else {
                continue;
            };
            let pid = one.task.pid;
            self.single(Kind::Mm, pid.number(), &mm_entry(&one.task, living, space))?;
            to_write.push(pages::Space {
                pid,
                memory: match kept {
                    Some(kept) => &kept.spaces[index],
                    None => &holdings.memory,
                },
                runs: &space.pages,
                previous: previous(Kind::Pagemap, u64::from(pid.number()))?,
            });
        }
        let mut segments_to_write = Vec::with_capacity(segments.len());
        for (index, segment) in segments.iter().enumerate() {
            segments_to_write.push(SharedMemory {
                segment,
                content: match kept {
                    Some(kept) => &kept.segments[index],
                    None => segment,
                },
                previous: previous(Kind::ShmemPagemap, segment.stat.st_ino)?,
            });
        }
        let pages = Pages {
            spaces: &to_write,
            shared,
            segments: &segments_to_write,
            earlier: earlier.map(|earlier| earlier.link.as_path()),
            tree_ends,
            watch,
        };
        let written = pages.write(self.folder, progress)?;
        for (leader, one) in &by_leader {
            let vm = one.holdings.as_ref().map(|holdings| holdings.ids.vm);
            let holder = vm.and_then(|vm| holders.get(&vm));
            for (level, kind) in [
                (Level::Top, Kind::Mm),
                (Level::Top, Kind::Pagemap),
                (Level::Common, Kind::Pagemap),
            ] {
                self.link_to_holder(level, kind, holder, *leader)?;
            }
        }
        Ok(written)
    }

    /// A second name for what another task has shown; nothing for the one who showed it.
    fn link_to_holder(
        &self,
        level: Level,
        kind: Kind,
        holder: Option<&Tid>,
        tid: Tid,
    ) -> Result<()> {
        let of = |tid: Tid| (kind, u64::from(tid.number()));
        match holder {
            // Not everybody has a pagemap among the common pages.
            Some(holder) if *holder != tid && self.folder.has(level, of(*holder)) => {
                self.folder.link(level, of(*holder), of(tid))
            }
            _ => Ok(()),
        }
    }

    fn filesystems(
        &self,
        filesystems: Vec<Owned<Filesystem>>,
        tasks: &[CollectedTask],
    ) -> Result<()> {
        let mut holders = HashMap::new();
        for filesystem in filesystems {
            holders.insert(filesystem.claim.id(), filesystem.holder);
            filesystem.claim.spend();
            let entry = proto::FsEntry {
                cwd_id: filesystem.object.cwd.number(),
                root_id: filesystem.object.root.number(),
                umask: Some(filesystem.object.umask),
            };
            self.single(Kind::Fs, filesystem.holder.number(), &entry)?;
        }
        for one in tasks {
            let Some(holdings) = &one.holdings else {
                continue;
            };
            self.link_to_holder(
                Level::Top,
                Kind::Fs,
                holders.get(&holdings.ids.fs),
                one.task.pid.leader(),
            )?;
            for (tid, ids) in holdings
                .private_threads
                .iter()
                .filter(|(_, ids)| ids.fs != holdings.ids.fs)
            {
                self.link_to_holder(Level::Top, Kind::Fs, holders.get(&ids.fs), *tid)?;
            }
        }
        Ok(())
    }

    fn table(&self, table: Owned<DescriptorTable>, types: &FileTypes) -> Result<()> {
        let id = table.claim.spend().number();
        let mut writer = self.folder.writer(Kind::Fdinfo, u64::from(id))?;
        write_fdinfo(&mut writer, &table.object, types)?;
        self.folder.record(writer.finish()?);
        Ok(())
    }

    fn files(&self, files: Files) -> Result<()> {
        let folder = self.folder;
        let mut writer = folder.writer(Kind::Files, 0)?;
        write_files(&mut writer, files.open)?;
        folder.record(writer.finish()?);

        for (kind, is_fifo) in [(Kind::PipesData, false), (Kind::FifoData, true)] {
            let mut contents = files
                .pipes
                .iter()
                .filter(|content| content.is_fifo == is_fifo)
                .peekable();
            if contents.peek().is_none() {
                continue;
            }
            let mut writer = folder.writer(kind, 0)?;
            for content in contents {
                write_pipe_content(&mut writer, content)?;
            }
            folder.record(writer.finish()?);
        }
        if !files.sockets.queues.is_empty() {
            let mut writer = folder.writer(Kind::SkQueues, 0)?;
            for queue in &files.sockets.queues {
                write_queue(&mut writer, queue)?;
            }
            folder.record(writer.finish()?);
        }
        for stream in &files.sockets.streams {
            let mut writer = folder.writer(Kind::TcpStream, u64::from(stream.inode))?;
            write_stream(&mut writer, stream)?;
            folder.record(writer.finish()?);
        }
        if !(files.ghosts.is_empty() && files.remaps.is_empty()) {
            let mut writer = folder.writer(Kind::RemapFpath, 0)?;
            write_remaps(&mut writer, &files.ghosts, &files.remaps)?;
            folder.record(writer.finish()?);
        }
        self.entries(Kind::FileLocks, files.locks.iter().map(file_lock_entry))?;
        self.entries(Kind::TtyInfo, files.terminals.iter().map(tty_info_entry))?;
        self.entries(
            Kind::TtyData,
            files.terminals.iter().filter_map(tty_data_entry),
        )?;
        for ghost in &files.ghosts {
            let mut writer = folder.writer(Kind::GhostFile, u64::from(ghost.number))?;
            write_ghost(&mut writer, ghost)?;
            folder.record(writer.finish()?);
        }
        self.entries(Kind::MemfdInode, files.segments.iter().map(memfd_entry))
    }
}
