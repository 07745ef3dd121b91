//! Tests of the orders worker on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkout;
mod crash;
mod place;
mod program;
mod refusals;
mod test_shop;
mod traces;

/// Makes each of these functions of a `Database` a test on SQLite and a test on PostgreSQL.
#[macro_export]
macro_rules! on_both {
    ($($promise:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise($crate::test_shop::Database::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise($crate::test_shop::Database::postgres().await).await;
            })+
        }
    };
}
