//! JSON, written as it comes, spelled as Python's `json` module does: `crit` is made with it.

use std::io::{self, Write};

/// Writes values one after the other.
pub(super) struct Json<'w> {
    out: &'w mut dyn Write,
    indented: bool,
    /// For each open list or object, whether it has something in it.
    open: Vec<bool>,
}

impl<'w> Json<'w> {
    /// Starts a document: on one line, or indented by 4.
    pub(super) fn new(out: &'w mut dyn Write, indented: bool) -> Self {
        Self {
            out,
            indented,
            open: Vec::new(),
        }
    }

    /// Opens an object or a list: `{` or `[`.
    pub(super) fn open(&mut self, bracket: &str) -> io::Result<()> {
        self.open.push(false);
        self.out.write_all(bracket.as_bytes())
    }

    /// Closes it: `}` or `]`.
    pub(super) fn close(&mut self, bracket: &str) -> io::Result<()> {
        if self.open.pop() == Some(true) {
            self.line()?;
        }
        self.out.write_all(bracket.as_bytes())
    }

    /// Whatever comes next is one more of what is open.
    pub(super) fn next(&mut self) -> io::Result<()> {
        let Some(more) = self.open.last_mut() else {
            return Ok(());
        };
        if std::mem::replace(more, true) {
            self.out
                .write_all(if self.indented { b"," } else { b", " })?;
        }
        self.line()
    }

    fn line(&mut self) -> io::Result<()> {
        if self.indented {
            write!(self.out, "\n{:1$}", "", 4 * self.open.len())?;
        }
        Ok(())
    }

    /// The name of the next value in an object.
    pub(super) fn key(&mut self, name: &str) -> io::Result<()> {
        self.next()?;
        self.string(name)?;
        self.out.write_all(b": ")
    }

    /// A number, `true`, `false`.
    pub(super) fn bare(&mut self, value: impl std::fmt::Display) -> io::Result<()> {
        write!(self.out, "{value}")
    }

    /// A text.
    pub(super) fn string(&mut self, text: &str) -> io::Result<()> {
        self.text(text.as_bytes())
    }

    /// A text that need not be UTF-8: other bytes become `\udcXX`, as Python has it.
    pub(super) fn text(&mut self, text: &[u8]) -> io::Result<()> {
        self.out.write_all(b"\"")?;
        for chunk in text.utf8_chunks() {
            for character in chunk.valid().chars() {
                self.character(character)?;
            }
            for byte in chunk.invalid() {
                write!(self.out, "\\udc{byte:02x}")?;
            }
        }
        self.out.write_all(b"\"")
    }

    fn character(&mut self, character: char) -> io::Result<()> {
        match character {
            '"' => self.out.write_all(b"\\\""),
            '\\' => self.out.write_all(b"\\\\"),
            '\n' => self.out.write_all(b"\\n"),
            '\r' => self.out.write_all(b"\\r"),
            '\t' => self.out.write_all(b"\\t"),
            '\x08' => self.out.write_all(b"\\b"),
            '\x0c' => self.out.write_all(b"\\f"),
            ' '..='~' => write!(self.out, "{character}"),
            _ => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    write!(self.out, "\\u{unit:04x}")?;
                }
                Ok(())
            }
        }
    }

    /// Bytes as base64, in lines of 76 characters.
    pub(super) fn base64(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(b"\"")?;
        for line in bytes.chunks(57) {
            let line = data_encoding::BASE64.encode(line);
            write!(self.out, "{line}\\n")?;
        }
        self.out.write_all(b"\"")
    }

    /// Ends the document.
    pub(super) fn end(self) -> io::Result<()> {
        self.out.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(indented: bool, write: impl Fn(&mut Json) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        let mut json = Json::new(&mut out, indented);
        write(&mut json).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn document(json: &mut Json) -> io::Result<()> {
        json.open("{")?;
        json.key("a")?;
        json.bare(1)?;
        json.key("b")?;
        json.open("[")?;
        json.close("]")?;
        json.key("c")?;
        json.open("[")?;
        for number in [1, 2] {
            json.next()?;
            json.bare(number)?;
        }
        json.close("]")?;
        json.close("}")
    }

    #[test]
    fn layout_is_that_of_python() {
        assert_eq!(
            written(false, document),
            r#"{"a": 1, "b": [], "c": [1, 2]}"#
        );
        assert_eq!(
            written(true, document),
            "{\n    \"a\": 1,\n    \"b\": [],\n    \"c\": [\n        1,\n        2\n    ]\n}"
        );
    }

    #[test]
    fn texts_are_escaped() {
        let text = written(false, |json| {
            json.text(b"q\"\\\n\x7f\xc3\xa9\xf0\x9f\x98\x80\xff")
        });
        assert_eq!(text, r#""q\"\\\n\u007f\u00e9\ud83d\ude00\udcff""#);
    }

    #[test]
    fn base64_comes_in_lines() {
        let text = written(false, |json| json.base64(&[0; 58]));
        assert_eq!(text, format!("\"{}\\nAA==\\n\"", "A".repeat(76)));
        assert_eq!(written(false, |json| json.base64(&[])), "\"\"");
    }
}
