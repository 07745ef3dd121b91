//! Metrics of requests and replies.

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, Registry};

use super::{counter, plain_counter, plain_gauge};

#[derive(Debug)]
pub(crate) struct RequestMetrics {
    sent: IntCounterVec,
    pub(crate) waiting: IntGauge,
    replies: IntCounterVec,
    pub(crate) dropped_replies: IntCounter,
}

impl RequestMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let replies = counter(r, "replies_total", "Replies of this worker by outcome", &["outcome"])?;
        for outcome in ["sent", "lost", "not_allowed"] {
            replies.with_label_values(&[outcome]);
        }
        Ok(Self {
            sent: counter(r, "requests_total", "Requests by outcome", &["queue", "job", "outcome"])?,
            waiting: plain_gauge(r, "requests_waiting", "Requests of this process that wait for their replies")?,
            replies,
            dropped_replies: plain_counter(r, "replies_dropped_total", "Received replies that no request waited for")?,
        })
    }

    pub(crate) fn sent(&self, queue: &str, job: &str, outcome: &str) -> IntCounter {
        self.sent.with_label_values(&[queue, job, outcome])
    }

    pub(crate) fn replies(&self, outcome: &str) -> IntCounter {
        self.replies.with_label_values(&[outcome])
    }
}
