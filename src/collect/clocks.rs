//! The clocks that a tree sees: those of its time namespace.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::error::{Result, ResultExt, Target};
use crate::ids::Pid;
use crate::proc::ProcDir;
use crate::proc::timens::{Offsets, parse_timens_offsets};

/// What the clocks showed that a restored tree goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Duration,
    /// `CLOCK_BOOTTIME`.
    pub boottime: Duration,
}

impl Clocks {
    /// Looks at the clocks through the eyes of a task; `None` for a kernel without time namespaces.
    ///
    /// # Errors
    /// Reading `/proc`.
    pub fn of(proc_dir: &ProcDir) -> Result<Option<Self>> {
        let own = ProcDir::open(Pid(std::process::id().cast_signed()))?;
        if own.stat("ns/time").is_err() {
            return Ok(None);
        }
        let (theirs, ours) = (offsets(proc_dir)?, offsets(&own)?);
        let now = |clock| {
            clock_gettime(clock)
                .map(Duration::from)
                .on("clock_gettime", Target::Here)
        };
        Ok(Some(Self {
            monotonic: seen(
                now(ClockId::CLOCK_MONOTONIC)?,
                theirs.monotonic_ns - ours.monotonic_ns,
            ),
            boottime: seen(
                now(ClockId::CLOCK_BOOTTIME)?,
                theirs.boottime_ns - ours.boottime_ns,
            ),
        }))
    }
}

fn seen(now: Duration, offset_ns: i128) -> Duration {
    let offset =
        u64::try_from(offset_ns.unsigned_abs()).map_or(Duration::MAX, Duration::from_nanos);
    if offset_ns < 0 {
        now.saturating_sub(offset)
    } else {
        now.saturating_add(offset)
    }
}

fn offsets(proc_dir: &ProcDir) -> Result<Offsets> {
    let text = proc_dir.read("timens_offsets")?;
    parse_timens_offsets(&text).map_err(|e| e.at(proc_dir.path_of("timens_offsets")))
}
