//! What can be wrong with images, and what that does to a restore.

use std::fmt;

/// What a defect does to a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Restore says why and gives up.
    RestoreFails,
    /// The restorer itself ends by a signal or an assertion.
    RestorerCrashes,
    /// Restore succeeds, and the program finds other bytes than it left.
    WrongContent,
    /// Restore succeeds without it.
    Lost,
    /// Restore does not look at it: it only takes room.
    Unused,
    /// The file is not the one that was written: anything may follow.
    Unpredictable,
}

impl Effect {
    /// A word for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RestoreFails => "restore-fails",
            Self::RestorerCrashes => "restorer-crashes",
            Self::WrongContent => "wrong-content",
            Self::Lost => "lost",
            Self::Unused => "unused",
            Self::Unpredictable => "unpredictable",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RestoreFails => "restore fails",
            Self::RestorerCrashes => "criu crashes in restore",
            Self::WrongContent => "the program comes back with wrong data",
            Self::Lost => "it is missing after a restore",
            Self::Unused => "restore does not use it",
            Self::Unpredictable => "what a restore does cannot be told",
        })
    }
}

/// One thing that is wrong with a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Defect {
    /// The file, as seen from the folder.
    pub file: String,
    /// Which entry, or which place in the file; empty for the file as a whole.
    pub entry: String,
    /// What is wrong.
    pub what: String,
    /// What that does to a restore.
    pub effect: Effect,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if !self.entry.is_empty() {
            write!(f, ": {}", self.entry)?;
        }
        write!(f, ": {}: {}", self.what, self.effect)
    }
}

/// Defects as they are found. A badly damaged folder has no end of them.
#[derive(Clone, Debug, Default)]
pub struct Defects {
    found: Vec<Defect>,
    left_out: u64,
}

impl Defects {
    /// More are counted, not kept.
    const MOST: usize = 10_000;

    /// Adds one.
    pub fn add(
        &mut self,
        file: impl Into<String>,
        entry: impl Into<String>,
        what: impl Into<String>,
        effect: Effect,
    ) {
        if self.found.len() == Self::MOST {
            self.left_out += 1;
            return;
        }
        self.found.push(Defect {
            file: file.into(),
            entry: entry.into(),
            what: what.into(),
            effect,
        });
    }

    /// Adds those found elsewhere.
    pub fn extend(&mut self, others: Defects) {
        let room = Self::MOST - self.found.len();
        let beyond = others.found.len().saturating_sub(room);
        self.left_out += others.left_out + beyond as u64;
        self.found.extend(others.found.into_iter().take(room));
    }

    /// Those that were kept, and how many were not.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Defect>, u64) {
        (self.found, self.left_out)
    }

    /// Those that were kept.
    #[must_use]
    pub fn found(&self) -> &[Defect] {
        &self.found
    }
}
