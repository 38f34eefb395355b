//! What the messages of the image format look like: names, numbers, types, and how fields are
//! written for people. Made once from `proto/`, which is compiled into the program.

use std::sync::OnceLock;

use prost_reflect::{
    Cardinality, DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind as Scalar,
};

const PACKAGE: &str = "dedump.image.";
static DESCRIBED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.bin"));

/// All messages and enums.
#[derive(Debug)]
pub struct Schema {
    messages: Vec<Message>,
    enums: Vec<Names>,
}

/// A message.
#[derive(Debug)]
pub struct Message {
    /// Its name in `proto/`.
    pub name: String,
    /// Its fields, by ascending number.
    pub fields: Vec<Field>,
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// Its name, as `crit` writes it.
    pub name: String,
    /// How often it occurs.
    pub label: Label,
    /// What it holds.
    pub holds: Holds,
    /// How `crit` writes it, and everybody who wants to be understood by it.
    pub form: Form,
    /// How people read it best.
    pub best: Form,
}

/// How often a field occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Exactly once; restore refuses an entry without it.
    Required,
    /// At most once.
    Optional,
    /// Any number of times.
    Repeated,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Yes or no.
    Bool,
    /// A number of 32 bits without sign.
    Uint32,
    /// A number of 64 bits without sign.
    Uint64,
    /// A number of 32 bits.
    Int32,
    /// A number of 64 bits.
    Int64,
    /// A number of 32 bits, zigzag.
    Sint32,
    /// A number of 64 bits, zigzag.
    Sint64,
    /// A number of 64 bits without sign, stored in 8 bytes.
    Fixed64,
    /// Bytes.
    Bytes,
    /// UTF-8.
    String,
    /// A number with names.
    Enum(EnumId),
    /// A message.
    Message(MessageId),
}

/// Names a message of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId(usize);

/// Names an enum of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnumId(usize);

/// Ways to write a field, as `proto/form.proto` has them.
pub type Form = super::proto::shown::Form;

#[derive(Debug)]
struct Names {
    full_name: String,
    values: Vec<(i32, String)>,
}

/// The schema.
///
/// # Panics
/// Never: the descriptions are made from the same files as the program.
#[must_use]
#[expect(clippy::expect_used, reason = "what the build made is read back")]
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let pool = DescriptorPool::decode(DESCRIBED).expect("the build made a schema");
        Schema::of(&pool)
    })
}

impl Schema {
    fn of(pool: &DescriptorPool) -> Self {
        let ours = |name: &str| name.starts_with(PACKAGE);
        let messages: Vec<_> = pool
            .all_messages()
            .filter(|m| ours(m.full_name()))
            .collect();
        let enums: Vec<Names> = pool
            .all_enums()
            .filter(|one| ours(one.full_name()))
            .map(|one| Names {
                full_name: one.full_name().to_owned(),
                values: one
                    .values()
                    .map(|value| (value.number(), value.name().to_owned()))
                    .collect(),
            })
            .collect();
        let form = pool.get_extension_by_name("dedump.image.form");
        let best = pool.get_extension_by_name("dedump.image.best");
        let chosen = |field: &FieldDescriptor, option: &Option<ExtensionDescriptor>| {
            let options = field.options();
            let option = option.as_ref().filter(|one| options.has_extension(one))?;
            let number = options.get_extension(option).as_enum_number()?;
            Form::try_from(number).ok()
        };
        let holds = |field: &FieldDescriptor| match field.kind() {
            Scalar::Bool => Holds::Bool,
            Scalar::Uint32 => Holds::Uint32,
            Scalar::Uint64 => Holds::Uint64,
            Scalar::Int32 => Holds::Int32,
            Scalar::Int64 => Holds::Int64,
            Scalar::Sint32 => Holds::Sint32,
            Scalar::Sint64 => Holds::Sint64,
            Scalar::Fixed64 => Holds::Fixed64,
            Scalar::String => Holds::String,
            Scalar::Message(inner) => {
                let place = messages.iter().position(|m| *m == inner);
                Holds::Message(MessageId(place.unwrap_or(usize::MAX)))
            }
            Scalar::Enum(inner) => {
                let place = enums.iter().position(|e| e.full_name == inner.full_name());
                Holds::Enum(EnumId(place.unwrap_or(usize::MAX)))
            }
            // No message has one of the remaining kinds; a test sees to that.
            _ => Holds::Bytes,
        };
        let described = messages.iter().map(|message| {
            let mut fields: Vec<Field> = message
                .fields()
                .map(|field| Field {
                    number: field.number(),
                    name: field.name().to_owned(),
                    label: match field.cardinality() {
                        Cardinality::Required => Label::Required,
                        Cardinality::Optional => Label::Optional,
                        Cardinality::Repeated => Label::Repeated,
                    },
                    holds: holds(&field),
                    form: chosen(&field, &form).unwrap_or(Form::Plain),
                    best: chosen(&field, &best)
                        .or(chosen(&field, &form))
                        .unwrap_or(Form::Plain),
                })
                .collect();
            fields.sort_by_key(|field| field.number);
            Message {
                name: message.full_name()[PACKAGE.len()..].to_owned(),
                fields,
            }
        });
        Schema {
            messages: described.collect(),
            enums,
        }
    }

