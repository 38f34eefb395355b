//! Looking at a frozen tree for everything that stands in the way of its dump, all at once.
//!
//! A dump begins with this, and `dedump check` ends with it.

use tracing::warn;

use crate::clock::Clock;
use crate::collect::notes::Note;
use crate::collect::tree::{Before, Collection, collect};
use crate::error::{Blockers, Error, Result};
use crate::freeze::{After, FrozenTree};
use crate::options::DumpOptions;
use crate::proc::stat::Stat;
use crate::watch::Watch;

/// Collects a frozen tree, if it can be dumped as `options` ask for it.
///
/// # Errors
/// [`Error::Blocked`] with everything that stands in the way; the tree is untouched.
pub fn examined(
    tree: &mut FrozenTree,
    options: &DumpOptions,
    before: Before<'_>,
    watch: &Watch,
    clock: &mut Clock,
) -> Result<Collection> {
    let mut blockers = Blockers::default();
    blockers.gather(tree.is_whole())?;
    blockers.gather(refuse_foreign_session(&tree.root().stat, options))?;
    let collection = collect(tree, options, before, watch, clock, &mut blockers)?;
    blockers.gather(refuse_unrestorable(&collection.notes, options))?;
    blockers.none()?;
    Ok(collection)
}

/// A tree that belongs to a session from outside cannot be restored without being told.
fn refuse_foreign_session(root: &Stat, options: &DumpOptions) -> Result<()> {
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
fn refuse_unrestorable(notes: &[Note], options: &DumpOptions) -> Result<()> {
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
