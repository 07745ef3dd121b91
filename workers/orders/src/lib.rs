//! The orders worker: a job on the queue `orders` becomes an order, less stock and a mail in one transaction.
//!
//! In reading order: [`worker`] registers the [`jobs`]. [`jobs::place_order`] runs the transaction of an [`order`].
//! [`shop`] is the database. [`run`] runs the worker beside the relay that publishes the mails. [`error`] has the errors.
//!
//! # Outcomes
//!
//! | what happens | outcome |
//! |---|---|
//! | the transaction committed: order, stock, inbox and outbox | done |
//! | the same job ran before | duplicate, without effect |
//! | the job is wrong: an invalid mail address, no lines, an unknown article, or too little stock | dead letter, without effect |
//! | the database is unreachable or busy, or broke a deadlock | retried by the queue's policy, without effect |
//!
//! The mail is another job, `email.send` on the queue `email`, which the relay publishes after the commit. The mails of one
//! customer are published in the order of the commits. If a relay crashes, a mail may be published twice with one id. The
//! table `stock` has the stock. The inbox keeps the id of an order as long as the order, so that a replay of an old dead
//! letter does not place the order twice. `leveret inbox prune` removes old ids.

pub mod error;
pub mod jobs;
pub mod order;
mod settings;
pub mod shop;

use std::time::Duration;

use leveret::{Broker, Queue, Worker};
use leveret_sql::{Relay, Waker};
use tokio_util::sync::CancellationToken;

pub use self::{
    error::{OrderError, ShopError},
    order::{OrderLine, PlaceOrder, PlacedOrder, confirmation_id},
    settings::OrderSettings,
    shop::{OrderState, Shop},
};

/// Time limit of one order, most of which is waiting for other writers.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the worker of the queue `orders`, which wakes the relay after each commit.
#[must_use]
pub fn worker(shop: Shop, relay: Waker) -> Worker<OrderState> {
    let queue = Queue::new("orders").concurrency(8).timeout(TIMEOUT);
    Worker::new(OrderState { shop, relay }).queue(queue).handle(jobs::place_order)
}

/// Runs a worker and its relay until `shutdown` resolves. The relay runs until the worker is drained.
///
/// # Errors
///
/// The worker or the relay fails, which stops the other one.
pub async fn run(
    worker: Worker<OrderState>,
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
