//! The audit log.

use leveret_sql::{
    Result,
    db::{FromRow, Row, Sql, TimedConnection},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    open::Store,
    page::{Cursor, Page},
};

/// The author and time of an action, for the history of a dead letter and the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditStamp<'a> {
    /// A user, or the name of a token.
    pub actor: &'a str,
    /// The time, in milliseconds since the epoch.
    pub at: u64,
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// Its number. Greater numbers are later.
    pub id: i64,
    /// The time, in milliseconds since the epoch.
    #[serde(with = "crate::time::rfc3339")]
    pub at: u64,
    /// A user, or the name of a token.
    pub actor: String,
    /// The action, such as `purge`.
    pub action: String,
    /// The objects of the action.
    pub detail: Value,
}

impl Store {
    /// Adds a line to the audit log. The store writes the lines of its own actions on dead letters itself.
    ///
    /// ```
    /// use leveret_store::AuditStamp;
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let by = AuditStamp { actor: "anna", at: 1_800_000_000_000 };
    /// store.audit(by, "cancel", &serde_json::json!({ "job": "order-17" })).await?;
    /// assert_eq!(store.audit_log(None, 10).await?.items[0].actor, "anna");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn audit(&self, by: AuditStamp<'_>, action: &str, detail: &Value) -> Result<()> {
        note(&mut self.writer().await?, by, action, detail).await
    }

    /// Returns one page of the audit log, latest first.
    ///
    /// See [`audit`](Self::audit) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn audit_log(&self, after: Option<&Cursor>, limit: u32) -> Result<Page<AuditEntry>> {
        let before = after.map_or(i64::MAX, Cursor::number);
        let sql = Sql::new("SELECT * FROM leveret_audit WHERE id < $1 ORDER BY id DESC LIMIT $2");
        let entries = sql.arg(before).arg(u64::from(limit) + 1).all(&mut self.reader().await?).await?;
        let bytes = |entry: &AuditEntry| entry.actor.len() + entry.detail.to_string().len();
        Ok(Page::new(entries, limit, bytes, |entry: &AuditEntry| (entry.id, String::new())))
    }
}

pub(crate) async fn note(tx: &mut TimedConnection, by: AuditStamp<'_>, action: &str, detail: &Value) -> Result<()> {
    let sql = Sql::new("INSERT INTO leveret_audit (at, actor, action, detail) VALUES ($1, $2, $3, $4)");
    sql.arg(by.at).arg(by.actor).arg(action).arg(detail).execute(tx).await.map(drop)
}

impl FromRow for AuditEntry {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            at: row.number("at")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            detail: row.json("detail")?.unwrap_or_default(),
        })
    }
}
