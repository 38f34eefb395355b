//! The command line: arguments in, plain options out, nothing done on the way.

mod check;
mod config;
mod criu;
mod dump;
mod getopt;
mod inspect;
pub(crate) mod log;
pub(crate) mod show;
#[cfg(test)]
mod tests;
pub(crate) mod texts;

use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use dedump::error::{Error, Result};

pub(crate) use check::Check;
pub(crate) use config::Places;
pub(crate) use dump::Dump;
pub(crate) use inspect::Look;

use criu::{Fate, OPTIONS};
use getopt::Scan;

const EXAMPLES: &str = "\
Examples:
  dedump dump -t 4120 -D images      dump the tree under 4120 and end it
  dedump dump -t 4120 -D images -R   dump it and let it run on
  dedump check -t 4120               what would stand in the way of that
  dedump dump --help                 all options, which are those of criu dump
  dedump show images                 what stands in a folder of images
  dedump verify images               would it restore?
  dedump tree images                 who is in it, and what do they share?
  dedump size images                 what takes the room?
  dedump compare before after        what happened in between?
  criu restore -D images             bring it back";

/// Dump process trees into images that criu restores, everything shared written once
#[derive(Debug, Parser)]
#[command(
    name = "dedump",
    version,
    before_help = EXAMPLES,
    args_override_self = true,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // A later option wins, as in CRIU.
    #[command(args_override_self = true, after_help = after_help(), disable_version_flag = true)]
    Dump(dump::DumpArgs),
    Show(show::ShowArgs),
    #[command(flatten)]
    Look(Look),
    Completions(texts::CompletionsArgs),
    Man(texts::ManArgs),
    #[command(args_override_self = true, disable_version_flag = true)]
    Check(check::CheckArgs),
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// A dump.
    Dump(Box<Dump>),
    /// What stands in images.
    Show(show::ShowArgs),
    /// A look at whole folders.
    Look(Look),
    /// Completions for a shell.
    Completions(texts::CompletionsArgs),
    /// Manual pages.
    Man(texts::ManArgs),
    /// A question about a dump.
    Check(Box<Check>),
    /// Help or version, ready to print.
    Text(clap::Error),
}

/// Understands a command line, the program's name first, and the configuration files.
///
/// # Errors
/// [`Error::Usage`] names what is wrong, unknown or not built yet.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    files: &Places,
) -> Result<Request> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|word| is_our_own(word)) {
        return with_clap(arguments.into_iter().skip(1));
    }
    let mut scan = Scan::new(arguments.into_iter().skip(1));
    let command = if scan.words.is_empty() {
        None
    } else {
        Some(scan.words.remove(0))
    };
    let known = command
        .clone()
        .filter(|word| word == "dump" || word == "check");
    if scan.has("version") {
        return with_clap(["--version".into()]);
    }
    if scan.has("help") {
        return with_clap(known.into_iter().chain(["--help".into()]));
    }
    let command = match (known, command) {
        (Some(command), _) => command,
        (None, None) => return Err(usage("no command: dedump dump -t PID -D DIR")),
        (None, Some(other)) => return Err(usage(refused_command(&other.to_string_lossy()))),
    };
    if let Some(mistake) = scan.mistake {
        let command = command.to_string_lossy();
        return Err(usage(format!("{mistake}: see dedump {command} --help")));
    }
    if let Some(word) = scan.words.first() {
        let (command, word) = (command.to_string_lossy(), word.to_string_lossy());
        return Err(usage(format!(
            "{command} takes options only, not the word {word}"
        )));
    }
    // What criu's own check may look at besides, this one looks at anyway.
    let for_check = |option: &criu::Opt| {
        command == "check" && ["json", "all", "extra", "experimental"].contains(&option.long)
    };
    let mut others = scan.options.iter().filter(|(option, _)| !for_check(option));
    if let Some(refusal) = others.find_map(|(option, _)| refused(option)) {
        return Err(usage(refusal));
    }
    let scan = files.before(scan)?;
    let taken = scan.canonical(|option| {
        option.fate == Fate::Taken || (option.long == "json" && command == "check")
    });
    with_clap(std::iter::once(command.clone()).chain(taken))
}

