//! `order.place`: one transaction, in which all happens or nothing.

use leveret::{Context, JobError, JobResult};
use leveret_store::{Entry, Inbox, Outbox};

use crate::{
    error::OrderError,
    order::{Line, PlaceOrder, Placed, confirmation_id},
    shop::{Desk, Shop},
};

const TAKE: &str = "UPDATE stock SET quantity = quantity - $1 WHERE sku = $2 AND quantity >= $1";
const LEFT: &str = "SELECT quantity FROM stock WHERE sku = $1";
const PLACE: &str =
    "INSERT INTO orders (job_id, customer, lines, total_cents) VALUES ($1, $2, $3, $4) RETURNING number";

/// The order from its first statement to its last, the same on both databases: a return before the commit rolls back.
macro_rules! place {
    ($tx:expr, $order:expr, $customer:expr, $ctx:expr) => {{
        let mut tx = $tx.map_err(verdict)?;
        Inbox::once(&mut tx, $ctx).await?;
        for line in $order.by_article() {
            let take = sqlx::query(TAKE).bind(i64::from(line.quantity.get())).bind(&line.sku);
            if take.execute(&mut *tx).await.map_err(verdict)?.rows_affected() == 0 {
                let left = sqlx::query_scalar(LEFT).bind(&line.sku).fetch_optional(&mut *tx).await.map_err(verdict)?;
                return Err(JobError::permanent(too_few(line, left)));
            }
        }
        let (lines, total_cents) = (serde_json::to_string(&$order.lines)?, $order.total_cents());
        let row = sqlx::query_scalar(PLACE).bind($ctx.job_id()).bind(&$customer).bind(lines).bind(total_cents);
        let placed = Placed { number: row.fetch_one(&mut *tx).await.map_err(verdict)?, total_cents };
        let mail = Entry::new(&$order.confirmation(placed)).id(confirmation_id($ctx.job_id())).order_key($customer);
        Outbox::enqueue(&mut tx, mail).await.map_err(verdict)?;
        tx.commit().await.map_err(verdict)?;
        placed
    }};
}

/// Takes the stock, writes the order down, and has the customer told; once, however often the job comes.
///
/// # Errors
///
/// Permanent for an order that can never be placed, else retried.
pub async fn place_order(order: PlaceOrder, ctx: Context<Desk>) -> JobResult<Placed> {
    let customer = order.check().map_err(JobError::permanent)?;
    let placed = match &ctx.state().shop {
        Shop::Postgres(pool) => place!(pool.begin().await, order, customer, &ctx),
        // SQLite would find out only at the first write that another writes too.
        Shop::Sqlite(pool) => place!(pool.begin_with("BEGIN IMMEDIATE").await, order, customer, &ctx),
    };
    ctx.state().relay.wake();
    tracing::info!(number = placed.number, total_cents = placed.total_cents, "order placed");
    Ok(placed)
}

/// What a database refuses, such as a NUL in a text, it will refuse again; anything else may pass.
fn verdict(error: impl Into<leveret_store::Error>) -> JobError {
    let error = error.into();
    if error.is_refusal() { JobError::permanent(error) } else { error.into() }
}

fn too_few(line: &Line, left: Option<i64>) -> OrderError {
    let sku = line.sku.clone();
    match left {
        Some(left) => OrderError::OutOfStock { sku, wanted: line.quantity.get(), left },
        None => OrderError::UnknownArticle { sku },
    }
}
