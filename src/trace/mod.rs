//! Traces: the W3C context that jobs pass on and, with the feature `otel`, the spans of publishes, attempts and
//! settlements. Without the feature there are no spans.

mod context;
mod spans;

#[cfg(feature = "worker")]
pub(crate) use self::spans::carry;
pub(crate) use self::spans::{AttemptTrace, TraceSpan};
use crate::{
    broker::Broker,
    message::{Message, header, text},
    topology::{QueueDeclaration, lane::Lane},
};

/// A trace context in the form of headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) parent: String,
    pub(crate) state: Option<String>,
}

/// The queue and lane of a delivery.
#[derive(Clone, Copy)]
pub(crate) struct ConsumedLane<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) queue: &'a QueueDeclaration,
    pub(crate) lane: Lane,
}

/// The facts of one delivery that spans show.
#[derive(Clone, Copy)]
pub(crate) struct Delivered<'a> {
    pub(crate) message: &'a Message,
    pub(crate) attempt: u32,
    pub(crate) trace: &'a AttemptTrace,
}

impl Trace {
    /// Returns the trace context of a message, without validation.
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

/// Returns the headers that continue the current trace, for a message published later or elsewhere. Returns none
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
    let Some(Trace { parent, state }) = context::current().as_ref().map(context::written) else { return Vec::new() };
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

    /// Publishes a job without a handler, and fails.
    async fn walk(_: Walk, ctx: Context<()>) -> JobResult {
        ctx.publisher().publish_raw("follow.up", ctx.queue(), "{}").await?;
        Err("on".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_trace_continues_in_retries_follow_up_jobs_and_dead_letters() {
        let broker = Broker::memory();
        let retry = RetryPolicy::fixed(Duration::from_secs(1)).max_attempts(2);
        let running = start(Worker::new(()).handle_with(walk, |h| h.retry(retry)), &broker).await.unwrap();
        let publish = broker.publisher().publish(&Walk {});
        publish.header("traceparent", PARENT).header("tracestate", "vendor=1").await.unwrap();
        idle(&broker).await;
        running.stop().await.unwrap();
        let mut reader = QueueReader::new(&broker, Source::DeadLetters("walks".to_owned()), 10).unwrap();
        let batch = reader.next(10).await;
        let traces = batch.messages().iter().map(|read| Trace::of(read.message().message()));
        let expected = Trace { parent: PARENT.to_owned(), state: Some("vendor=1".to_owned()) };
        assert_eq!(traces.collect::<Vec<_>>(), vec![Some(expected); 3]);
    }
}
