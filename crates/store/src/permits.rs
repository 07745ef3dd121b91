//! Limits that workers share: slots of a rate and permits of a concurrency limit, leased many at a time.
//!
//! Times are on the database's clock, so the clocks of workers have no effect.

use std::time::Duration;

use leveret::{
    Rate,
    limits::{Answer, LeaseRequest, LimitStore, Slots},
};
use leveret_sql::{
    Result,
    db::{Dialect, Sql, TimedConnection, number},
};
use uuid::Uuid;

use crate::open::{Store, WriteLock};

/// ```
/// # use leveret::{Context, JobResult, Rate, Worker};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "email.send", queue = "email")] struct SendEmail;
/// # async fn send_email(_: SendEmail, _: Context<()>) -> JobResult { Ok(()) }
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("leveret.db").display().to_string();
/// let store = leveret_store::Store::open(&path).await?;
/// let worker = Worker::new(()).limit_store(store).handle_with(send_email, |h| h.shared_rate("smtp", Rate::per_second(100)));
/// # let _ = worker;
/// # Ok(()) }
/// ```
impl LimitStore for Store {
    fn slots<'a>(&'a self, limit: &'a str, rate: Rate, slots: u32) -> Answer<'a, Slots> {
        Box::pin(async move { Ok(take_slots(self, limit, rate, slots).await?) })
    }

    fn lease<'a>(&'a self, limit: &'a str, wish: LeaseRequest<'a>) -> Answer<'a, u32> {
        Box::pin(async move { Ok(lease_slots(self, limit, wish).await?) })
    }
}

async fn take_slots(store: &Store, limit: &str, rate: Rate, slots: u32) -> Result<Slots> {
    let mut tx = store.write(WriteLock::Limits).await?;
    let now = now(&mut tx).await?;
    let known = Sql::new("SELECT free, secret FROM leveret_rates WHERE name = $1").arg(limit);
    let known: Option<(i64, Option<String>)> = known.maybe(&mut tx).await?;
    let (free, secret) = known.unwrap_or_default();
    let secret = secret.and_then(|secret| Uuid::parse_str(&secret).ok()).unwrap_or_else(Uuid::new_v4);
    let first = free.max(now - nanos(rate.tolerance()));
    let next = first.saturating_add(nanos(rate.interval()).saturating_mul(slots.into()));
    let text = "INSERT INTO leveret_rates (name, free, secret) VALUES ($1, $2, $3)
                ON CONFLICT (name) DO UPDATE SET free = excluded.free, secret = excluded.secret";
    Sql::new(text).arg(limit).arg(next).arg(secret.simple().to_string().as_str()).execute(&mut tx).await?;
    tx.commit().await?;
    Ok(Slots { first: first - now, secret: secret.into_bytes() })
}

async fn lease_slots(store: &Store, limit: &str, wish: LeaseRequest<'_>) -> Result<u32> {
    let mut tx = store.write(WriteLock::Limits).await?;
    let now = now(&mut tx).await?;
    let over = "DELETE FROM leveret_places WHERE name = $1 AND (leased_until <= $2 OR holder = $3)";
    Sql::new(over).arg(limit).arg(now).arg(wish.holder).execute(&mut tx).await?;
    let text = "SELECT granted, wanted FROM leveret_places WHERE name = $1";
    let others: Vec<(i64, i64)> = Sql::new(text).arg(limit).all(&mut tx).await?;
    let others: Vec<_> = others.into_iter().map(|(granted, wanted)| (number(granted), number(wanted))).collect();
    let granted = share(&wish, &others);
    if granted > 0 || wish.wanted > 0 {
        let text =
            "INSERT INTO leveret_places (name, holder, granted, wanted, leased_until) VALUES ($1, $2, $3, $4, $5)";
        let sql = Sql::new(text).arg(limit).arg(wish.holder).arg(granted).arg(wish.wanted);
        sql.arg(now.saturating_add(nanos(wish.lease))).execute(&mut tx).await?;
    }
    tx.commit().await?;
    Ok(granted)
}

/// Returns the number of permits that a worker gets: as many as it requests and are free.
///
/// If the workers request more than there are, each gets at most an equal share, or what the others leave. Permits in
/// use are not revoked.
fn share(wish: &LeaseRequest<'_>, others: &[(u32, u32)]) -> u32 {
    let sum = |of: fn(&(u32, u32)) -> u32| others.iter().map(of).fold(0, u32::saturating_add);
    let free = wish.most.saturating_sub(sum(|(granted, _)| *granted));
    let left = wish.most.saturating_sub(sum(|(_, wanted)| *wanted));
    let asking = 1 + others.iter().filter(|(_, wanted)| *wanted > 0).count() as u32;
    let just = (wish.most / asking).max(1).max(left);
    wish.wanted.min(just).min(free).max(wish.used)
}

/// The nanoseconds since the epoch, by the database's clock.
async fn now(tx: &mut TimedConnection) -> Result<i64> {
    let text = match tx.dialect() {
        Dialect::Sqlite => "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000000",
        Dialect::Postgres => "SELECT (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint",
    };
    Sql::new(text).one(tx).await
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shared_justly_and_none_is_taken_from_a_job_that_runs() {
        let wish = |used, wanted| LeaseRequest { holder: "me", used, wanted, most: 10, lease: Duration::from_secs(10) };
        for (used, wanted, others, granted) in [
            (0, 4, vec![], 4),
            (0, 40, vec![], 10),
            (0, 10, vec![(10, 10)], 0),
            (10, 10, vec![(0, 10)], 10),
            (3, 10, vec![(0, 10)], 5),
            (0, 10, vec![(2, 2)], 8),
            (0, 10, vec![(5, 10)], 5),
            (0, 10, vec![(3, 10), (3, 10)], 3),
            (0, 0, vec![(5, 10)], 0),
        ] {
            assert_eq!(share(&wish(used, wanted), &others), granted, "{used} {wanted} {others:?}");
        }
    }
}
