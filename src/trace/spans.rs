//! Spans by OpenTelemetry's conventions for messaging (1.44): `publish`, `process`, and `ack` or `reject`.
//!
//! They are `tracing` spans with a target of their own. Spans of handlers and services nest with them in both
//! directions. If no layer enables the target, they cost next to nothing, and their fields are not built.

use std::sync::OnceLock;

use lapin::types::ShortString;
use tracing::{Instrument, Span, field::Empty, info_span, instrument::Instrumented, level_filters::LevelFilter};

use crate::{
    broker::Broker,
    error::PublishError,
    message::{Message, republish::ERROR_TEXT_LIMIT, truncated},
    outcome::{ErrorKind, Finish},
    topology::Topology,
};
use crate::{
    observe::TRACE_TARGET as TARGET,
    trace::{
        ConsumedLane, Delivered, Trace,
        context::{SpanContext, current, of_span, read, rename, set_parent, trace_id, written},
    },
};

/// The context of an attempt's span, once the span exists.
#[derive(Debug, Default)]
pub(crate) struct AttemptTrace(OnceLock<SpanContext>);

impl AttemptTrace {
    pub(crate) fn trace(&self) -> Option<Trace> {
        self.0.get().map(written)
    }

    /// Returns the id of the trace, for logs.
    pub(crate) fn id(&self) -> Option<String> {
        self.0.get().map(trace_id)
    }
}

/// Makes a copy continue the attempt's trace if the original, and so the copy, has none.
pub(crate) fn carry(delivered: Delivered<'_>, copy: &mut Message) {
    if let Some(own) = delivered.trace.0.get()
        && remote(delivered.message).is_none()
    {
        written(own).write(copy);
    }
}

fn remote(message: &Message) -> Option<SpanContext> {
    read(&Trace::of(message)?)
}

/// Returns whether spans are off; then nothing is built for one. Without the feature `otel` they are off, even if a
/// subscriber would log them. If no subscriber is set but a crate makes `tracing` write to `log`, the macros would build
/// all fields.
fn is_off() -> bool {
    !cfg!(feature = "otel") || LevelFilter::current() < LevelFilter::INFO
}

/// A span of a job; empty if spans are off.
pub(crate) struct TraceSpan(Span);

impl TraceSpan {
    /// Starts the span of a publish of `job` to `queue`, in the trace of the message, or else of the caller, or else
    /// `fallback`.
    pub(crate) fn publish(
        broker: &Broker,
        (job, queue): (&str, &str),
        message: &Message,
        fallback: Option<&Trace>,
    ) -> Self {
        if is_off() {
            return Self::none();
        }
        let span = info_span!(
            target: TARGET,
            parent: None,
            "publish",
            otel.kind = "producer",
            otel.name = format!("publish {}", destination(broker, queue)),
            otel.status_code = Empty,
            otel.status_description = Empty,
            messaging.system = broker.transport().system(),
            messaging.operation.name = "publish",
            messaging.operation.type = "send",
            messaging.destination.name = destination(broker, queue),
            messaging.rabbitmq.destination.routing_key = queue,
            messaging.message.id = message.id(),
            messaging.message.conversation_id = conversation(message),
            leveret.job = job,
            error.type = Empty,
        );
        let parent = || remote(message).or_else(current).or_else(|| read(fallback?));
        Self::of(span, parent)
    }

    pub(crate) fn none() -> Self {
        Self(Span::none())
    }

    /// Starts the span of an attempt at `job`, in the trace of its message.
    pub(crate) fn process(from: ConsumedLane<'_>, job: &str, delivered: Delivered<'_>) -> Self {
        if is_off() {
            return Self::none();
        }
        let span = info_span!(
            target: TARGET,
            parent: None,
            "process",
            otel.kind = "consumer",
            otel.name = format!("process {}", from.destination()),
            otel.status_code = Empty,
            otel.status_description = Empty,
            messaging.system = from.broker.transport().system(),
            messaging.operation.name = "process",
            messaging.operation.type = "process",
            messaging.destination.name = from.destination(),
            messaging.rabbitmq.destination.routing_key = from.lane.queue_name(from.queue),
            messaging.message.id = delivered.message.id(),
            messaging.message.conversation_id = conversation(delivered.message),
            leveret.job = job,
            leveret.attempt = delivered.attempt,
            leveret.outcome = Empty,
            error.type = Empty,
        );
        let process = Self::of(span, || remote(delivered.message));
        if let Some(context) = process.context() {
            // A delivery has one attempt.
            delivered.trace.0.set(context).ok();
        }
        process
    }

