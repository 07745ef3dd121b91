//! Empty spans; trace contexts still travel in headers.
#![expect(clippy::unused_self, reason = "the implementation with spans uses it")]

use crate::trace::{Delivered, Place, Trace};
use crate::{
    broker::Broker,
    error::PublishError,
    message::Message,
    outcome::{ErrorKind, Finish},
};

/// The context of an attempt's span.
#[derive(Debug, Default)]
pub(crate) struct Slot(());

impl Slot {
    pub(crate) fn trace(&self) -> Option<Trace> {
        None
    }

    pub(crate) fn id(&self) -> Option<String> {
        None
    }
}

pub(super) fn current() -> Option<Trace> {
    None
}

pub(crate) fn carry(_: Delivered<'_>, _: &mut Message) {}

pub(crate) struct TraceSpan;

impl TraceSpan {
    pub(crate) fn publish(_: &Broker, _: (&str, &str), _: &Message, _: Option<&Trace>) -> Self {
        Self
    }

    pub(crate) fn none() -> Self {
        Self
    }

    pub(crate) fn process(_: Place<'_>, _: &str, _: Delivered<'_>) -> Self {
        Self
    }

    pub(crate) fn settle(_: Place<'_>, _: Delivered<'_>) -> Self {
        Self
    }

    pub(crate) fn trace(&self) -> Option<Trace> {
        None
    }

    pub(crate) fn within<F: Future>(&self, work: F) -> F {
        work
    }

    pub(crate) fn not_published(&self, _: &str, _: &PublishError) {}

    pub(crate) fn attempted(&self, _: Option<Finish>, _: Option<(ErrorKind, &str)>) {}

    pub(crate) fn settled(&self, _: Place<'_>, _: &'static str, _: Option<Finish>) {}
}
