//! What the store promises, on SQLite and on PostgreSQL alike.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

mod audit;
mod database;
mod dead;
mod errors;
mod idempotency;
mod inbox;
mod open;
mod origin;
mod outbox;
mod permits;
mod pooled;
mod replay;
mod retention;
mod status;
mod unique;
mod writers;

/// Makes each of these functions of a `Database` a test on SQLite and a test on PostgreSQL.
#[macro_export]
macro_rules! on_both {
    ($($promise:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise($crate::database::Database::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise($crate::database::Database::postgres().await).await;
            })+
        }
    };
}
