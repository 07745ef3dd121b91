//! Checks an event to emit, and makes its message.

use std::time::SystemTime;

use lapin::types::FieldTable;

use crate::publish::{
    draft::{SharedOptions, accept, check_header_size, require},
    new_event::{NewEvent, StoredEvent},
    new_job::new_origin,
};
use crate::{
    error::PublishError,
    job::JobId,
    message::{
        Message,
        cloud_event::{CLOUD_EVENT, NewCloudEvent, is_cloud_event, is_source},
        header,
    },
    names,
    time::unix_ms,
    trace::trace_headers,
};

impl NewEvent {
    /// Checks the event for a store from which it is emitted later. It continues the current trace.
    ///
    /// # Errors
    ///
    /// [`PublishError::Invalid`], [`PublishError::TooLarge`] and [`PublishError::Encode`] for an event that could never be
    /// emitted. The limit of the payload is a setting of the publisher, and is checked by the emit.
    pub fn into_stored(mut self, now: SystemTime) -> Result<StoredEvent, PublishError> {
        let headers = &mut self.options.headers;
        if !headers.contains_key(header::TRACEPARENT) {
            headers.extend(trace_headers().into_iter().map(|(name, value)| (name.to_owned(), value.into())));
        }
        let enqueued_at = self.stored_at(now);
        let body = self.payload()?.to_vec();
        self.draft(body, unix_ms(enqueued_at))?;
        let Self { topic, payload, id, options, .. } = self;
        let id = JobId::from(id);
        Ok(StoredEvent { id, topic, payload: payload.unwrap_or_default(), enqueued_at, options })
    }

    /// Builds the message, checked against every rule that could refuse it later.
    pub(super) fn into_message(mut self, limit: usize, now: u64) -> Result<(JobId, Message), PublishError> {
        self.payload()?;
        let body = std::mem::replace(&mut self.payload, Ok(Vec::new())).unwrap_or_default();
        let message = self.draft(body, self.enqueued_at.unwrap_or(now))?;
        let size = message.body.len();
        if size > limit {
            return Err(PublishError::TooLarge { part: "payload", size, limit });
        }
        Ok((JobId::from(self.id), message))
    }

    fn draft(&self, body: Vec<u8>, enqueued_at: u64) -> Result<Message, PublishError> {
        let options = &self.options;
        accept(names::topic, "topic", &self.topic)?;
        accept(names::event_id, "event id", &self.id)?;
        let (body, content_type) = self.with_cloud_event(body, enqueued_at)?;
        let shared = SharedOptions {
            track: options.track,
            origin: options.track.then(|| options.origin.clone().unwrap_or_else(new_origin)),
            label: options.label.as_deref(),
            correlation_id: options.correlation_id.as_deref(),
            content_type,
            headers: &options.headers,
        };
        let mut headers = FieldTable::default();
        shared.add_headers(&mut headers)?;
        let id = JobId::from(self.id.as_str());
        let mut message = Message::with_headers(&self.topic, &id, body, enqueued_at, headers);
        shared.set_properties(&mut message)?;
        check_header_size(&message)?;
        Ok(message)
    }

    /// Puts the payload into a CloudEvent if there is a source for it. Returns the body and its content type.
    fn with_cloud_event(&self, body: Vec<u8>, at: u64) -> Result<(Vec<u8>, Option<&str>), PublishError> {
        let kind = self.options.content_type.as_deref();
        let Some(source) = self.options.cloud_event.as_deref() else { return Ok((body, kind)) };
        let reason = "it must be a URI reference, without spaces and control characters";
        require(is_source(source), "source of a CloudEvent", &source, reason)?;
        let is_new = !kind.is_some_and(is_cloud_event);
        require(is_new, "source of a CloudEvent", &source, "the payload is a CloudEvent already")?;
        let (id, event_type, content_type) = (&*self.id, &*self.topic, kind.unwrap_or("application/json"));
        let written = NewCloudEvent { id, source, event_type, content_type, at }.to_json(&body);
        let error =
            |error: serde_json::Error| PublishError::Encode { job: self.topic.to_string(), reason: error.to_string() };
        Ok((written.map_err(error)?, Some(CLOUD_EVENT)))
    }
}
