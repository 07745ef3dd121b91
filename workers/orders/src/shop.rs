//! The database of the shop: its stock and its orders, and beside them an outbox and an inbox.

use std::time::Duration;

use leveret::Broker;
use leveret_sql::{Inbox, Outbox, Relay, Waker};
use sqlx::{
    PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{error::ShopError, order::Placed};

const CONNECTIONS: u32 = 8;
/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(30);

/// A shop that is open. Clones share its connections.
#[derive(Clone, Debug)]
pub enum Shop {
    /// For any number of workers.
    Postgres(PgPool),
    /// For workers on one machine.
    Sqlite(SqlitePool),
}

/// What the handlers share.
#[derive(Debug)]
pub struct Desk {
    pub(crate) shop: Shop,
    pub(crate) relay: Waker,
}

/// The same on both databases.
macro_rules! on {
    ($shop:expr, |$pool:ident| $run:expr) => {
        match $shop {
            Shop::Postgres($pool) => $run,
            Shop::Sqlite($pool) => $run,
        }
    };
}

impl Shop {
    /// Opens `sqlite:PATH`, which is made when it is missing, or `postgres://…`, and makes the tables that are not there.
    ///
    /// # Errors
    ///
    /// [`ShopError::Address`] for anything else; what the database says.
    pub async fn open(url: &str) -> Result<Self, ShopError> {
        let shop = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Self::Postgres(PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?)
        } else {
            let path = url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
            // One in memory would be another for each connection.
            let path = path.filter(|path| !path.is_empty() && *path != ":memory:").ok_or(ShopError::Address)?;
            let options = SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                // A job is acked after its commit, which must then survive a power cut.
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(BUSY);
            Self::Sqlite(SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await?)
        };
        shop.migrate().await?;
        Ok(shop)
    }

    async fn migrate(&self) -> Result<(), ShopError> {
        match self {
            Self::Postgres(pool) => {
                let mut tx = pool.begin().await?;
                sqlx::raw_sql(include_str!("../migrations/postgres.sql")).execute(&mut *tx).await?;
                tx.commit().await?;
            }
            Self::Sqlite(pool) => {
                let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::raw_sql(include_str!("../migrations/sqlite.sql")).execute(&mut *tx).await?;
                tx.commit().await?;
            }
        }
        on!(self, |pool| Outbox::migrate(pool).await?);
        on!(self, |pool| Inbox::migrate(pool).await?);
        Ok(())
    }

    /// The relay from the shop's outbox to a broker. Mails that one of them holds as it dies wait for twice the broker's
    /// publish timeout.
    #[must_use]
    pub fn relay(&self, broker: &Broker) -> Relay {
        on!(self, |pool| Relay::new(pool, broker)).lease(2 * broker.config().publish_timeout)
    }

    /// Says how many of an article there are, known before or not.
    ///
    /// # Errors
    ///
    /// What the database says.
    pub async fn set_stock(&self, sku: &str, quantity: u32) -> Result<(), ShopError> {
        const SET: &str = "INSERT INTO stock (sku, quantity) VALUES ($1, $2)
                           ON CONFLICT (sku) DO UPDATE SET quantity = excluded.quantity";
        on!(self, |pool| sqlx::query(SET).bind(sku).bind(i64::from(quantity)).execute(pool).await.map(drop)?);
        Ok(())
    }

    /// How many of an article there are; none if it is unknown.
    ///
    /// # Errors
    ///
    /// What the database says.
    pub async fn stock(&self, sku: &str) -> Result<Option<i64>, ShopError> {
        const GET: &str = "SELECT quantity FROM stock WHERE sku = $1";
        Ok(on!(self, |pool| sqlx::query_scalar(GET).bind(sku).fetch_optional(pool).await?))
    }

    /// The orders that the job of this id has placed: one, or none yet.
    ///
    /// # Errors
    ///
    /// What the database says.
    pub async fn orders(&self, job_id: &str) -> Result<Vec<Placed>, ShopError> {
        const GET: &str = "SELECT number, total_cents FROM orders WHERE job_id = $1 ORDER BY number";
        let rows: Vec<(i64, i64)> = on!(self, |pool| sqlx::query_as(GET).bind(job_id).fetch_all(pool).await?);
        Ok(rows.into_iter().map(|(number, total_cents)| Placed { number, total_cents }).collect())
    }

    /// Closes all connections, once what is under way is done.
    pub async fn close(&self) {
        on!(self, |pool| pool.close().await);
    }
}
