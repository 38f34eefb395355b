//! Protobuf as it stands in the bytes, looked at without building anything.
//!
//! An entry comes from a file that may be damaged. Before it is decoded into types, which take
//! many times its size, [`check`] walks through it once.

use super::framing::Damage;
use super::schema::{Holds, Label, Message, schema};

/// Messages in messages; the format has five levels, cgroups as many as there are folders.
const MOST_LEVELS: usize = 64;
/// Repeated values in one entry. Address spaces with a million mappings exist; beyond that an
/// entry would take more memory than looking at it is worth.
const MOST_REPEATED: usize = 1 << 20;

/// A value, not interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw<'a> {
    /// A number in as many bytes as it needs.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes.
    Fixed32(u32),
    /// Bytes, texts, messages, packed numbers.
    Bytes(&'a [u8]),
}

/// The fields of a message in the order of the bytes.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Reads the fields of a message; after an error there are no more.
#[must_use]
pub fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields { bytes, at: 0 }
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn run(&mut self, len: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(len).ok()?)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn fixed64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.run(8)?.try_into().ok()?))
    }

    fn field(&mut self) -> Option<(u32, Raw<'a>)> {
        let key = u32::try_from(self.varint()?).ok()?;
        let value = match key & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(self.fixed64()?),
            2 => {
                let len = self.varint()?;
                Raw::Bytes(self.run(len)?)
            }
            5 => Raw::Fixed32(u32::from_le_bytes(self.run(4)?.try_into().ok()?)),
            _ => return None,
        };
        let number = key >> 3;
        (number != 0).then_some((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    /// The number and the value of a field, or where the bytes stop making sense.
    type Item = Result<(u32, Raw<'a>), usize>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.bytes.len() {
            return None;
        }
        let start = self.at;
        match self.field() {
            Some(field) => Some(Ok(field)),
            None => {
                self.at = self.bytes.len();
                Some(Err(start))
            }
        }
    }
}

/// The numbers of a packed field.
pub fn packed(bytes: &[u8], holds: Holds) -> impl Iterator<Item = Result<Raw<'_>, usize>> {
    let mut rest = fields(bytes);
    std::iter::from_fn(move || {
        if rest.at == bytes.len() {
            return None;
        }
        let start = rest.at;
        let value = match holds {
            Holds::Fixed64 => rest.fixed64().map(Raw::Fixed64),
            _ => rest.varint().map(Raw::Varint),
        };
        if value.is_none() {
            rest.at = bytes.len();
        }
        Some(value.ok_or(start))
    })
}

/// Whether `bytes` are such a message: everything in it can be read, nothing required is
/// missing, and decoded it takes no more memory than its length explains.
///
/// # Errors
/// Where and what is wrong; `offset` is where `bytes` stand in the file.
pub fn check(message: &Message, bytes: &[u8], offset: usize) -> Result<(), Damage> {
    let mut walk = Walk { repeated: 0 };
    walk.message(message, bytes, offset, 0)
}

struct Walk {
    repeated: usize,
}

