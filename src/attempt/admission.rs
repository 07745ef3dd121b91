//! Admission of a delivery: a pure decision from the message, the clock and the lane.

use std::sync::atomic::AtomicU16;

use crate::{
    attempt::{checkpoint::CheckpointSlot, disposition::Disposition, reply::ReplySlot, step::StepSlot},
    job::JobId,
    message::{Envelope, Malformed, Message, origin::id_in},
    outcome::ErrorKind,
    topology::{QueueDeclaration, lane::Lane},
    trace::{AttemptTrace, Delivered},
    transport::clock::Now,
};

/// Deliveries without an outcome after which a job is suspected of crashing its process.
const SUSPICIOUS: u32 = 3;
/// The same for a queue with a single active consumer. There a requeue at a regular stop counts, because a copy would
/// lose its place in the order.
const SUSPICIOUS_IN_ORDER: u32 = 10;
/// A job that arrives earlier than this before its time is delayed again. Smaller differences between clocks are
/// tolerated.
const EARLY_MS: u64 = 1_000;
/// Largest tolerated difference between the clocks of a job's publisher and of the client that cancels it.
const CLOCKS_DIFFER_MS: u64 = 60_000;

/// A delivery after the worker has read its headers.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The message, always with an id: the worker generates one if the publisher set none.
    pub(crate) message: Message,
    pub(crate) envelope: Envelope,
    /// True if the publisher set the id, which makes a redelivery recognisable.
    pub(crate) has_own_id: bool,
    /// True if the broker has delivered this attempt before, perhaps as another message.
    pub(crate) redelivered: bool,
    pub(crate) malformed: Option<Malformed>,
    /// The time of the delivery, in milliseconds since the epoch.
    pub(crate) at_ms: u64,
    pub(crate) trace: AttemptTrace,
    /// For the result, if the message asks for a reply.
    pub(crate) reply: Option<Box<ReplySlot>>,
    /// For the result and the added steps, if the message is a step of a workflow.
    pub(crate) step: Option<Box<StepSlot>>,
    /// The most jobs of a batch that a retry may be part of; 0 for a job that was in none.
    pub(crate) next_batch: AtomicU16,
    /// For the copies of the job.
    pub(crate) checkpoint: CheckpointSlot,
}

impl Incoming {
    pub(crate) fn read(mut message: Message, redelivered: bool, now: Now) -> Self {
        let has_own_id = message.id().is_some();
        if !has_own_id {
            message.set_id(&JobId::mint());
        }
        let (envelope, malformed) = match message.envelope(now.latest) {
            Ok(envelope) => (envelope, None),
            Err(malformed) => (Envelope::default(), Some(malformed)),
        };
        let (trace, next_batch, checkpoint) = (AttemptTrace::default(), AtomicU16::new(0), CheckpointSlot::default());
        let reply = message.reply_to().map(|_| Box::default());
        let step = message.is_step().then(Box::default);
        let at_ms = now.here;
        Self {
            message,
            envelope,
            has_own_id,
            redelivered,
            malformed,
            at_ms,
            trace,
            reply,
            step,
            next_batch,
            checkpoint,
        }
    }

    /// Returns the facts that spans show.
    pub(crate) fn delivered(&self) -> Delivered<'_> {
        Delivered { message: &self.message, attempt: self.envelope.attempt, trace: &self.trace }
    }

    pub(crate) fn id(&self) -> &str {
        self.message.id().unwrap_or_default()
    }

    /// Returns the id under which status updates and cancellations know the job. An event has one in each subscription.
    pub(crate) fn tracking_id(&self, queue: &QueueDeclaration) -> String {
        let id = self.id();
        if queue.is_subscription() { id_in(queue.name(), id) } else { id.to_owned() }
    }

    /// Returns the start of the job's current life, in milliseconds since the epoch; an earlier cancellation does not
    /// apply. A replay starts a new life. For a first publish, the start is a minute early, because the canceller's
    /// clock may be behind the publisher's.
    pub(crate) fn life_began(&self) -> u64 {
        let published = || self.envelope.enqueued_at.map(|at| at.saturating_sub(CLOCKS_DIFFER_MS));
        // A replay time in the future would make the job impossible to cancel.
        self.message.replayed_at().map(|at| at.min(self.at_ms)).or_else(published).unwrap_or(0)
    }

    /// Returns when the job became due, in milliseconds since the epoch: its publish, the end of its delay, or its last
    /// retry. Snoozes do not change it, so it bounds them.
    pub(crate) fn due(&self) -> Option<u64> {
        let envelope = self.envelope;
        envelope.snoozed_since.or(envelope.not_before).or(envelope.enqueued_at).map(|due| due.min(self.at_ms))
    }

    /// Returns the seconds since the first publish.
    pub(crate) fn age(&self, now_ms: u64) -> Option<f64> {
        self.envelope.enqueued_at.map(|at| now_ms.saturating_sub(at) as f64 / 1000.0)
    }

    /// Returns the seconds between the time when the job was ready (first publish or end of its last delay) and its
    /// delivery.
    pub(crate) fn waited(&self) -> Option<f64> {
        let ready = self.envelope.not_before.or(self.envelope.enqueued_at.filter(|_| self.envelope.hop == 0))?;
        Some(self.at_ms.saturating_sub(ready) as f64 / 1000.0)
    }
}

