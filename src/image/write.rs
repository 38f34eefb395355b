//! The write stage: a collection becomes a folder of images.
//!
//! What several tasks share is written by its first holder. Where the format names an image
//! by pid, the others' names are hard links to that one file.

use std::collections::HashMap;

use super::catalogue::Kind;
use super::files::{
    FileTypes, memfd_entry, write_fdinfo, write_files, write_ghost, write_pipe_content,
    write_remaps, write_segment,
};
use super::folder::ImageFolder;
use super::memory::{PagesWriter, mm_entry, write_pagemap};
use super::seccomp::Filters;
use super::sockets::write_queue;
use super::tcp::{lock_method, run_id, write_stream};
use super::{proto, tasks};
use crate::collect::files::{DescriptorTable, Files};
use crate::collect::memory::{AddressSpace, PageRun};
use crate::collect::sockets::Lock;
use crate::collect::task::{Living, Task};
use crate::collect::tree::{CollectedTask, Collection, Filesystem, Holdings, Owned};
use crate::error::Result;
use crate::ids::{Pid, Tid};
use crate::kcmp::{Identities, TaskIds};
use crate::options::SocketChoices;
use crate::progress::Progress;

/// Version 2 of the format: a leading magic in every image.
const IMAGE_VERSION: u32 = 2;
/// The cgroup set of the dumper, in which a tree is restored.
const OWN_CGROUP_SET: u32 = 1;

/// What writing amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Pages of private memory.
    pub pages: u64,
    /// Pages of shared memory.
    pub shared_pages: u64,
    /// Pages of private memory left out because they hold nothing but zeros.
    pub zero_pages: u64,
}

