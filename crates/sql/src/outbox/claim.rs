//! Every statement of the relay. Rows are chosen by what they are, never by "all numbers above the last": a lower number
//! may be committed later.
//!
//! A claim writes a token and a time into rows; no lock is held afterwards. Whatever is done with a row then names the
//! token, so that a relay whose lease was over changes nothing of the next one's.

use std::time::Duration;

use crate::{
    Result,
    db::{Dialect, FromRow, Pool, Row, Sql, number_list},
};

/// Payloads that one claim may bring into memory, and the last of them besides.
const CLAIM_BYTES: u64 = 8 * 1024 * 1024;
/// Rows of one order key in a claim: they are published one after the other.
const RUN: u64 = 64;
/// Order keys that are looked at in one step.
const KEYS: u64 = 256;

/// A row in hand.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) seq: i64,
    pub(super) id: String,
    pub(super) job: String,
    pub(super) queue: String,
    /// None: it is larger than the limit.
    pub(super) payload: Option<Vec<u8>>,
    pub(super) size: u64,
    pub(super) options: String,
    pub(super) order_key: Option<String>,
    pub(super) enqueued_at: u64,
    pub(super) tries: u32,
}

impl FromRow for Leased {
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

/// What a claim is to bring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) token: i64,
    pub(super) rows: u64,
    pub(super) lease: Duration,
    /// Larger ones stay where they are.
    pub(super) payload_limit: usize,
}

/// What becomes of a row that was not published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// Tried again after this time.
    Again { reason: String, after: Duration },
    /// Not tried again.
    Aside { reason: String },
}

/// Where in the order of its keys a relay looks next.
#[derive(Debug, Default)]
pub(super) struct Place(String);

/// The first of a key that nobody has published.
struct Head {
    seq: i64,
    key: String,
    free: bool,
}

impl FromRow for Head {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self { seq: row.try_get("seq")?, key: row.try_get("order_key")?, free: row.flag("free")? })
    }
}

const WAITING: &str = "published_at IS NULL AND set_aside_at IS NULL";

impl Dialect {
    /// Whether a waiting row may be claimed.
    fn free(self) -> String {
        let now = self.now();
        format!("{WAITING} AND ready_at <= {now} AND leased_until <= {now}")
    }

    /// Leases what `fit` names, and brings it in.
    fn take(self) -> String {
        format!(
            "UPDATE leveret_outbox SET lease = $1, leased_until = {now} + $2
             WHERE seq IN (SELECT seq FROM fit) AND leased_until <= {now}
             RETURNING seq, id, job, queue, CASE WHEN length(payload) <= $3 THEN payload END AS payload,
                       CAST(length(payload) AS BIGINT) AS size, options, order_key, enqueued_at, tries",
            now = self.now(),
        )
    }
}

/// As many rows of `next` as fit into memory.
const FIT: &str =
    "fit AS (SELECT seq FROM (SELECT seq, sum(size) OVER (ORDER BY seq) - size AS before FROM next) AS sums
                   WHERE before < $4)";

impl Wanted {
    fn fill(&self, text: String) -> Sql {
        let lease = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        Sql::new(text).arg(self.token).arg(lease).arg(self.payload_limit as u64).arg(CLAIM_BYTES)
    }
}

/// Claims rows without an order key, those that wait longest first.
pub(super) async fn claim(pool: &Pool, wanted: &Wanted) -> Result<Vec<Leased>> {
    let on = pool.dialect();
    let text = format!(
        "WITH next AS (SELECT seq, length(payload) AS size FROM leveret_outbox
                       WHERE order_key IS NULL AND {free} ORDER BY ready_at, seq LIMIT $5 {locked}),
              {FIT} {take}",
        free = on.free(),
        locked = on.locked(),
        take = on.take(),
    );
    let mut rows: Vec<Leased> = pool.all(wanted.fill(text).arg(wanted.rows)).await?;
    rows.sort_unstable_by_key(|row| row.seq);
    Ok(rows)
}

/// Claims the first rows of some order keys whose first row is free, in the order of the keys from `place` on; whether
/// there are more keys comes with them. Whoever has the first row has the key: a row is claimed only after all before it.
pub(super) async fn claim_ordered(pool: &Pool, wanted: &Wanted, place: &mut Place) -> Result<(Vec<Leased>, bool)> {
    let heads = heads(pool, place).await?;
    let more = heads.len() as u64 >= KEYS;
    *place = Place(heads.last().filter(|_| more).map(|head| head.key.clone()).unwrap_or_default());
    let free: Vec<_> = heads.iter().filter(|head| head.free).map(|head| head.seq).take(wanted.rows as usize).collect();
    if free.is_empty() {
        return Ok((Vec::new(), more));
    }
    let on = pool.dialect();
    // A row that is not free ends the run: those behind it wait for it, though their own lease be over.
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
    let sql = wanted.fill(text).arg(number_list(&free)).arg(RUN).arg(wanted.rows);
    let mut rows: Vec<Leased> = pool.all(sql).await?;
    rows.sort_unstable_by_key(|row| row.seq);
    Ok((rows, more))
}

/// Jumps from key to key through the index, whatever the number of rows behind each.
async fn heads(pool: &Pool, place: &Place) -> Result<Vec<Head>> {
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
    pool.all(Sql::new(text).arg(place.0.as_str()).arg(KEYS)).await
}

/// Deletes what was published, or marks it; returns how many of the rows were still ours.
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

/// Notes a try that failed; returns how many of the rows were still ours.
pub(super) async fn fail(pool: &Pool, token: i64, rows: &[i64], fate: &Fate) -> Result<u64> {
    let on = pool.dialect();
    let (change, reason, after) = match fate {
        Fate::Again { reason, after } => ("ready_at", reason, u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        Fate::Aside { reason } => ("set_aside_at", reason, 0),
    };
    let text = format!(
        "UPDATE leveret_outbox SET {change} = {} + $3, reason = $4, tries = tries + 1, lease = NULL, leased_until = 0
         WHERE lease = $1 AND seq IN {}",
        on.now(),
        on.numbers("$2"),
    );
    pool.execute(Sql::new(text).arg(token).arg(number_list(rows)).arg(after).arg(reason.as_str())).await
}

/// Gives rows back that were not tried.
pub(super) async fn release(pool: &Pool, token: i64, rows: &[i64]) -> Result<u64> {
    let list = pool.dialect().numbers("$2");
    let text = format!("UPDATE leveret_outbox SET lease = NULL, leased_until = 0 WHERE lease = $1 AND seq IN {list}");
    pool.execute(Sql::new(text).arg(token).arg(number_list(rows))).await
}
