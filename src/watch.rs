//! Bounds the time that a tree stands still.
//!
//! The dump runs in a thread of its own, the one that traces, and says here what it is at.
//! Wherever it may take long it asks whether its time is up, and if so lets the tree go like
//! after any failure. A call into the kernel may come back late or never: a disk that does not
//! answer, a task that keeps its mappings locked. That the thread which waits for the dump
//! notices. It reports the failure without the dump; the tree is free when the process ends.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, Target};

/// What a dump is at, and until when it must have let the tree go.
#[derive(Debug)]
pub struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    stage: &'static str,
    target: Target,
    end: Option<Instant>,
    is_over: bool,
}

impl State {
    fn timed_out(&self) -> Error {
        Error::TimedOut {
            stage: self.stage,
            target: self.target.clone(),
            remedy: "raise --timeout, or try again when the machine is less busy".to_owned(),
        }
    }
}

/// Says that the dump is over, whichever way it ends.
#[derive(Debug)]
pub struct Over<'a>(&'a Watch);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                stage: "getting ready",
                target: Target::Here,
                end: None,
                is_over: false,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Watch {
    /// How long a dump has for letting the tree go once its time is up.
    const GRACE: Duration = Duration::from_secs(3);

    /// What the dump holds as long as it goes on.
    #[must_use]
    pub fn begin(&self) -> Over<'_> {
        Over(self)
    }

    /// The tree may stand still until then; `None` for as long as it takes.
    pub fn bound(&self, end: Option<Instant>) {
        let mut state = self.state();
        let is_sooner = end.is_some_and(|end| state.end.is_none_or(|old| end < old));
        state.end = end;
        drop(state);
        // Whoever waits for an earlier moment sees then that it no longer counts. To wake it would
        // keep the tree waiting.
        if is_sooner {
            self.changed.notify_all();
        }
    }

    /// Until when the tree may stand still; far off if there is no bound.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
        self.state().end.unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// The dump is at this stage from now on, with this task or file.
    ///
    /// # Errors
    /// As [`Watch::check`].
    pub fn at(&self, stage: &'static str, target: impl Into<Target>) -> Result<()> {
        self.check()?;
        let mut state = self.state();
        state.stage = stage;
        state.target = target.into();
        Ok(())
    }

    /// Goes on while there is time.
    ///
    /// # Errors
    /// [`Error::TimedOut`], which names the stage and what was waited for.
    pub fn check(&self) -> Result<()> {
        let state = self.state();
        match state.end {
            Some(end) if Instant::now() >= end => Err(state.timed_out()),
            _ => Ok(()),
        }
    }

    /// Waits until the dump is over. If it is stuck, its failure.
    #[must_use]
    pub fn outlast(&self) -> Option<Error> {
        let mut state = self.state();
        while !state.is_over {
            let Some(end) = state.end else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = (end + Self::GRACE).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(state.timed_out());
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_without_a_bound_is_waited_for() {
        let watch = Watch::default();
        watch.at("here", Target::Here).unwrap();
        let over = watch.begin();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| watch.outlast());
            watch.bound(Some(Instant::now() + Duration::from_secs(1000)));
            watch.bound(None);
            drop(over);
            assert!(waiting.join().unwrap().is_none());
        });
    }

    #[test]
    fn one_that_is_stuck_is_not() {
        let watch = Watch::default();
        let _over = watch.begin();
        watch.at("reading", Target::Here).unwrap();
        let past = Instant::now().checked_sub(Watch::GRACE).unwrap();
        watch.bound(Some(past));
        let error = watch.at("writing", Target::Here).unwrap_err().to_string();
        assert!(
            error.contains("while reading, waiting for dedump"),
            "{error}"
        );
        assert!(watch.outlast().is_some());
    }
}
