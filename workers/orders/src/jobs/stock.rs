//! The jobs `stock.reserve` and `stock.release`, which take the stock of an order before it is placed.

use leveret::{Context, JobError, JobResult};
use leveret_sql::Inbox;

use super::take_stock;
use crate::{
    error::database_error,
    order::{self, ReleaseStock, ReserveStock},
    shop::{OrderState, Shop},
};

const KEEP: &str = "INSERT INTO reservations (job_id, sku, quantity) VALUES ($1, $2, $3)";
const FREE: &str = "DELETE FROM reservations WHERE job_id = $1 RETURNING sku, quantity";
const GIVE: &str = "UPDATE stock SET quantity = quantity + $1 WHERE sku = $2";

/// Runs the transaction of a reservation, the same on both databases. A return before the commit rolls back.
macro_rules! reserve {
    ($tx:expr, $lines:expr, $ctx:expr) => {{
        let mut tx = $tx.map_err(database_error)?;
        Inbox::once(&mut tx, $ctx).await?;
        for line in order::by_article($lines) {
            take_stock!(tx, line);
            let keep = sqlx::query(KEEP).bind($ctx.job_id().as_str()).bind(&line.sku);
            keep.bind(i64::from(line.quantity.get())).execute(&mut *tx).await.map_err(database_error)?;
        }
        tx.commit().await.map_err(database_error)?;
    }};
}

/// Runs the transaction that gives reserved stock back.
macro_rules! release {
    ($tx:expr, $reservation:expr, $ctx:expr) => {{
        let mut tx = $tx.map_err(database_error)?;
        Inbox::once(&mut tx, $ctx).await?;
        let freed = sqlx::query_as(FREE).bind($reservation).fetch_all(&mut *tx).await;
        let mut freed: Vec<(String, i64)> = freed.map_err(database_error)?;
        freed.sort_unstable();
        for (sku, quantity) in freed {
            sqlx::query(GIVE).bind(quantity).bind(sku).execute(&mut *tx).await.map_err(database_error)?;
        }
        tx.commit().await.map_err(database_error)?;
    }};
}

/// Takes the stock of an order and keeps it for `order.place`, once even if the job runs again.
///
/// # Errors
///
/// Permanent if the stock is too small, else retried.
pub async fn reserve_stock(reserve: ReserveStock, ctx: Context<OrderState>) -> JobResult {
    order::check_lines(&reserve.lines).map_err(JobError::permanent)?;
    match &ctx.state().shop {
        Shop::Postgres(pool) => reserve!(pool.begin().await, &reserve.lines, &ctx),
        // A deferred transaction would fail at its first write if another one writes too.
        Shop::Sqlite(pool) => reserve!(pool.begin_with("BEGIN IMMEDIATE").await, &reserve.lines, &ctx),
    }
    tracing::info!(lines = reserve.lines.len(), "stock reserved");
    Ok(())
}

/// Gives the stock of a reservation back. A reservation that an order used, or that is released, has none.
///
/// # Errors
///
/// Retried.
pub async fn release_stock(release: ReleaseStock, ctx: Context<OrderState>) -> JobResult {
    match &ctx.state().shop {
        Shop::Postgres(pool) => release!(pool.begin().await, &release.reservation, &ctx),
        Shop::Sqlite(pool) => release!(pool.begin_with("BEGIN IMMEDIATE").await, &release.reservation, &ctx),
    }
    tracing::info!(reservation = release.reservation, "stock released");
    Ok(())
}
