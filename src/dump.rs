//! The pipeline: freeze → identify → collect → write → release.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{FcntlArg, fcntl};
use tracing::info;

use crate::ahead::{LookAhead, private_bytes};
use crate::clock::Clock;
use crate::collect::here::Here;
use crate::collect::memory::{PAGE_BYTES, PageSource, open_pagemap};
use crate::collect::page_equality::Content;
use crate::collect::page_identity::{Candidate, SharedPages};
use crate::collect::sockets::{HeldConnections, Lock, Programs};
use crate::collect::tree::{Before, Collection};
use crate::error::{Error, IoResultExt, Result};
use crate::examination::examined;
use crate::freeze::{After, FreezerCgroup, FrozenTree, examine, freeze};
use crate::hold::{KeptMemory, Room};
use crate::hooks::{Hooks, Moment};
use crate::ids::Tid;
use crate::image::folder::{FolderOptions, ImageFolder};
use crate::image::manifest::{Account, Stats, write_manifest};
use crate::image::previous::PreviousFolder;
use crate::image::write::{Earlier, MemoryToWrite, write, write_inventory};
use crate::options::DumpOptions;
use crate::proc::ProcDir;
use crate::progress::Progress;
use crate::sys::{heap, sched};
use crate::threads;
use crate::watch::Watch;

