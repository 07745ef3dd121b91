//! Carries an outcome out, in the one order that loses nothing: the copy is confirmed, then the original is acked.
//!
//! While the copy is not confirmed the delivery stays ours and the worker tries again, for ever if the broker is away.
//! A broker that refuses the copy time after time ([`REFUSALS`]) gets the original into its dead-letter exchange.

use std::time::Duration;

use crate::{
    broker::{Broker, Lane, SendError, Session},
    copy::CopyKind,
    delay::Wait,
    event::JobEvent,
    intake::Received,
    limit::slot::Slot,
    message::{COPY_HEADER_LIMIT, Message, millis},
    outcome::{ErrorKind, Outcome},
    queue::Queue,
    retry,
    topology::Target,
    trace,
};

/// Refusals of a copy after which the original is rejected into the dead-letter exchange.
const REFUSALS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the session is to be told about a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// The outcome is safe.
    Ack,
    /// No copy could be made: the broker dead-letters the original.
    Reject,
    /// Nothing is safe: another worker shall have it.
    Requeue,
}

/// What is to happen with a delivery.
#[derive(Debug)]
pub(crate) enum Disposition {
    Outcome(Outcome),
    /// Its time has not come: wait for so many more milliseconds.
    TooEarly(u64),
    /// It waits for its turn: for a limit, or a dependency that is down.
    Held {
        delay: Duration,
        /// Its slot before a rate limit.
        slot: Option<Slot>,
    },
    /// It goes to the suspect lane.
    Suspect,
    /// Nobody wants it any more.
    Cancelled,
}

impl Disposition {
    pub(crate) fn dead(kind: ErrorKind, reason: String) -> Self {
        Self::Outcome(Outcome::DeadLetter { kind, reason })
    }
}

/// Tells the session; the only place that acks. Returns how many acks had no channel any more. `patient` as for
/// [`Session::ack`].
pub(crate) fn settle(session: &mut Session, tag: u64, settlement: Settlement, patient: bool) -> u64 {
    match settlement {
        Settlement::Ack => return session.ack(tag, patient),
        Settlement::Reject => session.reject(tag),
        Settlement::Requeue => session.requeue(tag),
    }
    0
}

/// Publishes the copy that a disposition needs, and returns once the original may be settled.
pub(crate) async fn carry_out(
    disposition: &Disposition,
    received: &Received,
    (queue, lane): (&Queue, Lane),
    broker: &Broker,
) -> Settlement {
    let (name, now) = (queue.name(), broker.now_ms());
    let later = |delay| {
        let own = lane.back(queue, &received.message).queue_name(queue);
        Target::after(own, Wait::at_least(delay))
    };
    let (target, kind) = match disposition {
        Disposition::Outcome(Outcome::Done | Outcome::Duplicate) | Disposition::Cancelled => return Settlement::Ack,
        Disposition::Outcome(Outcome::Retry { delay, kind, reason }) => {
            (later(*delay), CopyKind::Retry { kind: *kind, reason, at: now + millis(*delay) })
        }
        Disposition::Outcome(Outcome::Snooze { delay }) => {
            let snoozed_since = Some(received.due().unwrap_or(now));
            (later(*delay), CopyKind::Later { at: now + millis(*delay), slot: None, snoozed_since })
        }
        Disposition::Outcome(Outcome::DeadLetter { kind, reason }) => {
            (Target::Dead(name.to_owned()), CopyKind::Dead { kind: *kind, reason })
        }
        Disposition::Held { delay, slot } => {
            (later(*delay), CopyKind::Later { at: now + millis(*delay), slot: *slot, snoozed_since: None })
        }
        Disposition::TooEarly(ms) => (later(Duration::from_millis(*ms)), CopyKind::Moved),
        Disposition::Suspect => (Target::Queue(Lane::Suspect.queue_name(queue)), CopyKind::Moved),
    };
    let copy = || {
        let mut copy = Box::new(received.message.copy(name, received.envelope, &kind, now));
        trace::carry(received, &mut copy);
        copy
    };
    let mut first = Some(copy()).filter(|copy| copy.header_size() <= COPY_HEADER_LIMIT);
    if first.is_some() {
        return confirm(broker, queue, &target, received, || first.take().unwrap_or_else(copy)).await;
    }
    tracing::warn!(queue = name, job_id = received.id(), "the headers leave no room for a copy: a dead letter");
    if !received.message.must_not_be_rejected() {
        return Settlement::Reject;
    }
    let kind = CopyKind::Dead { kind: ErrorKind::TooLarge, reason: "its headers leave no room for a copy" };
    let bare = || Box::new(received.message.copy(name, received.envelope, &kind, now).bare());
    confirm(broker, queue, &Target::Dead(name.to_owned()), received, bare).await
}

