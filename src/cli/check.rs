//! `dedump check`: what a dump is asked beforehand.

use clap::Args;

use super::dump::{Dump, DumpArgs};

const EXAMPLES: &str = "\
Examples:
  dedump check                       what this kernel and these rights allow
  dedump check -t 4120               what stands in the way of: dedump dump -t 4120
  dedump check -t 4120 -j --json     the same of: dedump dump -t 4120 -j; for programs";

/// Tell what stands in the way of a dump, of a tree (-t) or in general
///
/// With -t, the options are those of the dump that is meant. The tree is stopped for one short
/// look. The exit code is 1 if anything stands in the way.
#[derive(Debug, Args)]
#[command(
    before_help = EXAMPLES,
    override_usage = "dedump check [-t PID [OPTIONS OF dedump dump]] [--json]"
)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    dump: DumpArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A question as the command line asks it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// The dump that is meant; `None` asks about the system.
    pub(crate) dump: Option<Dump>,
    /// Whether a program is to read the answer.
    pub(crate) json: bool,
}

impl CheckArgs {
    pub(super) fn resolve(self) -> Check {
        Check {
            dump: self.dump.resolve(),
            json: self.json,
        }
    }
}
