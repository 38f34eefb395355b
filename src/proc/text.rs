//! Reading numbers and words out of the kernel's text files, and saying where that failed.

use std::io::BufRead;
use std::path::PathBuf;

use crate::error::Error;

/// Why a text is not what the kernel documents; the path is added by [`ParseError::at`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// 1-based line, 0 when the text as a whole is wrong.
    pub line: usize,
    /// What was looked for.
    pub expected: &'static str,
    /// What stood there instead, shortened.
    pub found: String,
}

impl ParseError {
    /// The most that is shown of what was found, in bytes.
    const SHOWN_BYTES: usize = 80;

    pub(super) fn new(line: usize, expected: &'static str, found: &[u8]) -> Self {
        let shown = &found[..found.len().min(Self::SHOWN_BYTES)];
        Self {
            line,
            expected,
            found: String::from_utf8_lossy(shown).into_owned(),
        }
    }

    /// The error with the path of the file that was parsed.
    #[must_use]
    pub fn at(self, path: impl Into<PathBuf>) -> Error {
        Error::Parse {
            path: path.into(),
            line: self.line,
            expected: self.expected,
            found: self.found,
        }
    }
}

/// The number in a file that holds one decimal number, e.g. `oom_score_adj` or `loginuid`.
///
/// # Errors
/// Anything but one number that fits.
pub fn parse_decimal<T: TryFrom<i64>>(text: &[u8]) -> Result<T, ParseError> {
    let mut line = Line::of_file(text);
    let number = line.signed("a decimal number")?;
    line.end().map(|()| number)
}

/// The number in a file that holds one hexadecimal number without prefix, e.g. `personality`.
///
/// # Errors
/// Anything but one number that fits.
pub fn parse_hexadecimal<T: TryFrom<u64>>(text: &[u8]) -> Result<T, ParseError> {
    let mut line = Line::of_file(text);
    let number = line.hex("a hexadecimal number")?;
    line.end().map(|()| number)
}

/// The lines of a text, without their ends, each with its number.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut unread = text;
    let mut number = 0;
    std::iter::from_fn(move || {
        let from_here = unread;
        // A slice never fails to be read, and this is the standard library's fast byte search.
        let length = unread.skip_until(b'\n').ok().filter(|length| *length > 0)?;
        let line = &from_here[..length];
        number += 1;
        Some(Line::new(number, line.strip_suffix(b"\n").unwrap_or(line)))
    })
}

/// What is unread of one line, eaten word by word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    number: usize,
    rest: &'a [u8],
}

impl<'a> Line<'a> {
    pub(super) fn new(number: usize, rest: &'a [u8]) -> Self {
        Self { number, rest }
    }

    /// The only line of a file.
    pub(super) fn of_file(text: &'a [u8]) -> Self {
        Self::new(1, text.strip_suffix(b"\n").unwrap_or(text))
    }

    /// Everything that was not eaten.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error about what comes next.
    pub(super) fn error(&self, expected: &'static str) -> ParseError {
        ParseError::new(self.number, expected, self.rest)
    }

    /// Eats blanks, and the word behind them up to the next blank.
    pub(super) fn word(&mut self, expected: &'static str) -> Result<&'a [u8], ParseError> {
        self.skip_blanks();
        let end = self.rest.iter().position(|byte| is_blank(*byte));
        match self.rest.split_at(end.unwrap_or(self.rest.len())) {
            (b"", _) => Err(self.error(expected)),
            (word, rest) => {
                self.rest = rest;
                Ok(word)
            }
        }
    }

    /// Eats everything up to and including `delimiter`, and yields what was before it.
    pub(super) fn until(
        &mut self,
        delimiter: u8,
        expected: &'static str,
    ) -> Result<&'a [u8], ParseError> {
        let end = self.rest.iter().position(|byte| *byte == delimiter);
        let end = end.ok_or_else(|| self.error(expected))?;
        let before = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(before)
    }

    /// Eats `text` if it comes next.
    pub(super) fn eat(&mut self, text: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Eats a word that is an unsigned decimal number.
    pub(super) fn unsigned<T: TryFrom<u64>>(
        &mut self,
        expected: &'static str,
    ) -> Result<T, ParseError> {
        self.convert(expected, |word| T::try_from(unsigned(word, 10)?).ok())
    }

    /// Eats a word that is a decimal number, perhaps with a minus sign.
    pub(super) fn signed<T: TryFrom<i64>>(
        &mut self,
        expected: &'static str,
    ) -> Result<T, ParseError> {
        self.convert(expected, |word| T::try_from(signed(word)?).ok())
    }

    /// Eats a word that is a hexadecimal number without prefix.
    pub(super) fn hex<T: TryFrom<u64>>(&mut self, expected: &'static str) -> Result<T, ParseError> {
        self.convert(expected, |word| T::try_from(unsigned(word, 16)?).ok())
    }

    /// Eats a word and makes something of it.
    pub(super) fn convert<T>(
        &mut self,
        expected: &'static str,
        make: impl FnOnce(&'a [u8]) -> Option<T>,
    ) -> Result<T, ParseError> {
        let before = *self;
        let word = self.word(expected)?;
        make(word).ok_or_else(|| before.error(expected))
    }

    /// Eats words that nobody wants to know.
    pub(super) fn skip(&mut self, words: usize, expected: &'static str) -> Result<(), ParseError> {
        (0..words).try_for_each(|_| self.word(expected).map(drop))
    }

    /// Whether only blanks are left.
    pub(super) fn is_empty(&mut self) -> bool {
        self.skip_blanks();
        self.rest.is_empty()
    }

    /// Only blanks may be left.
    pub(super) fn end(&mut self) -> Result<(), ParseError> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(self.error("nothing more")),
        }
    }

