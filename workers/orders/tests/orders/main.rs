//! What the orders worker promises, on SQLite and on PostgreSQL alike.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

mod crash;
mod place;
mod program;
mod refusals;
mod stage;
mod traces;

/// Makes each of these functions of a `Database` a test on SQLite and a test on PostgreSQL.
#[macro_export]
macro_rules! on_both {
    ($($promise:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise($crate::stage::Database::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise($crate::stage::Database::postgres().await).await;
            })+
        }
    };
}
