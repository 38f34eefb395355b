//! Configuration files: the options of the command line, one a line, without their dashes.
//!
//! ```text
//! # /etc/criu/default.conf
//! tcp-established
//! timeout 30                            # and this is a comment too
//! work-dir "/var/tmp/a \"work\" folder"
//! ```
//!
//! The files are those of CRIU, read in CRIU's order, and two of our own for options that criu
//! does not know. What comes later wins:
//!
//! 1. `/etc/criu/default.conf`, `/etc/dedump/default.conf`, `~/.criu/default.conf` and
//!    `~/.dedump/default.conf`, unless `--no-default-config` or `--config` was given;
//! 2. the file named by `CRIU_CONFIG_FILE`;
//! 3. the file of `--config`;
//! 4. the command line.
//!
//! All commands of criu share a file, so that options of the others are passed over here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use dedump::error::{Error, Result};

use super::criu::Fate;
use super::getopt::Scan;
use super::{refused, usage};

/// Where configuration files are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Read if they are there, unless the command line says otherwise.
    defaults: Vec<PathBuf>,
    /// Read in any case.
    named: Option<PathBuf>,
}

impl Places {
    /// Those of this system and this user.
    pub(crate) fn of_this_user() -> Self {
        let home = env::var_os("HOME").map(PathBuf::from);
        let folders = ["/etc/criu".into(), "/etc/dedump".into()]
            .into_iter()
            .chain(home.iter().map(|home| home.join(".criu")))
            .chain(home.iter().map(|home| home.join(".dedump")));
        Self {
            defaults: folders.map(|folder| folder.join("default.conf")).collect(),
            named: env::var_os("CRIU_CONFIG_FILE").map(PathBuf::from),
        }
    }

    /// Puts what the files say in front of what the command line says.
    ///
    /// # Errors
    /// [`Error::Usage`] names the file and line that cannot be understood or is not supported,
    /// or the file that cannot be read.
    pub(super) fn before(&self, command_line: Scan) -> Result<Scan> {
        let given = command_line.value("config").map(PathBuf::from);
        let mut earlier = Scan::default();
        if given.is_none() && !command_line.has("no-default-config") {
            for path in &self.defaults {
                match fs::read(path) {
                    Err(error)
                        if matches!(
                            error.kind(),
                            // The home may be another user's.
                            ErrorKind::NotFound
                                | ErrorKind::NotADirectory
                                | ErrorKind::PermissionDenied
                        ) => {}
                    answer => {
                        earlier = scan(&answer.map_err(unreadable(path))?, path)?.behind(earlier)
                    }
                }
            }
        }
        for path in self.named.iter().chain(&given) {
            let text = fs::read(path).map_err(unreadable(path))?;
            earlier = scan(&text, path)?.behind(earlier);
        }
        Ok(command_line.behind(earlier))
    }
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| usage(format!("configuration file {}: {error}", path.display()))
}

/// The options of one file.
fn scan(text: &[u8], path: &Path) -> Result<Scan> {
    let mut whole = Scan::default();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let wrong =
            |mistake: String| usage(format!("{}:{}: {mistake}", path.display(), number + 1));
        let mut words = words(line)
            .map_err(|mistake| wrong(mistake.to_owned()))?
            .into_iter();
        let Some(name) = words.next() else { continue };
        let mut option = OsString::from("--");
        option.push(name);
        let mut found = Scan::new([option].into_iter().chain(words));
        if let Some(mistake) = found.mistake {
            return Err(wrong(mistake));
        }
        if let Some(word) = found.words.first() {
            let word = word.to_string_lossy();
            return Err(wrong(format!(
                "a line holds one option and its value, not the word {word}"
            )));
        }
        found
            .options
            .retain(|(option, _)| !matches!(option.fate, Fate::Other(_)));
        if let Some(refusal) = found.options.iter().find_map(|(option, _)| refused(option)) {
            return Err(wrong(refusal));
        }
        whole = found.behind(whole);
    }
    Ok(whole)
}

/// The words of a line, up to a `#` at the beginning of one; a word in quotes may hold anything,
/// `\"` for a quote.
fn words(line: &[u8]) -> Result<Vec<OsString>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while let [first, behind @ ..] = rest {
        let word;
        (word, rest) = match first {
            b'#' => break,
            b'"' => quoted(behind).ok_or("a quote that is not closed")?,
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace);
                let (word, rest) = rest.split_at(end.unwrap_or(rest.len()));
                (word.to_vec(), rest)
            }
        };
        words.push(OsString::from_vec(word));
        rest = rest.trim_ascii_start();
    }
    Ok(words)
}

