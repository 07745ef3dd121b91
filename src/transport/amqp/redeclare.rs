//! Keeps a worker's queue bound while it is consumed, and the log of events while it is read.
//!
//! If an operator deletes an exchange, the next process that publishes to it declares it again, but without the
//! bindings of queues that this process does not know. A worker knows its own queues, and repeats their declaration.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::topology::Plan;
use crate::transport::amqp::{
    Setup, clock,
    connection::LiveConnection,
    consume::OwnChannel,
    declare::{ANSWERED_WITHIN, declare_on, ensure_shared, invalidate_shared},
    reconnector::Reconnector,
};

/// Average interval; each repetition has about ten commands for each queue of a worker.
const REPEATED_EVERY: Duration = Duration::from_secs(15);
/// Pause after missing objects were declared.
const SOON: Duration = Duration::from_secs(1);
/// Longest pause. A refusal closes a channel and lasts, such as a revoked permission or a queue that was recreated by
/// hand.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Repeats a declaration until it is dropped.
pub(super) async fn repeatedly(up: Arc<LiveConnection>, publishing: Arc<Reconnector>, setup: Arc<Setup>, plan: Plan) {
    // The channel is kept, because lapin does not reuse a channel id after the broker has closed the channel.
    let (mut channel, mut pause) = (None, REPEATED_EVERY);
    let mut after_refusals = Backoff::new(REPEATED_EVERY * 4, LONGEST_PAUSE).factor(4.0);
    loop {
        sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        clock::compare(&publishing, &setup).await;
        pause = match repeat(&up, &setup, &plan, &mut channel).await {
            Some(pause) => {
                after_refusals.reset();
                pause
            }
            None => after_refusals.delay(),
        };
    }
}

/// Declares the plan once. Returns the pause before the next time; `None` after a refusal.
async fn repeat(up: &LiveConnection, setup: &Setup, plan: &Plan, kept: &mut Option<OwnChannel>) -> Option<Duration> {
    let channel = match kept.take() {
        Some(channel) if channel.0.status().connected() => channel,
        _ => OwnChannel(up.channel().await.ok()?),
    };
    let began = Instant::now();
    match timeout(ANSWERED_WITHIN, declare_on(&channel.0, plan)).await {
        Ok(Ok(())) => {
            *kept = Some(channel);
            Some(REPEATED_EVERY)
        }
        Ok(Err(refused)) if refused.is_missing_object() => {
            invalidate_shared(setup, began).await;
            ensure_shared(up, setup).await.ok().map(|()| SOON)
        }
        Ok(Err(_)) => {
            tracing::debug!("the declaration of a queue is refused");
            None
        }
        // The queue has no leader.
        Err(_) => Some(REPEATED_EVERY),
    }
}
