//! Handlers of a projection, and the place where their event types are erased.

use std::{error::Error as StdError, panic::AssertUnwindSafe, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use leveret::{Event, event_log::LoggedEvent};
use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection};

use crate::db::{ConnectionMut, Pool};

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// A connection of a database that projections work on: [`PgConnection`] or [`SqliteConnection`].
///
/// This trait is sealed.
pub trait ProjectionConnection: Typed {}

impl<C: Typed> ProjectionConnection for C {}

mod sealed {
    use super::{ConnectionMut, Pool};

    pub trait Typed: Sized + Send + 'static {
        type Database: sqlx::Database;

        fn pool(pool: &sqlx::Pool<Self::Database>) -> Pool;

        /// The connection, if it is of this database.
        fn of(connection: ConnectionMut<'_>) -> Option<&mut Self>;
    }
}

pub(super) use sealed::Typed;

impl Typed for PgConnection {
    type Database = Postgres;

    fn pool(pool: &sqlx::Pool<Postgres>) -> Pool {
        pool.clone().into()
    }

    fn of(connection: ConnectionMut<'_>) -> Option<&mut Self> {
        if let ConnectionMut::Postgres(connection) = connection { Some(connection) } else { None }
    }
}

impl Typed for SqliteConnection {
    type Database = Sqlite;

    fn pool(pool: &sqlx::Pool<Sqlite>) -> Pool {
        pool.clone().into()
    }

    fn of(connection: ConnectionMut<'_>) -> Option<&mut Self> {
        if let ConnectionMut::Sqlite(connection) = connection { Some(connection) } else { None }
    }
}

/// An async function of two arguments, whose future may borrow the second.
///
/// Every `async fn(A, &mut C) -> Result<(), E>` is one. It exists because a bound on the future of an async function that
/// borrows cannot be written yet.
#[doc(hidden)]
pub trait AsyncFn2<A, B>: Fn(A, B) -> Self::Future {
    /// The future.
    type Future: Future<Output = Self::Returned> + Send;
    /// Its result.
    type Returned;
}

impl<F, A, B, Fut> AsyncFn2<A, B> for F
where
    F: Fn(A, B) -> Fut,
    Fut: Future + Send,
{
    type Future = Fut;
    type Returned = Fut::Output;
}

/// As [`AsyncFn2`], of one argument.
#[doc(hidden)]
pub trait AsyncFn1<A>: Fn(A) -> Self::Future {
    /// The future.
    type Future: Future<Output = Self::Returned> + Send;
    /// Its result.
    type Returned;
}

impl<F, A, Fut> AsyncFn1<A> for F
where
    F: Fn(A) -> Fut,
    Fut: Future + Send,
{
    type Future = Fut;
    type Returned = Fut::Output;
}

/// A result of a handler.
#[doc(hidden)]
pub trait Applied {
    /// As a result with any error.
    ///
    /// # Errors
    ///
    /// That of the handler.
    fn boxed(self) -> Result<(), BoxError>;
}

impl<E: Into<BoxError>> Applied for Result<(), E> {
    fn boxed(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// A handler without its event's type, which decodes the event itself.
pub(super) type Erased<C> =
    Arc<dyn for<'t> Fn(&'t LoggedEvent, &'t mut C) -> BoxFuture<'t, Result<(), BoxError>> + Send + Sync>;

/// The function that empties a view.
pub(super) type Emptying<C> = Arc<dyn for<'t> Fn(&'t mut C) -> BoxFuture<'t, Result<(), BoxError>> + Send + Sync>;

pub(super) fn erase<E, C, F>(handler: F) -> Erased<C>
where
    E: Event,
    C: ProjectionConnection,
    F: for<'t> AsyncFn2<E, &'t mut C, Returned: Applied> + Send + Sync + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |event, connection| {
        let handler = Arc::clone(&handler);
        Box::pin(async move { handler(event.decode::<E>()?, connection).await.boxed() })
    })
}

pub(super) fn erase_raw<C, F>(handler: F) -> Erased<C>
where
    C: ProjectionConnection,
    F: for<'t> AsyncFn2<LoggedEvent, &'t mut C, Returned: Applied> + Send + Sync + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |event, connection| {
        let handler = Arc::clone(&handler);
        Box::pin(async move { handler(event.clone(), connection).await.boxed() })
    })
}

pub(super) fn erase_emptying<C, F>(empty: F) -> Emptying<C>
where
    C: ProjectionConnection,
    F: for<'t> AsyncFn1<&'t mut C, Returned: Applied> + Send + Sync + 'static,
{
    let empty = Arc::new(empty);
    Arc::new(move |connection| {
        let empty = Arc::clone(&empty);
        Box::pin(async move { empty(connection).await.boxed() })
    })
}

/// Awaits a handler; its panic becomes an error.
pub(super) async fn caught(handler: BoxFuture<'_, Result<(), BoxError>>) -> Result<(), BoxError> {
    AssertUnwindSafe(handler).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(format!("the handler panicked: {}", text.unwrap_or("with a value that is not text")).into())
    })
}
