//! The arguments of all queues.

use crate::{
    time::millis,
    topology::{Argument, JOB_DELIVERY_LIMIT, KEPT_DELIVERY_LIMIT, SEGMENT_BYTES, Stream, delay::UNIT},
};

/// The arguments of a job queue, whose dead letters go to the exchange `dead`.
pub(super) fn job_arguments(queue: &str, dead: &str) -> Vec<(&'static str, Argument)> {
    vec![
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text(dead)),
        ("x-dead-letter-routing-key", text(queue)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", Argument::Integer(JOB_DELIVERY_LIMIT)),
        ("x-queue-leader-locator", text("balanced")),
    ]
}

pub(super) fn kept_arguments() -> Vec<(&'static str, Argument)> {
    vec![
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", Argument::Integer(KEPT_DELIVERY_LIMIT)),
        ("x-queue-leader-locator", text("balanced")),
    ]
}

/// Cancelled ids are kept for ten years, as long as a job may be delayed. The catalogue does not age.
pub(super) fn stream_arguments(stream: Stream) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![
        ("x-queue-type", text("stream")),
        ("x-stream-max-segment-size-bytes", Argument::Integer(SEGMENT_BYTES)),
        ("x-queue-leader-locator", text("balanced")),
    ];
    if stream == Stream::Cancelled {
        arguments.push(("x-max-age", text("10Y")));
    }
    arguments
}

/// The arguments of a queue that keeps its last messages only. With a dead-letter exchange, RabbitMQ would dead-letter
/// each message that it drops.
pub(super) fn last_arguments(most: u32) -> Vec<(&'static str, Argument)> {
    vec![
        ("x-queue-type", text("quorum")),
        ("x-max-length", Argument::Integer(most.into())),
        ("x-overflow", text("drop-head")),
        ("x-delivery-limit", Argument::Integer(JOB_DELIVERY_LIMIT)),
        ("x-queue-leader-locator", text("balanced")),
    ]
}

pub(super) fn level_arguments(level: u8, below: &str) -> Vec<(&'static str, Argument)> {
    let ttl = i64::try_from(millis(UNIT) << level).unwrap_or(i64::MAX);
    vec![
        ("x-queue-type", text("quorum")),
        ("x-message-ttl", Argument::Integer(ttl)),
        ("x-dead-letter-exchange", text(below)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-queue-leader-locator", text("balanced")),
    ]
}

pub(super) fn text(value: &str) -> Argument {
    Argument::Text(value.to_owned())
}
