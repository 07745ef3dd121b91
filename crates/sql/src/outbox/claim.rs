//! The statements of the relay.
//!
//! They choose rows by their state, not by "all numbers above the last one", because a lower number may be committed
//! later.
//!
//! A claim writes a token and an expiry into rows, and holds no lock afterwards. Later statements name the token. So a
//! relay whose lease has expired changes no row that another relay has claimed since.

use std::time::Duration;

use leveret::time::millis;

use crate::{
    Result,
    db::{Dialect, FromRow, Pool, Row, Sql, number_list},
};

/// The bytes of payloads at which a claim ends. The last payload may exceed it.
const CLAIM_BYTES: u64 = 8 * 1024 * 1024;
/// The rows of one order key in a claim, which are published one after the other.
const RUN: u64 = 64;
/// The order keys that one claim reads.
const KEYS: u64 = 256;

/// A job that this relay has claimed.
#[derive(Debug)]
pub(super) struct ClaimedJob {
    pub(super) seq: i64,
    pub(super) id: String,
    pub(super) job: String,
    pub(super) queue: String,
    /// `None` if it is larger than the limit.
    pub(super) payload: Option<Vec<u8>>,
    pub(super) size: u64,
    pub(super) options: String,
    pub(super) order_key: Option<String>,
    pub(super) enqueued_at: u64,
    pub(super) tries: u32,
}

impl FromRow for ClaimedJob {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            seq: row.try_get("seq")?,
            id: row.try_get("id")?,
            job: row.try_get("job")?,
            queue: row.try_get("queue")?,
            payload: row.try_get("payload")?,
            size: row.number("size")?,
            options: row.try_get("options")?,
            order_key: row.try_get("order_key")?,
            enqueued_at: row.number("enqueued_at")?,
            tries: row.number("tries")?,
        })
    }
}

/// The request of a claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimRequest {
    pub(super) token: i64,
    pub(super) rows: u64,
    pub(super) lease: Duration,
    /// Larger payloads are not read, except definitions of workflows, which have a limit of their own.
    pub(super) payload_limit: usize,
}

/// The fate of a job that was not published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PublishFailure {
    /// The job is retried after this time.
    Retry { reason: String, after: Duration },
    /// The job is not retried.
    SetAside { reason: String },
}

/// The order key after which the next claim continues.
#[derive(Debug, Default)]
pub(super) struct KeyCursor(String);

/// The first unpublished row of an order key.
struct KeyHead {
    seq: i64,
    key: String,
    free: bool,
}

impl FromRow for KeyHead {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self { seq: row.try_get("seq")?, key: row.try_get("order_key")?, free: row.flag("free")? })
    }
}

const WAITING: &str = "published_at IS NULL AND set_aside_at IS NULL";

impl Dialect {
    /// The condition of a row that may be claimed.
    fn free(self) -> String {
        let now = self.now();
        format!("{WAITING} AND ready_at <= {now} AND leased_until <= {now}")
    }

    /// Leases the rows of `fit` and returns them.
    fn take(self) -> String {
        format!(
            "UPDATE leveret_outbox SET lease = $1, leased_until = {now} + $2
             WHERE seq IN (SELECT seq FROM fit) AND leased_until <= {now}
             RETURNING seq, id, job, queue,
                       CASE WHEN length(payload) <= $3 OR job = 'leveret.workflow.start' THEN payload END AS payload,
                       CAST(length(payload) AS BIGINT) AS size, options, order_key, enqueued_at, tries",
            now = self.now(),
        )
    }
}

/// As many rows of `next` as fit into [`CLAIM_BYTES`].
const FIT: &str =
    "fit AS (SELECT seq FROM (SELECT seq, sum(size) OVER (ORDER BY seq) - size AS before FROM next) AS sums
                   WHERE before < $4)";

impl ClaimRequest {
    fn fill(&self, text: String) -> Sql {
        let lease = millis(self.lease);
        Sql::new(text).arg(self.token).arg(lease).arg(self.payload_limit as u64).arg(CLAIM_BYTES)
    }
}

/// Claims rows without an order key, the longest-waiting first.
pub(super) async fn claim(pool: &Pool, request: &ClaimRequest) -> Result<Vec<ClaimedJob>> {
    let on = pool.dialect();
    let text = format!(
        "WITH next AS (SELECT seq, length(payload) AS size FROM leveret_outbox
                       WHERE order_key IS NULL AND {free} ORDER BY ready_at, seq LIMIT $5 {locked}),
              {FIT} {take}",
        free = on.free(),
        locked = on.locked(),
        take = on.take(),
    );
    let mut rows: Vec<ClaimedJob> = pool.all(request.fill(text).arg(request.rows)).await?;
    rows.sort_unstable_by_key(|row| row.seq);
    Ok(rows)
}

