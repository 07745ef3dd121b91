//! The subscription `warehouse`: each placed order becomes one pick list.

use leveret::{Context, JobResult};
use leveret_sql::Inbox;

use crate::{
    error::database_error,
    order::{OrderLine, OrderPlaced},
    shop::{OrderState, Shop},
};

/// Name of the subscription.
pub const WAREHOUSE: &str = "warehouse";

const ADD: &str = "INSERT INTO pick_lists (order_number, lines) VALUES ($1, $2)";

/// Runs the transaction of a pick list, the same on both databases. A return before the commit rolls back.
macro_rules! pick {
    ($tx:expr, $order:expr, $ctx:expr) => {{
        let mut tx = $tx.map_err(database_error)?;
        Inbox::once(&mut tx, $ctx).await?;
        let add = sqlx::query(ADD).bind($order.order).bind(pick_list($order.lines));
        add.execute(&mut *tx).await.map_err(database_error)?;
        tx.commit().await.map_err(database_error)?;
    }};
}

/// Adds the pick list of an order, once even if the event comes again.
///
/// # Errors
///
/// Permanent for data that the database refuses, else retried.
pub async fn pick(order: OrderPlaced, ctx: Context<OrderState>) -> JobResult {
    match &ctx.state().shop {
        Shop::Postgres(pool) => pick!(pool.begin().await, order, &ctx),
        // A deferred transaction would fail at its first write if another one writes too.
        Shop::Sqlite(pool) => pick!(pool.begin_with("BEGIN IMMEDIATE").await, order, &ctx),
    }
    Ok(())
}

/// The articles in the order of their shelves.
fn pick_list(mut lines: Vec<OrderLine>) -> String {
    lines.sort_unstable_by(|one, other| one.sku.cmp(&other.sku));
    lines.iter().map(|line| format!("{} x {}", line.quantity, line.sku)).collect::<Vec<_>>().join("\n")
}
