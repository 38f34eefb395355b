//! The bar that a user sees when copying pages takes long.

use std::sync::Once;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a stage runs before it is worth a bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// How far a long stage has come.
///
/// Draws on standard error, only if that is a terminal, only once the stage has run for half
/// a second, and wipes the bar when dropped: it may be used unconditionally.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    drawn: Once,
}

impl Progress {
    /// Page contents about to be copied, `total_bytes` in all; `shown` is
    /// [`DumpOptions::progress`](crate::options::DumpOptions::progress).
    #[must_use]
    pub fn pages(total_bytes: u64, shown: bool) -> Self {
        let bar = shown.then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::hidden());
            let look =
                "pages {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}";
            if let Ok(style) = ProgressStyle::with_template(look) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            started: Instant::now(),
            drawn: Once::new(),
        }
    }

    /// A stage that nobody watches.
    #[must_use]
    pub fn silent() -> Self {
        Self::pages(0, false)
    }

    /// Another `bytes` are done; may be called from several threads.
    pub fn advance(&self, bytes: u64) {
        let Some(bar) = &self.bar else { return };
        if !self.drawn.is_completed() && self.started.elapsed() >= PATIENCE {
            // Stays hidden by itself where standard error is no terminal.
            self.drawn
                .call_once(|| bar.set_draw_target(ProgressDrawTarget::stderr()));
        }
        bar.inc(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