/// Writes every image but the inventory, which makes the folder complete.
///
/// # Errors
/// Reading pages, writing.
pub fn write(
    folder: &ImageFolder,
    collection: Collection,
    mut progress: Progress,
) -> Result<Written> {
    let Collection {
        tasks,
        spaces,
        tables,
        filesystems,
        files,
        ..
    } = collection;
    let types = FileTypes::of(&files.open);
    let mut writer = Writer {
        folder,
        progress: &mut progress,
        filters: Filters::of(tasks.iter().filter_map(|one| one.task.living.as_ref())),
        pages_id: 0,
        written: Written::default(),
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
    for one in &tasks {
        match (&one.task.living, &one.holdings) {
            (Some(living), Some(holdings)) => writer.task(&one.task, living, holdings)?,
            _ => writer.zombie(&one.task)?,
        }
    }
    writer.spaces(spaces, &tasks)?;
    writer.filesystems(filesystems, &tasks)?;
    for table in tables {
        writer.table(table, &types)?;
    }
    writer.files(files)?;
    Ok(writer.written)
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
        root_cg_set: Some(OWN_CGROUP_SET),
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

struct Writer<'a> {
    folder: &'a ImageFolder,
    progress: &'a mut Progress,
    filters: Filters,
    pages_id: u32,
    written: Written,
}

impl Writer<'_> {
    fn single<M: prost::Message>(&self, kind: Kind, id: u32, entry: &M) -> Result<()> {
        let mut writer = self.folder.writer(kind, u64::from(id))?;
        writer.entry(entry)?;
        self.folder.record(writer.finish()?);
        Ok(())
    }

    fn zombie(&self, task: &Task) -> Result<()> {
        self.single(Kind::Core, task.pid.number(), &tasks::zombie_core(task))
    }

    fn task(&self, task: &Task, living: &Living, holdings: &Holdings) -> Result<()> {
        for (index, thread) in living.threads.iter().enumerate() {
            let mut core = if index == 0 {
                tasks::leader_core(task, living, thread, OWN_CGROUP_SET)?
            } else {
                tasks::thread_core(thread, OWN_CGROUP_SET)?
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

    fn spaces(&mut self, spaces: Vec<Owned<AddressSpace>>, tasks: &[CollectedTask]) -> Result<()> {
        let by_leader: HashMap<Tid, &CollectedTask> = tasks
            .iter()
            .map(|one| (one.task.pid.leader(), one))
            .collect();
        let mut holders = HashMap::new();
        for space in spaces {
            holders.insert(space.claim.id(), space.holder);
            let holder = by_leader.get(&space.holder);
            if let Some((one, living, holdings)) = holder
                .and_then(|one| Some((one, one.task.living.as_ref()?, one.holdings.as_ref()?)))
            {
                self.space(space, &one.task, living, holdings)?;
            }
        }
        for (leader, one) in &by_leader {
            let vm = one.holdings.as_ref().map(|holdings| holdings.ids.vm);
            let holder = vm.and_then(|vm| holders.get(&vm));
            for kind in [Kind::Mm, Kind::Pagemap] {
                self.link_to_holder(kind, holder, *leader)?;
            }
        }
        Ok(())
    }

    fn space(
        &mut self,
        space: Owned<AddressSpace>,
        task: &Task,
        living: &Living,
        holdings: &Holdings,
    ) -> Result<()> {
        space.claim.spend();
        let space = space.object;
        self.single(Kind::Mm, task.pid.number(), &mm_entry(task, living, &space))?;
        let pages_id = self.next_pages_id();
        let file = self.folder.raw_file(Kind::Pages, u64::from(pages_id))?;
        let mut pages = PagesWriter::new(file, Kind::Pages.file_name(u64::from(pages_id)));
        let kept = pages.copy(&holdings.memory, &space.pages, self.progress)?;
        self.folder.record(pages.finish()?);
        let count = |runs: &[PageRun]| runs.iter().map(PageRun::pages).sum::<u64>();
        self.written.pages += count(&kept);
        self.written.zero_pages += count(&space.pages) - count(&kept);

        let mut pagemap = self
            .folder
            .writer(Kind::Pagemap, u64::from(task.pid.number()))?;
        write_pagemap(&mut pagemap, pages_id, &kept)?;
        self.folder.record(pagemap.finish()?);
        Ok(())
    }

    /// A second name for what another task has shown; nothing for the one who showed it.
    fn link_to_holder(&self, kind: Kind, holder: Option<&Tid>, tid: Tid) -> Result<()> {
        match holder {
            Some(holder) if *holder != tid => {
                let of = |tid: Tid| (kind, u64::from(tid.number()));
                self.folder.link(of(*holder), of(tid))
            }
            _ => Ok(()),
        }
    }

    fn next_pages_id(&mut self) -> u32 {
        self.pages_id += 1;
        self.pages_id
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
                Kind::Fs,
                holders.get(&holdings.ids.fs),
                one.task.pid.leader(),
            )?;
            for (tid, ids) in holdings
                .private_threads
                .iter()
                .filter(|(_, ids)| ids.fs != holdings.ids.fs)
            {
                self.link_to_holder(Kind::Fs, holders.get(&ids.fs), *tid)?;
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

    fn files(&mut self, files: Files) -> Result<()> {
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
        if !files.ghosts.is_empty() {
            let mut writer = folder.writer(Kind::RemapFpath, 0)?;
            write_remaps(&mut writer, &files.ghosts)?;
            folder.record(writer.finish()?);
        }
        for ghost in &files.ghosts {
            let mut writer = folder.writer(Kind::GhostFile, u64::from(ghost.number))?;
            write_ghost(&mut writer, ghost)?;
            folder.record(writer.finish()?);
        }
        if !files.segments.is_empty() {
            let mut writer = folder.writer(Kind::MemfdInode, 0)?;
            for segment in &files.segments {
                writer.entry(&memfd_entry(segment))?;
            }
            folder.record(writer.finish()?);
        }
        for segment in &files.segments {
            let pages_id = self.next_pages_id();
            let mut pagemap = folder.writer(Kind::ShmemPagemap, segment.stat.st_ino)?;
            let file = folder.raw_file(Kind::Pages, u64::from(pages_id))?;
            let mut pages = PagesWriter::new(file, Kind::Pages.file_name(u64::from(pages_id)));
            self.written.shared_pages +=
                write_segment(&mut pagemap, &mut pages, pages_id, segment)?;
            folder.record(pagemap.finish()?);
            folder.record(pages.finish()?);
        }
        Ok(())
    }
}
