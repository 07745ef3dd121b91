//! Traces: the W3C context that jobs carry from one to the next and, with the feature `otel`, the spans of publishes,
//! attempts and settlements. Without it they are none, and nothing of them is left in the machine code.

#[cfg_attr(feature = "otel", path = "spans.rs")]
#[cfg_attr(not(feature = "otel"), path = "none.rs")]
mod spans;

pub(crate) use self::spans::{Slot, TraceSpan, carry};
use crate::{
    broker::Broker,
    message::{Message, header, text},
    topology::{QueueDeclaration, lane::Lane},
};

/// A trace context as headers bear it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) parent: String,
    pub(crate) state: Option<String>,
}

/// Where a job is in hand.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "there are no traces"))]
pub(crate) struct Place<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) queue: &'a QueueDeclaration,
    pub(crate) lane: Lane,
}

/// What spans show of one delivery.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "there are no traces"))]
pub(crate) struct Delivered<'a> {
    pub(crate) message: &'a Message,
    pub(crate) attempt: u32,
    /// Holds the context of the attempt's span.
    pub(crate) slot: &'a Slot,
}

impl Trace {
    /// That of a message, whether it makes sense or not.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        let text = |name| message.text(name).map(str::to_owned);
        Some(Self { parent: text(header::TRACEPARENT)?, state: text(header::TRACESTATE) })
    }

    pub(crate) fn write(&self, message: &mut Message) {
        message.set_header(header::TRACEPARENT, text(&self.parent));
        if let Some(state) = &self.state {
            message.set_header(header::TRACESTATE, text(state));
        }
    }
}

/// The headers that continue the trace which this code runs in, for what becomes a message later or elsewhere. None
/// without the feature `otel`, or outside of any span.
///
/// ```
/// # fn doc(mut publish: leveret::Publish) -> leveret::Publish {
/// for (name, value) in leveret::trace_headers() {
///     publish = publish.header(name, value);
/// }
/// # publish }
/// ```
#[must_use]
pub fn trace_headers() -> Vec<(&'static str, String)> {
    let Some(Trace { parent, state }) = spans::current() else { return Vec::new() };
    let state = state.map(|state| (header::TRACESTATE, state));
    [(header::TRACEPARENT, parent)].into_iter().chain(state).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{
        Context, Job, JobResult, RetryPolicy, Worker,
        readers::reader::{QueueReader, Source},
        testing::{idle, start},
    };

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Serialize, Deserialize)]
    struct Walk {}

    impl Job for Walk {
        const NAME: &'static str = "walk";
        const QUEUE: &'static str = "walks";
    }

    /// Publishes a job for which there is no handler, and fails.
    async fn walk(_: Walk, ctx: Context<()>) -> JobResult {
        ctx.publisher().publish_raw("follow.up", ctx.queue(), "{}").await?;
        Err("on".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_trace_goes_on_in_retries_follow_up_jobs_and_dead_letters() {
        let broker = Broker::memory();
        let retry = RetryPolicy::fixed(Duration::from_secs(1)).max_attempts(2);
        let running = start(Worker::new(()).handle_with(walk, |h| h.retry(retry)), &broker).await.unwrap();
        let publish = broker.publisher().publish(&Walk {});
        publish.header("traceparent", PARENT).header("tracestate", "vendor=1").await.unwrap();
        idle(&broker).await;
        running.stop().await.unwrap();
        let mut feed = QueueReader::new(&broker, Source::DeadLetters("walks".to_owned()), 10);
        let batch = feed.next(10).await;
        let traces = batch.messages().iter().map(|taken| Trace::of(taken.message().message()));
        let expected = Trace { parent: PARENT.to_owned(), state: Some("vendor=1".to_owned()) };
        assert_eq!(traces.collect::<Vec<_>>(), vec![Some(expected); 3]);
    }
}