impl Walk {
    fn message(
        &mut self,
        message: &Message,
        bytes: &[u8],
        offset: usize,
        level: usize,
    ) -> Result<(), Damage> {
        let damage = |at: usize, what: String| Damage {
            offset: offset + at,
            what: format!("{}: {what}", message.name),
        };
        if level > MOST_LEVELS {
            return Err(damage(0, format!("more than {MOST_LEVELS} levels")));
        }
        let mut seen = 0_u64;
        let mut rest = fields(bytes);
        while let Some(field) = rest.next() {
            let (number, value) =
                field.map_err(|at| damage(at, "the bytes are no protobuf".to_owned()))?;
            let Some((place, field)) = message.field(number) else {
                continue;
            };
            seen |= 1 << place;
            // Behind the value: good enough to say where.
            let end = rest.at;
            let wrong = || damage(end, format!("{} is of another type", field.name));
            if field.label == Label::Repeated {
                self.count(1).map_err(|what| damage(end, what))?;
            }
            match (field.holds, value) {
                (Holds::Message(inner), Raw::Bytes(inside)) => {
                    let start = offset + end - inside.len();
                    self.message(schema().inner(inner), inside, start, level + 1)?;
                }
                (Holds::Bytes, Raw::Bytes(_)) => {}
                (Holds::String, Raw::Bytes(text)) => {
                    let text = std::str::from_utf8(text);
                    text.map_err(|_| damage(end, format!("{} is no UTF-8", field.name)))?;
                }
                (Holds::Message(_) | Holds::Bytes | Holds::String, _) => return Err(wrong()),
                (Holds::Fixed64, Raw::Fixed64(_)) => {}
                (holds, Raw::Bytes(inside)) if field.label == Label::Repeated => {
                    for value in packed(inside, holds) {
                        value.map_err(|_| wrong())?;
                        self.count(1).map_err(|what| damage(end, what))?;
                    }
                }
                (Holds::Fixed64, _) => return Err(wrong()),
                (_, Raw::Varint(_)) => {}
                _ => return Err(wrong()),
            }
        }
        for (place, field) in message.fields.iter().enumerate() {
            if field.label == Label::Required && seen & 1 << place == 0 {
                return Err(damage(0, format!("{} is missing", field.name)));
            }
        }
        Ok(())
    }

    fn count(&mut self, more: usize) -> Result<(), String> {
        self.repeated += more;
        if self.repeated > MOST_REPEATED {
            return Err(format!("more than {MOST_REPEATED} repeated values"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::image::proto;

    fn message(name: &str) -> &'static Message {
        schema().message(name).unwrap()
    }

    fn what(name: &str, bytes: &[u8]) -> String {
        check(message(name), bytes, 100).unwrap_err().to_string()
    }

    #[test]
    fn what_prost_writes_is_sound() {
        let core = proto::CoreEntry {
            mtype: 1,
            tc: Some(proto::TaskCoreEntry {
                comm: b"a\xffb".to_vec(),
                ..Default::default()
            }),
            ..Default::default()
        };
        check(message("CoreEntry"), &core.encode_to_vec(), 0).unwrap();
        let opts = proto::SkOptsEntry {
            so_filter: vec![1, u64::MAX],
            ..Default::default()
        };
        check(message("SkOptsEntry"), &opts.encode_to_vec(), 0).unwrap();
    }

    #[test]
    fn damage_is_named() {
        assert_eq!(
            what("FsEntry", &[8, 1]),
            "at byte 100: FsEntry: root_id is missing"
        );
        assert_eq!(
            what("FsEntry", &[8, 1, 0x12, 0]),
            "at byte 104: FsEntry: root_id is of another type"
        );
        assert_eq!(
            what("FsEntry", &[8, 1, 16]),
            "at byte 102: FsEntry: the bytes are no protobuf"
        );
        assert_eq!(
            what("SignalQueueEntry", &[10, 0]),
            "at byte 102: SiginfoEntry: siginfo is missing"
        );
    }

    #[test]
    fn unknown_fields_are_left_alone() {
        check(message("FsEntry"), &[8, 1, 16, 2, 0xa0, 0x06, 5], 0).unwrap();
    }

    #[test]
    fn packed_numbers_are_numbers() {
        check(
            message("PstreeEntry"),
            &[8, 1, 16, 0, 24, 1, 32, 1, 42, 2, 7, 8],
            0,
        )
        .unwrap();
        let cut = [8, 1, 16, 0, 24, 1, 32, 1, 42, 2, 7, 0x88];
        assert!(what("PstreeEntry", &cut).contains("threads is of another type"));
    }

    #[test]
    fn deep_nests_and_floods_are_refused() {
        let mut nest = vec![10, 0];
        for _ in 0..70 {
            let mut outer = vec![10, 0, 18];
            prost::encode_length_delimiter(nest.len(), &mut outer).unwrap();
            outer.extend(nest);
            nest = outer;
        }
        assert!(what("CgroupDirEntry", &nest).contains("levels"));
        let flood = [18, 0].repeat(MOST_REPEATED + 1);
        assert!(what("CgroupEntry", &flood).contains("repeated"));
    }
}