/// Dumps a process tree.
///
/// The images appear in their folder all at once, before any task is killed. On any error the
/// tree runs on as it was and no image stays.
///
/// # Errors
/// Everything [`Error`] can say. After [`Error::TimedOut`] the kernel may still keep a thread of
/// the dump in a call that does not come back; the tree is free when the process ends.
pub fn run(options: &DumpOptions) -> Result<()> {
    examine(options.tree)?;
    raise_descriptor_limit();
    let folder = ImageFolder::prepare(
        &options.images_dir,
        FolderOptions {
            overwrite: options.overwrite,
            sync: options.sync,
        },
    )?;
    let is_checked = options.space_check && options.prev_images_dir.is_none();
    let enough = folder.free_bytes().filter(|_| is_checked);
    let mut needed_bytes = private_bytes(options.tree, enough.unwrap_or(u64::MAX));
    if is_checked {
        folder.expect_room(needed_bytes)?;
    }
    let folder = Arc::new(folder);
    let watch = Arc::new(Watch::default());
    let dump = {
        let (folder, watch, options) = (Arc::clone(&folder), Arc::clone(&watch), options.clone());
        move || {
            let _over = watch.begin();
            heap::warm();
            let outcome = dump_into(&folder, &options, &mut needed_bytes, &watch);
            outcome.map_err(|failure| folder.explain(failure, needed_bytes))
        }
    };
    let thread = std::thread::Builder::new()
        .name("dump".to_owned())
        .spawn(dump);
    let thread = thread.at("start", "a thread")?;
    if let Some(stuck) = watch.outlast() {
        folder.abandon();
        return Err(stuck);
    }
    let outcome = thread.join();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Fills a folder. What it finds to need room is added to `needed_bytes`.
fn dump_into(
    folder: &ImageFolder,
    options: &DumpOptions,
    needed_bytes: &mut u64,
    watch: &Watch,
) -> Result<()> {
    let earlier = options.prev_images_dir.as_deref().map(|link| {
        let folder = PreviousFolder::open(&options.images_dir.join(link))?;
        Ok(Earlier {
            folder,
            link: link.to_owned(),
        })
    });
    let earlier = earlier.transpose()?;
    let hooks = Hooks::new(
        &options.hooks,
        &options.work_dir,
        options.tree,
        folder.dir(),
    )?;
    hooks.run(Moment::PreDump)?;
    let started = SystemTime::now();
    let mut clock = Clock::start();
    let runs_on = options.after == After::LeaveRunning
        && options.snapshot
        && options.hooks.scripts.is_empty();
    // A tree that does not run on waits for its memory to be written, whatever is known of it.
    let ahead = if runs_on {
        LookAhead::of(options.tree)
    } else {
        LookAhead::default()
    };
    let room = runs_on
        .then(|| Room::make(folder.nameless_file()?, folder.shown("").into()))
        .transpose()?;
    // A process that watches over the cgroup would keep their input open.
    let programs = if runs_on && options.freeze_cgroup.is_none() {
        Programs::ready(&options.sockets)
    } else {
        Programs::default()
    };
    let here = Here::look(options)?;
    let cgroup = options.freeze_cgroup.as_deref();
    let cgroup = cgroup.map(FreezerCgroup::open).transpose()?;
    clock.stage("look ahead");

    clock.freeze();
    watch.bound(options.timeout.map(|length| Instant::now() + length));
    watch.at("stopping the tree", options.tree)?;
    let mut tree = freeze(options.tree, watch.deadline(), cgroup)?;
    clock.stage("seize");

    let before = Before {
        ahead: &ahead,
        here,
        snapshots: runs_on,
    };
    let mut collection = examined(&mut tree, options, before, watch, &mut clock)?;
    *needed_bytes += collection.files.shared_bytes();
    watch.at("reading connections", options.tree)?;
    // Removed at the end, unless restore needs them.
    let links = std::mem::take(&mut collection.files.links);
    let network = collection.files.sockets.hold_connections(programs)?;
    let lock = network.lock().clone();
    if lock != Lock::None {
        clock.stage("lock");
    }

    watch.at("comparing pages", options.tree)?;
    let mut shared = if options.page_dedup {
        let candidates = frozen_candidates(&tree, &collection)?;
        SharedPages::find(&candidates, collection.spaces.len())?
    } else {
        SharedPages::none(collection.spaces.len())
    };
    clock.stage("compare");

    let mut held = Some((tree, network));
    let mut kept = None;
    if let Some(room) = room {
        watch.at("copying memory that no snapshot keeps", options.tree)?;
        kept = Some(KeptMemory::of(&collection, &shared, room, watch)?);
        clock.stage("snapshot");
        watch.bound(None);
        release(&mut held, options.after, &mut clock)?;
        for space in &mut collection.spaces {
            space.object.list_snapshot()?;
        }
        if options.page_dedup {
            let candidates = snapshot_candidates(&collection)?;
            shared = shared.and(SharedPages::find(&candidates, collection.spaces.len())?);
        }
    }
    if options.page_dedup {
        let contents = contents(&collection, kept.as_ref())?;
        let compare = || shared.with_equal(&contents);
        shared = if runs_on {
            behind(compare)?
        } else {
            compare()?
        };
        clock.stage("compare");
    }

    if !options.timeout_covers_writing {
        watch.bound(None);
    }
    watch.at("writing the images", options.images_dir.as_path())?;
    write_inventory(folder, &options.sockets, &lock)?;
    let notes = collection.notes.clone();
    let trees = collection.identities.counters();
    let pages_scanned = collection
        .spaces
        .iter()
        .map(|space| space.object.pages_scanned())
        .sum();
    let progress = Progress::pages(pages_scanned * PAGE_BYTES, options.progress);
    let memory = MemoryToWrite {
        shared: &shared,
        kept: kept.as_ref(),
        earlier: earlier.as_ref(),
        // What is shared would be copied for each of those that share it.
        tree_ends: options.after == After::Kill && options.page_dedup,
        watch,
    };
    let write = || write(folder, collection, &memory, &progress);
    let written = if runs_on { behind(write)? } else { write()? };
    drop(progress);
    clock.stage("write");

    let account = Account {
        started,
        after: options.after,
        stages: clock.stages().to_vec(),
        frozen: clock.frozen(),
        trees,
        pages_scanned,
        written,
        notes,
    };
    write_manifest(folder, &account)?;
    folder.seal()?;
    watch.check()?;
    // There is no way back from here.
    watch.bound(None);
    let stats = Stats::write(&options.work_dir, &account)?;
    folder.commit()?;
    if let Err(objection) = hooks.run(Moment::PostDump) {
        release(&mut held, After::LeaveRunning, &mut clock)?;
        return Err(objection);
    }
    stats.keep();
    if options.after != After::LeaveRunning {
        links.keep();
    }
    release(&mut held, options.after, &mut clock)?;

    for stage in clock.stages() {
        info!("{}: {:?}", stage.name, stage.length);
    }
    if options.display_stats {
        print(&account, &clock)?;
    }
    Ok(())
}

/// Works in a thread that lets the tree, which runs again, go first.
fn behind<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let go_behind = || {
        // If this is refused, somebody has made us go behind even more.
        let _ = sched::go_behind();
    };
    threads::apart(go_behind, work)
}

/// Ends the freeze, if it has not ended yet.
fn release(
    held: &mut Option<(FrozenTree, HeldConnections)>,
    after: After,
    clock: &mut Clock,
) -> Result<()> {
    if let Some((tree, network)) = held.take() {
        let connections = network.end(after)?;
        tree.end(after)?;
        clock.stage("release");
        clock.thaw();
        connections.finish()?;
    }
    Ok(())
}

/// The address spaces that are read from the frozen tree itself.
fn frozen_candidates<'a>(
    tree: &FrozenTree,
    collection: &'a Collection,
) -> Result<Vec<Candidate<'a>>> {
    let folders: HashMap<Tid, &ProcDir> = tree
        .processes
        .iter()
        .map(|process| (process.pid.leader(), &process.proc_dir))
        .collect();
    let mut candidates = Vec::with_capacity(collection.spaces.len());
    for (space, owned) in collection.spaces.iter().enumerate() {
        if owned.object.snapshot.is_some() {
            continue;
        }
        let Some(proc_dir) = folders.get(&owned.holder) else {
            return Err(Error::Vanished { tid: owned.holder });
        };
        candidates.push(Candidate {
            space,
            tid: owned.holder,
            pagemap: open_pagemap(proc_dir)?,
            runs: &owned.object.pages,
        });
    }
    Ok(candidates)
}

