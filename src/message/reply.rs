//! The wire form of a reply: the result as JSON, or kind and text of the error in headers.

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{FieldTable, ShortString},
};

use crate::{
    job::JobId,
    message::{LONGEST_NAME, Message, header, republish::ERROR_TEXT_LIMIT, short, text, truncated},
};

/// The pseudo-queue of RabbitMQ's direct reply-to. Only the client that waits for the reply on the same channel may publish
/// with this name; the broker replaces it with a name of its own that begins with it (RabbitMQ's guide to direct reply-to).
pub(crate) const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";
/// The property `type` of a reply.
const REPLY: &str = "leveret.reply";

impl Message {
    /// Returns the queue that waits for the reply, if the message names one.
    pub(crate) fn reply_to(&self) -> Option<&str> {
        self.properties.reply_to().as_ref().map(ShortString::as_str).filter(|queue| !queue.is_empty())
    }

    /// Returns the reply to a request: the JSON of its result, or kind and text of its error. It has the request's
    /// correlation id, or else its message id.
    pub(crate) fn reply(request: &Self, result: Result<Vec<u8>, (String, String)>) -> Box<Self> {
        let mut headers = FieldTable::default();
        let body = result.unwrap_or_else(|(kind, error)| {
            headers.insert(header::ERROR_KIND.into(), text(&kind));
            headers.insert(header::ERROR.into(), text(&error));
            b"null".to_vec()
        });
        let correlation = request.correlation_id().or_else(|| request.id()).unwrap_or_default();
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_type(REPLY.into())
            .with_correlation_id(short(correlation))
            .with_message_id(short(JobId::mint().as_str()))
            .with_headers(headers);
        Box::new(Self { properties, body: Bytes::from(body) })
    }

    /// Returns kind and text of the error that a reply reports, if it reports one.
    pub(crate) fn failure(&self) -> Option<(&str, &str)> {
        let kind = self.bounded(header::ERROR_KIND, LONGEST_NAME)?;
        Some((kind, truncated(self.text(header::ERROR).unwrap_or_default(), ERROR_TEXT_LIMIT)))
    }
}
