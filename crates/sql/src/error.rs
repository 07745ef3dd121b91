//! What can go wrong between a server and its database.

use std::path::PathBuf;

/// The result of asking a [`Store`](crate::Store).
pub type Result<T> = std::result::Result<T, Error>;

/// Why the store could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address names no database that Leveret can use. The address itself is left out: it may hold a password.
    #[error("no database address: give sqlite:PATH, a path, or postgres://USER:PASSWORD@HOST/DATABASE")]
    Address,
    /// The folder of an SQLite file is not there, or takes no new file.
    #[error("the database file {} cannot be made in its folder", path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A newer Leveret has changed the tables in a way that this one does not know.
    #[error("the database is of schema {found}, and this Leveret knows {known}: use the newer one")]
    Newer {
        /// The schema of the database.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The database has no outbox or no inbox, or one that is too old. On PostgreSQL it may be in a schema that the
    /// connection's `search_path` does not name.
    #[error(
        "the database has no {part} of this version: make it with `leveret {part} migrate`, or put its schema into the \
         search_path"
    )]
    NoTables {
        /// Which.
        part: &'static str,
    },
    /// A job that cannot be enqueued, whoever relays it.
    #[error("the job cannot be enqueued: {what} {value:?}: {reason}")]
    Entry {
        /// Which value: the job's name, its id, the queue, a header.
        what: &'static str,
        /// The value.
        value: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A job that does not serialise to JSON.
    #[error("the job does not serialise")]
    Encode(#[source] serde_json::Error),
    /// The database says nothing: it is halted, or the network loses what is sent. What was asked may be done all the same.
    #[error("the database does not answer")]
    Silent,
    /// The database is unreachable, refuses, or holds what it should not. The message says which, with the SQLSTATE of
    /// PostgreSQL or the code of SQLite; the source is what the database itself said.
    #[error("{}", explain(.0))]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Whether the same may succeed later, unchanged: the database is away, restarting, busy or full.
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

    /// Whether the database is in order and refuses what it was given: trying again cannot help.
    ///
    /// ```
    /// assert!(!leveret_sql::Error::Address.is_refusal());
    /// ```
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code_refuses(&code)),
            Self::Database(sqlx::Error::Encode(_)) | Self::Entry { .. } | Self::Encode(_) => true,
            _ => false,
        }
    }
}

impl Error {
    /// Whether a table is missing that the statement names.
    pub(crate) fn is_missing_table(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else { return false };
        // SQLite has one code for all that is wrong with a statement.
        error.code().is_some_and(|code| code == "42P01" || (code == "1" && error.message().contains("no such table")))
    }
}

/// An error and its sources in one line, for logs: their `Debug` may show what is in a row.
///
/// ```
/// assert_eq!(leveret_sql::chain(&leveret_sql::Error::Silent), "the database does not answer");
/// ```
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |chain, error| format!("{chain}: {error}"))
}

/// What went wrong, without what the database said of it: that is the source.
fn explain(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let kind = if code.len() == 5 { "SQLSTATE" } else { "SQLite" };
            format!("{} ({kind} {code})", meaning(&code))
        }
        sqlx::Error::Io(_) => "cannot reach the database".to_owned(),
        sqlx::Error::Tls(_) => "there is no TLS connection to the database".to_owned(),
        sqlx::Error::PoolTimedOut => "the pool had no connection to the database in time".to_owned(),
        sqlx::Error::PoolClosed => "the connections to the database are closed".to_owned(),
        sqlx::Error::Protocol(_) => "the answer of the database is not PostgreSQL's protocol".to_owned(),
        sqlx::Error::Configuration(_) => "the address of the database is not valid".to_owned(),
        _ => "the database failed".to_owned(),
    }
}

fn meaning(code: &str) -> &'static str {
    if code.len() != 5 {
        return match code.parse::<u32>().unwrap_or_default() & 0xff {
            3 | 23 => "the database file may not be used",
            5 | 6 => "another process has the database locked",
            8 => "the database is read-only",
            10 => "the disk of the database failed",
            11 => "the database file is damaged",
            13 => "the disk of the database is full",
            14 => "the database file cannot be opened",
            18..=20 | 25 => "the database refused a value",
            26 => "the file is no SQLite database",
            _ => "the database failed",
        };
    }
    match (code, &code[..2]) {
        ("3D000", _) => "there is no such database",
        ("3F000", _) => "the search_path names no schema that is there",
        ("25006", _) => "the database is read-only",
        ("42501", _) => "the database user lacks a right",
        ("42P01", _) => "a table is missing in the schemas of the search_path",
        ("42P05" | "26000", _) => "a pooler before the database mixes up prepared statements",
        ("53100", _) => "the disk of the database is full",
        ("53300", _) => "the database has no free connection",
        ("55P03", _) => "another transaction has the lock for too long",
        ("57014", _) => "the database cancelled the statement",
        (_, "08") => "the connection to the database failed",
        (_, "22" | "23") => "the database refused a value",
        (_, "28") => "the database refused the login",
        (_, "40") => "the database broke off one of two transactions that conflict",
        (_, "42") => "the database does not know what a statement names",
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

/// PostgreSQL has five characters: lost connections (08), too few resources (53), shutdown and start (57), deadlocks
/// and failed serialisation (40), locks not had in time (55P03), a standby (25006). SQLite has a number, whose low byte
/// says busy (5), locked (6), input or output (10), full (13) or cannot open (14).
fn code_passes(code: &str) -> bool {
    if code.len() == 5 {
        return ["08", "53", "57", "40"].contains(&&code[..2]) || ["55P03", "25006"].contains(&code);
    }
    code.parse::<u32>().is_ok_and(|number| [5, 6, 10, 13, 14].contains(&(number & 0xff)))
}

/// A row named twice (21), bad data (22), broken constraints (23) and what is too big (54) on PostgreSQL; on SQLite what is too big (18), breaks a constraint (19), or is
/// of the wrong type (20) or out of range (25).
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
            ("3D000", "no such database"),
            ("42501", "right"),
            ("25006", "read-only"),
            ("42601", "statement"),
            ("57P03", "starting"),
            ("53100", "full"),
            ("40P01", "conflict"),
            ("XX000", "failed"),
            ("8", "read-only"),
            ("1032", "read-only"),
            ("26", "no SQLite database"),
            ("1", "failed"),
        ] {
            assert!(meaning(code).contains(word), "{code}: {}", meaning(code));
        }
    }

    #[test]
    fn what_passes_by_itself_is_told_from_what_does_not() {
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
