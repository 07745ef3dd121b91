//! The orders worker: a job on the queue `orders` becomes an order, less stock and an event in one transaction, and the
//! event becomes a pick list. A [`checkout()`] is a workflow of such jobs: it also charges the customer, and mails an
//! invoice.
//!
//! In reading order: [`worker`] registers the handlers. [`jobs::place_order`] runs the transaction of an [`order`], and
//! [`jobs`] has those of its reservation and its [`payment`]. [`warehouse`] subscribes to placed orders. [`shop`] is the
//! database. [`run`] runs the worker beside the relay that emits the events. [`error`] has the errors.
//!
//! # Outcomes
//!
//! | what happens | outcome |
//! |---|---|
//! | the transaction committed: order, stock, inbox and outbox | done |
//! | the same job ran before | duplicate, without effect |
//! | the job is wrong: an invalid mail address, no lines, an unknown article, too little stock or credit, or an id over 121 bytes | dead letter, without effect |
//! | the database is unreachable or busy, or broke a deadlock | retried by the queue's policy, without effect |
//!
//! The event is [`OrderPlaced`] on the topic `order.placed`, which the relay emits after the commit. The events of one
//! customer are emitted in the order of the commits. If a relay crashes, an event may be emitted twice with one id.
//! Each subscription has its own copy: `warehouse`, which adds pick lists to this database, and `order-mails` of the
//! email worker, which confirms orders to their customers unless a checkout does. A subscription begins when its worker
//! starts for the first time, so start the email worker before the first order, or declare its subscription.
//!
//! The table `stock` has the stock, and `accounts` the credit from which customers pay. The inbox keeps the id of an
//! order as long as the order, so that a replay of an old dead letter does not place the order twice.
//! `leveret inbox prune` removes old ids.

mod checkout;
pub mod error;
pub mod jobs;
pub mod order;
pub mod payment;
mod settings;
pub mod shop;
pub mod warehouse;

use std::time::Duration;

use leveret::{Broker, Queue, Subscription, Worker};
use leveret_sql::{Relay, Waker};
use tokio_util::sync::CancellationToken;

pub use self::{
    checkout::checkout,
    error::{OrderError, ShopError},
    order::{OrderLine, OrderPlaced, PlaceOrder, PlacedOrder, ReleaseStock, ReserveStock, event_id},
    payment::{ChargePayment, Payment, RefundPayment},
    settings::OrderSettings,
    shop::{OrderState, Shop},
};

/// Time limit of one job or pick list, most of which is waiting for other writers.
const TIMEOUT: Duration = Duration::from_secs(60);
const READY_INTERVAL: Duration = Duration::from_millis(50);

/// Returns the worker of the queue `orders`, which wakes the relay after each commit, and of the subscription
/// `warehouse`.
#[must_use]
pub fn worker(shop: Shop, relay: Waker) -> Worker<OrderState> {
    let queue = Queue::of::<PlaceOrder>().concurrency(8).timeout(TIMEOUT);
    let warehouse = Subscription::new(warehouse::WAREHOUSE).concurrency(8).timeout(TIMEOUT);
    Worker::new(OrderState { shop, relay })
        .queue(queue)
        .handle(jobs::place_order)
        .handle(jobs::charge_payment)
        .handle(jobs::refund_payment)
        .handle(jobs::reserve_stock)
        .handle(jobs::release_stock)
        .subscribe(warehouse, warehouse::pick)
}

/// Runs a worker and its relay until `shutdown` resolves. The relay runs from the time when the worker has declared its
/// subscription until the worker is drained.
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
        let relayed = tokio::select! {
            () = subscribed(broker) => relay.run(drained.cancelled()).await,
            () = drained.cancelled() => Ok(()),
        };
        relay_ended.cancel();
        relayed
    };
    let (worked, relayed) = tokio::join!(Box::pin(working), Box::pin(relaying));
    worked?;
    Ok(relayed?)
}

/// Waits until the worker is subscribed: the broker drops an event that has no subscription yet.
async fn subscribed(broker: &Broker) {
    while !broker.consumes(warehouse::WAREHOUSE) {
        tokio::time::sleep(READY_INTERVAL).await;
    }
}
