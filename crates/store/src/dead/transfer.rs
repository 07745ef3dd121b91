//! Exports dead letters from a store, and imports them into another one.

use std::collections::VecDeque;

use futures_util::{Stream, stream::try_unfold};
use leveret_sql::{
    Error, Result,
    db::{Arg, Sql, TimedConnection, text_list},
};
use serde_json::json;

use super::{
    change::RESTORE,
    ingest,
    letter::{ABOUT, DeadFilter, NewDead, Selection, StoredDeadLetter},
};
use crate::{
    audit::{self, AuditStamp},
    open::{Store, WriteLock},
};

/// The letters of an export in memory. Few, because each may be as large as the broker permits.
const AT_ONCE: u64 = 4;

/// The letters of an export that were read, and the number after which the next ones begin.
#[derive(Default)]
struct Export {
    held: VecDeque<StoredDeadLetter>,
    last: i64,
    over: bool,
}

impl Store {
    /// Exports all dead letters that match a filter, in the order in which they were ingested. Letters that are
    /// ingested meanwhile are included.
    ///
    /// ```
    /// use futures_util::TryStreamExt;
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let filter = leveret_store::DeadFilter::default();
    /// let mut letters = std::pin::pin!(store.export(&filter));
    /// while let Some(letter) = letters.try_next().await? {
    ///     println!("{}", serde_json::to_string(&letter)?);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn export<'a>(&'a self, filter: &'a DeadFilter) -> impl Stream<Item = Result<StoredDeadLetter>> + Send + 'a {
        try_unfold(Export::default(), move |mut export| async move {
            if export.held.is_empty() && !export.over {
                let text = format!("SELECT {ABOUT}, properties, payload, original FROM leveret_dead WHERE id > $1");
                let mut sql = Sql::new(text).slow().arg(export.last);
                self.fit(&mut sql, filter);
                sql.push(" ORDER BY id LIMIT ").bind(AT_ONCE);
                export.held = sql.all(&mut self.reader().await?).await?.into();
                export.over = (export.held.len() as u64) < AT_ONCE;
            }
            let letter = export.held.pop_front();
            export.last = letter.as_ref().map_or(export.last, |letter| letter.about.id);
            Ok::<_, Error>(letter.map(|letter| (letter, export)))
        })
    }

    /// Imports letters, all or none, and returns how many. All get the state [`Dead`](crate::DeadState::Dead), and
    /// edits are kept. A letter that the store has already is skipped, or restored if it was purged.
    ///
    /// ```
    /// use leveret_store::AuditStamp;
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert_eq!(store.import(&[], AuditStamp { actor: "anna", at: 1_800_000_000_000 }).await?, 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database). Nothing was written then.
    pub async fn import(&self, letters: &[StoredDeadLetter], by: AuditStamp<'_>) -> Result<u64> {
        let new: Vec<_> = letters.iter().map(as_new).collect();
        let incoming = new.iter().zip(letters).map(|(new, letter)| {
            let edited = letter.original.is_some().then_some(letter.payload.as_slice());
            ingest::IngestedLetter { edited, ..ingest::IngestedLetter::new(new) }
        });
        let incoming: Vec<_> = incoming.collect();
        let digests = text_list(incoming.iter().filter_map(|letter| letter.digest.as_deref()));
        let mut tx = self.write(WriteLock::Dead).await?;
        let back = self.take_back(&mut tx, digests, by).await?;
        let fresh = self.fresh(&mut tx, incoming).await?;
        let ids = ingest::insert(&mut tx, &fresh, by.at).await?;
        let imported = ids.len() as u64 + back;
        audit::note(&mut tx, by, "import", &json!({ "letters": imported })).await?;
        tx.commit().await?;
        Ok(imported)
    }

    async fn take_back(&self, tx: &mut TimedConnection, digests: Arg, by: AuditStamp<'_>) -> Result<u64> {
        let list = self.dialect().list("$1");
        let text = format!("SELECT id FROM leveret_dead WHERE state = 'purged' AND digest IN {list}");
        let rows = Sql::new(text).arg(digests).rows(tx).await?;
        let ids = rows.iter().map(|row| row.try_get("id")).collect::<sqlx::Result<_>>()?;
        self.change(tx, &Selection::Ids(ids), &RESTORE, by).await
    }
}

/// The letter with its original payload, by which the store recognises it.
fn as_new(letter: &StoredDeadLetter) -> NewDead {
    let about = &letter.about;
    NewDead {
        source: about.source,
        queue: about.queue.clone(),
        job_id: about.job_id.clone(),
        job: about.job.clone(),
        kind: about.kind.clone(),
        error: about.error.clone(),
        attempt: about.attempt,
        hop: about.hop,
        failed_at: Some(about.failed_at),
        properties: letter.properties.clone(),
        payload: letter.original.as_ref().unwrap_or(&letter.payload).clone(),
    }
}
