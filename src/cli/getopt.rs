//! Reads arguments the way CRIU does, with getopt_long(3)'s rules.
//!
//! Options and words come in any order, long names may be shortened while they stay
//! unambiguous, letters may be joined (`-jRt 4120`), optional values must be attached (`-v4`),
//! and everything behind `--` is a word. clap has other rules for several of these, so it gets
//! to see only what [`Scan::canonical`] makes of them: `--name=value`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::criu::{OPTIONS, Opt, Value};

/// Arguments, told apart.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// What is no option: the command first.
    pub(super) words: Vec<OsString>,
    /// The options in their order, without those that a later `--no-…` took back.
    pub(super) options: Vec<(&'static Opt, Option<OsString>)>,
    /// The first thing that could not be understood.
    pub(super) mistake: Option<String>,
    /// Options whose `--no-…` form was given.
    taken_back: Vec<&'static Opt>,
}

impl Scan {
    /// Tells the arguments behind the program's name apart.
    pub(super) fn new(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let mut scan = Self::default();
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let read = match argument.as_bytes() {
                b"--" => {
                    scan.words.extend(rest);
                    break;
                }
                [b'-', b'-', option @ ..] => scan.long(option, &mut rest),
                [b'-', letters @ ..] if !letters.is_empty() => scan.letters(letters, &mut rest),
                _ => {
                    scan.words.push(argument);
                    continue;
                }
            };
            if let Err(mistake) = read {
                scan.mistake.get_or_insert(mistake);
            }
        }
        scan
    }

    /// These arguments behind others, of which they take back what they name.
    pub(super) fn behind(mut self, mut earlier: Self) -> Self {
        earlier
            .options
            .retain(|(option, _)| !self.taken_back.contains(option));
        earlier.options.append(&mut self.options);
        earlier.taken_back.append(&mut self.taken_back);
        Self {
            options: earlier.options,
            taken_back: earlier.taken_back,
            ..self
        }
    }

    /// The last value of an option.
    pub(super) fn value(&self, long: &str) -> Option<&OsStr> {
        let mut given = self.options.iter().rev();
        given.find(|(option, _)| option.long == long)?.1.as_deref()
    }

    /// Whether an option was given.
    pub(super) fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(option, _)| option.long == long)
    }

    /// The options that `wanted` picks, each as one argument: `--name` or `--name=value`.
    pub(super) fn canonical(
        &self,
        wanted: impl Fn(&Opt) -> bool,
    ) -> impl Iterator<Item = OsString> {
        self.options
            .iter()
            .filter(move |(option, _)| wanted(option))
            .map(|(option, value)| {
                let mut argument = OsString::from(format!("--{}", option.long));
                if let Some(value) = value {
                    argument.push("=");
                    argument.push(value);
                }
                argument
            })
    }

    fn long(
        &mut self,
        argument: &[u8],
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        let mut halves = argument.splitn(2, |byte| *byte == b'=');
        let name = String::from_utf8_lossy(halves.next().unwrap_or_default());
        let value = halves
            .next()
            .map(|value| OsStr::from_bytes(value).to_owned());
        let (option, taken_back) = find(&name)?;
        let value = match (option.value, value) {
            (Value::Never | Value::Switch, Some(_)) => {
                return Err(format!("option --{name} takes no value"));
            }
            (Value::Required, None) => Some(rest.next().ok_or_else(|| valueless(option))?),
            (_, value) => value,
        };
        if taken_back {
            self.options.retain(|(other, _)| *other != option);
            self.taken_back.push(option);
        } else {
            self.options.push((option, value));
        }
        Ok(())
    }

    fn letters(
        &mut self,
        mut letters: &[u8],
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        while let [letter, behind @ ..] = letters {
            letters = behind;
            let option = OPTIONS
                .iter()
                .find(|option| option.short == Some(*letter))
                .ok_or_else(|| format!("unknown option -{}", letter.escape_ascii()))?;
            let value = match option.value {
                Value::Never | Value::Switch => None,
                Value::Optional | Value::Required if !letters.is_empty() => {
                    Some(OsString::from_vec(std::mem::take(&mut letters).to_vec()))
                }
                Value::Optional => None,
                Value::Required => Some(rest.next().ok_or_else(|| valueless(option))?),
            };
            self.options.push((option, value));
        }
        Ok(())
    }
}

/// The option of a full or shortened name, and whether it is its `--no-…` form.
fn find(name: &str) -> Result<(&'static Opt, bool), String> {
    let plain = OPTIONS
        .iter()
        .map(|option| (option.long.to_owned(), option, false));
    let taken_back = OPTIONS
        .iter()
        .filter(|option| option.value == Value::Switch)
        .map(|option| (format!("no-{}", option.long), option, true));
    let near: Vec<_> = plain
        .chain(taken_back)
        .filter(|(full, ..)| full.starts_with(name))
        .collect();
    let exact = near.iter().find(|(full, ..)| full == name);
    match (exact, near.as_slice()) {
        (Some((_, option, no)), _) | (None, [(_, option, no)]) => Ok((option, *no)),
        (None, []) => Err(format!("unknown option --{name}")),
        (None, several) => {
            let names: Vec<String> = several
                .iter()
                .map(|(full, ..)| format!("--{full}"))
                .collect();
            Err(format!("option --{name} may mean {}", names.join(", ")))
        }
    }
}

fn valueless(option: &Opt) -> String {
    format!("option --{} needs a value", option.long)
}
