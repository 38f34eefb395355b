//! Whether every file is as the manifest says.

use std::collections::{HashMap, HashSet};

use super::Check;
use super::pages::Intact;
use crate::image::catalogue::Kind;
use crate::image::opened::PARENT_NAME;
use crate::image::proto::{Manifest, ManifestFile};
use crate::inspect::defect::Effect;
use crate::inspect::folder::{effect_of_damage, read_single};
use crate::inspect::level::{Role, reason};
use crate::inspect::scan::{Part, scan};

/// A file that a manifest knows and that is there, with the right length.
struct Known {
    level: usize,
    name: String,
    shown: String,
    crc32: u32,
    size_bytes: u64,
    /// Whether somebody may have punched holes into it that do not matter here.
    is_earlier: bool,
}

impl Check<'_> {
    /// Compares files with the manifests of the folder and of those it builds on, and yields those
    /// that are as they were written.
    pub(super) fn contents(&mut self) -> Intact {
        let folder = self.folder;
        let mut known = Vec::new();
        if let Some(manifest) = &folder.manifest {
            self.listed(manifest, 0, None, &mut known);
            self.unlisted(manifest);
        }
        let used = self.used_files();
        for depth in 1..folder.levels.len() {
            let level = &folder.levels[depth];
            if level.role != Role::Earlier {
                continue;
            }
            let manifest = read_single(level, Kind::Manifest, 0, &mut self.defects);
            if let Some(manifest) = manifest {
                self.listed(&manifest, depth, Some(&used), &mut known);
            }
        }
        self.checksums(known)
    }

    /// Files of the folders below that the pages of this dump come from.
    fn used_files(&self) -> HashSet<(usize, String)> {
        let folder = self.folder;
        let tasks = folder.tasks.iter().map(|task| {
            let pagemap = Kind::Pagemap.file_name(u64::from(task.pid));
            (pagemap, task.memory.as_ref())
        });
        let segments = folder.segments.iter().map(|segment| {
            let pagemap = Kind::ShmemPagemap.file_name(segment.shmid);
            (pagemap, segment.memory.as_ref())
        });
        let mut used = HashSet::new();
        for (pagemap, memory) in tasks.chain(segments) {
            let Some(memory) = memory else { continue };
            for depth in 0..memory.pagemaps.len() {
                used.insert((depth, pagemap.clone()));
            }
            let mut last = None;
            for run in &memory.stored {
                if last.replace((run.level, run.pages_id)) != Some((run.level, run.pages_id)) {
                    let name = Kind::Pages.file_name(u64::from(run.pages_id));
                    used.insert((run.level, name));
                }
            }
        }
        used
    }

    /// Looks for the files of one manifest, which lies in the folder `depth` levels down.
    fn listed(
        &mut self,
        manifest: &Manifest,
        depth: usize,
        used: Option<&HashSet<(usize, String)>>,
        known: &mut Vec<Known>,
    ) {
        let folder = self.folder;
        let own_name = folder.levels[depth].shown(Kind::Manifest, 0);
        let mut seen = HashSet::new();
        for (number, file) in (1..).zip(&manifest.files) {
            let entry = format!("file {number}");
            let Some((below, name)) = place_of(file) else {
                let what = format!("{:?} is no name of an image", file.name);
                self.defects.add(&own_name, entry, what, Effect::Unused);
                continue;
            };
            if !seen.insert(&file.name) {
                let what = format!("{} stands there twice", file.name);
                self.defects.add(&own_name, entry, what, Effect::Unused);
                continue;
            }
            let level = depth + below;
            if used.is_some_and(|used| !used.contains(&(level, name.to_owned()))) {
                continue;
            }
            let shown = format!("{}{}", folder.levels[depth].prefix, file.name);
            let place = folder.levels.get(level);
            let facts = place.and_then(|level| level.files.get(name));
            let Some(facts) = facts else {
                let what = "it is missing, and the manifest lists it";
                let kind = Kind::of_file_name(name).map(|(kind, _)| kind);
                let effect = kind.map_or(Effect::RestoreFails, effect_of_damage);
                self.defects.add(shown, "", what, effect);
                continue;
            };
            if facts.size_bytes != file.size_bytes {
                let cut = facts.size_bytes < file.size_bytes;
                let what = format!(
                    "it has {} bytes and was written with {}{}",
                    facts.size_bytes,
                    file.size_bytes,
                    if cut { " (a full disk does this)" } else { "" }
                );
                self.defects.add(shown, "", what, Effect::Unpredictable);
                continue;
            }
            known.push(Known {
                level,
                name: name.to_owned(),
                shown,
                crc32: file.crc32,
                size_bytes: file.size_bytes,
                is_earlier: depth > 0,
            });
        }
    }

    /// Images that the manifest does not know came from elsewhere.
    fn unlisted(&mut self, manifest: &Manifest) {
        let listed: HashSet<&str> = manifest
            .files
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        for level in &self.folder.levels {
            let inside = match level.role {
                Role::Top => String::new(),
                Role::Common => format!("{PARENT_NAME}/"),
                Role::Earlier => break,
            };
            for name in level.files.keys() {
                let kind = Kind::of_file_name(name).map(|(kind, _)| kind);
                let is_ours = kind.is_some_and(|kind| {
                    !matches!(
                        kind,
                        Kind::Manifest | Kind::Stats | Kind::RestoreStats | Kind::IrmapCache
                    )
                });
                if is_ours && !listed.contains(format!("{inside}{name}").as_str()) {
                    let shown = format!("{}{name}", level.prefix);
                    let what = "the manifest does not know it: it is from elsewhere";
                    self.defects.add(shown, "", what, Effect::Unpredictable);
                }
            }
        }
    }

    fn checksums(&mut self, known: Vec<Known>) -> Intact {
        let folder = self.folder;
        // A file with several names is read once.
        let mut places = HashMap::new();
        let mut files = Vec::new();
        let mut parts = Vec::new();
        for one in &known {
            let level = &folder.levels[one.level];
            let Some(facts) = level.files.get(&one.name) else {
                continue;
            };
            if places.contains_key(&facts.inode) {
                continue;
            }
            match level.file(&one.name) {
                Ok(file) => {
                    parts.push(Part {
                        file: files.len(),
                        start: 0,
                        end: one.size_bytes,
                    });
                    places.insert(facts.inode, files.len());
                    files.push(file);
                }
                Err(error) => {
                    let what = reason(&error);
                    self.defects.add(&one.shown, "", what, Effect::RestoreFails);
                }
            }
        }
        let mut sums: Vec<crc32fast::Hasher> =
            files.iter().map(|_| crc32fast::Hasher::new()).collect();
        let summed = scan(&files, &parts, |_, bytes| {
            let mut sum = crc32fast::Hasher::new();
            sum.update(bytes);
            sum
        });
        match summed {
            Ok(pieces) => {
                for (part, sum) in pieces {
                    sums[part.file].combine(&sum);
                }
            }
            Err(error) => {
                let what = format!("the files it lists cannot be read: {error}");
                let name = folder.top().shown(Kind::Manifest, 0);
                self.defects.add(name, "", what, Effect::Unpredictable);
                return Intact::new();
            }
        }
        let mut intact = Intact::new();
        for one in known {
            let level = &folder.levels[one.level];
            let facts = level.files.get(&one.name);
            let Some(place) = facts.and_then(|facts| places.get(&facts.inode)) else {
                continue;
            };
            if sums[*place].clone().finalize() == one.crc32 {
                intact.insert((one.level, one.name));
            } else if !(one.is_earlier
                && facts.is_some_and(|facts| facts.allocated_bytes < facts.size_bytes))
            {
                let what = "its checksum is not the one it was written with";
                self.defects.add(one.shown, "", what, Effect::Unpredictable);
            }
        }
        intact
    }
}

/// How far down a file of a manifest lies, and its name there; `None` if it is no image, or
/// outside.
fn place_of(file: &ManifestFile) -> Option<(usize, &str)> {
    let below = file.name.strip_prefix(PARENT_NAME);
    let below = below.and_then(|rest| rest.strip_prefix('/'));
    let (depth, name) = match below {
        Some(name) => (1, name),
        None => (0, file.name.as_str()),
    };
    Kind::of_file_name(name).map(|_| (depth, name))
}
