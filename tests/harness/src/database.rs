//! An empty database for one test, SQLite or PostgreSQL.

use crate::{leash::Folder, postgres::shared_postgres};

/// An empty database. An SQLite file is removed when this is dropped.
#[derive(Debug)]
pub struct Database {
    /// Its address.
    pub url: String,
    _folder: Option<Folder>,
}

impl Database {
    /// A file that is not there yet, in a folder of its own and with a space in its name.
    ///
    /// # Panics
    ///
    /// When the folder cannot be created.
    #[must_use]
    pub fn sqlite() -> Self {
        let folder = Folder::new(&std::env::temp_dir(), "leveret-sqlite").expect("a temporary folder");
        let url = format!("sqlite:{}", folder.path().join("leveret test.db").display());
        Self { url, _folder: Some(folder) }
    }

    /// A database of the server that the tests of this process share.
    ///
    /// # Panics
    ///
    /// As [`shared_postgres`].
    pub async fn postgres() -> Self {
        Self::at(shared_postgres().await.database().await)
    }

    /// A database of a server of the test's own.
    #[must_use]
    pub fn at(url: String) -> Self {
        Self { url, _folder: None }
    }
}

/// Makes each of these functions of a [`Database`] a test on SQLite and a test on PostgreSQL.
#[macro_export]
macro_rules! on_both_databases {
    ($($promise:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise($crate::Database::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise($crate::Database::postgres().await).await;
            })+
        }
    };
}
