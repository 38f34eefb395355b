//! What stands in images, entry by entry: for people, or as the JSON that `crit` reads and
//! writes, from which `crit encode` makes the same bytes again.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

use super::json::Json;
use super::paint::Paint;
use super::values::{Value, is_list, present, single, values};
use super::words::{address, quoted, worded};
use crate::error::{Error, IoResultExt, Result};
use crate::image::catalogue::{Head, Kind, Payload};
use crate::image::framing::{Damage, Entry, Image};
use crate::image::opened::OpenedFolder;
use crate::image::proto;
use crate::image::schema::{Field, Form, Holds, Message};

/// In which form images are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For people.
    Readable(Paint),
    /// JSON on one line, numbers as they are: what `crit decode` writes.
    Json,
    /// JSON on many lines, with flags, kinds, devices and addresses as words: what `crit show`
    /// writes.
    Pretty,
}

/// Why an image was not shown to its end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The image.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Where it was to be shown.
    #[error(transparent)]
    Output(#[from] io::Error),
}

impl Failure {
    /// The failure as an error about a file.
    #[must_use]
    pub fn about(self, path: &Path) -> Error {
        match self {
            Failure::Damaged(damage) => damage.in_file(path),
            Failure::Output(source) => Error::Image {
                op: "write",
                path: OUTPUT.into(),
                source,
            },
        }
    }
}

/// What output is called in errors.
const OUTPUT: &str = "standard output";

/// Shows an image. What is sound in front of damage is shown, too, in the form for people; as
/// JSON a damaged image is not shown at all.
///
/// # Errors
/// Damage, and what writing to `out` says.
///
/// # Examples
/// ```no_run
/// use dedump::image::framing::Image;
/// use dedump::inspect::show::{Style, show};
///
/// let image = Image::open("images/pstree.img".as_ref())?;
/// show(&image, Style::Pretty, &mut std::io::stdout())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn show(image: &Image, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
    show_named(image, style, out, false)
}

fn show_named(
    image: &Image,
    style: Style,
    out: &mut dyn Write,
    named: bool,
) -> Result<(), Failure> {
    match style {
        Style::Readable(paint) => Reading { out, paint }.image(image),
        Style::Json | Style::Pretty => {
            for entry in image.entries() {
                entry?.check()?;
            }
            let mut crit = Crit {
                json: Json::new(out, style == Style::Pretty),
                pretty: style == Style::Pretty,
            };
            crit.image(image, named)?;
            crit.json.end()?;
            Ok(())
        }
    }
}

/// Shows the image `path`, or all images of the folder `path`: as JSON, each is a document of
/// its own, with its name as `file`. For people, what the manifest notes comes last.
///
/// # Errors
/// What cannot be read, what is damaged, what writing says. Damage does not keep the other
/// images of a folder from being shown.
pub fn show_path(path: &Path, style: Style, out: &mut dyn Write) -> Result<()> {
    if !path.is_dir() {
        let image = Image::open(path)?;
        return show(&image, style, out).map_err(|failure| failure.about(path));
    }
    let folder = OpenedFolder::open(path)?;
    let (images, others) = folder.names()?;
    let mut failures = Vec::new();
    for name in &images {
        let path = path.join(name);
        let shown = match folder.image_named(name) {
            Ok(Some(image)) => {
                show_named(&image, style, out, true).map_err(|failure| failure.about(&path))
            }
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        match shown {
            Err(failure @ Error::Image { op: "write", .. }) => return Err(failure),
            Err(failure) => failures.push(failure),
            Ok(()) => {}
        }
    }
    if let Style::Readable(paint) = style
        && !others.is_empty()
    {
        let names: Vec<_> = others.iter().map(|name| one_line(name)).collect();
        let line = paint.aside(&format!("no images: {}", names.join(", ")));
        writeln!(out, "{line}").at("write", OUTPUT)?;
    }
    if let Style::Readable(_) = style {
        for note in notes(&folder) {
            writeln!(out, "note: {}", one_line(&note)).at("write", OUTPUT)?;
        }
    }
    match failures.len() {
        0 if images.is_empty() => Err(Error::Refused {
            target: path.into(),
            what: "it holds no images".to_owned(),
            remedy: "name a folder that dedump or criu wrote to".to_owned(),
        }),
        0 => Ok(()),
        _ => Err(Error::Blocked(failures)),
    }
}

/// What the manifest of a folder says that restorers cannot bring back; a damaged one is told of where
/// it is shown.
fn notes(folder: &OpenedFolder) -> Vec<String> {
    let manifest = folder.image(Kind::Manifest, 0).ok().flatten();
    let manifest = manifest.and_then(|image| image.decode::<proto::Manifest>(0).ok());
    let notes = manifest.into_iter().flat_map(|manifest| manifest.notes);
    notes.map(|note| note.text).collect()
}

/// The form that `crit` reads and writes.
struct Crit<'w> {
    json: Json<'w>,
    pretty: bool,
}

