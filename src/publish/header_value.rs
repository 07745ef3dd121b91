//! Values of publishers' own headers.

use lapin::types::AMQPValue;
use serde::{Deserialize, Serialize};

use crate::message::{Message, text};

/// The value of a header of your own. As JSON it is a text, a whole number or a boolean.
///
/// ```
/// use leveret::HeaderValue;
///
/// let values: [HeaderValue; 3] = ["acme".into(), 42.into(), true.into()];
/// # let _ = values;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum HeaderValue {
    /// UTF-8 text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Flag(bool),
}

impl From<&str> for HeaderValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for HeaderValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for HeaderValue {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<bool> for HeaderValue {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

impl HeaderValue {
    /// The value of a message's header, if it is one of these. A time is in milliseconds since the Unix epoch.
    pub(crate) fn of(message: &Message, name: &str) -> Option<Self> {
        if let Some(text) = message.text(name) {
            return Some(text.into());
        }
        match message.header(name)? {
            AMQPValue::Boolean(flag) => Some((*flag).into()),
            _ => message.number(name)?.ok().map(Self::Integer),
        }
    }

    pub(super) fn into_amqp(self) -> AMQPValue {
        match self {
            Self::Text(value) => text(&value),
            Self::Integer(value) => AMQPValue::LongLongInt(value),
            Self::Flag(value) => AMQPValue::Boolean(value),
        }
    }
}
