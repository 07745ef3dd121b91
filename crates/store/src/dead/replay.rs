//! Replays: dead letters to be published again, and published ones.
//!
//! A replay can continue after a crash at any moment. A letter is `replaying` until its publish is confirmed, so it may
//! be published twice, but it is not lost. One process at a time runs a replay, under a lease that it renews.

use leveret_sql::{
    Result,
    db::{Arg, FromRow, Row, Sql},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    change::Change,
    letter::{ABOUT, DeadFilter, DeadLetter, DeadState, Selection, StoredDeadLetter},
};
use crate::{
    audit::{self, AuditStamp},
    open::{Store, WriteLock},
};

/// The bytes of letters in memory at which no more are read.
const BYTES_AT_ONCE: u64 = 8 << 20;

/// A replay and its progress.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// Its number.
    pub id: i64,
    /// The user, or the name of the token, that started it.
    pub actor: String,
    /// Its options, as they were given at the start.
    pub options: Value,
    /// The number of letters that it selected.
    pub total: u64,
    /// The number of its letters that were published with a confirm.
    pub replayed: u64,
    /// The end of its lease, in milliseconds since the epoch. After it another process may lease the replay.
    #[serde(skip)]
    pub leased_until: u64,
    /// True if its canaries, if it has any, have succeeded.
    #[serde(skip)]
    pub judged: bool,
    /// The time of its start, in milliseconds since the epoch.
    #[serde(with = "crate::time::rfc3339")]
    pub started_at: u64,
    /// The time of its end, in milliseconds since the epoch, or `None` while it is open.
    #[serde(with = "crate::time::rfc3339_maybe")]
    pub finished_at: Option<u64>,
    /// Its outcome.
    pub outcome: Option<String>,
}

/// The right of one process to run a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayLease<'a> {
    /// A name that no other run of a replay has.
    pub owner: &'a str,
    /// The end of the lease, in milliseconds since the epoch.
    pub until: u64,
}