impl Crit<'_> {
    fn image(&mut self, image: &Image, named: bool) -> io::Result<()> {
        self.json.open("{")?;
        if named {
            self.json.key("file")?;
            self.json.string(image.name())?;
        }
        if image.kind().head() == Head::Raw {
            // crit knows no such file: it has nothing but bytes.
            self.json.key("bytes")?;
            self.json.bare(image.bytes().len())?;
            return self.json.close("}");
        }
        self.json.key("magic")?;
        self.json.string(image.kind().magic_name())?;
        self.json.key("entries")?;
        self.json.open("[")?;
        // A damaged image does not come here.
        for entry in image.entries().flatten() {
            self.json.next()?;
            self.json.open("{")?;
            self.fields(entry.message, entry.bytes, false, self.pretty)?;
            self.payload(image.kind(), &entry)?;
            self.json.close("}")?;
        }
        self.json.close("]")?;
        self.json.close("}")
    }

    fn fields(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        hex: bool,
        pretty: bool,
    ) -> io::Result<()> {
        for field in present(message, bytes).0 {
            let hex = hex || field.form == Form::Hex;
            if !is_list(field) {
                if let Some(value) = single(field, bytes) {
                    self.json.key(&field.name)?;
                    self.value(field, value, hex, pretty)?;
                }
                continue;
            }
            let mut list = values(field, bytes).peekable();
            if list.peek().is_none() {
                continue;
            }
            self.json.key(&field.name)?;
            self.json.open("[")?;
            if let Some(address) = ip(field, bytes).filter(|_| pretty) {
                self.json.next()?;
                self.json.string(&address)?;
            } else {
                for value in list {
                    self.json.next()?;
                    self.value(field, value, hex, pretty)?;
                }
            }
            self.json.close("]")?;
        }
        Ok(())
    }

    fn value(&mut self, field: &Field, value: Value, hex: bool, pretty: bool) -> io::Result<()> {
        match value {
            Value::Bool(value) => self.json.bare(value),
            Value::Named(_, Some(name)) => self.json.string(name),
            Value::Named(number, None) => self.json.bare(number),
            Value::Number(number) => {
                let form = if hex { Form::Hex } else { field.form };
                match worded(form, number).filter(|_| pretty) {
                    Some(words) => self.json.string(&words),
                    None => self.json.bare(number),
                }
            }
            Value::Text(text) => self.json.text(text),
            Value::Bytes(bytes) => match field.form {
                Form::Text => self.json.text(bytes),
                Form::Quoted => self.json.text(&quoted(bytes)),
                _ => self.json.base64(bytes),
            },
            Value::Message(message, bytes) => {
                self.json.open("{")?;
                self.fields(message, &bytes, hex, pretty)?;
                self.json.close("}")
            }
        }
    }

    fn payload(&mut self, kind: Kind, entry: &Entry) -> io::Result<()> {
        match kind.payload() {
            Payload::None => {}
            // The file is in the chunks.
            Payload::Ghost if entry.index == 0 && is_in_chunks(entry) => {}
            Payload::Pipe | Payload::Socket | Payload::Ghost | Payload::Map => {
                self.json.key("extra")?;
                self.json.base64(entry.payload)?;
            }
            Payload::Segment => {
                self.json.key("extra")?;
                self.json.base64(without_filling(entry))?;
            }
            Payload::Tcp => {
                let (received, sent) = queues(entry);
                self.json.key("extra")?;
                self.json.open("{")?;
                self.json.key("inq")?;
                self.json.base64(received)?;
                self.json.key("outq")?;
                self.json.base64(sent)?;
                self.json.close("}")?;
            }
            Payload::Semaphores => {
                self.json.key("extra")?;
                self.json.open("[")?;
                for value in semaphores(entry) {
                    self.json.next()?;
                    self.json.bare(value)?;
                }
                self.json.close("]")?;
            }
            Payload::Queue => {
                self.json.key("extra")?;
                self.json.open("[")?;
                for message in entry.queued().flatten() {
                    self.json.next()?;
                    self.json.open("{")?;
                    self.fields(message.message, message.bytes, false, false)?;
                    self.json.close("}")?;
                    self.json.next()?;
                    self.json.base64(message.payload)?;
                }
                self.json.close("]")?;
            }
        }
        Ok(())
    }
}

