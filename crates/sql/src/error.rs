//! The errors of a database.

use std::{fmt, path::PathBuf};

use leveret::{PublishError, event_log::DecodeError};

/// An event in the log, as an error names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// Its offset.
    pub offset: u64,
    /// Its id, or a digest of an event that has none.
    pub id: String,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} (id {})", self.offset, self.id)
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The reason why a database operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address names no database that Leveret can use. The message omits the address, because it may contain a
    /// password.
    #[error(
        "the database address is invalid: set postgres://USER:PASSWORD@HOST/DATABASE, with / ? # and @ in the password \
         percent-encoded, sqlite:PATH, or a path without : = ? and @"
    )]
    Address,
    /// The folder of an SQLite file does not exist, or no file can be created in it.
    #[error("the database file {} cannot be created in its folder", path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A newer Leveret has changed the tables.
    #[error("the database has schema {found}, and this Leveret knows schemas up to {known}: use a newer Leveret")]
    Newer {
        /// The schema of the database.
        found: i64,
        /// The newest schema that this version knows.
        known: i64,
    },
    /// The tables of the outbox, the inbox or the projections do not exist, or are of an older version. On PostgreSQL
    /// they may be in a schema that the connection's `search_path` does not name.
    #[error(
        "the database has no {part} of this version: create it with `leveret {part} migrate`, or add its schema to the \
         search_path"
    )]
    NoTables {
        /// `outbox`, `inbox` or `projections`.
        part: &'static str,
    },
    /// A setting of a relay or a projection that is out of its bounds. Set one of the values that are allowed.
    #[error("{setting}: {value} is out of range: set {allowed}")]
    Setting {
        /// The method that set it.
        setting: &'static str,
        /// The value.
        value: u64,
        /// The values that are allowed.
        allowed: &'static str,
    },
    /// A job that could never be published.
    #[error("the job cannot be enqueued: {0}")]
    InvalidJob(PublishError),
    /// A projection that cannot run as it is built. The text names the fault and its fix.
    #[error("projection {projection:?} cannot run: {reason}")]
    InvalidProjection {
        /// The projection.
        projection: String,
        /// The fault and its fix.
        reason: String,
    },
    /// Another process runs a projection of this name with other topics. Both would move one position, and each view
    /// would lack events.
    #[error(
        "projection {projection:?} cannot run: its topics are {topics}, and {holder} runs one of this name with the \
         topics {other_topics}. Use another name for one of the two. If this program replaces the other, stop the \
         other first"
    )]
    OtherTopics {
        /// The projection.
        projection: String,
        /// The topics of this process.
        topics: String,
        /// The topics of the other process.
        other_topics: String,
        /// The other process, as `host:pid`.
        holder: String,
    },
    /// The log does not have the last event that a projection applied: retention has removed it, or the log was deleted and
    /// made anew. Events may be missing, so the projection stopped. Rebuild the view with `leveret projections reset`.
    #[error(
        "projection {projection:?} stopped: the last event that it applied is {expected}, and {}. Retention has removed \
         events, or the log was made anew. Rebuild the view with `leveret projections reset {projection}`",
        found_there(.found.as_ref())
    )]
    LogChanged {
        /// The projection.
        projection: String,
        /// The event that it expects.
        expected: LogPosition,
        /// The event that the log has in its place; `None` if it has none.
        found: Option<LogPosition>,
    },
    /// The first events of the log are gone, and a projection starts with the first. Allow it to start with the events that
    /// are left.
    #[error(
        "projection {projection:?} starts with the first event, and the log begins with event {first}: retention has \
         removed the events before. To start with the events that are left, run `leveret projections reset {projection} \
         --allow-truncated`"
    )]
    LogTruncated {
        /// The projection.
        projection: String,
        /// The offset of the first event that the log has.
        first: u64,
    },
    /// A projection stopped at an event that does not decode. Deploy a version that decodes it, or skip the event.
    #[error(
        "projection {projection:?} stopped at an event that its handler does not read. Run a version that reads it, or skip \
         the event with `leveret projections skip {projection} {}`",
        .source.offset
    )]
    Undecodable {
        /// The projection.
        projection: String,
        /// The event and the reason.
        source: DecodeError,
    },
    /// The log of events cannot be used: the broker refuses to declare it or to deliver from it.
    #[error("the log of events cannot be used")]
    Log(#[source] leveret::Error),
    /// No projection of that name has run on this database.
    #[error("no projection {projection:?} has run on this database: `leveret projections list` shows them")]
    NoProjection {
        /// The name.
        projection: String,
    },
    /// The projection does not stand still at the event that is to be skipped.
    #[error("projection {projection:?} does not stand still at event {offset}: {}", stands(*.at))]
    NotFailing {
        /// The projection.
        projection: String,
        /// The event that was to be skipped.
        offset: u64,
        /// The event at which it stands still.
        at: Option<u64>,
    },
    /// A workflow that could never be started.
    #[error("the workflow cannot be started: {0}")]
    InvalidWorkflow(leveret::workflow::WorkflowError),
    /// The database did not answer within the time limit: it is halted, or the network drops its packets. The statement
    /// may have run nevertheless.
    #[error("the database does not answer")]
    Silent,
    /// The database is unreachable, refuses the statement, or returns invalid data. The message has the cause, with the
    /// SQLSTATE of PostgreSQL or the code of SQLite. The source is the database's own message.
    #[error("{}", explain(.0))]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Returns whether the same statement may succeed later: the database is unreachable, restarting, busy or full.
    ///
    /// ```
    /// assert!(!leveret_sql::Error::Address.is_unavailable());
    /// ```
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Database(error) => unavailable(error),
            Self::Silent => true,
            _ => false,
        }
    }

    /// Returns whether the database works and refuses the values that it was given: a retry cannot succeed.
    ///
    /// ```
    /// assert!(!leveret_sql::Error::Address.is_refusal());
    /// ```
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code_refuses(&code)),
            Self::Database(sqlx::Error::Encode(_)) | Self::InvalidJob(_) => true,
            _ => false,
        }
    }

    /// Returns whether a stored value cannot be read, such as one of a newer version.
    ///
    /// ```
    /// assert!(!leveret_sql::Error::Address.is_unreadable());
    /// ```
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        let Self::Database(error) = self else { return false };
        matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
    }
}

