//! `dedump show`: its arguments.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  dedump show images                       everything in a folder, to read
  dedump show images/core-4120.img         one image
  dedump show --pretty images/files.img    as JSON, like crit show
  dedump show --json x.img | crit encode >y.img
                                           x.img again, byte for byte
  dedump show images --pid 4120 --addr 0x55d0c0de0000 --len 256
                                           memory of a task";

/// Show what stands in images, by dedump or criu
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct ShowArgs {
    /// Images, or folders of images
    #[arg(required = true, value_name = "FILE|DIR")]
    pub(crate) paths: Vec<PathBuf>,

    /// JSON on one line, as crit decode writes it
    #[arg(long, conflicts_with = "pretty")]
    pub(crate) json: bool,

    /// JSON on many lines with words for numbers, as crit show writes it
    #[arg(long)]
    pub(crate) pretty: bool,

    /// Show memory of this task, through all levels of a chain of dumps
    #[arg(long, value_name = "P", requires = "addr", conflicts_with_all = ["json", "pretty"])]
    pub(crate) pid: Option<u64>,

    /// First address, hexadecimal with 0x
    #[arg(long, value_name = "A", value_parser = number, requires = "pid")]
    pub(crate) addr: Option<u64>,

    /// How many bytes
    #[arg(long, value_name = "N", value_parser = number, requires = "pid", default_value = "256")]
    pub(crate) len: u64,
}

/// Decimal, or hexadecimal behind `0x`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "not a number: write 4096 or 0x1000".to_owned())
}
