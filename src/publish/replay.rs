//! Replays of dead letters to their queue.

use std::{future::IntoFuture, pin::Pin};

use lapin::types::AMQPValue;

use crate::publish::publisher::Publisher;
use crate::{
    error::PublishError,
    job::JobId,
    message::{COPY_HEADER_LIMIT, Message, header, raw::RawMessage, republish::Republish},
    topology::{Target, lane::Lane},
};

impl Publisher {
    /// Publishes a dead letter to a job queue again when awaited; set options before.
    ///
    /// It keeps its id, its payload and its headers, but not its errors, its delay and its time to live, and starts
    /// with its first attempt. A dead letter with unreadable headers is replayed without them, and a warning is logged.
    /// The originals are in its header `leveret-original-properties`, unless they are too large to publish.
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher, message: &leveret::reader::RawMessage) -> Result<(), leveret::PublishError> {
    /// publisher.replay(message, "email").track().payload(b"{}".to_vec()).await?;
    /// # Ok(()) }
    /// ```
    pub fn replay(&self, message: &RawMessage, queue: impl Into<String>) -> Replay {
        let message = message.message();
        if let Some(reason) = message.unreadable() {
            tracing::warn!(
                job = message.job_name(),
                job_id = message.id(),
                error = reason,
                "replayed without its headers"
            );
        }
        let now = self.broker.now_ms();
        let envelope = message.envelope(now).unwrap_or_default();
        let mut copy = message.copy("", envelope, &Republish::Replayed, now);
        if copy.header_size() > COPY_HEADER_LIMIT {
            // They may fill a whole frame, which is more than a copy may have.
            copy.remove_header(header::ORIGINAL);
        }
        Replay { publisher: self.clone(), queue: queue.into(), lanes: false, message: copy }
    }
}

/// A replay of a dead letter. Awaiting it publishes and waits for the confirm. See [`Publisher::replay`].
///
/// # Cancel safety
///
/// If it is dropped before it completes, the job may or may not be published.
#[derive(Debug)]
#[must_use = "a job is published when this is awaited"]
pub struct Replay {
    publisher: Publisher,
    queue: String,
    lanes: bool,
    message: Message,
}

impl Replay {
    /// Like [`NewJob::lanes`](crate::NewJob::lanes), by the priority of the dead letter.
    /// [`Catalogue::has_lanes`](crate::readers::catalogue::Catalogue::has_lanes) returns whether its queue has lanes.
    pub fn lanes(mut self) -> Self {
        self.lanes = true;
        self
    }

    /// Publishes the job under another id, as another job.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.message.set_id(&JobId::from(id.into()));
        self
    }

    /// Publishes another payload under the same id. The job starts from its beginning: a
    /// [checkpoint](crate::Context::save_checkpoint) belongs to the payload before.
    pub fn payload(mut self, payload: Vec<u8>) -> Self {
        if self.message.body != payload {
            self.message.remove_header(header::CHECKPOINT);
        }
        self.message.body = payload.into();
        self
    }

    /// Like [`NewJob::track`](crate::NewJob::track). The job keeps the origin of its dead letter.
    pub fn track(mut self) -> Self {
        self.message.set_header(header::TRACK, AMQPValue::Boolean(true));
        self
    }
}

impl IntoFuture for Replay {
    type Output = Result<JobId, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { publisher, queue, lanes, message } = self;
        let queue = if lanes { Lane::for_priority(*message.properties.priority()).of(&queue) } else { queue };
        Box::pin(async move {
            let size = message.body.len();
            let limit = publisher.broker.config().payload_limit;
            if size > limit {
                return Err(PublishError::TooLarge { part: "payload", size, limit });
            }
            let headers = message.header_size();
            if headers > COPY_HEADER_LIMIT {
                return Err(PublishError::TooLarge { part: "headers", size: headers, limit: COPY_HEADER_LIMIT });
            }
            let id = JobId::from(message.id().unwrap_or_default());
            let job = message.job_name().unwrap_or_default().to_owned();
            publisher.send_job(&job, Target::Queue(queue), id, (message, true)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Broker;

    #[tokio::test]
    async fn a_dead_letter_that_fills_a_frame_is_replayed_without_its_old_properties_or_refused() {
        let broker = Broker::memory();
        let replay = |header: &str| {
            let mut letter = Message::new("j", &JobId::from("a"), b"{}".to_vec(), 0);
            letter.set_header(header, AMQPValue::LongString("x".repeat(COPY_HEADER_LIMIT).into()));
            broker.publisher().replay(&RawMessage::from(letter), "q")
        };
        let kept = replay(header::ORIGINAL);
        assert!(kept.message.header(header::ORIGINAL).is_none() && kept.message.header_size() < COPY_HEADER_LIMIT);
        let refused = replay("tenant").await.unwrap_err();
        assert!(matches!(refused, PublishError::TooLarge { part: "headers", .. }), "{refused}");
    }
}