impl Error {
    /// Returns whether an earlier error has aborted the transaction (PostgreSQL).
    pub(crate) fn is_aborted_transaction(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| code == "25P02")
    }

    /// Returns whether a table of the statement does not exist.
    pub(crate) fn is_missing_table(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else { return false };
        // SQLite has one code for every fault of a statement.
        error.code().is_some_and(|code| code == "42P01" || (code == "1" && error.message().contains("no such table")))
    }
}

fn found_there(found: Option<&LogPosition>) -> String {
    found.map_or_else(|| "the log is empty".to_owned(), |found| format!("the log has {found} in its place"))
}

fn stands(at: Option<u64>) -> String {
    at.map_or_else(|| "no event fails".to_owned(), |at| format!("it does at event {at}"))
}

/// The cause of an error, without the database's own message, which is the source.
fn explain(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let kind = if code.len() == 5 { "SQLSTATE" } else { "SQLite" };
            format!("{} ({kind} {code})", meaning(&code))
        }
        sqlx::Error::Io(_) => "cannot reach the database".to_owned(),
        sqlx::Error::Tls(_) => "the TLS connection to the database failed".to_owned(),
        sqlx::Error::PoolTimedOut => "the pool had no free connection to the database in time".to_owned(),
        sqlx::Error::PoolClosed => "the connections to the database are closed".to_owned(),
        sqlx::Error::Protocol(_) => "the answer of the database is not in PostgreSQL's protocol".to_owned(),
        sqlx::Error::Configuration(_) => "the address of the database is not valid".to_owned(),
        _ => "the database failed".to_owned(),
    }
}

