//! The database of the shop: stock, credit, orders, pick lists, outbox and inbox.

use std::time::Duration;

use leveret::Broker;
use leveret_sql::{Inbox, Outbox, Relay, Waker};
use sqlx::{
    PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{error::ShopError, order::PlacedOrder};

const CONNECTIONS: u32 = 8;
/// Maximum wait of a writer for another writer.
const BUSY: Duration = Duration::from_secs(30);

/// An open shop. Clones share its connections.
#[derive(Clone, Debug)]
pub enum Shop {
    /// PostgreSQL, for any number of workers.
    Postgres(PgPool),
    /// SQLite, for workers on one machine.
    Sqlite(SqlitePool),
}

/// State of the handlers.
#[derive(Debug)]
pub struct OrderState {
    pub(crate) shop: Shop,
    pub(crate) relay: Waker,
}

/// Runs the same expression on both databases.
macro_rules! on {
    ($shop:expr, |$pool:ident| $run:expr) => {
        match $shop {
            Shop::Postgres($pool) => $run,
            Shop::Sqlite($pool) => $run,
        }
    };
}

impl Shop {
    /// Opens `sqlite:PATH` or `postgres://…`, and creates a missing file and missing tables.
    ///
    /// # Errors
    ///
    /// [`ShopError::Address`] for another URL, or an error of the database.
    pub async fn open(url: &str) -> Result<Self, ShopError> {
        let shop = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Self::Postgres(PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?)
        } else {
            let path = url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
            // In memory each connection would have its own database.
            let path = path.filter(|path| !path.is_empty() && *path != ":memory:").ok_or(ShopError::Address)?;
            let options = SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                // The commit must survive a power cut, because the worker acks the job after it.
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

    /// Returns the relay from the outbox of the shop to a broker. After a crash of the relay, its leased events wait for twice
    /// the publish timeout of the broker.
    #[must_use]
    pub fn relay(&self, broker: &Broker) -> Relay {
        on!(self, |pool| Relay::new(pool, broker)).lease(2 * broker.config().publish_timeout)
    }

    /// Sets the stock of an article, which may be new.
    ///
    /// # Errors
    ///
    /// The database fails.
    pub async fn set_stock(&self, sku: &str, quantity: u32) -> Result<(), ShopError> {
        const SET: &str = "INSERT INTO stock (sku, quantity) VALUES ($1, $2)
                           ON CONFLICT (sku) DO UPDATE SET quantity = excluded.quantity";
        on!(self, |pool| sqlx::query(SET).bind(sku).bind(i64::from(quantity)).execute(pool).await.map(drop)?);
        Ok(())
    }

    /// Sets the credit of a customer by the bare mail address, which may be new.
    ///
    /// # Errors
    ///
    /// The database fails.
    pub async fn set_credit(&self, customer: &str, cents: u32) -> Result<(), ShopError> {
        const SET: &str = "INSERT INTO accounts (customer, cents) VALUES ($1, $2)
                           ON CONFLICT (customer) DO UPDATE SET cents = excluded.cents";
        on!(self, |pool| sqlx::query(SET).bind(customer).bind(i64::from(cents)).execute(pool).await.map(drop)?);
        Ok(())
    }

    /// Opens the account of a customer with this credit, unless it exists.
    ///
    /// # Errors
    ///
    /// The database fails.
    pub async fn open_account(&self, customer: &str, cents: u32) -> Result<(), ShopError> {
        const OPEN: &str = "INSERT INTO accounts (customer, cents) VALUES ($1, $2) ON CONFLICT (customer) DO NOTHING";
        on!(self, |pool| sqlx::query(OPEN).bind(customer).bind(i64::from(cents)).execute(pool).await.map(drop)?);
        Ok(())
    }

    /// Returns the credit of a customer in euro cents; `None` if there is no account.
    ///
    /// # Errors
    ///
    /// The database fails.
    pub async fn credit(&self, customer: &str) -> Result<Option<i64>, ShopError> {
        const GET: &str = "SELECT cents FROM accounts WHERE customer = $1";
        Ok(on!(self, |pool| sqlx::query_scalar(GET).bind(customer).fetch_optional(pool).await?))
    }

    /// Returns the stock of an article; `None` if it is unknown.
    ///
    /// # Errors
    ///
    /// The database fails.
    pub async fn stock(&self, sku: &str) -> Result<Option<i64>, ShopError> {
        const GET: &str = "SELECT quantity FROM stock WHERE sku = $1";
        Ok(on!(self, |pool| sqlx::query_scalar(GET).bind(sku).fetch_optional(pool).await?))
    }

    /// Returns the orders of the job `job_id`, at most one.
    ///
    /// # Errors
    ///
    /// The database fails.
    pub async fn orders(&self, job_id: &str) -> Result<Vec<PlacedOrder>, ShopError> {
        const GET: &str = "SELECT number, total_cents FROM orders WHERE job_id = $1 ORDER BY number";
        let rows: Vec<(i64, i64)> = on!(self, |pool| sqlx::query_as(GET).bind(job_id).fetch_all(pool).await?);
        Ok(rows.into_iter().map(|(number, total_cents)| PlacedOrder { number, total_cents }).collect())
    }

    /// Returns the pick lists of the order with this number, at most one.
    ///
    /// # Errors
    ///
    /// The database fails.
    pub async fn pick_lists(&self, order: i64) -> Result<Vec<String>, ShopError> {
        const GET: &str = "SELECT lines FROM pick_lists WHERE order_number = $1";
        Ok(on!(self, |pool| sqlx::query_scalar(GET).bind(order).fetch_all(pool).await?))
    }

    /// Closes all connections after their running statements.
    pub async fn close(&self) {
        on!(self, |pool| pool.close().await);
    }
}
