//! The SQL in which PostgreSQL and SQLite differ.

/// Begins a transaction on PostgreSQL.
///
/// The timeouts release the locks of a process that was halted while it wrote. READ COMMITTED is the only level at
/// which a read sees what was committed during the wait for a lock. `jit = off`: statements that jump through indexes
/// touch few rows, but PostgreSQL estimates many and would compile them, which takes a hundred times as long as they
/// run. All of it is `SET LOCAL` and ends with the transaction, because a pooler gives the session to other clients
/// afterwards.
const POSTGRES_BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
                              SET LOCAL idle_in_transaction_session_timeout = '30s'; SET LOCAL lock_timeout = '30s'; \
                              SET LOCAL jit = off";

/// The same, for statements that find a few rows of large tables by their keys. PostgreSQL takes a list in a placeholder for
/// a hundred rows, and would read whole tables for it until it has statistics. It joins tables in the order in which they are
/// written: otherwise it may begin with the last one.
const POSTGRES_BEGIN_BY_KEYS: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
                                      SET LOCAL idle_in_transaction_session_timeout = '30s'; \
                                      SET LOCAL lock_timeout = '30s'; SET LOCAL jit = off; \
                                      SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; \
                                      SET LOCAL enable_mergejoin = off; SET LOCAL join_collapse_limit = 1";

/// The kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// Begins a transaction that writes.
    pub(super) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => POSTGRES_BEGIN,
        }
    }

    /// Begins a transaction that writes rows by their keys.
    pub(super) fn begin_by_keys(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => POSTGRES_BEGIN_BY_KEYS,
        }
    }

    /// The milliseconds since the epoch on the database's clock, which all relays share. Constant within a statement.
    pub(crate) fn now(self) -> &'static str {
        match self {
            Self::Postgres => "floor(extract(epoch FROM now()) * 1000)::bigint",
            Self::Sqlite => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        }
    }

    /// Locks chosen rows, and skips rows that others have locked. SQLite has one writer at a time.
    pub(crate) fn locked(self) -> &'static str {
        match self {
            Self::Postgres => "FOR UPDATE SKIP LOCKED",
            Self::Sqlite => "",
        }
    }

    /// The values of a JSON array in `placeholder`, as a subquery: a list of any length for `IN`.
    #[must_use]
    pub fn list(self, placeholder: &str) -> String {
        match self {
            Self::Sqlite => format!("(SELECT value FROM json_each({placeholder}))"),
            Self::Postgres => format!("(SELECT json_array_elements_text({placeholder}::json))"),
        }
    }

    /// Like [`Self::list`], for numbers.
    #[must_use]
    pub fn numbers(self, placeholder: &str) -> String {
        match self {
            Self::Sqlite => self.list(placeholder),
            Self::Postgres => format!("(SELECT json_array_elements_text({placeholder}::json)::bigint)"),
        }
    }

    /// Returns whether a text contains the one in `placeholder`, without regard to the case of ASCII letters.
    ///
    /// The text in `placeholder` must have no capital ASCII letters. Other letters are compared as they are, on both
    /// databases and in every locale.
    #[must_use]
    pub fn contains_folded(self, column: &str, placeholder: &str) -> String {
        match self {
            Self::Sqlite => self.contains(&format!("lower({column})"), placeholder),
            Self::Postgres => self.contains(&format!("lower({column} COLLATE \"C\")"), placeholder),
        }
    }

    /// Returns whether a text contains the text in `placeholder`, or bytes contain the bytes.
    #[must_use]
    pub fn contains(self, column: &str, placeholder: &str) -> String {
        match self {
            Self::Sqlite => format!("instr({column}, {placeholder}) > 0"),
            Self::Postgres => format!("position({placeholder} IN {column}) > 0"),
        }
    }
}
