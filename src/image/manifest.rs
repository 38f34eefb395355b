//! Our own account of a dump: `dedump-manifest.img`, and `stats-dump` as CRIU writes it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::{UnlinkatFlags, unlinkat};

use super::catalogue::Kind;
use super::folder::ImageFolder;
use super::framing::ImageWriter;
use super::proto;
use super::trusted;
use super::write::Written;
use crate::clock::Stage;
use crate::collect::notes::Note;
use crate::error::{IoResultExt, Result};
use crate::freeze::After;
use crate::kcmp::Counters;

/// What a dump did, apart from its images.
#[derive(Clone, Debug)]
pub struct Account {
    /// When it began.
    pub started: SystemTime,
    /// What becomes of the tasks.
    pub after: After,
    /// Where the time went.
    pub stages: Vec<Stage>,
    /// How long the tree stood still.
    pub frozen: Duration,
    /// The work of the identity trees.
    pub trees: [(&'static str, Counters); 5],
    /// Pages found in memory or swap.
    pub pages_scanned: u64,
    /// What was written.
    pub written: Written,
    /// What restorers cannot bring back.
    pub notes: Vec<Note>,
}

impl Account {
    /// How long a stage took, zero when it did not run.
    #[must_use]
    pub fn stage(&self, name: &str) -> Duration {
        self.stages
            .iter()
            .filter(|stage| stage.name == name)
            .map(|stage| stage.length)
            .sum()
    }
}

/// Writes the manifest; every other image must be recorded in the folder already.
///
/// # Errors
/// Writing.
pub fn write_manifest(folder: &ImageFolder, account: &Account) -> Result<()> {
    let release =
        nix::sys::utsname::uname().map(|system| system.release().to_string_lossy().into_owned());
    let files = folder.files();
    let entry = proto::Manifest {
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: release.unwrap_or_default(),
        started_us: micros(
            account
                .started
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        ),
        mode: match account.after {
            After::Kill => "kill",
            After::LeaveRunning => "leave-running",
            After::LeaveStopped => "leave-stopped",
        }
        .to_owned(),
        files: files
            .into_iter()
            .map(|file| proto::ManifestFile {
                name: file.name,
                size_bytes: file.size_bytes,
                crc32: file.crc32,
            })
            .collect(),
        trees: account
            .trees
            .iter()
            .map(|(name, counters)| proto::ManifestTree {
                name: (*name).to_owned(),
                asked: counters.asked,
                new_objects: counters.new,
                kcmp_calls: counters.kcmp_calls,
            })
            .collect(),
        pages: proto::ManifestPages {
            scanned: account.pages_scanned,
            zero: account.written.zero_pages,
            shared: account.written.left_to_family_pages,
            unchanged: Some(account.written.unchanged_pages),
            written: account.written.pages + account.written.shared_pages,
        },
        stages: account
            .stages
            .iter()
            .map(|stage| proto::ManifestStage {
                name: stage.name.to_owned(),
                us: micros(stage.length),
                start_us: Some(micros(stage.start)),
                frozen: Some(stage.is_frozen),
            })
            .collect(),
        frozen_us: micros(account.frozen),
        notes: account
            .notes
            .iter()
            .map(|note| proto::ManifestNote {
                kind: note.kind.name().to_owned(),
                tids: note.tids.iter().map(|tid| tid.0).collect(),
                text: note.to_string(),
            })
            .collect(),
    };
    let mut writer = folder.writer(Kind::Manifest, 0)?;
    writer.entry(&entry)?;
    folder.record(writer.finish()?);
    Ok(())
}

/// `stats-dump` in the work dir. Removed when dropped, unless it is kept.
#[derive(Debug)]
pub struct Stats {
    dir: OwnedFd,
    is_kept: bool,
}

impl Stats {
    /// Writes the file.
    ///
    /// # Errors
    /// Writing.
    pub fn write(work_dir: &Path, account: &Account) -> Result<Self> {
        let name = Kind::Stats.file_name(0);
        let path = work_dir.join(&name);
        let stats = Self {
            dir: trusted::open_folder(work_dir).at("open folder", work_dir)?,
            is_kept: false,
        };
        let file = trusted::replace_file(&stats.dir, &name).at("create", path.as_path())?;
        let path = path.to_string_lossy().into_owned();
        write_stats(ImageWriter::start(file, Kind::Stats, path)?, account)?;
        Ok(stats)
    }

    /// The dump is complete.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        if !self.is_kept {
            let name = Kind::Stats.file_name(0);
            let _ = unlinkat(&self.dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn write_stats(mut writer: ImageWriter, account: &Account) -> Result<()> {
    let us = |length: Duration| u32::try_from(length.as_micros()).unwrap_or(u32::MAX);
    writer.entry(&proto::StatsEntry {
        dump: Some(proto::DumpStatsEntry {
            freezing_time: us(account.stage("seize")),
            frozen_time: us(account.frozen),
            memdump_time: us(account.stage("write")),
            memwrite_time: us(account.stage("write")),
            pages_scanned: account.pages_scanned,
            pages_skipped_parent: account.written.unchanged_pages,
            pages_written: account.written.pages,
            pages_lazy: 0,
            shpages_scanned: Some(account.written.shared_pages),
            shpages_skipped_parent: Some(0),
            shpages_written: Some(account.written.shared_pages),
            ..Default::default()
        }),
        restore: None,
    })?;
    writer.finish().map(drop)
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}
