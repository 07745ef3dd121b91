//! The keyword `type` as serde decodes it: for JSON Schema `1.0` and 2^64 are integers, for a Rust integer they are not.

use jsonschema::{Keyword, ValidationError, paths::Location};
use serde_json::{Map, Value};

/// The names of a schema's types, and the width of its integers.
struct TypeKeyword {
    names: Vec<String>,
    integer: IntegerRange,
}

/// The range of an integer.
#[derive(Clone, Copy)]
enum IntegerRange {
    Signed(i64, i64),
    Unsigned(u64),
    /// From -2^63 to 2^64.
    Either,
    /// 128 bits, which [`Value`] keeps as a float. A large float was an integer.
    Wide,
}

impl IntegerRange {
    /// Reads the format that the crate schemars writes for Rust's integers.
    fn of(format: Option<&Value>) -> Self {
        match format.and_then(Value::as_str).unwrap_or_default() {
            "int8" => Self::Signed(i8::MIN.into(), i8::MAX.into()),
            "int16" => Self::Signed(i16::MIN.into(), i16::MAX.into()),
            "int32" => Self::Signed(i32::MIN.into(), i32::MAX.into()),
            "int64" | "int" => Self::Signed(i64::MIN, i64::MAX),
            "uint8" => Self::Unsigned(u8::MAX.into()),
            "uint16" => Self::Unsigned(u16::MAX.into()),
            "uint32" => Self::Unsigned(u32::MAX.into()),
            "uint64" | "uint" => Self::Unsigned(u64::MAX),
            "int128" | "uint128" => Self::Wide,
            _ => Self::Either,
        }
    }

    fn takes(self, value: &Value) -> bool {
        match self {
            Self::Signed(least, most) => value.as_i64().is_some_and(|number| (least..=most).contains(&number)),
            Self::Unsigned(most) => value.as_u64().is_some_and(|number| number <= most),
            Self::Either => value.is_i64() || value.is_u64(),
            Self::Wide => {
                const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
                !value.is_f64() || value.as_f64().is_some_and(|number| number.abs() >= TWO_TO_63)
            }
        }
    }
}

impl TypeKeyword {
    fn take(&self, value: &Value) -> bool {
        self.names.iter().any(|name| match name.as_str() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "number" => value.is_number(),
            "integer" => value.is_number() && self.integer.takes(value),
            _ => false,
        })
    }
}

impl<'i> Keyword<'i> for TypeKeyword {
    fn validate(&self, value: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.take(value) {
            return Ok(());
        }
        let names: Vec<_> = self.names.iter().map(|name| format!("{name:?}")).collect();
        let kind = if let [_] = names.as_slice() { "type" } else { "types" };
        Err(ValidationError::custom(format!("value is not of {kind} {}", names.join(", "))))
    }

    fn is_valid(&self, value: &'i Value) -> bool {
        self.take(value)
    }
}

/// Replaces the validator's own keyword.
#[expect(clippy::unnecessary_wraps, reason = "the validator requires this signature")]
pub(super) fn keyword<'a>(
    parent: &'a Map<String, Value>,
    value: &'a Value,
    _: Location,
) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
    // The validator has checked the schema itself: the value is a name or a list of names.
    let names = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    let names = names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    Ok(Box::new(TypeKeyword { names, integer: IntegerRange::of(parent.get("format")) }))
}
