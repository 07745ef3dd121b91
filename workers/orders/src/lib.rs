//! The orders worker: a job on the queue `orders` becomes an order, less stock and a mail, all of them or nothing.
//!
//! In reading order: [`worker`] registers the [`jobs`]; [`jobs::place_order`] does in one transaction what an [`order`]
//! asks for; [`shop`] is the database; [`run`] runs the worker beside the relay that publishes the mails; [`error`] says
//! what a failure means.
//!
//! # What becomes of a job
//!
//! | what happened | outcome |
//! |---|---|
//! | the transaction committed: order, stock, inbox and outbox | done |
//! | the same job came before | duplicate, without effect |
//! | the job is wrong: no mail address, no lines, an article that is unknown or too few of it | dead letter, without effect |
//! | the database is away, busy or broke a deadlock | retried by the queue's policy, without effect |
//!
//! The mail is a job of its own, `email.send` on the queue `email`, and goes out when the relay has published it: in the
//! order of the commits for each customer, and perhaps twice, with one id, if a relay dies. The stock is what the table
//! `stock` says. The inbox remembers an order as long as the order itself is kept, so that a dead letter of last year that
//! somebody replays places none twice; `leveret inbox prune` makes it forget.

pub mod error;
pub mod jobs;
pub mod order;
mod settings;
pub mod shop;

use std::time::Duration;

use leveret::{Broker, Queue, Worker};
use leveret_store::{Relay, Waker};
use tokio_util::sync::CancellationToken;

pub use self::{
    error::{OrderError, ShopError},
    order::{Line, PlaceOrder, Placed, confirmation_id},
    settings::OrderSettings,
    shop::{Desk, Shop},
};

/// How long one order may take; most of it is waiting for others who write.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The worker of the queue `orders`, which wakes the relay after each commit.
#[must_use]
pub fn worker(shop: Shop, relay: Waker) -> Worker<Desk> {
    let queue = Queue::of::<PlaceOrder>().concurrency(8).timeout(TIMEOUT);
    Worker::new(Desk { shop, relay }).queue(queue).handle(jobs::place_order)
}

/// Runs a worker and its relay until `shutdown` is ready; the relay goes on while the worker drains.
///
/// # Errors
///
/// The worker's or the relay's; either one stops the other.
pub async fn run(
    worker: Worker<Desk>,
    relay: Relay,
    broker: &Broker,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ShopError> {
    let (drained, relay_ended) = (CancellationToken::new(), CancellationToken::new());
    let working = async {
        let stop = async {
            tokio::select! {
                () = shutdown => {}
                () = relay_ended.cancelled() => {}
            }
        };
        let worked = worker.run(broker, stop).await;
        drained.cancel();
        worked
    };
    let relaying = async {
        let relayed = relay.run(drained.cancelled()).await;
        relay_ended.cancel();
        relayed
    };
    let (worked, relayed) = tokio::join!(Box::pin(working), Box::pin(relaying));
    worked?;
    Ok(relayed?)
}
