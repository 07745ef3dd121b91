//! The job `order.place`, which runs one transaction.

use leveret::{Context, JobError, JobResult, NewEvent};
use leveret_sql::{Inbox, Outbox};
use sqlx::{PgPool, SqlitePool};

use super::take_stock;
use crate::{
    error::{OrderError, database_error},
    order::{self, PlaceOrder, PlacedOrder, event_id},
    shop::{OrderState, Shop},
};

const USE: &str = "DELETE FROM reservations WHERE job_id = $1 RETURNING sku, quantity";
const PAY: &str = "UPDATE payments SET order_number = $1
                   WHERE job_id = $2 AND cents = $3 AND customer = $4 AND order_number IS NULL";
const PLACE: &str =
    "INSERT INTO orders (job_id, customer, lines, total_cents) VALUES ($1, $2, $3, $4) RETURNING number";

/// Runs the transaction of an order, the same on both databases. A return before the commit rolls back.
macro_rules! place {
    ($tx:expr, $order:expr, $customer:expr, $ctx:expr) => {{
        let mut tx = $tx.map_err(database_error)?;
        Inbox::once(&mut tx, $ctx).await?;
        match &$order.reservation {
            Some(reservation) => {
                let used = sqlx::query_as(USE).bind(reservation).fetch_all(&mut *tx).await;
                let mut used: Vec<(String, i64)> = used.map_err(database_error)?;
                used.sort_unstable();
                if used != order::quantities(&$order.lines) {
                    let reservation = reservation.clone();
                    return Err(JobError::permanent(OrderError::NoReservation { reservation }));
                }
            }
            None => {
                for line in order::by_article(&$order.lines) {
                    take_stock!(tx, line);
                }
            }
        }
        let (lines, total_cents) = (serde_json::to_string(&$order.lines)?, $order.total_cents());
        let row = sqlx::query_scalar(PLACE).bind($ctx.job_id().as_str()).bind(&$customer).bind(lines).bind(total_cents);
        let placed = PlacedOrder { number: row.fetch_one(&mut *tx).await.map_err(database_error)?, total_cents };
        if let Some(payment) = &$order.payment {
            let pay = sqlx::query(PAY).bind(placed.number).bind(payment).bind(total_cents).bind(&$customer);
            if pay.execute(&mut *tx).await.map_err(database_error)?.rows_affected() == 0 {
                return Err(JobError::permanent(OrderError::NoPayment { payment: payment.clone() }));
            }
        }
        let event = NewEvent::of(&$order.placed(placed)).id(event_id($ctx.job_id()));
        Outbox::emit_ordered(&mut tx, $customer, event).await.map_err(database_error)?;
        Inbox::finish(&mut tx, $ctx, &placed).await?;
        tx.commit().await.map_err(database_error)?;
        placed
    }};
}

/// Takes the stock unless it is reserved, stores the order and emits `order.placed`, once even if the job runs again.
///
/// # Errors
///
/// Permanent for an order that cannot be placed, else retried.
pub async fn place_order(order: PlaceOrder, ctx: Context<OrderState>) -> JobResult<PlacedOrder> {
    let customer = order.check().map_err(JobError::permanent)?;
    let placed = match &ctx.state().shop {
        Shop::Postgres(pool) => on_postgres(pool, order, customer, &ctx).await?,
        Shop::Sqlite(pool) => on_sqlite(pool, order, customer, &ctx).await?,
    };
    ctx.state().relay.wake();
    tracing::info!(number = placed.number, total_cents = placed.total_cents, "order placed");
    Ok(placed)
}

async fn on_postgres(
    pool: &PgPool,
    order: PlaceOrder,
    customer: String,
    ctx: &Context<OrderState>,
) -> JobResult<PlacedOrder> {
    Ok(place!(pool.begin().await, order, customer, ctx))
}

async fn on_sqlite(
    pool: &SqlitePool,
    order: PlaceOrder,
    customer: String,
    ctx: &Context<OrderState>,
) -> JobResult<PlacedOrder> {
    // A deferred transaction would fail at its first write if another one writes too.
    Ok(place!(pool.begin_with("BEGIN IMMEDIATE").await, order, customer, ctx))
}
