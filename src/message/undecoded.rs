//! Errors of undecodable payloads without their content. Errors go into logs, headers and onto screens, which must not
//! show the values of a payload.

use serde_json::{Error, Value};

/// Longest text of a type's own error, in bytes.
const LONGEST: usize = 1024;
/// Shortest secret: shorter texts and numbers would be found in any sentence.
const SHORTEST: usize = 3;
const MASK: &str = "***";

/// Returns the error of a payload's type, with the kinds of values instead of the values.
pub(crate) fn reason(error: &Error, payload: &[u8]) -> String {
    let text = error.to_string();
    // Syntax errors contain only the parser's own words.
    if !error.is_data() {
        return text;
    }
    // The value of a JSON that was parsed before has no place.
    let place = match error.line() {
        0 => String::new(),
        line => format!(" at line {line} column {}", error.column()),
    };
    let said = text.strip_suffix(&place).unwrap_or(&text);
    // A field name may have any content and any length.
    let said = &said[..said.floor_char_boundary(said.len().min(64 * LONGEST))];
    let mut kept = without_value(said).unwrap_or_else(|| without_values_of(said, payload));
    kept.truncate(kept.floor_char_boundary(LONGEST));
    kept + &place
}

/// Returns serde's own error text without the value, if its form is known.
fn without_value(said: &str) -> Option<String> {
    // Names of fields are no values, and help.
    let of_fields = ["missing field ", "duplicate field ", "unknown field ", "invalid length "];
    if of_fields.iter().any(|known| said.starts_with(known)) {
        return Some(said.to_owned());
    }
    // The value may contain any text, but the expected type is at the end.
    let expected = said.rsplit_once(", expected ").map(|(_, expected)| format!(", expected {expected}"));
    if said.starts_with("unknown variant ") {
        return Some(format!("unknown variant{}", expected.unwrap_or_default()));
    }
    let (what, unexpected) =
        said.split_once(": ").filter(|(what, _)| ["invalid type", "invalid value"].contains(what))?;
    let kind = unexpected.split([' ', ',']).next().unwrap_or_default();
    let kind = if kind == "floating" { "floating point number" } else { kind };
    Some(format!("{what}: {kind}{}", expected.unwrap_or_default()))
}

/// Returns a type's own error text without the values of the payload.
fn without_values_of(said: &str, payload: &[u8]) -> String {
    let Ok(payload) = serde_json::from_slice::<Value>(payload) else {
        return "a value is not what its type takes".to_owned();
    };
    let (mut values, mut parts) = (Vec::new(), vec![&payload]);
    while let Some(part) = parts.pop() {
        match part {
            Value::String(text) => values.push(text.clone()),
            Value::Number(number) => values.push(number.to_string()),
            Value::Array(items) => parts.extend(items),
            Value::Object(members) => parts.extend(members.values()),
            Value::Null | Value::Bool(_) => {}
        }
    }
    values.retain(|value| value.len() >= SHORTEST && said.contains(value.as_str()));
    // One may be part of another.
    values.sort_unstable_by_key(|value| std::cmp::Reverse(value.len()));
    values.into_iter().fold(said.to_owned(), |said, value| said.replace(&value, MASK))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Deserializer, de};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is decoded, and not read")]
    struct Order {
        number: u8,
        kind: Option<Kind>,
        mail: Option<Mail>,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        Small,
        Large,
    }

    #[derive(Debug)]
    struct Mail;

    impl<'de> Deserialize<'de> for Mail {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let text = String::deserialize(from)?;
            Err(de::Error::custom(format!("no address: {text} has no @")))
        }
    }

    #[test]
    fn a_payload_that_cannot_be_decoded_is_reported_without_its_values() {
        for (payload, expected) in [
            (r#"{"number": "hunter2"}"#, "invalid type: string, expected u8"),
            (r#"{"number": "a, expected b"}"#, "invalid type: string, expected u8"),
            (r#"{"number": 4711}"#, "invalid value: integer, expected u8"),
            (r#"{"number": 47.11}"#, "invalid type: floating point number, expected u8"),
            (r#"{"number": null}"#, "invalid type: null, expected u8"),
            (r#"{"number": [4711]}"#, "invalid type: sequence, expected u8"),
            (r#"{"kind": "hunter2"}"#, "unknown variant, expected `Small` or `Large`"),
            (r#"{"mail": "hunter2"}"#, "no address: *** has no @"),
            (r#"{"kind": null}"#, "missing field `number`"),
            (r#"{"number": 1, "number": 4711}"#, "duplicate field `number`"),
            (r#"{"nunber": 4711}"#, "unknown field `nunber`, expected one of `number`, `kind`, `mail`"),
            (r#"{"mail": "hunter2", "number": }"#, "a value is not what its type takes"),
            (r#""hunter2""#, "invalid type: string, expected struct Order"),
            ("not json", "expected ident"),
            ("", "EOF while parsing a value"),
        ] {
            let error = serde_json::from_str::<Order>(payload).unwrap_err();
            let (line, column) = (error.line(), error.column());
            let expected = format!("{expected} at line {line} column {column}");
            assert_eq!(reason(&error, payload.as_bytes()), expected, "{payload}");
        }
    }

    #[test]
    fn a_reason_is_short_whatever_the_payload_says() {
        let payload = format!("{{\"{}\": 1}}", "ä".repeat(500_000));
        let error = serde_json::from_str::<Order>(&payload).unwrap_err();
        assert!(reason(&error, payload.as_bytes()).len() < LONGEST + 100);
    }
}