fn ip(field: &'static Field, bytes: &[u8]) -> Option<String> {
    if field.form != Form::Ip {
        return None;
    }
    let words = values(field, bytes).take(5).map(|value| match value {
        Value::Number(word) => u32::try_from(word).ok(),
        _ => None,
    });
    address(&words.collect::<Option<Vec<u32>>>()?)
}

fn is_in_chunks(entry: &Entry) -> bool {
    let ghost = entry.decode::<proto::GhostFileEntry>();
    ghost.is_ok_and(|ghost| ghost.chunks())
}

/// The bytes of a segment without what fills them up.
fn without_filling<'a>(entry: &Entry<'a>) -> &'a [u8] {
    let size = entry
        .decode::<proto::IpcShmEntry>()
        .map_or(0, |segment| segment.size);
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    &entry.payload[..size.min(entry.payload.len())]
}

/// What was received and what was sent on a connection.
fn queues<'a>(entry: &Entry<'a>) -> (&'a [u8], &'a [u8]) {
    let received = entry
        .decode::<proto::TcpStreamEntry>()
        .map_or(0, |stream| stream.inq_len as usize);
    entry.payload.split_at(received.min(entry.payload.len()))
}

fn semaphores<'a>(entry: &Entry<'a>) -> impl Iterator<Item = u16> + use<'a> {
    let count = entry
        .decode::<proto::IpcSemEntry>()
        .map_or(0, |set| set.nsems);
    let values = entry.payload.chunks_exact(2).take(count as usize);
    values.map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
}

/// The form for people.
struct Reading<'w> {
    out: &'w mut dyn Write,
    paint: Paint,
}

/// A text that may have colours in it, and how wide it looks.
struct Part {
    text: String,
    width: usize,
}

impl Part {
    fn plain(text: String) -> Self {
        let width = text.len();
        Self { text, width }
    }
}

/// Lines longer than this are broken up.
const LINE: usize = 100;
/// How much of raw bytes is shown.
const SOME_BYTES: usize = 48;

