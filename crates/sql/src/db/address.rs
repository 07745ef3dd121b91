//! The address of a database.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum DatabaseAddress {
    Sqlite(PathBuf),
    Postgres,
}

pub(super) fn parse(url: &str) -> Result<DatabaseAddress> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(DatabaseAddress::Postgres);
    }
    let path = match url.strip_prefix("sqlite:") {
        // Other tools write `sqlite:///var/lib/x.db`. Their parameters would have no effect here.
        Some(path) if !path.contains('?') => path.strip_prefix("//").unwrap_or(path),
        None if !url.contains("://") => url,
        _ => return Err(Error::Address),
    };
    // A database in memory would be another one for each connection.
    if path.is_empty() || path == ":memory:" { Err(Error::Address) } else { Ok(DatabaseAddress::Sqlite(path.into())) }
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
            ("sqlite:/var/lib/leveret.db", file("/var/lib/leveret.db")),
            ("sqlite:///var/lib/leveret.db", file("/var/lib/leveret.db")),
            ("data/my leveret.db", file("data/my leveret.db")),
            ("postgres://me@localhost/jobs", Some(DatabaseAddress::Postgres)),
            ("postgresql://me@localhost/jobs", Some(DatabaseAddress::Postgres)),
            ("mysql://me@localhost/jobs", None),
            ("sqlite::memory:", None),
            ("sqlite:leveret.db?mode=ro", None),
            ("", None),
        ] {
            assert_eq!(parse(url).ok(), expected, "{url}");
        }
    }
}