    /// The message with this name.
    #[must_use]
    pub fn message(&self, name: &str) -> Option<&Message> {
        self.messages.iter().find(|message| message.name == name)
    }

    /// All messages.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter()
    }

    /// The message that a field holds.
    #[must_use]
    pub fn inner(&self, id: MessageId) -> &Message {
        &self.messages[id.0]
    }

    /// The name of a number; `None` for a number the format does not know.
    #[must_use]
    pub fn value_name(&self, id: EnumId, number: i32) -> Option<&str> {
        let values = &self.enums.get(id.0)?.values;
        let known = values.iter().find(|(value, _)| *value == number);
        known.map(|(_, name)| name.as_str())
    }

    /// The values of an enum.
    #[must_use]
    pub fn values(&self, id: EnumId) -> &[(i32, String)] {
        &self.enums[id.0].values
    }
}

impl Message {
    /// The field with this number, and its place among the fields.
    #[must_use]
    pub fn field(&self, number: u32) -> Option<(usize, &Field)> {
        let place = self
            .fields
            .binary_search_by_key(&number, |field| field.number)
            .ok()?;
        Some((place, &self.fields[place]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::catalogue::Kind;

    #[test]
    fn every_kind_of_image_has_its_message() {
        for kind in Kind::ALL {
            for index in [0, 1] {
                let name = kind.message(index);
                let known = name.is_none_or(|name| schema().message(name).is_some());
                assert!(known, "{kind:?}: {name:?}");
            }
        }
    }

    #[test]
    fn fields_are_of_kinds_that_are_read() {
        let pool = DescriptorPool::decode(DESCRIBED).unwrap();
        let ours = pool
            .all_messages()
            .filter(|m| m.full_name().starts_with(PACKAGE));
        for field in ours.flat_map(|message| message.fields().collect::<Vec<_>>()) {
            let odd = matches!(
                field.kind(),
                Scalar::Double
                    | Scalar::Float
                    | Scalar::Fixed32
                    | Scalar::Sfixed32
                    | Scalar::Sfixed64
            );
            assert!(!odd && !field.is_group(), "{}", field.full_name());
        }
        for message in schema().messages() {
            assert!(message.fields.len() <= 64, "{}", message.name);
        }
    }

    #[test]
    fn forms_are_known() {
        let form = |message: &str, number| {
            let (_, field) = schema().message(message).unwrap().field(number).unwrap();
            field.form
        };
        assert_eq!(form("VmaEntry", 5), Form::Prot);
        assert_eq!(form("RegFileEntry", 6), Form::Text);
        assert_eq!(form("PstreeEntry", 1), Form::Plain);
    }
}
