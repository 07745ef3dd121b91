//! Carries an outcome out in the only order that loses nothing: the broker confirms the copy, then the original is
//! acked.
//!
//! Until the copy is confirmed, the worker keeps the delivery and retries indefinitely. An unreachable broker, a full
//! queue, a queue without a leader and a missing permission are not the job's fault. Only a copy that the broker
//! refuses because of its content can never succeed: after [`REFUSALS`] refusals the original is rejected to the
//! dead-letter exchange.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    attempt::{
        admission::Incoming,
        disposition::{Copy, Disposition, Settlement},
    },
    backoff::{Backoff, draws},
    broker::Broker,
    message::{COPY_HEADER_LIMIT, Message, header, integer, republish::Republish},
    outcome::Outcome,
    time::millis,
    topology::{Target, delay::Wait, lane::Lane, queue::QueueDeclaration},
    trace,
    tracking::status_update::StatusUpdate,
    transport::{SendError, session::Session},
};

/// Number of refusals after which a publish counts as permanently refused.
const REFUSALS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause after a nack. A leader election ends within seconds, and the worker is not ready until its copies are
/// confirmed. A nack costs the broker one message and no channel.
const LONGEST_PAUSE_AFTER_NACK: Duration = Duration::from_secs(1);

/// Settles a delivery; the only place that acks a job. Returns the number of acks whose channel was lost. `patient` as for
/// [`Session::ack`].
pub(crate) fn settle(session: &mut Session, tag: u64, settlement: Settlement, patient: bool) -> u64 {
    match settlement {
        Settlement::Ack => return session.ack(tag, patient),
        Settlement::Reject => session.reject(tag),
        Settlement::Requeue => session.requeue(tag),
    }
    0
}

/// Publishes the copy that a disposition requires, and returns once the original may be settled.
pub(crate) async fn carry_out(
    disposition: &Disposition,
    received: &Incoming,
    (queue, lane): (&QueueDeclaration, Lane),
    broker: &Broker,
) -> Settlement {
    let (name, now) = (queue.name(), broker.now_ms());
    let own_lane = || lane.back(queue, &received.message).queue_name(queue);
    let at = |delay: Duration| now + millis(delay);
    let (target, kind) = match disposition.row().copy {
        Copy::None => return Settlement::Ack,
        Copy::Retry => {
            let (delay, (kind, reason)) = (disposition.delay(), disposition.error());
            (Target::after(own_lane(), Wait::at_least(delay)), Republish::Retry { kind, reason, at: at(delay) })
        }
        Copy::Delayed => {
            let (delay, slot) = (disposition.delay(), disposition.slot());
            let snoozed_since = snoozed_since(disposition, received, now);
            (Target::after(own_lane(), Wait::at_least(delay)), Republish::Later { at: at(delay), slot, snoozed_since })
        }
        Copy::Early => (Target::after(own_lane(), Wait::at_least(disposition.delay())), Republish::Moved),
        Copy::DeadLetter => {
            let (kind, reason) = disposition.error();
            (Target::Dead(name.to_owned()), Republish::Dead { kind, reason })
        }
        Copy::SuspectQueue => (Target::Queue(Lane::Suspect.queue_name(queue)), Republish::Moved),
        // It ends with its connection.
        Copy::SameQueue if queue.is_each_process() => return Settlement::Requeue,
        Copy::SameQueue => (Target::Queue(lane.queue_name(queue)), Republish::Moved),
    };
    let copy_as = |kind: &Republish<'_>| {
        let mut copy = Box::new(received.message.copy(name, received.envelope, kind, now));
        copy.set_subscription(queue.is_subscription().then_some(name));
        copy
    };
    let copy = || {
        let mut copy = copy_as(&kind);
        trace::carry(received.delivered(), &mut copy);
        received.checkpoint.carry(&mut copy);
        let batch = received.next_batch.load(Ordering::Relaxed);
        if batch > 0 && matches!(kind, Republish::Retry { .. }) {
            copy.set_header(header::BATCH, integer(batch.into()));
        }
        copy
    };
    let mut first = Some(copy()).filter(|copy| copy.header_size() <= COPY_HEADER_LIMIT);
    if first.is_some() {
        return confirm(broker, queue, &target, received, || first.take().unwrap_or_else(copy)).await;
    }
    if matches!(disposition, Disposition::Requeued) {
        return Settlement::Requeue;
    }
    tracing::warn!(
        queue = name,
        job_id = received.id(),
        "the headers leave no room for a copy: dead-lettering the job"
    );
    if !received.message.must_not_be_rejected() {
        return Settlement::Reject;
    }
    let (kind, reason) = disposition.without_copy("its headers leave no room for a copy");
    let kind = Republish::Dead { kind, reason: &reason };
    let bare = || Box::new(copy_as(&kind).bare());
    confirm(broker, queue, &Target::Dead(name.to_owned()), received, bare).await
}

/// Returns the due time from which a job that is delivered later may snooze, if it is another than before.
fn snoozed_since(disposition: &Disposition, received: &Incoming, now: u64) -> Option<u64> {
    match disposition {
        Disposition::Outcome(Outcome::Snooze { .. }) => Some(received.due().unwrap_or(now)),
        // It made progress, so it may snooze as long as if it became due now.
        Disposition::Outcome(Outcome::Yield) => Some(now),
        _ => None,
    }
}