impl Reading<'_> {
    fn image(&mut self, image: &Image) -> Result<(), Failure> {
        let kind = image.kind();
        let head = self.paint.head(&one_line(image.name()));
        let size = image.bytes().len();
        if kind.head() == Head::Raw {
            writeln!(self.out, "{head}: {}, {size} bytes", kind.name())?;
            return Ok(());
        }
        writeln!(self.out, "{head}: {}, {size} bytes", kind.name())?;
        for entry in image.entries() {
            let entry = match entry.and_then(|entry| entry.check().map(|()| entry)) {
                Ok(entry) => entry,
                Err(damage) => {
                    let text = self.paint.bad(&format!("damaged {damage}"));
                    writeln!(self.out, "  {text}")?;
                    return Err(damage.into());
                }
            };
            self.message("  ", "- ", entry.message, entry.bytes, false)?;
            self.payload(kind, &entry)?;
        }
        Ok(())
    }

    /// A message: its fields one after the other where they are short, else a line for each.
    /// `mark` stands before its first line, which is indented by `indent`; the other lines stand
    /// below its text.
    fn message(
        &mut self,
        indent: &str,
        mark: &str,
        message: &'static Message,
        bytes: &[u8],
        hex: bool,
    ) -> io::Result<()> {
        let mut lead = format!("{indent}{mark}");
        let below = format!("{indent}{:1$}", "", mark.len());
        if let Some(parts) = self.parts(message, bytes, hex) {
            return self.wrapped(&lead, &below, &parts);
        }
        let (fields, unknown) = present(message, bytes);
        for field in fields {
            let hex = hex || field.best == Form::Hex;
            let name = self.paint.name(&field.name);
            let is_message = matches!(field.holds, Holds::Message(_));
            match (is_list(field), is_message) {
                (_, false) => writeln!(self.out, "{lead}{name}: {}", scalars(field, bytes, hex))?,
                (false, true) => {
                    if let Some(Value::Message(inner, inside)) = single(field, bytes) {
                        match self.flat(inner, &inside, hex) {
                            Some(part) => writeln!(self.out, "{lead}{name}: {}", part.text)?,
                            None => {
                                writeln!(self.out, "{lead}{name}:")?;
                                self.message(&format!("{below}  "), "", inner, &inside, hex)?;
                            }
                        }
                    }
                }
                (true, true) => {
                    writeln!(self.out, "{lead}{name}:")?;
                    for value in values(field, bytes) {
                        if let Value::Message(inner, inside) = value {
                            self.message(&below, "- ", inner, &inside, hex)?;
                        }
                    }
                }
            }
            lead.clone_from(&below);
        }
        for number in unknown {
            writeln!(self.out, "{lead}unknown field {number}")?;
            lead.clone_from(&below);
        }
        Ok(())
    }

    /// Parts with commas between, in lines that are not longer than need be.
    fn wrapped(&mut self, lead: &str, below: &str, parts: &[Part]) -> io::Result<()> {
        self.out.write_all(lead.as_bytes())?;
        let mut width = lead.len();
        for (place, part) in parts.iter().enumerate() {
            if place > 0 {
                self.out.write_all(b",")?;
                if width + part.width + 2 > LINE {
                    write!(self.out, "\n{below}")?;
                    width = below.len();
                } else {
                    self.out.write_all(b" ")?;
                    width += 2;
                }
            }
            self.out.write_all(part.text.as_bytes())?;
            width += part.width;
        }
        if parts.is_empty() {
            self.out.write_all(b"{}")?;
        }
        self.out.write_all(b"\n")
    }

    /// The fields of a message each of which fits into a line.
    fn parts(&self, message: &'static Message, bytes: &[u8], hex: bool) -> Option<Vec<Part>> {
        if bytes.len() > 8 * LINE {
            return None;
        }
        let (fields, unknown) = present(message, bytes);
        let mut parts = Vec::new();
        for field in fields {
            let hex = hex || field.best == Form::Hex;
            let part = match field.holds {
                Holds::Message(_) if is_list(field) => return None,
                Holds::Message(_) => match single(field, bytes)? {
                    Value::Message(inner, inside) => self.flat(inner, &inside, hex)?,
                    _ => return None,
                },
                _ => Part::plain(scalars(field, bytes, hex)),
            };
            let part = Part {
                width: field.name.len() + 2 + part.width,
                text: format!("{}: {}", self.paint.name(&field.name), part.text),
            };
            if part.width > LINE {
                return None;
            }
            parts.push(part);
        }
        let unknown = unknown.iter();
        parts.extend(unknown.map(|number| Part::plain(format!("unknown field {number}"))));
        Some(parts)
    }

    /// A message in one line: `{a: 1, b: 2}`.
    fn flat(&self, message: &'static Message, bytes: &[u8], hex: bool) -> Option<Part> {
        let parts = self.parts(message, bytes, hex)?;
        let width = parts.iter().map(|part| part.width + 2).sum::<usize>() + 2;
        let texts: Vec<String> = parts.into_iter().map(|part| part.text).collect();
        let text = format!("{{{}}}", texts.join(", "));
        (width <= LINE).then_some(Part { text, width })
    }

    fn payload(&mut self, kind: Kind, entry: &Entry) -> io::Result<()> {
        let name = self.paint.name(match kind.payload() {
            Payload::None => return Ok(()),
            Payload::Queue => "messages",
            Payload::Semaphores => "values",
            _ => "content",
        });
        match kind.payload() {
            Payload::Tcp => {
                let (received, sent) = queues(entry);
                writeln!(self.out, "    received: {}", some(received))?;
                writeln!(self.out, "    sent: {}", some(sent))
            }
            Payload::Semaphores => {
                let values: Vec<String> = semaphores(entry).map(|v| v.to_string()).collect();
                writeln!(self.out, "    {name}: [{}]", runs(values.into_iter()))
            }
            Payload::Queue => {
                writeln!(self.out, "    {name}:")?;
                for message in entry.queued().flatten() {
                    self.message("    ", "- ", message.message, message.bytes, false)?;
                    writeln!(self.out, "      text: {}", some(message.payload))?;
                }
                Ok(())
            }
            Payload::Ghost if entry.index == 0 && is_in_chunks(entry) => Ok(()),
            Payload::Segment => {
                writeln!(self.out, "    {name}: {}", some(without_filling(entry)))
            }
            _ => writeln!(self.out, "    {name}: {}", some(entry.payload)),
        }
    }
}