/// Returns the number of deliveries without an outcome after which a job of this lane is suspected, or dead-lettered if
/// it is in the suspect queue. `in_order` means that its queue has a single active consumer.
pub(crate) fn suspicious(lane: Lane, in_order: bool) -> u32 {
    match lane {
        Lane::Main | Lane::High | Lane::Low if in_order => SUSPICIOUS_IN_ORDER,
        Lane::Main | Lane::High | Lane::Low | Lane::Suspect => SUSPICIOUS,
    }
}

/// Returns the index of the handler to run, or the disposition of a delivery that must not run. `route` finds the
/// handler of the job on this queue.
pub(crate) fn decide(
    received: &Incoming,
    (lane, in_order): (Lane, bool),
    now: Now,
    route: impl FnOnce() -> Result<usize, Disposition>,
) -> Result<usize, Disposition> {
    // On a first delivery, only the publisher can have written a count.
    let count = if received.redelivered { received.message.delivery_count() } else { 0 };
    if count >= suspicious(lane, in_order) {
        if lane != Lane::Suspect {
            return Err(Disposition::Suspect);
        }
        let reason = format!("delivered {} times in the suspect queue, {count} of them without an outcome", count + 1);
        return Err(Disposition::dead(ErrorKind::CrashLoop, reason));
    }
    if let Some(malformed) = &received.malformed {
        return Err(Disposition::dead(ErrorKind::Decode, malformed.to_string()));
    }
    let envelope = &received.envelope;
    if envelope.expires_at.is_some_and(|at| at <= now.earliest) {
        return Err(Disposition::dead(ErrorKind::Expired, "its time to live ended before it could run".to_owned()));
    }
    if let Some(early) = envelope.not_before.map(|at| at.saturating_sub(now.latest)).filter(|early| *early > EARLY_MS) {
        return Err(Disposition::TooEarly(early));
    }
    route()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{header, integer};
    use crate::outcome::Outcome;

    const NOW: u64 = 1_800_000_000_000;

    fn received(headers: &[(&str, u64)]) -> Incoming {
        let mut message = Message::new("email.send", &JobId::from("j"), Vec::new(), NOW);
        for (name, value) in headers {
            message.set_header(name, integer(*value));
        }
        Incoming::read(message, true, Now::at(NOW))
    }

    #[test]
    fn a_delivery_count_that_the_publisher_wrote_is_ignored() {
        let mut message = Message::new("email.send", &JobId::from("j"), Vec::new(), NOW);
        message.set_header(header::DELIVERY_COUNT, integer(50));
        assert_eq!(decided(&Incoming::read(message, false, Now::at(NOW)), Lane::Main), Ok(0));
    }

    fn decided(received: &Incoming, lane: Lane) -> Result<usize, Disposition> {
        decided_of(received, (lane, false))
    }

    fn decided_of(received: &Incoming, lane: (Lane, bool)) -> Result<usize, Disposition> {
        let route = || match received.message.job_name() {
            Some("email.send") => Ok(0),
            other => Err(Disposition::dead(ErrorKind::UnknownJob, format!("{other:?}"))),
        };
        decide(received, lane, Now::at(NOW), route)
    }

    #[test]
    fn stops_in_good_order_do_not_make_a_job_of_a_single_active_queue_suspect() {
        let after = |count, lane| decided_of(&received(&[(header::DELIVERY_COUNT, count)]), (lane, true));
        assert_eq!(after(9, Lane::Main), Ok(0));
        assert_eq!(after(10, Lane::Main), Err(Disposition::Suspect));
        assert!(matches!(
            after(3, Lane::Suspect),
            Err(Disposition::Outcome(Outcome::DeadLetter { kind: ErrorKind::CrashLoop, .. }))
        ));
    }

    #[test]
    fn a_delivery_runs_unless_something_speaks_against_it() {
        let dead = |kind| move |found: &Result<usize, Disposition>| matches!(found, Err(Disposition::Outcome(Outcome::DeadLetter { kind: of, .. })) if *of == kind);
        let is = |wanted: Result<usize, Disposition>| move |found: &Result<usize, Disposition>| *found == wanted;
        type Check = Box<dyn Fn(&Result<usize, Disposition>) -> bool>;
        type Row = (Vec<(&'static str, u64)>, Lane, Check);
        let table: Vec<Row> = vec![
            (vec![], Lane::Main, Box::new(is(Ok(0)))),
            (vec![(header::DELIVERY_COUNT, 2)], Lane::Main, Box::new(is(Ok(0)))),
            (vec![(header::DELIVERY_COUNT, 3)], Lane::Main, Box::new(is(Err(Disposition::Suspect)))),
            (vec![(header::DELIVERY_COUNT, 3)], Lane::High, Box::new(is(Err(Disposition::Suspect)))),
            (vec![(header::DELIVERY_COUNT, 3)], Lane::Low, Box::new(is(Err(Disposition::Suspect)))),
            (vec![(header::DELIVERY_COUNT, 2)], Lane::Suspect, Box::new(is(Ok(0)))),
            (vec![(header::DELIVERY_COUNT, 3)], Lane::Suspect, Box::new(dead(ErrorKind::CrashLoop))),
            (vec![(header::EXPIRES_AT, NOW)], Lane::Main, Box::new(dead(ErrorKind::Expired))),
            (vec![(header::EXPIRES_AT, NOW + 1)], Lane::Main, Box::new(is(Ok(0)))),
            (vec![(header::NOT_BEFORE, NOW + 1_000)], Lane::Main, Box::new(is(Ok(0)))),
            (vec![(header::NOT_BEFORE, NOW + 1_001)], Lane::Main, Box::new(is(Err(Disposition::TooEarly(1_001))))),
            (vec![(header::ATTEMPT, u64::MAX)], Lane::Main, Box::new(dead(ErrorKind::Decode))),
        ];
        for (headers, lane, holds) in table {
            let found = decided(&received(&headers), lane);
            assert!(holds(&found), "{headers:?} in {lane:?}: {found:?}");
        }
    }

    #[test]
    fn where_two_clocks_differ_a_job_expires_or_waits_only_if_both_say_so() {
        const AHEAD: u64 = NOW + 600_000;
        let now = Now { here: NOW, earliest: NOW, latest: AHEAD };
        let decided = |name, at| {
            let mut message = Message::new("email.send", &JobId::from("j"), Vec::new(), NOW);
            message.set_header(name, integer(at));
            decide(&Incoming::read(message, false, now), (Lane::Main, false), now, || Ok(0))
        };
        assert_eq!(decided(header::EXPIRES_AT, NOW + 1), Ok(0));
        assert!(matches!(
            decided(header::EXPIRES_AT, NOW),
            Err(Disposition::Outcome(Outcome::DeadLetter { kind: ErrorKind::Expired, .. }))
        ));
        assert_eq!(decided(header::NOT_BEFORE, AHEAD), Ok(0));
        assert_eq!(decided(header::NOT_BEFORE, AHEAD + 5_000), Err(Disposition::TooEarly(5_000)));
        let at_ten_years = now.latest + 315_360_000_000;
        assert!(matches!(decided(header::NOT_BEFORE, at_ten_years), Err(Disposition::TooEarly(_))));
    }

    #[test]
    fn a_job_is_due_from_its_publish_its_delay_or_its_last_retry_on_whatever_it_snoozed() {
        let (enqueued, not_before) = ((header::ENQUEUED_AT, NOW - 900), (header::NOT_BEFORE, NOW - 500));
        let table: [(&[(&str, u64)], u64); 4] = [
            (&[enqueued], NOW - 900),
            (&[enqueued, not_before], NOW - 500),
            (&[enqueued, (header::NOT_BEFORE, NOW), (header::SNOOZED_SINCE, NOW - 500)], NOW - 500),
            (&[enqueued, (header::NOT_BEFORE, NOW + 900)], NOW),
        ];
        for (headers, due) in table {
            assert_eq!(received(headers).due(), Some(due), "{headers:?}");
        }
    }

    #[test]
    fn a_life_begins_with_a_replay_or_as_early_as_any_clock_may_say() {
        assert_eq!(received(&[]).life_began(), NOW - CLOCKS_DIFFER_MS);
        assert_eq!(received(&[(header::ENQUEUED_AT, NOW + 500_000)]).life_began(), NOW - CLOCKS_DIFFER_MS);
        assert_eq!(received(&[(header::REPLAYED_AT, NOW - 7)]).life_began(), NOW - 7);
        assert_eq!(received(&[(header::REPLAYED_AT, NOW + 7)]).life_began(), NOW, "no publisher evades a cancellation");
        let bare = Message { properties: lapin::BasicProperties::default(), body: bytes::Bytes::new() };
        assert_eq!(Incoming::read(bare, false, Now::at(NOW)).life_began(), 0);
    }

    #[test]
    fn a_message_without_an_id_gets_one_that_its_copies_keep() {
        let message = Message { properties: lapin::BasicProperties::default(), body: bytes::Bytes::new() };
        let received = Incoming::read(message, false, Now::at(NOW));
        assert!(!received.has_own_id && !received.id().is_empty());
        assert!(matches!(
            decided(&received, Lane::Main),
            Err(Disposition::Outcome(Outcome::DeadLetter { kind: ErrorKind::UnknownJob, .. }))
        ));
    }
}
