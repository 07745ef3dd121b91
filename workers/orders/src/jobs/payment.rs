//! The jobs `payment.charge` and `payment.refund`, which move money of a customer's credit.

use leveret::{Context, JobError, JobResult};
use leveret_email::address;
use leveret_sql::Inbox;

use crate::{
    error::{OrderError, database_error},
    payment::{ChargePayment, Payment, RefundPayment},
    shop::{OrderState, Shop},
};

const TAKE: &str = "UPDATE accounts SET cents = cents - $1 WHERE customer = $2 AND cents >= $1";
const CREDIT: &str = "SELECT cents FROM accounts WHERE customer = $1";
const PAY: &str = "INSERT INTO payments (job_id, customer, cents) VALUES ($1, $2, $3) RETURNING number";
const REFUND: &str = "DELETE FROM payments WHERE job_id = $1 AND order_number IS NULL RETURNING customer, cents";
const GIVE: &str = "UPDATE accounts SET cents = cents + $1 WHERE customer = $2";

/// Runs the transaction of a charge, the same on both databases. A return before the commit rolls back.
macro_rules! charge {
    ($tx:expr, $customer:expr, $cents:expr, $ctx:expr) => {{
        let mut tx = $tx.map_err(database_error)?;
        Inbox::once(&mut tx, $ctx).await?;
        let take = sqlx::query(TAKE).bind($cents).bind(&$customer);
        if take.execute(&mut *tx).await.map_err(database_error)?.rows_affected() == 0 {
            let credit = sqlx::query_scalar(CREDIT).bind(&$customer).fetch_optional(&mut *tx).await;
            let credit: Option<i64> = credit.map_err(database_error)?;
            let (customer, cents, credit) = ($customer, $cents, credit.unwrap_or(0));
            return Err(JobError::permanent(OrderError::CreditTooSmall { customer, cents, credit }));
        }
        let pay = sqlx::query_scalar(PAY).bind($ctx.job_id().as_str()).bind(&$customer).bind($cents);
        let payment = Payment { number: pay.fetch_one(&mut *tx).await.map_err(database_error)?, cents: $cents };
        Inbox::finish(&mut tx, $ctx, &payment).await?;
        tx.commit().await.map_err(database_error)?;
        payment
    }};
}

/// Runs the transaction of a refund.
macro_rules! refund {
    ($tx:expr, $charge_id:expr, $ctx:expr) => {{
        let mut tx = $tx.map_err(database_error)?;
        Inbox::once(&mut tx, $ctx).await?;
        let refund = sqlx::query_as(REFUND).bind($charge_id).fetch_optional(&mut *tx).await;
        let refunded: Option<(String, i64)> = refund.map_err(database_error)?;
        if let Some((customer, cents)) = &refunded {
            sqlx::query(GIVE).bind(cents).bind(customer).execute(&mut *tx).await.map_err(database_error)?;
        }
        tx.commit().await.map_err(database_error)?;
        refunded.map_or(0, |(_, cents)| cents)
    }};
}

/// Takes the money from the customer's credit, once even if the job runs again.
///
/// # Errors
///
/// Permanent for a charge that the credit does not cover, else retried.
pub async fn charge_payment(charge: ChargePayment, ctx: Context<OrderState>) -> JobResult<Payment> {
    let customer = address::parse(&charge.customer).map_err(|error| JobError::permanent(OrderError::from(error)))?;
    let (customer, cents) = (customer.email.to_string(), charge.cents);
    let payment = match &ctx.state().shop {
        Shop::Postgres(pool) => charge!(pool.begin().await, customer, cents, &ctx),
        // A deferred transaction would fail at its first write if another one writes too.
        Shop::Sqlite(pool) => charge!(pool.begin_with("BEGIN IMMEDIATE").await, customer, cents, &ctx),
    };
    tracing::info!(number = payment.number, cents, "payment charged");
    Ok(payment)
}

/// Gives the money of a charge back, once even if the job runs again. A payment that an order used, or that is refunded, is
/// left as it is.
///
/// # Errors
///
/// Retried.
pub async fn refund_payment(refund: RefundPayment, ctx: Context<OrderState>) -> JobResult {
    let charge_id = &refund.charge_id;
    let cents = match &ctx.state().shop {
        Shop::Postgres(pool) => refund!(pool.begin().await, charge_id, &ctx),
        Shop::Sqlite(pool) => refund!(pool.begin_with("BEGIN IMMEDIATE").await, charge_id, &ctx),
    };
    tracing::info!(charge_id, cents, "payment refunded");
    Ok(())
}
