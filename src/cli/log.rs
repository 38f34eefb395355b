//! The log, in the lines that readers of CRIU's logs look for.
//!
//! ```text
//! (00.012345) Warn  (src/collect/tree.rs:40): task 4120 ...
//! (00.023456) Error (src/dump.rs:61): ...
//! ```
//!
//! As in CRIU, the time is told from level 3 on.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use dedump::error::{Error, IoResultExt, Result};
use dedump::image::trusted;

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// This file, emptied first and for its owner's eyes only.
    File(PathBuf),
}

impl Log {
    /// From here on everything up to `verbosity` is logged.
    ///
    /// # Errors
    /// [`Error::Image`] when the file or its folder cannot be made.
    pub(crate) fn start(&self, verbosity: u8) -> Result<()> {
        let writer = match self {
            Log::Stderr => BoxMakeWriter::new(io::stderr),
            Log::Stdout => BoxMakeWriter::new(io::stdout),
            Log::File(path) => {
                if let Some(folder) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
                    trusted::make_folders(folder).at("create folder", folder)?;
                }
                let file = trusted::empty_file(path).at("create log", path)?;
                BoxMakeWriter::new(Mutex::new(file))
            }
        };
        let level = match verbosity {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        tracing_subscriber::fmt()
            .log_internal_errors(false)
            .event_format(Lines {
                start: (verbosity >= 3).then(Instant::now),
            })
            .with_max_level(level)
            .with_writer(writer)
            .try_init()
            .map_err(|source| Error::Usage(source.to_string()))
    }
}

/// Writes one event as one line.
struct Lines {
    /// What times count from, when they are told.
    start: Option<Instant>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if let Some(start) = self.start {
            let passed = start.elapsed();
            write!(
                out,
                "({:02}.{:06}) ",
                passed.as_secs(),
                passed.subsec_micros()
            )?;
        }
        let place = event.metadata();
        let kind = match *place.level() {
            Level::ERROR => "Error ",
            Level::WARN => "Warn  ",
            _ => "",
        };
        if !kind.is_empty() {
            let file = place.file().unwrap_or("?");
            write!(out, "{kind}({file}:{}): ", place.line().unwrap_or(0))?;
        }
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        writeln!(out, "{}", one_line(&text))
    }
}

/// Text with its control characters spelled out: a path or a task's name may hold any byte,
/// and must neither break a line nor command a terminal.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe.into()
}
