//! `dedump completions` and `dedump man`: texts about the command line, made from itself.

use std::io;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

const COMPLETIONS: &str = "\
Examples:
  dedump completions bash >/etc/bash_completion.d/dedump
  dedump completions zsh >~/.zfunc/_dedump
  dedump completions fish >~/.config/fish/completions/dedump.fish";

/// Print completions of the command line for a shell
#[derive(Debug, Args)]
#[command(before_help = COMPLETIONS)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: Shell,
}

const MAN: &str = "\
Examples:
  dedump man | man -l -                    read the manual page
  dedump man --dir /usr/local/share/man/man1
                                           install those of all commands";

/// Print the manual page, or write the pages of all commands
#[derive(Debug, Args)]
#[command(before_help = MAN)]
pub(crate) struct ManArgs {
    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// The file of a command's manual page.
pub(crate) fn page_name(command: &clap::Command) -> String {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    format!("{}.1", name.replace(' ', "-"))
}

/// The manual page of a command: its examples come first, as in its help.
pub(crate) fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let name = page_name(command);
    let name = name.strip_suffix(".1").unwrap_or(&name).to_owned();
    let examples = command.get_before_help().map(ToString::to_string);
    let man = clap_mangen::Man::new(command.clone().display_name(name));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    if let Some(examples) = examples {
        page.extend(b".SH EXAMPLES\n.nf\n");
        // Below the headline, which the section has already.
        for line in examples.lines().skip(1) {
            let line = line.replace('\\', "\\e").replace('-', "\\-");
            page.extend(format!("\\&{line}\n").as_bytes());
        }
        page.extend(b".fi\n");
    }
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if command.get_after_help().is_some() {
        man.render_extra_section(&mut page)?;
    }
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}