    fn skip_blanks(&mut self) {
        while let [blank, rest @ ..] = self.rest
            && is_blank(*blank)
        {
            self.rest = rest;
        }
    }
}

/// Words are set apart by spaces or tabs only: other white space may be part of a name.
fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Digits only, at least one, and no overflow.
pub(super) fn unsigned(word: &[u8], radix: u32) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |number, byte| {
        let digit = char::from(*byte).to_digit(radix)?;
        number
            .checked_mul(u64::from(radix))?
            .checked_add(u64::from(digit))
    })
}

fn signed(word: &[u8]) -> Option<i64> {
    match word.strip_prefix(b"-") {
        Some(digits) => 0_i64.checked_sub_unsigned(unsigned(digits, 10)?),
        None => i64::try_from(unsigned(word, 10)?).ok(),
    }
}

/// Puts back what the kernel escapes as backslash and three octal digits.
///
/// `escaped` names the bytes the file's format escapes. Where the backslash is not among them
/// (`maps`, `smaps`), a name that itself holds such a sequence cannot be told apart.
pub(super) fn unescape(text: &[u8], escaped: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let (byte, after) = match octal(rest) {
            Some((code, after)) if escaped.contains(&code) => (code, after),
            _ => (*byte, after),
        };
        plain.push(byte);
        rest = after;
    }
    plain
}

/// The byte that a backslash and three octal digits stand for, and what follows.
fn octal(text: &[u8]) -> Option<(u8, &[u8])> {
    let [
        b'\\',
        a @ b'0'..=b'3',
        b @ b'0'..=b'7',
        c @ b'0'..=b'7',
        after @ ..,
    ] = text
    else {
        return None;
    };
    Some(((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(unsigned(b"18446744073709551615", 10), Some(u64::MAX));
        assert_eq!(unsigned(b"18446744073709551616", 10), None);
        assert_eq!(
            unsigned(b"ffffffffff600000", 16),
            Some(0xffff_ffff_ff60_0000)
        );
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed(b"-9223372036854775809"), None);
        for bad in [
            &b""[..],
            b"+1",
            b"-",
            b"1 ",
            b"0x1",
            b"1_0",
            b"\xff",
            b"--1",
        ] {
            assert_eq!(unsigned(bad, 10), None, "{bad:?}");
            assert_eq!(signed(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn single_numbers() {
        assert_eq!(parse_decimal(b"-1000\n"), Ok(-1000_i32));
        assert_eq!(parse_decimal(b"4294967295"), Ok(u32::MAX));
        assert_eq!(parse_hexadecimal(b"00040000\n"), Ok(0x40000_u32));
        let error = parse_decimal::<u32>(b"-1\n").unwrap_err();
        assert_eq!((error.line, error.found.as_str()), (1, "-1"));
        assert!(parse_decimal::<i32>(b"1 2\n").is_err());
        assert!(parse_decimal::<i32>(b"").is_err());
        assert!(parse_decimal::<i8>(b"128").is_err());
    }

    #[test]
    fn lines_are_numbered_and_keep_all_but_their_end() {
        let all: Vec<_> = lines(b"a \r\n\n\xffz")
            .map(|l| (l.number, l.rest))
            .collect();
        assert_eq!(all, [(1, &b"a \r"[..]), (2, b""), (3, b"\xffz")]);
        assert_eq!(lines(b"").count(), 0);
    }

    #[test]
    fn only_what_the_format_escapes_is_put_back() {
        assert_eq!(unescape(br"/a\012b\134012", b"\n"), b"/a\nb\\134012");
        assert_eq!(unescape(br"/a\040b\134012", b" \t\n\\"), b"/a b\\012");
        assert_eq!(
            unescape(br"/\01 \08 \777 \", b" \t\n\\"),
            br"/\01 \08 \777 \"
        );
        assert_eq!(unescape(b"\xff\\", b"\n"), b"\xff\\");
    }

    #[test]
    fn an_error_names_path_line_and_what_was_found() {
        let long = [b'x'; 200];
        let text = ParseError::new(7, "a state", &long)
            .at("/proc/1/stat")
            .to_string();
        assert!(
            text.starts_with("/proc/1/stat:7: expected a state, found \"xxx"),
            "{text}"
        );
        assert!(text.len() < 150, "{text}");
    }
}
