//! Reads dead letters, one by one, in pages or in groups.

use leveret_sql::{
    Result,
    db::{Sql, number, number_list},
};

use super::letter::{ABOUT, DeadFilter, DeadGroup, DeadLetter, DeadState, HistoryEntry, Selection, StoredDeadLetter};
use crate::{
    open::Store,
    page::{Cursor, Page},
};

impl Store {
    /// Returns one page of the dead letters that match a filter, the last ingested first.
    ///
    /// ```
    /// use leveret_store::DeadFilter;
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let timeouts = DeadFilter { kind: Some("timeout".into()), ..DeadFilter::default() };
    /// assert!(store.dead_letters(&timeouts, None, 100).await?.items.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<DeadLetter>> {
        let before = after.map_or(i64::MAX, Cursor::number);
        let mut sql = Sql::new(format!("SELECT {ABOUT} FROM leveret_dead WHERE id < $1")).slow().arg(before);
        self.fit(&mut sql, filter);
        sql.push(" ORDER BY id DESC LIMIT ").bind(u64::from(limit) + 1);
        let letters = sql.all(&mut self.reader().await?).await?;
        let bytes = |letter: &DeadLetter| {
            let texts = [&letter.queue, &letter.job, &letter.kind, &letter.error];
            texts.iter().map(|text| text.len()).sum::<usize>() + letter.job_id.as_ref().map_or(0, String::len)
        };
        Ok(Page::new(letters, limit, bytes, |letter: &DeadLetter| (letter.id, String::new())))
    }

    /// Counts the dead letters that match a filter.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert_eq!(store.count_dead(&leveret_store::DeadFilter::default()).await?, 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn count_dead(&self, filter: &DeadFilter) -> Result<u64> {
        let mut sql = Sql::new("SELECT count(*) FROM leveret_dead WHERE 1 = 1").slow();
        self.fit(&mut sql, filter);
        Ok(number(sql.one(&mut self.reader().await?).await?))
    }

    /// Groups the dead letters that match a filter by error: the largest groups first, at most `limit`.
    ///
    /// See [`ingest`](Self::ingest) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn groups(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadGroup>> {
        let mut sql = Sql::new(
            "SELECT found.*, named.job, named.kind, named.masked
             FROM (SELECT fingerprint, count(*) AS letters, min(failed_at) AS first_at, max(failed_at) AS last_at,
                          max(id) AS sample
                   FROM leveret_dead WHERE 1 = 1",
        )
        .slow();
        self.fit(&mut sql, filter);
        sql.push(" GROUP BY fingerprint ORDER BY letters DESC, fingerprint LIMIT ").bind(u64::from(limit));
        sql.push(
            ") AS found JOIN leveret_fingerprints AS named ON named.fingerprint = found.fingerprint
             ORDER BY letters DESC, found.fingerprint",
        );
        sql.all(&mut self.reader().await?).await
    }

    /// Returns one dead letter with its message, or `None` if none has this number.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// assert!(store.letter(17).await?.is_none());
    /// assert!(store.history(17).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn letter(&self, id: i64) -> Result<Option<StoredDeadLetter>> {
        let text = format!("SELECT {ABOUT}, properties, payload, original FROM leveret_dead WHERE id = $1");
        Sql::new(text).arg(id).maybe(&mut self.reader().await?).await
    }

    /// Returns the history of a dead letter, in order.
    ///
    /// See [`letter`](Self::letter) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn history(&self, id: i64) -> Result<Vec<HistoryEntry>> {
        let sql = Sql::new("SELECT * FROM leveret_dead_history WHERE dead_id = $1 ORDER BY id");
        sql.arg(id).all(&mut self.reader().await?).await
    }

    /// Appends the conditions of a filter.
    pub(super) fn fit(&self, sql: &mut Sql, filter: &DeadFilter) {
        if !filter.states.is_empty() {
            let states: Vec<_> = filter.states.iter().map(|state| format!("'{}'", state.as_str())).collect();
            sql.push(&format!(" AND state IN ({})", states.join(", ")));
        }
        for (column, value) in [
            ("queue", &filter.queue),
            ("job", &filter.job),
            ("job_id", &filter.job_id),
            ("kind", &filter.kind),
            ("fingerprint", &filter.fingerprint),
        ] {
            if let Some(value) = value {
                sql.push(&format!(" AND {column} = ")).bind(value.as_str());
            }
        }
        if let Some(text) = &filter.error {
            let in_error = self.in_error(sql, text);
            sql.push(&format!(" AND {in_error}"));
        }
        if let Some(text) = &filter.text {
            let (in_error, payload) = (self.in_error(sql, text), sql.placeholder(text.as_bytes()));
            sql.push(&format!(" AND ({in_error} OR {})", self.dialect().contains("payload", &payload)));
        }
        if let Some(from) = filter.failed_from {
            sql.push(" AND failed_at >= ").bind(from);
        }
        if let Some(until) = filter.failed_until {
            sql.push(" AND failed_at < ").bind(until);
        }
    }

    fn in_error(&self, sql: &mut Sql, text: &str) -> String {
        let placeholder = sql.placeholder(text.to_ascii_lowercase().as_str());
        self.dialect().contains_folded("error", &placeholder)
    }

    /// Appends the conditions of a selection, of letters in `state` alone.
    ///
    /// Selected numbers are found by the primary key: `state || ''` keeps the database from an index of states. It
    /// would use that index right after a large change, while its statistics still show no letter in this state.
    pub(super) fn choose(&self, sql: &mut Sql, selection: &Selection, state: DeadState) {
        match selection {
            Selection::Filter(filter) => self.fit(sql, &DeadFilter { states: vec![state], ..filter.clone() }),
            Selection::Ids(ids) => {
                let list = sql.placeholder(number_list(ids));
                let list = self.dialect().numbers(&list);
                sql.push(&format!(" AND id IN {list} AND state || '' = '{}'", state.as_str()));
            }
        }
    }
}
