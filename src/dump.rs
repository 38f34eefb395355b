//! The pipeline: freeze → identify → collect → write → release.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::collect::files::Files;
use crate::collect::tree::{CollectedTask, collect};
use crate::error::Result;
use crate::freeze::{After, examine, freeze};
use crate::ids::Pid;
use crate::image::folder::ImageFolder;
use crate::image::memory::{PagesWriter, mm_entry, write_pagemap};
use crate::image::{proto, tasks};

/// temp
pub fn run(pid: i32, dir: &Path, after: After) -> Result<()> {
    let root = Pid(pid);
    examine(root)?;
    let folder = ImageFolder::prepare(dir)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let t0 = Instant::now();
    let tree = freeze(root, deadline)?;
    let t1 = Instant::now();
    let mut files = Files::default();
    let collected = collect(&tree, &mut files, deadline)?;
    let t2 = Instant::now();
    write(&folder, &collected, &files)?;
    let t3 = Instant::now();
    tree.end(after)?;
    eprintln!(
        "freeze {:?} collect {:?} write {:?} end {:?}",
        t1 - t0,
        t2 - t1,
        t3 - t2,
        t3.elapsed()
    );
    Ok(())
}

fn write(folder: &ImageFolder, collected: &[CollectedTask], files: &Files) -> Result<()> {
    let mut pstree = folder.writer("pstree.img", 0x50273030)?;
    let mut pages_id = 0;
    let kobj = |files_id| proto::TaskKobjIdsEntry {
        vm_id: files_id,
        files_id,
        fs_id: files_id,
        sighand_id: files_id,
        pid_ns_id: Some(1),
        net_ns_id: Some(2),
        ipc_ns_id: Some(3),
        uts_ns_id: Some(4),
        time_ns_id: Some(5),
        mnt_ns_id: Some(6),
        user_ns_id: Some(7),
        cgroup_ns_id: Some(8),
    };
    for (n, one) in collected.iter().enumerate() {
        let task = &one.task;
        let pid = task.pid.number();
        pstree.entry(&tasks::pstree_entry(
            task,
            one.parent.map_or(0, Pid::number),
        ))?;
        let (Some(living), Some(holdings)) = (&task.living, &one.holdings) else {
            let mut core = folder.writer(&format!("core-{pid}.img"), 0x55053847)?;
            core.entry(&tasks::zombie_core(task))?;
            core.finish()?;
            continue;
        };
        let ids = tasks::TaskIds {
            kobj: kobj(n as u32 + 2),
            cg_set: 1,
        };
        for (i, thread) in living.threads.iter().enumerate() {
            let mut core =
                folder.writer(&format!("core-{}.img", thread.capture.tid), 0x55053847)?;
            core.entry(&if i == 0 {
                tasks::leader_core(task, living, thread, &ids)?
            } else {
                tasks::thread_core(thread, &ids)?
            })?;
            core.finish()?;
        }
        let mut w = folder.writer(&format!("ids-{pid}.img"), 0x54432030)?;
        w.entry(&ids.kobj)?;
        w.finish()?;
        let mut w = folder.writer(&format!("fs-{pid}.img"), 0x51403912)?;
        w.entry(&proto::FsEntry {
            cwd_id: holdings.filesystem.cwd.number(),
            root_id: holdings.filesystem.root.number(),
            umask: Some(holdings.filesystem.umask),
        })?;
        w.finish()?;
        let mut w = folder.writer(&format!("mm-{pid}.img"), 0x57492820)?;
        w.entry(&mm_entry(task, living, &holdings.space))?;
        w.finish()?;
        pages_id += 1;
        let mut w = folder.writer(&format!("pagemap-{pid}.img"), 0x56084025)?;
        write_pagemap(&mut w, pages_id, &holdings.space.pages)?;
        w.finish()?;
        let mut p = PagesWriter::new(
            folder.raw_file(&format!("pages-{pages_id}.img"))?,
            "pages".into(),
        );
        p.copy(&holdings.memory, &holdings.space.pages)?;
    }
    pstree.finish()?;
    let mut w = folder.writer("files.img", 0x56303138)?;
    for e in &files.entries {
        w.entry(e)?;
    }
    w.finish()?;
    let mut w = folder.writer("inventory.img", 0x58313116)?;
    w.entry(&proto::InventoryEntry {
        img_version: 2,
        fdinfo_per_id: Some(true),
        root_ids: Some(kobj(1)),
        ns_per_id: Some(true),
        root_cg_set: Some(1),
        lsmtype: Some(0),
        network_lock_method: Some(2),
        plugins_entry: Some(Default::default()),
        ..Default::default()
    })?;
    w.finish()
}
