//! Where the time of a dump goes.

use std::time::{Duration, Instant};

/// A part of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its name; a name may come more than once.
    pub name: &'static str,
    /// When it began, from the beginning of the dump on.
    pub start: Duration,
    /// How long it took.
    pub length: Duration,
    /// Whether the tree stood still.
    pub is_frozen: bool,
}

/// Measures the stages, one right after the other.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    last: Instant,
    /// When the freeze began.
    frozen_since: Option<Instant>,
    /// How long it was, once it is over.
    frozen: Option<Duration>,
    stages: Vec<Stage>,
}

impl Clock {
    /// Starts with the first stage.
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            last: now,
            frozen_since: None,
            frozen: None,
            stages: Vec::new(),
        }
    }

    /// The stage that ends now had this name; the next one begins.
    pub fn stage(&mut self, name: &'static str) {
        let now = Instant::now();
        self.stages.push(Stage {
            name,
            start: self.last - self.started,
            length: now - self.last,
            is_frozen: self.frozen_since.is_some() && self.frozen.is_none(),
        });
        self.last = now;
    }

    /// The freeze begins, and with it the next stage.
    pub fn freeze(&mut self) {
        self.frozen_since = Some(self.last);
    }

    /// The freeze ended with the last stage.
    pub fn thaw(&mut self) {
        self.frozen = Some(self.frozen());
    }

    /// How long the tree stood still so far.
    #[must_use]
    pub fn frozen(&self) -> Duration {
        let so_far = self.frozen_since.map(|since| self.last - since);
        self.frozen.or(so_far).unwrap_or_default()
    }

    /// The stages so far.
    #[must_use]
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other_and_the_freeze_is_some_of_them() {
        let mut clock = Clock::start();
        clock.stage("before");
        assert_eq!(clock.frozen(), Duration::ZERO);
        clock.freeze();
        clock.stage("seize");
        clock.stage("release");
        clock.thaw();
        clock.stage("write");
        let stages = clock.stages();
        let frozen = stages.iter().map(|stage| stage.is_frozen);
        assert_eq!(frozen.collect::<Vec<_>>(), [false, true, true, false]);
        for pair in stages.windows(2) {
            assert_eq!(pair[0].start + pair[0].length, pair[1].start);
        }
        assert_eq!(clock.frozen(), stages[1].length + stages[2].length);
    }
}
