//! The pipeline: freeze → identify → collect → write → release.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use crate::ahead::LookAhead;
use crate::clock::Clock;
use crate::collect::here::Here;
use crate::collect::memory::{PAGE_BYTES, open_pagemap};
use crate::collect::page_identity::{Candidate, SharedPages};
use crate::collect::sockets::{HeldConnections, Lock};
use crate::collect::tree::{Collection, collect};
use crate::error::{Error, IoResultExt, Result};
use crate::freeze::{After, FrozenTree, examine, freeze};
use crate::hold::{KeptMemory, Room};
use crate::ids::Tid;
use crate::image::folder::{FolderOptions, ImageFolder};
use crate::image::manifest::{Account, write_manifest, write_stats};
use crate::image::previous::PreviousFolder;
use crate::image::write::{Earlier, MemoryToWrite, write, write_inventory};
use crate::options::DumpOptions;
use crate::proc::ProcDir;
use crate::progress::Progress;
use crate::sys::sched;

/// Dumps a process tree.
///
/// The images appear in their folder all at once, before any task is killed. On any error the
/// tree runs on as it was and no image stays.
///
/// # Errors
/// Everything [`Error`] can say.
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
    let earlier = options.prev_images_dir.as_deref().map(|link| {
        let folder = PreviousFolder::open(&options.images_dir.join(link))?;
        Ok(Earlier {
            folder,
            link: link.to_owned(),
        })
    });
    let earlier = earlier.transpose()?;
    let started = SystemTime::now();
    let mut clock = Clock::start();
    // Far enough off to be never.
    let timeout = options
        .timeout
        .unwrap_or(Duration::from_secs(365 * 24 * 3600));
    let deadline = Instant::now() + timeout;

    let runs_on = options.after == After::LeaveRunning && options.snapshot;
    // A tree that does not run on waits for its memory to be written, whatever is known of it.
    let ahead = if runs_on {
        LookAhead::of(options.tree)
    } else {
        LookAhead::default()
    };
    let room = runs_on
        .then(|| Room::make(folder.nameless_file()?))
        .transpose()?;
    let here = Here::look(&options.cgroups)?;
    clock.stage("look ahead");

    clock.freeze();
    let tree = freeze(options.tree, deadline)?;
    refuse_foreign_session(&tree.root().stat, options)?;
    clock.stage("seize");

    let mut collection = collect(
        &tree,
        &options.sockets,
        runs_on,
        &ahead,
        here,
        deadline,
        &mut clock,
    )?;
    refuse_unrestorable(&collection.notes, options)?;
    let network = collection.files.sockets.hold_connections()?;
    let lock = network.lock().clone();
    if lock != Lock::None {
        clock.stage("lock");
    }

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
        kept = Some(KeptMemory::of(&collection, &shared, room)?);
        clock.stage("snapshot");
        release(&mut held, options.after, &mut clock)?;
        for space in &mut collection.spaces {
            space.object.list_snapshot()?;
        }
        if options.page_dedup {
            let candidates = snapshot_candidates(&collection)?;
            shared = shared.and(SharedPages::find(&candidates, collection.spaces.len())?);
        }
        clock.stage("compare");
    }

    write_inventory(&folder, &options.sockets, &lock)?;
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
    };
    let write = || write(&folder, collection, &memory, &progress);
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
    write_manifest(&folder, &account)?;
    folder.seal()?;
    write_stats(&options.work_dir, &account)?;
    folder.commit()?;
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
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // If this is refused, somebody has made us go behind even more.
            let _ = sched::go_behind();
            work()
        });
        let done = thread.join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
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
        drop(connections);
        clock.stage("release");
        clock.thaw();
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

/// A dump holds a few descriptors for every process, and the look ahead one for every
/// descriptor: take as many as we may have, which root may raise.
fn raise_descriptor_limit() {
    /// The kernel's own limit (`fs.nr_open`), unless it was changed.
    const MOST: u64 = 1 << 20;
    let kind = nix::sys::resource::Resource::RLIMIT_NOFILE;
    if let Ok((_, hard)) = nix::sys::resource::getrlimit(kind)
        && (hard >= MOST || nix::sys::resource::setrlimit(kind, MOST, MOST).is_err())
    {
        let _ = nix::sys::resource::setrlimit(kind, hard, hard);
    }
}

/// Prints the figures of a dump to standard output.
fn print(account: &Account, clock: &Clock) -> Result<()> {
    let mut text = String::new();
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

/// A tree that belongs to a session from outside cannot be restored without being told.
fn refuse_foreign_session(root: &crate::proc::stat::Stat, options: &DumpOptions) -> Result<()> {
    if root.session == options.tree.0 || options.shell_job {
        return Ok(());
    }
    Err(Error::unsupported(
        options.tree,
        format!(
            "a tree in the session of {}, which is not part of it,",
            root.session
        ),
        "give --shell-job (restore needs it too), or start the program with setsid",
    ))
}

/// A tree that is killed must be restorable; one that lives on may be written with a warning.
fn refuse_unrestorable(notes: &[crate::collect::notes::Note], options: &DumpOptions) -> Result<()> {
    for note in notes {
        warn!("{note}");
    }
    match notes.iter().find(|note| note.kind.spoils()) {
        Some(note) if options.after == After::Kill && !options.allow_unrestorable => Err(Error::Refused {
            target: options.tree.into(),
            what: format!("the tree would be killed, and {note}"),
            remedy: "give --leave-running to keep the tree, or --allow-unrestorable to have it killed all the same"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}
