//! Replies to requests: a job whose message has a `reply_to` is answered at its end, before it is settled.
//!
//! Workers write only into queues that wait for replies. Otherwise every publisher of a job could make a worker write into
//! any queue. A reply that cannot be delivered is lost: the job does not wait for it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::time::timeout;

use crate::{
    attempt::{
        admission::Incoming,
        disposition::{Disposition, Settlement, Update},
        step::NotKept,
    },
    broker::Broker,
    message::{Message, reply::DIRECT_REPLY, republish::ERROR_TEXT_LIMIT, truncated},
    topology::{Target, Topology},
    tracking::status_update::RESULT_LIMIT,
    transport::SendError,
};

/// For how long a job waits for the confirm of its reply.
const REPLIED_WITHIN: Duration = Duration::from_secs(5);

/// The result of a job that a caller waits for, as JSON, or why there is none.
#[derive(Debug, Default)]
pub(crate) struct ReplySlot(Mutex<Option<Result<Vec<u8>, String>>>);

impl Incoming {
    /// Keeps the result of the handler for the reply, and for the step of a workflow.
    pub(crate) fn keep_result(&self, result: &impl Serialize) {
        match self.step.as_deref().map(|step| step.keep_result(result)) {
            // That of a tracked step is logged by its status update.
            Some(Err(NotKept::TooLarge(bytes))) if !self.envelope.track => {
                tracing::warn!(
                    job_id = self.id(),
                    bytes,
                    limit_bytes = RESULT_LIMIT,
                    "the result is too large to be kept"
                );
            }
            Some(Err(NotKept::Unserialisable(error))) => {
                tracing::error!(job_id = self.id(), %error, "the result of a step does not serialise: its successors have none");
            }
            _ => {}
        }
        if let Some(ReplySlot(slot)) = self.reply.as_deref() {
            let json = serde_json::to_vec(result).map_err(|error| format!("the result does not serialise: {error}"));
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(json);
        }
    }

    /// Keeps a result that an earlier run of the job had.
    pub(crate) fn restore_reply(&self, json: &str) {
        if let Some(ReplySlot(slot)) = self.reply.as_deref() {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ok(json.as_bytes().to_vec()));
        }
    }

    fn take_result(&self) -> Option<Result<Vec<u8>, String>> {
        self.reply.as_deref()?.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns where the reply goes, if workers may write there. `anywhere` allows every queue.
    pub(crate) fn reply_target(&self, namespace: &str, anywhere: bool) -> Option<Target> {
        let queue = self.message.reply_to()?;
        if queue.strip_prefix(DIRECT_REPLY).is_some_and(|rest| rest.starts_with('.')) {
            return Some(Target::DirectReply(queue.to_owned()));
        }
        let is_allowed = anywhere || queue.starts_with(&Topology::new(namespace).reply_prefix());
        is_allowed.then(|| Target::Reply(queue.to_owned()))
    }

    /// Returns the time until which a caller waits; `None` for a job without a waiting caller.
    pub(crate) fn waited_until(&self, namespace: &str, anywhere: bool) -> Option<u64> {
        let expires_at = self.envelope.expires_at?;
        self.reply_target(namespace, anywhere).map(|_| expires_at)
    }
}

/// Answers the request if this is its end, and waits some seconds for the connection and the confirm: a caller without its
/// reply waits for its whole timeout. A direct reply does not wait for its connection, which a forged `reply_to` closes:
/// forged requests would hold the worker's slots.
pub(crate) async fn reply(
    disposition: &Disposition,
    settlement: Settlement,
    received: &Incoming,
    (broker, anywhere): (&Broker, bool),
) {
    let limit = broker.config().payload_limit;
    let Some(result) = result(disposition, settlement, received, limit) else { return };
    let counted = |outcome| broker.metrics().requests.replies(outcome).inc();
    let Some(target) = received.reply_target(&broker.config().namespace, anywhere) else {
        counted("not_allowed");
        return tracing::debug!(job_id = received.id(), "not answered: its reply_to is no reply queue");
    };
    let message = Message::reply(&received.message, result);
    let fail_fast = matches!(target, Target::DirectReply(_));
    let sent = timeout(REPLIED_WITHIN, broker.send(&target, message, fail_fast)).await;
    match sent.unwrap_or(Err(SendError::Uncertain)) {
        Ok(()) => counted("sent"),
        Err(error) => {
            counted("lost");
            broker.log_throttle().log(format!("reply: {error:?}"), || {
                let job_id = received.id();
                tracing::warn!(job_id, %error, "a reply is lost: its caller is gone, or the broker refuses it");
            });
        }
    }
}