fn meaning(code: &str) -> &'static str {
    if code.len() != 5 {
        return match code.parse::<u32>().unwrap_or_default() & 0xff {
            3 | 23 => "access to the database file is denied",
            5 | 6 => "another process holds the lock of the database",
            8 => "the database is read-only",
            10 => "the disk of the database failed",
            11 => "the database file is damaged",
            13 => "the disk of the database is full",
            14 => "the database file cannot be opened",
            18..=20 | 25 => "the database refused a value",
            26 => "the file is not an SQLite database",
            _ => "the database failed",
        };
    }
    match (code, &code[..2]) {
        ("3D000", _) => "the database does not exist",
        ("3F000", _) => "the search_path names no schema that exists",
        ("25006", _) => "the database is read-only",
        ("42501", _) => "the database user lacks a privilege",
        ("42P01", _) => "a table does not exist in the schemas of the search_path",
        ("42P05" | "26000", _) => "a pooler before the database mixes up prepared statements",
        ("53100", _) => "the disk of the database is full",
        ("53300", _) => "the database has no free connection",
        ("55P03", _) => "another transaction holds the lock for too long",
        ("57014", _) => "the database cancelled the statement",
        (_, "08") => "the connection to the database failed",
        (_, "22" | "23") => "the database refused a value",
        (_, "28") => "the database refused the login",
        (_, "40") => "the database rolled back one of two conflicting transactions",
        (_, "42") => "a name in the statement does not exist in the database",
        (_, "53") => "the database is out of resources",
        (_, "57") => "the database is starting or stopping",
        _ => "the database failed",
    }
}

fn unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code_passes(&code)),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Returns whether an error of this code may pass by itself.
///
/// PostgreSQL's codes have five characters: lost connections (08), too few resources (53), shutdown and start (57),
/// deadlocks and failed serialisation (40), lock timeouts (55P03), a standby (25006), a transaction that was idle for too
/// long (25P03, 25P04). SQLite's are numbers, whose low
/// byte is busy (5), locked (6), input or output (10), full (13) or cannot open (14).
fn code_passes(code: &str) -> bool {
    if code.len() == 5 {
        return ["08", "53", "57", "40"].contains(&&code[..2]) || ["55P03", "25006", "25P03", "25P04"].contains(&code);
    }
    code.parse::<u32>().is_ok_and(|number| [5, 6, 10, 13, 14].contains(&(number & 0xff)))
}

/// Returns whether an error of this code is a refused value.
///
/// On PostgreSQL: a row named twice (21), invalid data (22), a broken constraint (23), a value that is too big (54). On
/// SQLite: a value that is too big (18), breaks a constraint (19), has the wrong type (20) or is out of range (25).
fn code_refuses(code: &str) -> bool {
    if code.len() == 5 {
        return ["21", "22", "23", "54"].contains(&&code[..2]);
    }
    code.parse::<u32>().is_ok_and(|number| [18, 19, 20, 25].contains(&(number & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_says_what_it_is() {
        for (code, word) in [
            ("28P01", "login"),
            ("3D000", "not exist"),
            ("42501", "privilege"),
            ("25006", "read-only"),
            ("42601", "statement"),
            ("57P03", "starting"),
            ("53100", "full"),
            ("40P01", "conflict"),
            ("XX000", "failed"),
            ("8", "read-only"),
            ("1032", "read-only"),
            ("26", "not an SQLite database"),
            ("1", "failed"),
        ] {
            assert!(meaning(code).contains(word), "{code}: {}", meaning(code));
        }
    }

    #[test]
    fn an_error_that_may_pass_is_distinguished_from_a_lasting_one() {
        for code in ["57P01", "08006", "53300", "40P01", "55P03", "5", "261", "517", "13"] {
            assert!(code_passes(code), "{code}");
        }
        for code in ["23505", "42P01", "1", "2067", "11"] {
            assert!(!code_passes(code), "{code}");
        }
        for code in ["21000", "22021", "23505", "54000", "2067", "18"] {
            assert!(code_refuses(code), "{code}");
        }
        for code in ["42P01", "57P01", "1", "5", "11"] {
            assert!(!code_refuses(code), "{code}");
        }
    }
}
