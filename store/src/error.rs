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
    /// The folder of an SQLite file is not there.
    #[error("no folder for the database {}", path.display())]
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
    /// The database has no outbox or no inbox, or one that is too old.
    #[error("the database has no {part} of this version: make it with `leveret {part} migrate`")]
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
    /// A cursor that this store did not give out.
    #[error("not a cursor of this list")]
    Cursor,
    /// The database says nothing: it is halted, or the network loses what is sent. What was asked may be done all the same.
    #[error("the database does not answer")]
    Silent,
    /// The database is away, refuses, or holds what it should not.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Whether the same may succeed later, unchanged: the database is away, restarting, busy or full.
    ///
    /// ```
    /// assert!(!leveret_store::Error::Address.is_unavailable());
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
    /// assert!(!leveret_store::Error::Address.is_refusal());
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

/// An error and its sources in one line, for logs: their `Debug` may show what is in a row.
///
/// ```
/// assert_eq!(leveret_store::chain(&leveret_store::Error::Cursor), "not a cursor of this list");
/// ```
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |chain, error| format!("{chain}: {error}"))
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