/// The value or values of a field that holds no message.
pub(super) fn scalars(field: &'static Field, bytes: &[u8], hex: bool) -> String {
    if let Some(address) = ip(field, bytes) {
        return address;
    }
    if is_list(field) {
        let all = values(field, bytes).map(|value| scalar(field, &value, hex));
        return format!("[{}]", runs(all));
    }
    single(field, bytes).map_or_else(String::new, |value| scalar(field, &value, hex))
}

fn scalar(field: &Field, value: &Value, hex: bool) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Named(number, name) => name.map_or_else(|| number.to_string(), ToOwned::to_owned),
        Value::Number(number) => {
            let form = match field.best {
                Form::Plain if hex => Form::Hex,
                best => best,
            };
            let words = worded(form, *number).filter(|words| !words.is_empty());
            words.unwrap_or_else(|| match (form, number) {
                (Form::OpenFlags, 0) => "O_RDONLY".to_owned(),
                _ => number.to_string(),
            })
        }
        Value::Text(text) => format!("\"{}\"", text.escape_ascii()),
        Value::Bytes(bytes) if matches!(field.form, Form::Text | Form::Quoted) => {
            format!("\"{}\"", bytes.escape_ascii())
        }
        Value::Bytes(bytes) => some(bytes),
        Value::Message(..) => String::new(),
    }
}

/// Values in a row, equal ones counted.
fn runs(values: impl Iterator<Item = String>) -> String {
    let mut out = String::new();
    let mut push = |value: &str, times: usize| {
        let short = times > 3;
        for _ in 0..if short { 1 } else { times } {
            if !out.is_empty() {
                out.push_str(", ");
            }
            out.push_str(value);
        }
        if short {
            out.push_str(&format!(" x{times}"));
        }
    };
    let mut last: Option<(String, usize)> = None;
    for value in values {
        match &mut last {
            Some((same, times)) if *same == value => *times += 1,
            _ => {
                if let Some((value, times)) = last.replace((value, 1)) {
                    push(&value, times);
                }
            }
        }
    }
    if let Some((value, times)) = last {
        push(&value, times);
    }
    out
}

/// How many bytes there are, and the first of them: as a text if they look like one.
pub(super) fn some(bytes: &[u8]) -> String {
    let first = &bytes[..bytes.len().min(SOME_BYTES)];
    let more = if bytes.len() > SOME_BYTES { "..." } else { "" };
    let count = match bytes.len() {
        0 => return "0 bytes".to_owned(),
        1 => "1 byte".to_owned(),
        many => format!("{many} bytes"),
    };
    let odd = first
        .iter()
        .filter(|byte| !matches!(byte, b' '..=b'~' | b'\n' | b'\t' | b'\r'))
        .count();
    if first.iter().all(|byte| *byte == 0) && bytes.iter().all(|byte| *byte == 0) {
        format!("{count}, all zero")
    } else if odd * 4 <= first.len() {
        format!("{count} \"{}\"{more}", first.escape_ascii())
    } else {
        let digits: String = first.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{count} {digits}{more}")
    }
}

/// A name that may hold anything, fit for a line.
fn one_line(name: &str) -> Cow<'_, str> {
    if name.contains(char::is_control) {
        Cow::Owned(name.escape_debug().to_string())
    } else {
        Cow::Borrowed(name)
    }
}
