//! Idempotency keys: a client that repeats a request with the same key gets the same response.
//!
//! The server claims a key before it publishes the jobs, and stores their ids with the claim. If the server dies before
//! its response, the next claim gets the same ids. So the jobs may be published twice, but not under two ids.

use std::time::Duration;

use leveret::time::millis;
use leveret_sql::{
    Result,
    db::{Row, Sql, text_list},
};
use serde_json::Value;

use crate::open::{Store, WriteLock};

/// A request with an idempotency key.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyRequest<'a> {
    /// The key, which the caller has made unique among clients.
    pub key: &'a str,
    /// A hash of the request, which distinguishes it from another one with the same key.
    pub body_hash: &'a str,
    /// The ids of its jobs if the key was not claimed before.
    pub task_ids: &'a [String],
}

/// The result of a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum IdempotencyClaim {
    /// The caller has the key until the lease expires, and publishes under these ids, which are those of the first
    /// claim.
    New {
        /// One id for each job, in order.
        task_ids: Vec<String>,
    },
    /// The request has this response.
    Done(Value),
    /// Another server works on the request.
    InFlight,
    /// The key was used for another request.
    Other,
}

impl Store {
    /// Claims a key for the time of `lease`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use leveret_store::{IdempotencyClaim, IdempotencyRequest};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// # let now = 1_800_000_000_000;
    /// let request = IdempotencyRequest { key: "k1", body_hash: "9f86d081", task_ids: &["order-17".into()] };
    /// let lease = Duration::from_secs(30);
    /// assert!(matches!(store.claim(&request, now, lease).await?, IdempotencyClaim::New { .. }));
    /// assert_eq!(store.claim(&request, now, lease).await?, IdempotencyClaim::InFlight);
    /// store.finish("k1", &"order-17".into()).await?;
    /// assert_eq!(store.claim(&request, now, lease).await?, IdempotencyClaim::Done("order-17".into()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn claim(
        &self,
        claiming: &IdempotencyRequest<'_>,
        now: u64,
        lease: Duration,
    ) -> Result<IdempotencyClaim> {
        let until = now.saturating_add(millis(lease));
        let mut tx = self.write(WriteLock::Idempotency).await?;
        let known = Sql::new("SELECT * FROM leveret_idempotency WHERE key = $1").arg(claiming.key);
        let claim = match known.rows(&mut tx).await?.first() {
            None => {
                let text = "INSERT INTO leveret_idempotency (key, body_hash, task_ids, leased_until, created_at)
                            VALUES ($1, $2, $3, $4, $5)";
                let sql = Sql::new(text).arg(claiming.key).arg(claiming.body_hash);
                sql.arg(text_list(claiming.task_ids.iter().map(String::as_str)))
                    .arg(until)
                    .arg(now)
                    .execute(&mut tx)
                    .await?;
                IdempotencyClaim::New { task_ids: claiming.task_ids.to_vec() }
            }
            Some(row) => {
                let claim = again(row, claiming, now)?;
                if let IdempotencyClaim::New { .. } = claim {
                    let text = "UPDATE leveret_idempotency SET leased_until = $1 WHERE key = $2";
                    Sql::new(text).arg(until).arg(claiming.key).execute(&mut tx).await?;
                }
                claim
            }
        };
        tx.commit().await?;
        Ok(claim)
    }

    /// Stores the response to the request of a claimed key.
    ///
    /// See [`claim`](Self::claim) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn finish(&self, key: &str, answer: &Value) -> Result<()> {
        let mut tx = self.write(WriteLock::Idempotency).await?;
        let text = "UPDATE leveret_idempotency SET answer = $1 WHERE key = $2";
        Sql::new(text).arg(answer).arg(key).execute(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Releases a claimed key without a response, because its work has failed, or a part of it. The next claim gets the
    /// key with the same ids.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// store.release("k1").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn release(&self, key: &str) -> Result<()> {
        let mut tx = self.write(WriteLock::Idempotency).await?;
        let text = "UPDATE leveret_idempotency SET leased_until = 0 WHERE key = $1";
        Sql::new(text).arg(key).execute(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// The result of a claim of a known key.
fn again(row: &Row, claiming: &IdempotencyRequest<'_>, now: u64) -> Result<IdempotencyClaim> {
    if row.try_get::<&str>("body_hash")? != claiming.body_hash {
        return Ok(IdempotencyClaim::Other);
    }
    if let Some(answer) = row.json("answer")? {
        return Ok(IdempotencyClaim::Done(answer));
    }
    if row.number::<u64>("leased_until")? > now {
        return Ok(IdempotencyClaim::InFlight);
    }
    let ids: &str = row.try_get("task_ids")?;
    let task_ids = serde_json::from_str(ids).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(IdempotencyClaim::New { task_ids })
}