/// Claims the first rows of order keys whose first row is free, from `cursor` on in the order of the keys. Returns also
/// whether there are more keys.
///
/// The lease of the first row is that of the key: a row is claimed only after all rows before it.
pub(super) async fn claim_ordered(
    pool: &Pool,
    request: &ClaimRequest,
    cursor: &mut KeyCursor,
) -> Result<(Vec<ClaimedJob>, bool)> {
    let heads = heads(pool, cursor).await?;
    let more = heads.len() as u64 >= KEYS;
    *cursor = KeyCursor(heads.last().filter(|_| more).map(|head| head.key.clone()).unwrap_or_default());
    let free: Vec<_> = heads.iter().filter(|head| head.free).map(|head| head.seq).take(request.rows as usize).collect();
    if free.is_empty() {
        return Ok((Vec::new(), more));
    }
    let on = pool.dialect();
    // A row that is not free ends the run: the rows behind it wait for it, even if their own leases have expired.
    let text = format!(
        "WITH heads AS (SELECT seq, order_key FROM leveret_outbox WHERE seq IN {list} AND {free} {locked}),
              runs AS (SELECT rows.seq, length(rows.payload) AS size,
                              max(CASE WHEN {free} THEN 0 ELSE 1 END) OVER (PARTITION BY rows.order_key ORDER BY rows.seq)
                              AS held
                       FROM leveret_outbox AS rows JOIN heads ON rows.order_key = heads.order_key
                       WHERE rows.published_at IS NULL AND rows.seq >= heads.seq AND rows.seq <=
                             (SELECT max(those.seq) FROM (SELECT x.seq FROM leveret_outbox AS x
                              WHERE x.order_key = heads.order_key AND x.published_at IS NULL
                              ORDER BY x.seq LIMIT $6) AS those)),
              next AS (SELECT seq, size FROM runs WHERE held = 0 ORDER BY seq LIMIT $7),
              {FIT} {take}",
        list = on.numbers("$5"),
        free = on.free(),
        locked = on.locked(),
        take = on.take(),
    );
    let sql = request.fill(text).arg(number_list(&free)).arg(RUN).arg(request.rows);
    let mut rows: Vec<ClaimedJob> = pool.all(sql).await?;
    rows.sort_unstable_by_key(|row| row.seq);
    Ok((rows, more))
}

/// Reads the first row of each key. It jumps from key to key through the index, however many rows a key has.
async fn heads(pool: &Pool, cursor: &KeyCursor) -> Result<Vec<KeyHead>> {
    let on = pool.dialect();
    let next = |after: &str| {
        format!("(SELECT min(order_key) FROM leveret_outbox WHERE order_key > {after} AND published_at IS NULL)")
    };
    let text = format!(
        "WITH RECURSIVE keys (order_key, place) AS (
             SELECT {first}, 1 UNION ALL
             SELECT {next}, place + 1 FROM keys WHERE order_key IS NOT NULL AND place < $2),
         heads AS (SELECT (SELECT min(seq) FROM leveret_outbox AS rows WHERE rows.order_key = keys.order_key
                           AND rows.published_at IS NULL) AS seq FROM keys WHERE order_key IS NOT NULL)
         SELECT seq, order_key, CAST(CASE WHEN {free} THEN 1 ELSE 0 END AS BIGINT) AS free
         FROM leveret_outbox WHERE seq IN (SELECT seq FROM heads) ORDER BY order_key",
        first = next("$1"),
        next = next("keys.order_key"),
        free = on.free(),
    );
    pool.all(Sql::new(text).arg(cursor.0.as_str()).arg(KEYS)).await
}

/// Deletes published rows, or marks them. Returns how many rows were still leased to this relay.
pub(super) async fn finish(pool: &Pool, token: i64, rows: &[i64], keep: bool) -> Result<u64> {
    let on = pool.dialect();
    let change = if keep {
        format!("UPDATE leveret_outbox SET published_at = {}, lease = NULL, reason = NULL", on.now())
    } else {
        "DELETE FROM leveret_outbox".to_owned()
    };
    let text = format!("{change} WHERE lease = $1 AND seq IN {}", on.numbers("$2"));
    pool.execute(Sql::new(text).arg(token).arg(number_list(rows))).await
}

/// Writes down a failed try. Returns how many rows were still leased to this relay.
pub(super) async fn fail(pool: &Pool, token: i64, rows: &[i64], failure: &PublishFailure) -> Result<u64> {
    let on = pool.dialect();
    let (change, reason, after) = match failure {
        PublishFailure::Retry { reason, after } => ("ready_at", reason, millis(*after)),
        PublishFailure::SetAside { reason } => ("set_aside_at", reason, 0),
    };
    let text = format!(
        "UPDATE leveret_outbox SET {change} = {} + $3, reason = $4, tries = tries + 1, lease = NULL, leased_until = 0
         WHERE lease = $1 AND seq IN {}",
        on.now(),
        on.numbers("$2"),
    );
    pool.execute(Sql::new(text).arg(token).arg(number_list(rows)).arg(after).arg(reason.as_str())).await
}

/// Ends the lease of rows that were not tried. Returns how many were still leased to this relay.
pub(super) async fn release(pool: &Pool, token: i64, rows: &[i64]) -> Result<u64> {
    let list = pool.dialect().numbers("$2");
    let text = format!("UPDATE leveret_outbox SET lease = NULL, leased_until = 0 WHERE lease = $1 AND seq IN {list}");
    pool.execute(Sql::new(text).arg(token).arg(number_list(rows))).await
}
