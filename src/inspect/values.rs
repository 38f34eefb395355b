//! What the fields of an entry hold, in the order of their numbers.
//!
//! Entries are looked at where they stand: nothing is built, so that a damaged file cannot make
//! memory be taken.

use std::borrow::Cow;

use crate::image::schema::{Field, Holds, Label, Message, schema};
use crate::image::wire::{self, Raw};

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Bool(bool),
    Number(i128),
    /// A number of an enum, and its name.
    Named(i32, Option<&'static str>),
    Bytes(&'a [u8]),
    Text(&'a [u8]),
    Message(&'static Message, Cow<'a, [u8]>),
}

/// The fields of a message that are there, by ascending number, and the numbers of those that
/// the schema does not know.
pub(super) fn present(
    message: &'static Message,
    bytes: &[u8],
) -> (impl Iterator<Item = &'static Field> + use<>, Vec<u32>) {
    let mut seen = 0_u64;
    let mut unknown = Vec::new();
    for (number, _) in wire::fields(bytes).flatten() {
        match message.field(number) {
            Some((place, _)) => seen |= 1 << place,
            None if !unknown.contains(&number) && unknown.len() < 16 => unknown.push(number),
            None => {}
        }
    }
    let fields = message.fields.iter().enumerate();
    let there = fields.filter(move |(place, _)| seen & 1 << place != 0);
    (there.map(|(_, field)| field), unknown)
}

/// All values of a field, packed ones one by one.
pub(super) fn values<'a>(
    field: &'static Field,
    bytes: &'a [u8],
) -> impl Iterator<Item = Value<'a>> {
    wire::fields(bytes)
        .flatten()
        .filter(move |(number, _)| *number == field.number)
        .flat_map(move |(_, raw)| {
            let packed = match (field.holds, raw) {
                (Holds::Message(_) | Holds::Bytes | Holds::String, _) => None,
                (_, Raw::Bytes(inside)) => Some(inside),
                _ => None,
            };
            let one = packed.is_none().then_some(raw);
            let many = packed.into_iter().flat_map(move |inside| {
                let numbers = wire::packed(inside, field.holds);
                numbers.flatten()
            });
            one.into_iter().chain(many)
        })
        .map(|raw| value(field, raw))
}

/// The value of a field that occurs once. Protobuf lets it be written several times: the last
/// number counts, messages are joined.
pub(super) fn single<'a>(field: &'static Field, bytes: &'a [u8]) -> Option<Value<'a>> {
    let mut all = values(field, bytes);
    let first = all.next()?;
    Some(all.fold(first, |earlier, later| match (earlier, later) {
        (Value::Message(message, mut earlier), Value::Message(_, later)) => {
            earlier.to_mut().extend_from_slice(&later);
            Value::Message(message, earlier)
        }
        (_, later) => later,
    }))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "protobuf stores all numbers in 64 bits and takes the lower ones"
)]
fn value<'a>(field: &Field, raw: Raw<'a>) -> Value<'a> {
    let (number, bytes) = match raw {
        Raw::Varint(number) | Raw::Fixed64(number) => (number, &[][..]),
        Raw::Fixed32(number) => (number.into(), &[][..]),
        Raw::Bytes(bytes) => (0, bytes),
    };
    let zigzag = (number >> 1) as i64 ^ -((number & 1) as i64);
    match field.holds {
        Holds::Bool => Value::Bool(number != 0),
        Holds::Uint32 => Value::Number((number as u32).into()),
        Holds::Uint64 | Holds::Fixed64 => Value::Number(number.into()),
        Holds::Int32 => Value::Number((number as i32).into()),
        Holds::Int64 => Value::Number((number as i64).into()),
        Holds::Sint32 => Value::Number((zigzag as i32).into()),
        Holds::Sint64 => Value::Number(zigzag.into()),
        Holds::Enum(names) => {
            let number = number as i32;
            Value::Named(number, schema().value_name(names, number))
        }
        Holds::Bytes => Value::Bytes(bytes),
        Holds::String => Value::Text(bytes),
        Holds::Message(inner) => Value::Message(schema().inner(inner), Cow::Borrowed(bytes)),
    }
}

/// Whether a field holds a list.
pub(super) fn is_list(field: &Field) -> bool {
    field.label == Label::Repeated
}