/// What is in front of the closing quote, and what is behind.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = text;
    loop {
        match rest {
            [] => return None,
            [b'\\', b'"', behind @ ..] => {
                word.push(b'"');
                rest = behind;
            }
            [b'"', behind @ ..] => return Some((word, behind)),
            [byte, behind @ ..] => {
                word.push(*byte);
                rest = behind;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Request, parse};
    use super::*;

    fn line(text: &str) -> Vec<String> {
        let words = words(text.as_bytes()).unwrap();
        words
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_line_is_made_of_words() {
        assert_eq!(line(""), [""; 0]);
        assert_eq!(line(" \t# tcp-close"), [""; 0]);
        assert_eq!(line("tcp-close\r"), ["tcp-close"]);
        assert_eq!(line("  timeout\t30 # seconds"), ["timeout", "30"]);
        assert_eq!(line("log-file a#b"), ["log-file", "a#b"]);
        assert_eq!(
            line(r#"work-dir "/a \"b\" c" # x"#),
            ["work-dir", r#"/a "b" c"#]
        );
        assert_eq!(line(r#"log-file """#), ["log-file", ""]);
        assert!(words(b"log-file \"open").is_err());
    }

    /// A dump as told by a command line and files; the names of files come first.
    fn asked(
        arguments: &str,
        defaults: &[&str],
        named: Option<&str>,
        given: Option<&str>,
    ) -> Result<super::super::Dump> {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: String, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let mut places = Places {
            defaults: vec![dir.path().join("is-not-there")],
            named: named.map(|text| write("named".to_owned(), text)),
        };
        for (number, text) in defaults.iter().enumerate() {
            places
                .defaults
                .push(write(format!("default-{number}"), text));
        }
        let mut line = vec![OsString::from("dedump"), "dump".into()];
        if let Some(text) = given {
            line.extend(["--config".into(), write("given".to_owned(), text).into()]);
        }
        line.extend(arguments.split_whitespace().map(OsString::from));
        match parse(line, &places)? {
            Request::Dump(dump) => Ok(*dump),
            other => panic!("{other:?}"),
        }
    }

    fn timeout(
        arguments: &str,
        defaults: &[&str],
        named: Option<&str>,
        given: Option<&str>,
    ) -> u64 {
        let dump = asked(arguments, defaults, named, given).unwrap();
        dump.options.timeout.unwrap().as_secs()
    }

    #[test]
    fn later_files_win_and_the_command_line_wins_over_all() {
        let defaults = ["timeout 1", "timeout 2"];
        assert_eq!(timeout("-t 7", &defaults, None, None), 2);
        assert_eq!(timeout("-t 7", &defaults, Some("timeout 3"), None), 3);
        assert_eq!(
            timeout("-t 7", &defaults, Some("timeout 3"), Some("timeout 4")),
            4
        );
        assert_eq!(
            timeout(
                "-t 7 --timeout 5",
                &defaults,
                Some("timeout 3"),
                Some("timeout 4")
            ),
            5
        );
    }

    #[test]
    fn default_files_can_be_left_out_but_not_the_one_of_the_environment() {
        let defaults = ["timeout 1"];
        assert_eq!(
            timeout("-t 7 --no-default-config", &defaults, None, None),
            10
        );
        assert_eq!(
            timeout(
                "-t 7 --no-default-config",
                &defaults,
                Some("timeout 3"),
                None
            ),
            3
        );
        assert_eq!(timeout("-t 7", &defaults, None, Some("")), 10);
    }

    #[test]
    fn a_switch_of_a_file_can_be_taken_back() {
        let files = [
            "shell-job\ntcp-established",
            "no-tcp-established\ntcp-close",
        ];
        let dump = asked("-t 7 --no-shell-job", &files, None, None).unwrap();
        assert!(!dump.options.shell_job);
        assert!(!dump.options.sockets.tcp_established && dump.options.sockets.tcp_close);
    }

    #[test]
    fn options_of_other_commands_are_passed_over() {
        let file = "restore-detached\njoin-ns net:/run/x\ntree 9\nleave-running";
        let dump = asked("", &[file], None, None).unwrap();
        assert_eq!(dump.options.tree, dedump::ids::Pid(9));
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (text, part) in [
            (
                "# x\nfrobnicate",
                "default-0:2: unknown option --frobnicate",
            ),
            ("timeout", "default-0:1: option --timeout needs a value"),
            ("shell-job yes", "default-0:1: a line holds one option"),
            (
                "\n\nlazy-pages",
                "default-0:3: option --lazy-pages of criu is not supported",
            ),
            ("work-dir \"a", "default-0:1: a quote that is not closed"),
        ] {
            let error = asked("-t 7", &[text], None, None).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
        let missing = parse(
            ["dedump", "dump", "-t", "7", "--config", "/nowhere/x"].map(OsString::from),
            &Places::default(),
        );
        assert!(missing.unwrap_err().to_string().contains("/nowhere/x"));
    }
}