/// Returns what the caller gets: the JSON of the result, or kind and text of the error. None while the job goes on, and if
/// no caller waits.
fn result(
    disposition: &Disposition,
    settlement: Settlement,
    received: &Incoming,
    limit: usize,
) -> Option<Result<Vec<u8>, (String, String)>> {
    let failed = |kind: &str, error: &str| Some(Err((kind.to_owned(), truncated(error, ERROR_TEXT_LIMIT).to_owned())));
    match settlement {
        Settlement::Requeue => return None,
        Settlement::Reject => {
            let (kind, reason) = disposition.without_copy("no copy of it could be made");
            return failed(kind.as_str(), &reason);
        }
        Settlement::Ack => {}
    }
    match disposition.row().update {
        Update::Succeeded => match received.take_result() {
            None => Some(Ok(b"null".to_vec())),
            Some(Ok(json)) if json.len() <= limit => Some(Ok(json)),
            Some(Ok(json)) => {
                failed("too_large", &format!("a result of {} bytes, and the limit is {limit}", json.len()))
            }
            Some(Err(error)) => failed("error", &error),
        },
        Update::Duplicate => match received.take_result() {
            // An inbox has kept what the earlier run returned.
            Some(Ok(json)) if json.len() <= limit => Some(Ok(json)),
            _ => failed("duplicate", "an earlier run has done the job"),
        },
        Update::Dead => {
            let (kind, error) = disposition.error();
            failed(kind.as_str(), error)
        }
        // A request whose time is over: its caller may still learn why.
        Update::Cancelled if matches!(disposition, Disposition::RequestExpired(_)) => {
            disposition.failure().and_then(|(kind, error)| failed(kind.as_str(), error))
        }
        Update::Cancelled => failed("cancelled", "the job was cancelled"),
        Update::None | Update::Snoozed | Update::Retrying => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{job::JobId, outcome::ErrorKind, outcome::Outcome, transport::clock::Now};

    fn request(reply_to: &str) -> Incoming {
        let mut message = Message::new("quote", &JobId::from("a"), Vec::new(), 0);
        message.properties = std::mem::take(&mut message.properties).with_reply_to(reply_to.into());
        Incoming::read(message, false, Now::at(0))
    }

    #[test]
    fn workers_write_only_into_queues_that_wait_for_replies() {
        let target = |to: &str, anywhere| request(to).reply_target("leveret.v1", anywhere);
        let reply = |to: &str| Some(Target::Reply(to.to_owned()));
        assert_eq!(target("leveret.v1.reply.4711", false), reply("leveret.v1.reply.4711"));
        let direct = "amq.rabbitmq.reply-to.g1h2AA";
        assert_eq!(target(direct, false), Some(Target::DirectReply(direct.to_owned())));
        for other in ["email", "leveret.v2.reply.4711", "leveret.v1.replyx", "amq.rabbitmq.reply-to", "amq.gen-4711"] {
            assert_eq!(target(other, false), None, "{other}");
            assert_eq!(target(other, true), reply(other), "{other}");
        }
        assert_eq!(target("", true), None);
    }

    #[test]
    fn a_retry_does_not_answer_and_an_end_does() {
        let of = |disposition: &Disposition, settlement| {
            let received = request("leveret.v1.reply.4711");
            received.keep_result(&"ten bytes");
            result(disposition, settlement, &received, 11)
        };
        let end = |disposition| of(&disposition, Settlement::Ack);
        let failed = |kind: &str, error: &str| Some(Err((kind.to_owned(), error.to_owned())));
        let (delay, kind, reason) = (Duration::ZERO, ErrorKind::Timeout, "slow".to_owned());
        assert_eq!(end(Disposition::Outcome(Outcome::Done)), Some(Ok(b"\"ten bytes\"".to_vec())));
        assert_eq!(of(&Disposition::Outcome(Outcome::Done), Settlement::Requeue), None);
        assert_eq!(end(Disposition::Outcome(Outcome::Retry { delay, kind, reason: reason.clone() })), None);
        assert_eq!(end(Disposition::Outcome(Outcome::Snooze { delay })), None);
        assert_eq!(end(Disposition::TooEarly(1)), None);
        assert_eq!(end(Disposition::Suspect), None);
        assert_eq!(end(Disposition::dead(kind, reason.clone())), failed("timeout", "slow"));
        assert_eq!(end(Disposition::Cancelled), failed("cancelled", "the job was cancelled"));
        assert_eq!(end(Disposition::RequestExpired(None)), None);
        assert_eq!(end(Disposition::RequestExpired(Some((kind, reason)))), failed("timeout", "slow"));
        let received = request("leveret.v1.reply.4711");
        received.keep_result(&"eleven bytes");
        let too_large = result(&Disposition::Outcome(Outcome::Done), Settlement::Ack, &received, 11);
        assert_eq!(too_large, failed("too_large", "a result of 14 bytes, and the limit is 11"));
    }
}
