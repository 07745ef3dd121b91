//! Replays: which dead letters are to be published again, and which were. Killed at any moment, a replay can go on: a
//! letter is `replaying` until its publish was confirmed, so that it is published twice at most, and lost never.

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{FromRow, Row, any::AnyRow};

use super::{ABOUT, DeadFilter, DeadState, Letter, Selection, desk::Change};
use crate::{
    By, Result, Store, audit,
    open::Area,
    sql::{Arg, Sql, number},
    status::json,
};

/// A replay, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// Its number.
    pub id: i64,
    /// Who wanted it.
    pub actor: String,
    /// How, as it was given at the start.
    pub options: Value,
    /// How many letters it took.
    pub total: u64,
    /// How many of them were published and confirmed.
    pub replayed: u64,
    /// In milliseconds since the epoch.
    pub started_at: u64,
    /// In milliseconds since the epoch; `None` while it is open.
    pub finished_at: Option<u64>,
    /// How it ended.
    pub outcome: Option<String>,
}

impl Store {
    /// Opens a replay of the letters that lie there, and takes them into it.
    ///
    /// ```
    /// use leveret_store::{By, DeadFilter, Selection};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let by = By { actor: "anna", at: 1_800_000_000_000 };
    /// let replay = store.start_replay(&Selection::Filter(DeadFilter::default()), &"gently".into(), by).await?;
    /// loop {
    ///     let letters = store.next_of_replay(replay.id, 100).await?;
    ///     if letters.is_empty() {
    ///         break;
    ///     }
    ///     let published: Vec<i64> = letters.iter().map(|letter| letter.about.id).collect();
    ///     store.replayed(replay.id, &published, by).await?;
    /// }
    /// store.finish_replay(replay.id, "done", by).await?;
    /// assert!(store.open_replays().await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn start_replay(&self, selection: &Selection, options: &Value, by: By<'_>) -> Result<Replay> {
        let mut tx = self.write(Area::Dead).await?;
        let text = "INSERT INTO leveret_replays (actor, options, total, replayed, started_at)
                    VALUES ($1, $2, 0, 0, $3) RETURNING id";
        let id: i64 = Sql::new(text).arg(by.actor).arg(options).arg(by.at).one(&mut tx).await?;
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
            started_at: by.at,
            finished_at: None,
            outcome: None,
        })
    }

    /// The next letters to be published, oldest first: the same ones until they are [`replayed`](Self::replayed).
    ///
    /// See [`start_replay`](Self::start_replay) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn next_of_replay(&self, replay: i64, limit: u32) -> Result<Vec<Letter>> {
        let text = format!(
            "SELECT {ABOUT}, properties, payload, original FROM leveret_dead
             WHERE state = 'replaying' AND replay_id = $1 ORDER BY id LIMIT $2"
        );
        Sql::new(text).arg(replay).arg(u64::from(limit)).all(&mut self.reader().await?).await
    }

    /// Marks letters of a replay as published and confirmed, and returns how many were not marked before.
    ///
    /// See [`start_replay`](Self::start_replay) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn replayed(&self, replay: i64, ids: &[i64], by: By<'_>) -> Result<u64> {
        let change =
            Change { from: DeadState::Replaying, to: DeadState::Replayed, action: "replayed", replay: Some(replay) };
        let mut tx = self.write(Area::Dead).await?;
        let replayed = self.change(&mut tx, &Selection::Ids(ids.to_vec()), &change, by).await?;
        let text = "UPDATE leveret_replays SET replayed = replayed + $1 WHERE id = $2";
        Sql::new(text).arg(replayed).arg(replay).execute(&mut tx).await?;
        tx.commit().await?;
        Ok(replayed)
    }

    /// Closes a replay. Letters that were not replayed lie there again; returns how many.
    ///
    /// See [`start_replay`](Self::start_replay) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn finish_replay(&self, replay: i64, outcome: &str, by: By<'_>) -> Result<u64> {
        let change =
            Change { from: DeadState::Replaying, to: DeadState::Dead, action: "returned", replay: Some(replay) };
        let mut tx = self.write(Area::Dead).await?;
        let returned = self.change(&mut tx, &Selection::Filter(DeadFilter::default()), &change, by).await?;
        let text = "UPDATE leveret_replays SET finished_at = $1, outcome = $2 WHERE id = $3 AND finished_at IS NULL";
        Sql::new(text).arg(by.at).arg(outcome).arg(replay).execute(&mut tx).await?;
        let detail = json!({ "replay": replay, "outcome": outcome, "returned": returned });
        audit::note(&mut tx, by, "finish_replay", &detail).await?;
        tx.commit().await?;
        Ok(returned)
    }

    /// Replays that were not finished: to go on with after a restart.
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

    /// One replay.
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

impl FromRow<'_, AnyRow> for Replay {
    fn from_row(row: &AnyRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            actor: row.try_get("actor")?,
            options: json(row.try_get("options")?)?.unwrap_or_default(),
            total: number(row.try_get("total")?),
            replayed: number(row.try_get("replayed")?),
            started_at: number(row.try_get("started_at")?),
            finished_at: row.try_get::<Option<i64>, _>("finished_at")?.map(number),
            outcome: row.try_get("outcome")?,
        })
    }
}
