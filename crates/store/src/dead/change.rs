//! Edits, purges and restores dead letters. Each change is written to the history and to the audit log.

use std::collections::HashMap;

use leveret_sql::{
    Result,
    db::{Arg, Sql, TimedConnection, text_list},
};
use serde_json::json;

use super::letter::{DeadState, Selection};
use crate::{
    audit::{self, AuditStamp},
    open::{Store, WriteLock},
};

/// A change of the state of many letters.
pub(super) struct Change {
    pub(super) from: DeadState,
    pub(super) to: DeadState,
    pub(super) action: &'static str,
    /// The replay that the letters move into, or belong to.
    pub(super) replay: Option<i64>,
}

const PURGE: Change = Change { from: DeadState::Dead, to: DeadState::Purged, action: "purged", replay: None };
pub(super) const RESTORE: Change =
    Change { from: DeadState::Purged, to: DeadState::Dead, action: "restored", replay: None };

impl Store {
    /// Edits the payload of a dead letter, and keeps the original. Returns false if there is no such letter in the
    /// state [`Dead`](DeadState::Dead).
    ///
    /// ```
    /// use leveret_store::AuditStamp;
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let by = AuditStamp { actor: "anna", at: 1_800_000_000_000 };
    /// assert!(!store.edit(17, b"{}", by).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn edit(&self, id: i64, payload: &[u8], by: AuditStamp<'_>) -> Result<bool> {
        let mut tx = self.write(WriteLock::Dead).await?;
        let text = "UPDATE leveret_dead SET original = coalesce(original, payload), payload = $1
                    WHERE id = $2 AND state = 'dead'";
        let edited = Sql::new(text).arg(payload).arg(id).execute(&mut tx).await? == 1;
        if edited {
            note_edit(&mut tx, id, "edited", "edit", by).await?;
        }
        tx.commit().await?;
        Ok(edited)
    }

    /// Restores the original payload of a dead letter. Returns false if there is no such letter in the state
    /// [`Dead`](DeadState::Dead), or it was not edited.
    ///
    /// ```
    /// use leveret_store::AuditStamp;
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let by = AuditStamp { actor: "anna", at: 1_800_000_000_000 };
    /// assert!(!store.revert(17, by).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn revert(&self, id: i64, by: AuditStamp<'_>) -> Result<bool> {
        let mut tx = self.write(WriteLock::Dead).await?;
        let text = "UPDATE leveret_dead SET payload = original, original = NULL
                    WHERE id = $1 AND state = 'dead' AND original IS NOT NULL";
        let reverted = Sql::new(text).arg(id).execute(&mut tx).await? == 1;
        if reverted {
            note_edit(&mut tx, id, "reverted", "revert", by).await?;
        }
        tx.commit().await?;
        Ok(reverted)
    }

    /// Purges dead letters, and returns how many. Retention deletes them later.
    ///
    /// The states of a filter have no effect, here and in [`restore`](Self::restore).
    ///
    /// ```
    /// use leveret_store::{AuditStamp, DeadFilter, Selection};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let by = AuditStamp { actor: "anna", at: 1_800_000_000_000 };
    /// let all = Selection::Filter(DeadFilter::default());
    /// let purged = store.purge(&all, by).await?;
    /// assert_eq!(store.restore(&all, by).await?, purged);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn purge(&self, selection: &Selection, by: AuditStamp<'_>) -> Result<u64> {
        self.decide("purge", selection, &PURGE, by).await
    }

    /// Purges the dead letters of jobs that began another life: for each id, those with fewer copies. Returns how many.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store) -> leveret_store::Result<()> {
    /// let by = leveret_store::AuditStamp { actor: "anna", at: 1_800_000_000_000 };
    /// store.purge_superseded(&[("order-17:charge".to_owned(), 1_000_000)], by).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn purge_superseded(&self, jobs: &[(String, u64)], by: AuditStamp<'_>) -> Result<u64> {
        let copies: HashMap<_, _> = jobs.iter().map(|(id, copies)| (id.as_str(), *copies)).collect();
        let text = format!(
            "SELECT id, job_id, hop FROM leveret_dead WHERE state = 'dead' AND job_id IN {}",
            self.dialect().list("$1")
        );
        let ids = text_list(jobs.iter().map(|(id, _)| id.as_str()));
        let mut superseded = Vec::new();
        for row in Sql::new(text).arg(ids).slow().rows(&mut self.reader().await?).await? {
            let (job, hop): (String, u64) = (row.try_get("job_id")?, row.number("hop")?);
            if copies.get(job.as_str()).is_some_and(|copies| hop < *copies) {
                superseded.push(row.try_get("id")?);
            }
        }
        if superseded.is_empty() { Ok(0) } else { self.purge(&Selection::Ids(superseded), by).await }
    }

    /// Restores purged dead letters, and returns how many.
    ///
    /// See [`purge`](Self::purge) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn restore(&self, selection: &Selection, by: AuditStamp<'_>) -> Result<u64> {
        self.decide("restore", selection, &RESTORE, by).await
    }

    async fn decide(&self, audited: &str, selection: &Selection, change: &Change, by: AuditStamp<'_>) -> Result<u64> {
        let mut tx = self.write(WriteLock::Dead).await?;
        let changed = self.change(&mut tx, selection, change, by).await?;
        audit::note(&mut tx, by, audited, &json!({ "selection": selection, "letters": changed })).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Changes the state of letters. It writes the history first, because afterwards the conditions no longer match.
    pub(super) async fn change(
        &self,
        tx: &mut TimedConnection,
        selection: &Selection,
        change: &Change,
        by: AuditStamp<'_>,
    ) -> Result<u64> {
        let detail = Arg::Text(change.replay.map(|replay| json!({ "replay": replay }).to_string()));
        let text = "INSERT INTO leveret_dead_history (dead_id, at, actor, action, detail)
                    SELECT id, $1, $2, $3, $4 FROM leveret_dead WHERE 1 = 1";
        let mut history = Sql::new(text).slow();
        history = history.arg(by.at).arg(by.actor).arg(change.action).arg(detail);
        self.meant(&mut history, selection, change);
        history.execute(tx).await?;
        let text = "UPDATE leveret_dead SET state = $1, state_at = $2, replay_id = coalesce($3, replay_id) WHERE 1 = 1";
        let mut update = Sql::new(text).slow();
        update = update.arg(change.to.as_str()).arg(by.at).arg(Arg::Int(change.replay));
        self.meant(&mut update, selection, change);
        update.execute(tx).await
    }

    fn meant(&self, sql: &mut Sql, selection: &Selection, change: &Change) {
        self.choose(sql, selection, change.from);
        if let (DeadState::Replaying, Some(replay)) = (change.from, change.replay) {
            sql.push(if matches!(selection, Selection::Ids(_)) {
                " AND replay_id + 0 = "
            } else {
                " AND replay_id = "
            });
            sql.bind(replay);
        }
    }
}

/// Writes an edit to the history of the letter and to the audit log.
async fn note_edit(tx: &mut TimedConnection, id: i64, action: &str, audited: &str, by: AuditStamp<'_>) -> Result<()> {
    let text = "INSERT INTO leveret_dead_history (dead_id, at, actor, action) VALUES ($1, $2, $3, $4)";
    Sql::new(text).arg(id).arg(by.at).arg(by.actor).arg(action).execute(tx).await?;
    audit::note(tx, by, audited, &json!({ "id": id })).await
}