/// Whether a word is a command that criu does not have: its arguments follow the rules of clap.
fn is_our_own(word: &OsStr) -> bool {
    let commands = Arguments::command();
    let known = commands.get_subcommands().map(clap::Command::get_name);
    known
        .filter(|name| !["dump", "check"].contains(name))
        .any(|name| word == name)
}

/// The last step, on arguments in the one form that clap and getopt read alike.
fn with_clap(canonical: impl IntoIterator<Item = OsString>) -> Result<Request> {
    let whole: Vec<OsString> = std::iter::once("dedump".into()).chain(canonical).collect();
    match Arguments::try_parse_from(&whole) {
        Ok(Arguments { command }) => match command {
            Command::Dump(dump) => match dump.resolve() {
                Some(dump) => Ok(Request::Dump(Box::new(dump))),
                None => Err(usage("no process tree to dump: give its root with -t PID")),
            },
            Command::Check(check) => Ok(Request::Check(Box::new(check.resolve()))),
            Command::Show(show) => Ok(Request::Show(show)),
            Command::Look(look) => Ok(Request::Look(look)),
            Command::Completions(completions) => Ok(Request::Completions(completions)),
            Command::Man(man) => Ok(Request::Man(man)),
        },
        Err(text)
            if matches!(
                text.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            Ok(Request::Text(text))
        }
        Err(mistake) => {
            let text = mistake.to_string();
            // What is missing stands in lines of its own.
            let told = text.lines().take_while(|line| !line.is_empty());
            let told: Vec<&str> = told.map(str::trim).collect();
            let told = told.join(" ");
            let told = told.strip_prefix("error: ").unwrap_or(&told);
            let command = whole
                .get(1)
                .map_or("".into(), |word| word.to_string_lossy());
            Err(usage(format!("{told}: see dedump {command} --help")))
        }
    }
}

/// The whole command line, for those who describe it.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

fn refused(option: &criu::Opt) -> Option<String> {
    let name = option.long;
    match option.fate {
        Fate::Taken | Fate::Idle(_) => None,
        Fate::Later(meaning) => Some(format!(
            "option --{name} of criu is not supported yet by dedump: {meaning}"
        )),
        Fate::Other(command) => Some(format!(
            "option --{name} is unknown to dump: it belongs to {command}"
        )),
    }
}

fn refused_command(word: &str) -> String {
    match criu::refusal(word) {
        Some(instead) => format!("command {word} of criu is not supported by dedump: {instead}"),
        None => format!("unknown command {word}: see dedump --help"),
    }
}

/// The rest of CRIU's options, so that nobody has to try.
fn after_help() -> String {
    let list = |wanted: fn(&Fate) -> bool| {
        let names: Vec<&str> = OPTIONS
            .iter()
            .filter(|option| wanted(&option.fate))
            .map(|option| option.long)
            .collect();
        wrap(&names)
    };
    format!(
        "Switches can be taken back: --no-shell-job, --no-sync, ...\n\n\
         Options of criu that need nothing done here:\n{}\n\n\
         Options of criu that are not built yet and refused:\n{}",
        list(|fate| matches!(fate, Fate::Idle(_))),
        list(|fate| matches!(fate, Fate::Later(_))),
    )
}

/// Names as indented lines of at most 80 characters.
fn wrap(names: &[&str]) -> String {
    let mut lines = vec![String::from(" ")];
    for name in names {
        if lines
            .last()
            .is_some_and(|line| line.len() + name.len() > 76)
        {
            lines.push(String::from(" "));
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(" --");
            line.push_str(name);
        }
    }
    lines.join("\n")
}

fn usage(text: impl Into<String>) -> Error {
    Error::Usage(text.into())
}
