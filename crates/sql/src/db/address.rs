//! The address of a database.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// The address of a database.
#[derive(Debug, PartialEq, Eq)]
pub enum DatabaseAddress {
    /// A file of SQLite. Its path may be shown.
    Sqlite(PathBuf),
    /// A PostgreSQL server. The address has the password before the host, or as a parameter.
    Postgres,
}

impl DatabaseAddress {
    /// Parses an address. Spaces around it are no part of it.
    ///
    /// An address of another database, or of PostgreSQL in another form, is no path: errors show paths.
    ///
    /// # Errors
    ///
    /// [`Error::Address`], which omits the address.
    pub fn parse(address: &str) -> Result<Self> {
        let address = address.trim();
        let (scheme, rest) = address.split_once(':').unwrap_or_default();
        let path = match scheme.to_ascii_lowercase().as_str() {
            "postgres" | "postgresql" if ends_login_with_host(rest) => return Ok(Self::Postgres),
            // Other tools write `sqlite:///var/lib/x.db`. Their parameters would have no effect here.
            "sqlite" => rest.strip_prefix("//").unwrap_or(rest),
            _ if !address.contains([':', '=', '@']) => address,
            _ => return Err(Error::Address),
        };
        // A database in memory would be another one for each connection.
        let is_file = !path.is_empty() && path != ":memory:";
        if is_file && !may_hold_password(path) { Ok(Self::Sqlite(path.into())) } else { Err(Error::Address) }
    }
}

/// Returns whether the part of a URL after its scheme has no `@` after its host. Such a one ends a password that is not
/// percent-encoded, and a part of that would count as database or parameter.
fn ends_login_with_host(rest: &str) -> bool {
    let Some(rest) = rest.strip_prefix("//") else { return false };
    rest.split_once(['/', '?', '#']).is_none_or(|(_, path)| !path.contains('@'))
}

/// Returns whether a path looks like the address of another database: a URL, `user:password@host`, parameters such as
/// `password=…`, or a text in quotes.
fn may_hold_password(path: &str) -> bool {
    let is_url = path.contains("://") || path.contains('?') || path.starts_with(['"', '\'']);
    let has_login = path.split_once(':').is_some_and(|(_, rest)| rest.contains('@'));
    let lower = path.to_ascii_lowercase();
    let has_password = path.contains('=') && ["pass", "pwd"].iter().any(|name| lower.contains(name));
    is_url || has_login || has_password
}

/// Returns whether the address of a PostgreSQL server asks for prepared statements, by a cache for them.
pub(super) fn keeps_statements(url: &str) -> bool {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let mut capacity =
        parameters.split('&').filter_map(|parameter| parameter.strip_prefix("statement-cache-capacity="));
    capacity.next_back().is_some_and(|capacity| capacity.parse().is_ok_and(|capacity: usize| capacity > 0))
}

/// Creates the file of an SQLite database if it is missing, and returns its absolute path.
///
/// Only its user may read it, because payloads hold secrets. SQLite gives the files beside it the same mode.
pub(super) fn sqlite_file(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |source| Error::Folder { path: path.into(), source };
    let file = folder.canonicalize().map_err(failed)?.join(path.file_name().ok_or(Error::Address)?);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(&file) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_asks_for_it_keeps_statements() {
        for (parameters, expected) in [
            ("", false),
            ("?sslmode=require", false),
            ("?statement-cache-capacity=0", false),
            ("?statement-cache-capacity=100", true),
            ("?sslmode=require&statement-cache-capacity=20", true),
        ] {
            assert_eq!(
                keeps_statements(&format!("postgres://me@localhost/jobs{parameters}")),
                expected,
                "{parameters}"
            );
        }
    }

    #[test]
    fn an_address_is_a_path_or_one_of_two_schemes() {
        let file = |path: &str| Some(DatabaseAddress::Sqlite(path.into()));
        for (url, expected) in [
            ("sqlite:leveret.db", file("leveret.db")),
            ("SQLite:leveret.db", file("leveret.db")),
            (" leveret.db\n", file("leveret.db")),
            ("sqlite:/home/anna@corp/k=v/a:b.db", file("/home/anna@corp/k=v/a:b.db")),
            ("/home/anna@corp/leveret.db", None),
            ("me/it@localhost/jobs", None),
            ("localhost:5432:jobs:me:it", None),
            ("a=b.db", None),
            ("a:b.db", None),
            ("'leveret.db'", None),
            ("leveret.db?mode=ro", None),
            ("sqlite:/var/lib/leveret.db", file("/var/lib/leveret.db")),
            ("sqlite:///var/lib/leveret.db", file("/var/lib/leveret.db")),
            ("data/my leveret.db", file("data/my leveret.db")),
            ("postgres://me@localhost/jobs", Some(DatabaseAddress::Postgres)),
            ("postgresql://me@localhost/jobs", Some(DatabaseAddress::Postgres)),
            ("Postgres://me:it%40is@localhost/jobs", Some(DatabaseAddress::Postgres)),
            (" postgres://me@localhost/jobs", Some(DatabaseAddress::Postgres)),
            ("postgres:///jobs?host=/run/postgresql", Some(DatabaseAddress::Postgres)),
            ("postgres://me:123/it@is@localhost/jobs", None),
            ("postgres://me:123?it@localhost/jobs", None),
            ("postgres:/me@localhost/jobs", None),
            ("postgres:jobs", None),
            ("mysql://me@localhost/jobs", None),
            ("sqlite::memory:", None),
            ("sqlite:leveret.db?mode=ro", None),
            ("", None),
        ] {
            assert_eq!(DatabaseAddress::parse(url).ok(), expected, "{url}");
        }
    }

    #[test]
    fn an_address_with_a_password_is_one_of_postgresql_or_refused_and_never_a_path() {
        let forms = [
            "postgres://u:S3cret@h/db",
            "postgresql://u:S3cret@h:5432/db?sslmode=require",
            "postgres://h/db?user=u&password=S3cret",
            "postgres:/u:S3cret@h/db",
            "postgres:u:S3cret@h/db",
            "postgres//u:S3cret@h/db",
            "//u:S3cret@h/db",
            "u:S3cret@h/db",
            "u:S3cret@tcp(h:3306)/db",
            "mysql://u:S3cret@h/db",
            "jdbc:postgresql://h/db?user=u&password=S3cret",
            "DATABASE_URL=postgres://u:S3cret@h/db",
            "host=h dbname=db user=u password=S3cret",
            "host = h user = u password = S3cret",
            "Server=h;User Id=u;Pwd=S3cret;",
            "leveret.db?key=S3cret",
        ];
        let wraps: [fn(&str) -> String; 9] = [
            str::to_owned,
            |form| format!("\"{form}\""),
            |form| format!("'{form}'"),
            |form| format!("“{form}”"),
            |form| format!(" {form}"),
            |form| format!("{form}\n"),
            |form| form.to_uppercase(),
            |form| format!("sqlite:{form}"),
            |form| format!("sqlite://{form}"),
        ];
        for form in forms {
            for address in wraps.map(|wrap| wrap(form)) {
                let parsed = DatabaseAddress::parse(&address);
                assert!(matches!(parsed, Ok(DatabaseAddress::Postgres) | Err(Error::Address)), "{address}: {parsed:?}");
                let error = parsed.err().map(|error| error.to_string()).unwrap_or_default();
                assert!(!error.to_uppercase().contains("S3CRET"), "{error}");
            }
        }
    }
}