/// The address spaces that are read from snapshots. Pages of these are not compared with those
/// of the others: the tree runs on, and a frame may have got a new page meanwhile.
fn snapshot_candidates(collection: &Collection) -> Result<Vec<Candidate<'_>>> {
    let mut candidates = Vec::new();
    for (space, owned) in collection.spaces.iter().enumerate() {
        if let Some(snapshot) = &owned.object.snapshot {
            candidates.push(Candidate {
                space,
                tid: snapshot.pid().leader(),
                pagemap: open_pagemap(snapshot.proc_dir())?,
                runs: &owned.object.pages,
            });
        }
    }
    Ok(candidates)
}

/// The pages of all address spaces, and where they are to be read.
fn contents<'a>(
    collection: &'a Collection,
    kept: Option<&'a KeptMemory>,
) -> Result<Vec<Content<'a>>> {
    let memory_of = collection.memory_by_leader();
    let spaces = collection.spaces.iter().enumerate();
    let contents = spaces.map(|(index, space)| {
        let memory: &dyn PageSource = match kept {
            Some(kept) => &kept.spaces[index],
            None => *memory_of
                .get(&space.holder)
                .ok_or(Error::Vanished { tid: space.holder })?,
        };
        Ok(Content {
            runs: &space.object.pages,
            memory,
        })
    });
    contents.collect()
}

/// A dump holds a few descriptors for every process, and the look ahead one for every
/// descriptor: take as many as we may have, which root may raise.
pub(crate) fn raise_descriptor_limit() {
    /// The kernel's own limit (`fs.nr_open`), unless it was changed.
    const MOST: u64 = 1 << 20;
    let kind = nix::sys::resource::Resource::RLIMIT_NOFILE;
    if let Ok((_, hard)) = nix::sys::resource::getrlimit(kind)
        && (hard >= MOST || nix::sys::resource::setrlimit(kind, MOST, MOST).is_err())
    {
        let _ = nix::sys::resource::setrlimit(kind, hard, hard);
    }
    grow_descriptor_table();
}

/// A descriptor table that grows while several threads use it waits for all processors, ten
/// milliseconds at times: it had better not be in the freeze.
fn grow_descriptor_table() {
    /// More are rare; each takes a word.
    const MANY: RawFd = 16 * 1024 - 1;
    let Ok(any) = File::open("/proc/self") else {
        return;
    };
    let mut highest = MANY;
    while highest > 255 {
        if let Ok(fd) = fcntl(&any, FcntlArg::F_DUPFD_CLOEXEC(highest)) {
            let _ = nix::unistd::close(fd);
            return;
        }
        highest /= 2;
    }
}

/// Prints the figures of a dump to standard output: first as criu does, then all there are.
fn print(account: &Account, clock: &Clock) -> Result<()> {
    let mut text = "Displaying dump stats:\n".to_owned();
    for (what, time) in [
        ("Freezing time", account.stage("seize")),
        ("Frozen time", account.frozen),
        ("Memory dump time", account.stage("write")),
        ("Memory write time", account.stage("write")),
        ("IRMAP resolve time", Duration::ZERO),
    ] {
        text += &format!("{what}: {} us\n", time.as_micros());
    }
    for (what, pages) in [
        ("Memory pages scanned", account.pages_scanned),
        (
            "Memory pages skipped from parent",
            account.written.unchanged_pages,
        ),
        ("Memory pages written", account.written.pages),
        ("Lazy memory pages", 0),
    ] {
        text += &format!("{what}: {pages} (0x{pages:x})\n");
    }
    text += "\n";
    for stage in clock.stages() {
        text += &format!(
            "{:<10} {:>10} us from {:>10} us on{}\n",
            stage.name,
            stage.length.as_micros(),
            stage.start.as_micros(),
            if stage.is_frozen { ", frozen" } else { "" }
        );
    }
    text += &format!("{:<10} {:>10} us\n", "frozen", clock.frozen().as_micros());
    for (name, counters) in &account.trees {
        text += &format!(
            "{name:<10} {:>10} asked, {} new, {} kcmp calls\n",
            counters.asked, counters.new, counters.kcmp_calls
        );
    }
    text += &format!(
        "{:<10} {:>10} pages, {} of shared memory\n",
        "written", account.written.pages, account.written.shared_pages
    );
    text += &format!(
        "{:<10} {:>10} pages of zeros, {} that another task has, {} that the earlier dump has\n",
        "left out",
        account.written.zero_pages,
        account.written.left_to_family_pages,
        account.written.unchanged_pages
    );
    std::io::stdout()
        .write_all(text.as_bytes())
        .at("write", "standard output")
}