/// Publishes the last status update of a tracked job before the job is settled. Otherwise, a job whose worker crashes
/// in between would appear to run indefinitely. A broker that refuses status updates does not delay the job.
pub(crate) async fn report_end(
    update: StatusUpdate,
    received: &Incoming,
    queue: &QueueDeclaration,
    broker: &Broker,
) -> Settlement {
    if !broker.emitter().may_report() {
        return Settlement::Ack;
    }
    let (target, message) = update.into_message();
    match confirm(broker, queue, &target, received, || message.clone()).await {
        Settlement::Ack => {
            broker.emitter().accepted();
            Settlement::Ack
        }
        Settlement::Reject => {
            broker.metrics().status_updates_lost.inc();
            Settlement::Ack
        }
        Settlement::Requeue => Settlement::Requeue,
    }
}

/// Publishes until the broker confirms. Returns [`Settlement::Reject`] for a permanently refused copy whose original
/// may be rejected, for a refused status update, and for a refused end of a step.
///
/// Calls `copy` for each publish; one is nearly always enough.
pub(super) async fn confirm(
    broker: &Broker,
    queue: &QueueDeclaration,
    target: &Target,
    received: &Incoming,
    mut copy: impl FnMut() -> Box<Message>,
) -> Settlement {
    let (mut refusals, mut backoff, mut stuck) = (0, Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), None);
    loop {
        let error = match broker.send(target, copy(), false).await {
            Ok(()) => return Settlement::Ack,
            Err(SendError::Closed) => return Settlement::Requeue,
            Err(error) => error,
        };
        log_unconfirmed(&error, broker, queue, target, received);
        stuck.get_or_insert_with(|| broker.health().stuck());
        let is_update = matches!(target, Target::StatusUpdate(..));
        if is_update && broker.emitter().is_refused_by(&error) {
            return Settlement::Reject;
        }
        if is_final(&error, is_update) {
            refusals += 1;
            let is_replaceable = is_update || *target == Target::Workflows;
            if refusals >= REFUSALS && (is_replaceable || !received.message.must_not_be_rejected()) {
                tracing::error!(
                    queue = queue.name(),
                    job_id = received.id(),
                    ?target,
                    "the broker refuses the message repeatedly: not publishing it"
                );
                return Settlement::Reject;
            }
        }
        // A nack comes from an existing queue. A declaration would only burden a cluster that elects its leaders.
        if matches!(error, SendError::Returned | SendError::Refused(_)) {
            Box::pin(repair(broker, queue)).await;
        }
        // Refusals of a status update are counted: with shorter pauses, a longer election would lose it.
        let is_nacked_copy = matches!(error, SendError::Nacked) && !is_update;
        let longest = if is_nacked_copy { LONGEST_PAUSE_AFTER_NACK } else { LONGEST_PAUSE };
        // Copies that failed together must not be published together again.
        tokio::time::sleep(backoff.delay().min(longest).mul_f64(0.5 + draws().0 / 2.0)).await;
    }
}

/// Returns whether a publish that repeatedly ends like this can never succeed. A job must not wait for its own status
/// update, so every refusal of one is final.
fn is_final(error: &SendError, is_update: bool) -> bool {
    match error {
        // RabbitMQ's reply for a message that is too large or has invalid properties.
        SendError::Refused(words) => is_update || words.contains("PRECONDITION_FAILED"),
        SendError::Returned | SendError::Nacked => is_update,
        SendError::Uncertain | SendError::Blocked(_) | SendError::Unavailable(_) | SendError::Closed => false,
    }
}

/// Logs why copies are not confirmed.
fn log_unconfirmed(error: &SendError, broker: &Broker, queue: &QueueDeclaration, target: &Target, received: &Incoming) {
    let queue = queue.name();
    broker.log_throttle().log(format!("{queue}: {error:?}"), || {
        let job_id = received.id();
        tracing::warn!(
            queue,
            job_id,
            ?target,
            %error,
            "a copy is not confirmed, retrying"
        );
    });
}

/// Checks the topology and, in declare mode, declares missing objects.
async fn repair(broker: &Broker, queue: &QueueDeclaration) {
    if let Err(error) = broker.transport().repair(queue).await {
        broker.log_throttle().log(format!("{}: {error:?}", queue.name()), || {
            tracing::warn!(queue = queue.name(), %error, "cannot repair the topology, retrying");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_of_the_message_itself_is_ever_final() {
        let refused = |words: &str| SendError::Refused(words.to_owned());
        let table = [
            (SendError::Nacked, false),
            (SendError::Returned, false),
            (refused("NOT_FOUND - no exchange 'leveret.v1.delay.03.in' in vhost '/'"), false),
            (refused("ACCESS_REFUSED - access to exchange 'leveret.v1.dead' in vhost '/' refused"), false),
            (refused("RESOURCE_LOCKED - cannot obtain exclusive access"), false),
            (refused("PRECONDITION_FAILED - message size 20 is larger than configured max size 10"), true),
            (refused("PRECONDITION_FAILED - invalid expiration 'soon'"), true),
            (SendError::Uncertain, false),
            (SendError::Blocked("memory".to_owned()), false),
            (SendError::Unavailable("lost".to_owned()), false),
        ];
        for (error, wanted) in table {
            assert_eq!(is_final(&error, false), wanted, "{error:?}");
        }
        assert!(is_final(&SendError::Nacked, true), "a job does not wait for its status update");
    }
}
