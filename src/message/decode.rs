//! Decodes payloads.

use serde::de::DeserializeOwned;

use crate::{
    error::{Class, JobError},
    message::{Message, cloud_event::CloudEvent, undecoded},
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

/// Reads the payload of an event as a type: of a CloudEvent its data.
pub(crate) fn decode_event_as<T: DeserializeOwned>(message: &Message, topic: &str) -> Result<T, JobError> {
    match open_cloud_event(message)? {
        Some((_, data)) => decode_as(&data, topic),
        None => decode_as(message, topic),
    }
}

/// Returns the attributes of a CloudEvent, and the message with its data as the body; `None` for another message.
pub(crate) fn open_cloud_event(message: &Message) -> Result<Option<(CloudEvent, Message)>, JobError> {
    message.open_cloud_event().map_err(|invalid| JobError::new(Class::Decode, invalid))
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
