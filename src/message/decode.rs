//! Decodes payloads.

use serde::de::DeserializeOwned;

use crate::{
    error::{Class, JobError},
    message::{Message, undecoded},
};

/// Reads the payload of a message as a type; `name` is for the error.
pub(crate) fn decode_as<T: DeserializeOwned>(message: &Message, name: &str) -> Result<T, JobError> {
    let refuse = |reason: String| JobError::new(Class::Decode, reason);
    if let Some(encoding) = message.foreign_encoding() {
        return Err(refuse(format!("{encoding} is not understood: send UTF-8 JSON as application/json")));
    }
    let body = json_of(&message.body)
        .map_err(|encoding| refuse(format!("payload of {name}: it is {encoding}; send UTF-8 JSON")))?;
    serde_json::from_slice(body)
        .map_err(|error| refuse(format!("payload of {name}: {}", undecoded::reason(&error, body))))
}

/// Returns a payload without the byte order mark that some clients write before JSON, or the foreign encoding that the
/// mark shows.
fn json_of(body: &[u8]) -> Result<&[u8], &'static str> {
    match body {
        [0xEF, 0xBB, 0xBF, json @ ..] => Ok(json),
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Err("UTF-32"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Err("UTF-16"),
        json => Ok(json),
    }
}