    /// Starts the span of a settlement: within its attempt's span, or in the trace of its message if it had no attempt.
    pub(crate) fn settle(from: ConsumedLane<'_>, delivered: Delivered<'_>) -> Self {
        if is_off() {
            return Self::none();
        }
        let span = info_span!(
            target: TARGET,
            parent: None,
            "settle",
            otel.kind = "client",
            messaging.system = from.broker.transport().system(),
            messaging.operation.name = Empty,
            messaging.operation.type = "settle",
            messaging.destination.name = from.destination(),
            messaging.rabbitmq.destination.routing_key = from.lane.queue_name(from.queue),
            messaging.message.id = delivered.message.id(),
            messaging.message.conversation_id = conversation(delivered.message),
            leveret.job = delivered.message.job_name(),
            leveret.attempt = delivered.attempt,
            leveret.outcome = Empty,
        );
        Self::of(span, || delivered.trace.0.get().cloned().or_else(|| remote(delivered.message)))
    }

    fn of(span: Span, parent: impl FnOnce() -> Option<SpanContext>) -> Self {
        if !span.is_disabled()
            && let Some(parent) = parent()
        {
            set_parent(&span, parent);
        }
        Self(span)
    }

    fn context(&self) -> Option<SpanContext> {
        if self.0.is_disabled() { None } else { of_span(&self.0) }
    }

    /// Returns the headers that continue this span.
    pub(crate) fn trace(&self) -> Option<Trace> {
        self.context().as_ref().map(written)
    }

    pub(crate) fn within<F: Future>(&self, work: F) -> Instrumented<F> {
        work.instrument(self.0.clone())
    }

    /// Records why the publish failed; `outcome` as in the metric.
    pub(crate) fn not_published(&self, outcome: &str, error: &PublishError) {
        if !self.0.is_disabled() {
            self.failed(outcome, &error.to_string());
        }
    }

    /// Records how the attempt ended, and its error if it failed.
    pub(crate) fn attempted(&self, finish: Option<Finish>, failure: Option<(ErrorKind, &str)>) {
        if self.0.is_disabled() {
            return;
        }
        self.0.record("leveret.outcome", finish.map(Finish::as_str));
        if let Some((kind, reason)) = failure {
            self.failed(kind.as_str(), truncated(reason, ERROR_TEXT_LIMIT));
        }
    }

    /// Records the settlement sent to the broker, and how the job has left the worker, if it has.
    pub(crate) fn settled(&self, from: ConsumedLane<'_>, operation: &'static str, finish: Option<Finish>) {
        if self.0.is_disabled() {
            return;
        }
        // A field would be too late, because the span has started.
        rename(&self.0, format!("{operation} {}", from.destination()));
        self.0.record("messaging.operation.name", operation);
        self.0.record("leveret.outcome", finish.map(Finish::as_str));
    }

    fn failed(&self, kind: &str, reason: &str) {
        self.0.record("error.type", kind);
        self.0.record("otel.status_code", "ERROR");
        self.0.record("otel.status_description", reason);
    }
}

impl ConsumedLane<'_> {
    fn destination(self) -> String {
        destination(self.broker, &self.lane.queue_name(self.queue))
    }
}

/// Returns the destination of a publish to a queue: the exchange, and the routing key, which is the queue's name.
fn destination(broker: &Broker, queue: &str) -> String {
    format!("{}:{queue}", Topology::new(&broker.config().namespace).jobs())
}

fn conversation(message: &Message) -> Option<&str> {
    message.properties.correlation_id().as_ref().map(ShortString::as_str)
}
