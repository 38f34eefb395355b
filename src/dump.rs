//! The pipeline: freeze → identify → collect → write → release.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use crate::collect::memory::PAGE_BYTES;
use crate::collect::tree::collect;
use crate::error::{Error, IoResultExt, Result};
use crate::freeze::{After, examine, freeze};
use crate::image::folder::{FolderOptions, ImageFolder};
use crate::image::manifest::{Account, write_manifest, write_stats};
use crate::image::write::{write, write_inventory};
use crate::options::DumpOptions;
use crate::progress::Progress;

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
    let started = SystemTime::now();
    let mut clock = Clock::start();
    // Far enough off to be never.
    let timeout = options
        .timeout
        .unwrap_or(Duration::from_secs(365 * 24 * 3600));
    let deadline = Instant::now() + timeout;

    let tree = freeze(options.tree, deadline)?;
    refuse_foreign_session(&tree.root().stat, options)?;
    clock.stage("freeze");

    let mut collection = collect(&tree, &options.sockets, deadline)?;
    refuse_unrestorable(&collection.notes, options)?;
    let network = collection.files.sockets.hold_connections()?;
    clock.stage("collect");

    let notes = collection.notes.clone();
    let trees = collection.identities.counters();
    let pages_scanned = collection
        .spaces
        .iter()
        .map(|space| space.object.pages_scanned)
        .sum();
    let progress = Progress::pages(pages_scanned * PAGE_BYTES, options.progress);
    let written = write(&folder, collection, progress)?;
    clock.stage("write");

    let account = Account {
        started,
        after: options.after,
        stages: clock.stages.clone(),
        trees,
        pages_scanned,
        written,
        notes,
    };
    write_inventory(&folder, &options.sockets, network.lock())?;
    write_manifest(&folder, &account)?;
    folder.seal()?;
    write_stats(&options.work_dir, &account)?;
    folder.commit()?;
    let connections = network.end(options.after)?;
    tree.end(options.after)?;
    drop(connections);
    clock.stage("release");

    for (stage, length) in &clock.stages {
        info!("{stage}: {length:?}");
    }
    if options.display_stats {
        print(&account, &clock)?;
    }
    Ok(())
}

/// A dump holds two descriptors for every process: take as many as we may have.
fn raise_descriptor_limit() {
    let kind = nix::sys::resource::Resource::RLIMIT_NOFILE;
    if let Ok((_, hard)) = nix::sys::resource::getrlimit(kind) {
        let _ = nix::sys::resource::setrlimit(kind, hard, hard);
    }
}

/// Measures the stages one after another.
struct Clock {
    last: Instant,
    stages: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            stages: Vec::new(),
        }
    }

    fn stage(&mut self, name: &'static str) {
        let now = Instant::now();
        self.stages.push((name, now - self.last));
        self.last = now;
    }
}

/// Prints the figures of a dump to standard output.
fn print(account: &Account, clock: &Clock) -> Result<()> {
    let mut text = String::new();
    for (stage, length) in &clock.stages {
        text += &format!("{stage:<10} {:>10} us\n", length.as_micros());
    }
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
    match notes.first() {
        Some(note) if options.after == After::Kill && !options.allow_unrestorable => Err(Error::Refused {
            target: options.tree.into(),
            what: format!("the tree would be killed, and {note}"),
            remedy: "give --leave-running to keep the tree, or --allow-unrestorable to have it killed all the same"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}
