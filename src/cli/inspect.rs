//! Commands that look at whole folders of images.

use std::path::PathBuf;

use clap::Subcommand;

const VERIFY: &str = "\
Examples:
  dedump verify images                     one line for each defect
  dedump verify --json images | jq .       the same for programs
  dedump verify images && criu restore -D images";

const TREE: &str = "\
Examples:
  dedump tree images                       who is in it, and what do they share?
  dedump tree --fds --maps images          with every descriptor and mapping
  dedump tree --dot images | dot -Tsvg >tree.svg";

const SIZE: &str = "\
Examples:
  dedump size images                       what takes the room?
  dedump size --svg map.svg images         the same as a picture
  dedump size --csv dumps/* >sizes.csv     many folders, for a spreadsheet";

const COMPARE: &str = "\
Examples:
  dedump compare monday tuesday            which tasks, entries and pages differ?
  dedump compare --json a b | jq .entries  the same for programs
  dedump compare a b >/dev/null && echo nothing happened in between";

/// A look at folders of images.
#[derive(Debug, Subcommand)]
pub(crate) enum Look {
    /// Find what is wrong with a folder of images, and what that does to a restore
    ///
    /// One line for each defect: the file, the place in it, what is wrong, what restore makes of
    /// it. The exit code is 1 if there is any.
    #[command(before_help = VERIFY)]
    Verify {
        /// The folder, by dedump or by criu
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Draw the process tree of a folder, and beside it what its tasks share
    ///
    /// Equal numbers are one kernel object; = marks what a task above has, too. OWN are saved
    /// pages of nobody else, SHARED those that other tasks of the folder have, too.
    #[command(before_help = TREE)]
    Tree {
        /// The folder, by dedump or by criu
        dir: PathBuf,
        /// List every descriptor, and who else has it
        #[arg(long)]
        fds: bool,
        /// List every mapping, and what of it was saved
        #[arg(long)]
        maps: bool,
        /// Print a graph for Graphviz, with one node for each thing that is shared
        #[arg(long, conflicts_with_all = ["json", "fds", "maps"])]
        dot: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell what takes the room in folders, what each task would cost alone, and what sharing saves
    ///
    /// ALONE is what a dump of that task alone would hold, OWN what nobody else refers to. What
    /// an earlier dump holds counts where it lies, not here.
    #[command(before_help = SIZE)]
    Size {
        /// Folders, by dedump or by criu
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
        /// Print JSON, one document for each folder
        #[arg(long, conflicts_with = "csv")]
        json: bool,
        /// Print rows of CSV
        #[arg(long)]
        csv: bool,
        /// Also draw the folder as a treemap; of one folder only
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Tell what differs between two dumps: tasks, entries, pages, sizes
    ///
    /// Things are compared by what they are to tasks, not by their numbers: descriptors, addresses,
    /// open files. In pages, zeros that one dump left out are no difference. The exit code is 0 if
    /// both hold the same state, 1 if they do not or something is damaged, 2 if they cannot be
    /// compared. Sizes are told, and make no difference.
    #[command(before_help = COMPARE)]
    Compare {
        /// The first folder, by dedump or by criu
        before: PathBuf,
        /// The second folder
        after: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
