//! Would this folder restore?
//!
//! Three questions, of any folder: is every file as it was written (sizes and checksums, where there is
//! a manifest), does everything that is named exist exactly once and is everything that exists
//! named, and is all there that restore insists on.

mod contents;
mod files;
mod pages;
mod stray;
mod tasks;

use std::fmt;
use std::path::Path;

use serde_json::json;

use super::defect::{Defect, Defects, Effect};
use super::folder::{Folder, effect_of_damage, say_damage};
use super::level::Role;
use crate::error::Result;
use crate::image::catalogue::{Head, Kind};

/// What there is to say of a folder.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What is wrong, by file.
    pub defects: Vec<Defect>,
    /// How many more defects there are than are told.
    pub left_out: u64,
    /// What restores, but differently from what one may think.
    pub notes: Vec<String>,
    /// How many images the folder has, the folders it builds on left out.
    pub images: usize,
    /// How many tasks.
    pub tasks: usize,
}

impl Verdict {
    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let defects = self.defects.iter().map(|defect| {
            json!({
                "file": defect.file,
                "entry": defect.entry,
                "what": defect.what,
                "effect": defect.effect.name(),
            })
        });
        json!({
            "sound": self.is_sound(),
            "images": self.images,
            "tasks": self.tasks,
            "notes": self.notes,
            "defects": defects.collect::<Vec<_>>(),
            "defects_left_out": self.left_out,
        })
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.defects.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for defect in &self.defects {
            writeln!(f, "{defect}")?;
        }
        if self.left_out > 0 {
            writeln!(f, "and {} more", self.left_out)?;
        }
        let Self { images, tasks, .. } = self;
        if self.is_sound() {
            writeln!(f, "{images} images of {tasks} tasks: nothing is wrong")
        } else {
            let count = self.defects.len() as u64 + self.left_out;
            let plural = if count == 1 { "" } else { "s" };
            writeln!(
                f,
                "{images} images of {tasks} tasks: {count} defect{plural}"
            )
        }
    }
}

/// What the checks have in common.
struct Check<'a> {
    folder: &'a Folder,
    defects: Defects,
    notes: Vec<String>,
}

impl Check<'_> {
    fn add(
        &mut self,
        (kind, id): (Kind, u64),
        entry: impl Into<String>,
        what: impl Into<String>,
        effect: Effect,
    ) {
        let name = self.folder.top().shown(kind, id);
        self.defects.add(name, entry, what, effect);
    }
}

/// Checks a folder of images.
///
/// # Errors
/// A folder that cannot be opened; what is wrong inside it is in the verdict.
pub fn verify(path: &Path) -> Result<Verdict> {
    let mut folder = Folder::read(path)?;
    let defects = std::mem::take(&mut folder.defects);
    let mut check = Check {
        folder: &folder,
        defects,
        notes: folder.notes().map(str::to_owned).collect(),
    };
    check.inventory();
    if check.is_pre_dump() {
        check
            .notes
            .push("this is a pre-dump: it has pages only, for a later dump to build on".to_owned());
    } else {
        check.tasks();
        check.files();
        check.strays();
    }
    check.every_image();
    let intact = check.contents();
    check.pages(&intact);
    let Check { defects, notes, .. } = check;
    let (mut defects, left_out) = defects.into_parts();
    defects.sort();
    defects.dedup();
    let top = folder.top();
    let kinds = top.files.keys().filter_map(|name| Kind::of_file_name(name));
    Ok(Verdict {
        defects,
        left_out,
        notes,
        images: kinds
            .filter(|(kind, _)| kind.head() != Head::Service)
            .count(),
        tasks: folder.tasks.len(),
    })
}

impl Check<'_> {
    fn is_pre_dump(&self) -> bool {
        let has_tree = self.folder.top().facts(Kind::Pstree, 0).is_some();
        let inventory = self.folder.inventory.as_ref();
        !has_tree && inventory.is_some_and(|inventory| inventory.pre_dump_mode.is_some())
    }

    /// Whatever else is said of an image: its magic is right, its entries can be read, and nothing
    /// required is missing. Of the folder itself and the one of common pages; what is needed of the
    /// others is read anyway.
    fn every_image(&mut self) {
        let folder = self.folder;
        for level in &folder.levels {
            if level.role == Role::Earlier {
                break;
            }
            for name in level.files.keys() {
                let Some((kind, _)) = Kind::of_file_name(name) else {
                    continue;
                };
                let shown = format!("{}{name}", level.prefix);
                // Those are bytes without entries.
                if kind.head() == Head::Raw {
                    continue;
                }
                let Ok(image) = level.image(name).map_err(|what| {
                    self.defects.add(&shown, "", what, effect_of_damage(kind));
                }) else {
                    continue;
                };
                let checked = image.entries().try_for_each(|entry| entry?.check());
                if let Err(damage) = checked {
                    say_damage(shown, kind, damage, &mut self.defects);
                }
            }
        }
    }

    fn inventory(&mut self) {
        let image = (Kind::Inventory, 0);
        let Some(inventory) = &self.folder.inventory else {
            if self.folder.top().facts(Kind::Inventory, 0).is_none() {
                let what = "it is missing: the dump was not finished";
                self.add(image, "", what, Effect::RestoreFails);
            }
            return;
        };
        let mut wrong = |what: String| self.add(image, "", what, Effect::RestoreFails);
        if !matches!(inventory.img_version, 1 | 2) {
            wrong(format!(
                "version {} of the format is unknown",
                inventory.img_version
            ));
        }
        if inventory.fdinfo_per_id != Some(true) {
            wrong("descriptor tables are named in a way that is no longer read".to_owned());
        }
        if inventory.root_ids.is_none() {
            wrong("it does not tell the ids of the dumper (root_ids)".to_owned());
        }
        if inventory.root_cg_set == Some(0) {
            wrong("the cgroup set of the dumper is 0".to_owned());
        }
        if inventory
            .lsmtype
            .is_some_and(|kind| !(0..=2).contains(&kind))
        {
            wrong("the security module is of an unknown kind".to_owned());
        }
        if inventory.network_lock_method.is_some_and(|way| way > 2) {
            wrong("the network was locked in an unknown way".to_owned());
        }
    }
}