impl Store {
    /// Starts a replay, and moves the selected letters in the state [`Dead`](DeadState::Dead) into it.
    ///
    /// ```
    /// use leveret_store::{AuditStamp, DeadFilter, ReplayLease, Selection};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let by = AuditStamp { actor: "anna", at: 1_800_000_000_000 };
    /// let lease = ReplayLease { owner: "run-17", until: by.at + 20_000 };
    /// let all = Selection::Filter(DeadFilter::default());
    /// let replay = store.start_replay(&all, &"gently".into(), by, lease).await?;
    /// let mut after = 0;
    /// loop {
    ///     let letters = store.next_of_replay(replay.id, after, 100).await?;
    ///     let published: Vec<i64> = letters.iter().map(|letter| letter.about.id).collect();
    ///     let Some(last) = published.last() else { break };
    ///     after = *last;
    ///     store.replayed(replay.id, &published, by).await?;
    ///     assert!(store.renew_replay(replay.id, ReplayLease { until: by.at + 40_000, ..lease }).await?);
    /// }
    /// store.finish_replay(replay.id, lease.owner, "done", by).await?;
    /// assert!(store.open_replays().await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn start_replay(
        &self,
        selection: &Selection,
        options: &Value,
        by: AuditStamp<'_>,
        lease: ReplayLease<'_>,
    ) -> Result<Replay> {
        let mut tx = self.write(WriteLock::Dead).await?;
        let text =
            "INSERT INTO leveret_replays (actor, options, total, replayed, owner, leased_until, judged, started_at)
                    VALUES ($1, $2, 0, 0, $3, $4, 0, $5) RETURNING id";
        let sql = Sql::new(text).arg(by.actor).arg(options).arg(lease.owner).arg(lease.until).arg(by.at);
        let id: i64 = sql.one(&mut tx).await?;
        let change = Change { from: DeadState::Dead, to: DeadState::Replaying, action: "replaying", replay: Some(id) };
        let total = self.change(&mut tx, selection, &change, by).await?;
        let text = "UPDATE leveret_replays SET total = $1 WHERE id = $2";
        Sql::new(text).arg(total).arg(id).execute(&mut tx).await?;
        let detail = json!({ "replay": id, "selection": selection, "options": options, "letters": total });
        audit::note(&mut tx, by, "replay", &detail).await?;
        tx.commit().await?;
        Ok(Replay {
            id,
            actor: by.actor.to_owned(),
            options: options.clone(),
            total,
            replayed: 0,
            leased_until: lease.until,
            judged: false,
            started_at: by.at,
            finished_at: None,
            outcome: None,
        })
    }

    /// Takes an open replay whose lease has expired at the time `now`. Returns false if another process runs it, or if
    /// it has ended.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// # let now = 1_800_000_000_000;
    /// let lease = leveret_store::ReplayLease { owner: "run-18", until: now + 20_000 };
    /// for replay in store.open_replays().await? {
    ///     let is_leased = store.take_replay(replay.id, lease, now).await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn take_replay(&self, replay: i64, lease: ReplayLease<'_>, now: u64) -> Result<bool> {
        let text = "UPDATE leveret_replays SET owner = $1, leased_until = $2
                    WHERE id = $3 AND leased_until <= $4 AND finished_at IS NULL";
        let sql = Sql::new(text).arg(lease.owner).arg(lease.until).arg(replay).arg(now);
        Ok(sql.execute(&mut self.writer().await?).await? == 1)
    }

    /// Takes an open replay from the process that runs it, to end it with this outcome. Returns false if it has ended.
    ///
    /// The outcome is stored with the lease. If this process crashes, the next process that leases the replay ends it
    /// with this outcome.
    ///
    /// See [`start_replay`](Self::start_replay) for an example of a lease.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn stop_replay(&self, replay: i64, lease: ReplayLease<'_>, outcome: &str) -> Result<bool> {
        let text = "UPDATE leveret_replays SET owner = $1, leased_until = $2, outcome = $3
                    WHERE id = $4 AND finished_at IS NULL";
        let sql = Sql::new(text).arg(lease.owner).arg(lease.until).arg(outcome).arg(replay);
        Ok(sql.execute(&mut self.writer().await?).await? == 1)
    }

    /// Renews a lease, or ends it with an `until` of 0. Returns false if another process has the replay, or if it has
    /// ended.
    ///
    /// See [`start_replay`](Self::start_replay) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn renew_replay(&self, replay: i64, lease: ReplayLease<'_>) -> Result<bool> {
        let text = "UPDATE leveret_replays SET leased_until = $1 WHERE id = $2 AND owner = $3 AND finished_at IS NULL";
        let sql = Sql::new(text).arg(lease.until).arg(replay).arg(lease.owner);
        Ok(sql.execute(&mut self.writer().await?).await? == 1)
    }

    /// Records that the canaries of a replay have succeeded.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// store.judged(17).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn judged(&self, replay: i64) -> Result<()> {
        let sql = Sql::new("UPDATE leveret_replays SET judged = 1 WHERE id = $1").arg(replay);
        sql.execute(&mut self.writer().await?).await.map(drop)
    }

    /// Returns letters that a replay has published, oldest first.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert!(store.replayed_by(17, 100).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn replayed_by(&self, replay: i64, limit: u32) -> Result<Vec<DeadLetter>> {
        let text = format!(
            "SELECT {ABOUT} FROM leveret_dead WHERE state = 'replayed' AND replay_id = $1 ORDER BY id LIMIT $2"
        );
        let sql = Sql::new(text).slow().arg(replay).arg(u64::from(limit));
        sql.all(&mut self.reader().await?).await
    }

    /// Returns the next letters of a replay with numbers above `after`, oldest first: at most `limit`, and none beyond
    /// 8 MiB.
    ///
    /// A letter is returned again until it is marked as [`replayed`](Self::replayed).
    ///
    /// See [`start_replay`](Self::start_replay) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn next_of_replay(&self, replay: i64, after: i64, limit: u32) -> Result<Vec<StoredDeadLetter>> {
        let text = format!(
            "SELECT {ABOUT}, properties, payload, original FROM leveret_dead WHERE id IN (
                 SELECT id FROM (
                     SELECT id, sum(bytes) OVER (ORDER BY id) - bytes AS ahead FROM (
                         SELECT id, length(properties) + length(payload) + coalesce(length(original), 0) AS bytes
                         FROM leveret_dead WHERE state = 'replaying' AND replay_id = $1 AND id > $2
                         ORDER BY id LIMIT $3) AS sized) AS summed
                 WHERE ahead < $4) ORDER BY id"
        );
        let sql = Sql::new(text).arg(replay).arg(after).arg(u64::from(limit)).arg(BYTES_AT_ONCE);
        sql.all(&mut self.reader().await?).await
    }

    /// Marks letters of a replay as published. Returns how many were not marked before.
    ///
    /// See [`start_replay`](Self::start_replay) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn replayed(&self, replay: i64, ids: &[i64], by: AuditStamp<'_>) -> Result<u64> {
        let change =
            Change { from: DeadState::Replaying, to: DeadState::Replayed, action: "replayed", replay: Some(replay) };
        let mut tx = self.write(WriteLock::Dead).await?;
        let replayed = self.change(&mut tx, &Selection::Ids(ids.to_vec()), &change, by).await?;
        let text = "UPDATE leveret_replays SET replayed = replayed + $1 WHERE id = $2";
        Sql::new(text).arg(replayed).arg(replay).execute(&mut tx).await?;
        tx.commit().await?;
        Ok(replayed)
    }

    /// Ends a replay, and returns how many letters were not replayed: they get the state [`Dead`](DeadState::Dead)
    /// again.
    ///
    /// Returns `None`, and changes nothing, if the replay has ended or is not `owner`'s.
    ///
    /// See [`start_replay`](Self::start_replay) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn finish_replay(
        &self,
        replay: i64,
        owner: &str,
        outcome: &str,
        by: AuditStamp<'_>,
    ) -> Result<Option<u64>> {
        let change =
            Change { from: DeadState::Replaying, to: DeadState::Dead, action: "returned", replay: Some(replay) };
        let mut tx = self.write(WriteLock::Dead).await?;
        let text = "UPDATE leveret_replays SET finished_at = $1, outcome = $2
                    WHERE id = $3 AND owner = $4 AND finished_at IS NULL";
        let finished = Sql::new(text).arg(by.at).arg(outcome).arg(replay).arg(owner).execute(&mut tx).await?;
        if finished == 0 {
            return Ok(None);
        }
        let returned = self.change(&mut tx, &Selection::Filter(DeadFilter::default()), &change, by).await?;
        let detail = json!({ "replay": replay, "outcome": outcome, "returned": returned });
        audit::note(&mut tx, by, "finish_replay", &detail).await?;
        tx.commit().await?;
        Ok(Some(returned))
    }

    /// Returns the replays that have not ended, such as those to continue after a restart.
    ///
    /// See [`start_replay`](Self::start_replay) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn open_replays(&self) -> Result<Vec<Replay>> {
        Sql::new("SELECT * FROM leveret_replays WHERE finished_at IS NULL ORDER BY id")
            .all(&mut self.reader().await?)
            .await
    }

    /// Returns one replay.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert!(store.replay(17).await?.is_none());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn replay(&self, id: i64) -> Result<Option<Replay>> {
        Sql::new("SELECT * FROM leveret_replays WHERE id = $1")
            .arg(Arg::Int(Some(id)))
            .maybe(&mut self.reader().await?)
            .await
    }
}

impl FromRow for Replay {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            actor: row.try_get("actor")?,
            options: row.json("options")?.unwrap_or_default(),
            total: row.number("total")?,
            replayed: row.number("replayed")?,
            leased_until: row.number("leased_until")?,
            judged: row.flag("judged")?,
            started_at: row.number("started_at")?,
            finished_at: row.maybe_number("finished_at")?,
            outcome: row.try_get("outcome")?,
        })
    }
}
