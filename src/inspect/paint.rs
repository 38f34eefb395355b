//! Colours, where somebody sees them.

use std::io::{IsTerminal, stdout};

/// Whether to colour, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint {
    colours: bool,
}

impl Paint {
    /// No colours.
    pub const PLAIN: Self = Self { colours: false };

    /// Colours for standard output: on a terminal, unless `NO_COLOR` is set to anything or the
    /// terminal is a dumb one.
    #[must_use]
    pub fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colours: stdout().is_terminal() && !set("NO_COLOR") && !dumb,
        }
    }

    /// The name of something.
    #[must_use]
    pub fn name(self, text: &str) -> String {
        self.with("36", text)
    }

    /// A headline.
    #[must_use]
    pub fn head(self, text: &str) -> String {
        self.with("1", text)
    }

    /// Something wrong.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    /// Something aside.
    #[must_use]
    pub fn aside(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