/// Tells the last step of a tracked job, before it is settled: else one whose worker is killed would seem to run for
/// ever. A job is not held up by a broker that refuses to be told.
pub(crate) async fn tell_end(event: JobEvent, received: &Received, queue: &Queue, broker: &Broker) -> Settlement {
    if !broker.teller().may_tell() {
        return Settlement::Ack;
    }
    let (target, message) = event.into_message();
    match confirm(broker, queue, &target, received, || message.clone()).await {
        Settlement::Ack => {
            broker.teller().told();
            Settlement::Ack
        }
        Settlement::Reject => {
            broker.metrics().events_lost.inc();
            Settlement::Ack
        }
        Settlement::Requeue => Settlement::Requeue,
    }
}

/// Publishes until the broker confirms, or refuses for good; then the original is to be rejected, if it may be.
///
/// Each publish takes a `copy` with it, and nearly always one is enough.
async fn confirm(
    broker: &Broker,
    queue: &Queue,
    target: &Target,
    received: &Received,
    mut copy: impl FnMut() -> Box<Message>,
) -> Settlement {
    let (mut refusals, mut pause, mut stuck) = (0, FIRST_PAUSE, None);
    loop {
        let error = match broker.send(target, copy(), false).await {
            Ok(()) => return Settlement::Ack,
            Err(SendError::Closed) => return Settlement::Requeue,
            Err(error) => error,
        };
        tell_of(&error, broker, queue, target, received);
        stuck.get_or_insert_with(|| broker.health().stuck());
        let is_event = matches!(target, Target::Event(..));
        if is_event && broker.teller().is_refused_by(&error) {
            return Settlement::Reject;
        }
        if matches!(error, SendError::Returned | SendError::Nacked | SendError::Refused(_)) {
            refusals += 1;
            if refusals >= REFUSALS && (is_event || !received.message.must_not_be_rejected()) {
                tracing::error!(
                    queue = queue.name(),
                    job_id = received.id(),
                    ?target,
                    "given up: refused time after time"
                );
                return Settlement::Reject;
            }
            Box::pin(mend(broker, queue)).await;
        }
        // Apart from each other: copies that fail together must not meet again.
        tokio::time::sleep(pause.mul_f64(0.5 + retry::draws().0 / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Says once in a while what keeps copies from being confirmed.
fn tell_of(error: &SendError, broker: &Broker, queue: &Queue, target: &Target, received: &Received) {
    let queue = queue.name();
    if broker.quiet().is_news(format!("{queue}: {error:?}")) {
        let job_id = received.id();
        tracing::warn!(
            queue,
            job_id,
            ?target,
            %error,
            "a copy is not confirmed, trying again; so it may be with others"
        );
    }
}

/// Looks whether a part of the topology is missing, and declares it if that is this handle's way.
async fn mend(broker: &Broker, queue: &Queue) {
    if let Err(error) = broker.mend(queue).await
        && broker.quiet().is_news(format!("{}: {error:?}", queue.name()))
    {
        tracing::warn!(queue = queue.name(), %error, "the topology cannot be mended, trying again");
    }
}
