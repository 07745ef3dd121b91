//! The view: its tables, the handler that keeps them, and what it answers.

use std::time::Duration;

use leveret::Broker;
use leveret_sql::Projections;
use sqlx::{
    PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

use crate::event::OrderPlaced;

/// The name of the projection.
pub const NAME: &str = "analytics";
const CONNECTIONS: u32 = 4;
/// Maximum wait of a writer for another writer.
const BUSY: Duration = Duration::from_secs(30);

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS analytics_days (
        day TEXT PRIMARY KEY, orders BIGINT NOT NULL, cents BIGINT NOT NULL);
    CREATE TABLE IF NOT EXISTS analytics_products (
        sku TEXT PRIMARY KEY, pieces BIGINT NOT NULL, cents BIGINT NOT NULL);";
const ADD_DAY: &str = "
    INSERT INTO analytics_days VALUES ($1, 1, $2) ON CONFLICT (day) DO UPDATE SET
    orders = analytics_days.orders + 1, cents = analytics_days.cents + excluded.cents";
const ADD_PRODUCT: &str = "
    INSERT INTO analytics_products VALUES ($1, $2, $3) ON CONFLICT (sku) DO UPDATE SET
    pieces = analytics_products.pieces + excluded.pieces, cents = analytics_products.cents + excluded.cents";
const DAYS: &str = "SELECT day, orders, cents FROM analytics_days ORDER BY day";
const PRODUCTS: &str = "SELECT sku, pieces, cents FROM analytics_products ORDER BY cents DESC, sku LIMIT $1";

/// The reason why the analytics cannot be opened, computed or read.
#[derive(Debug, thiserror::Error)]
pub enum AnalyticsError {
    /// Neither PostgreSQL nor an SQLite file.
    #[error("the database address is invalid: set sqlite:PATH or postgres://user:password@host/database")]
    Address,
    /// The projection stopped.
    #[error(transparent)]
    Projection(#[from] leveret_sql::Error),
    /// The database failed.
    #[error("the database of the analytics failed")]
    Database(#[from] sqlx::Error),
}

/// The revenue of a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayRevenue {
    /// The day in UTC, such as `2026-11-30`.
    pub day: String,
    /// Number of orders.
    pub orders: i64,
    /// Revenue in cents.
    pub cents: i64,
}

/// The sales of a product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductSales {
    /// Article number.
    pub sku: String,
    /// Number of pieces.
    pub pieces: i64,
    /// Revenue in cents.
    pub cents: i64,
}

/// The database of the analytics. Clones share its connections.
#[derive(Clone, Debug)]
pub enum Analytics {
    /// PostgreSQL, for any number of processes.
    Postgres(PgPool),
    /// SQLite, for processes on one machine.
    Sqlite(SqlitePool),
}

/// The handlers on a connection of one database.
macro_rules! projection {
    ($database:ident, $connection:ty) => {
        mod $database {
            use leveret_sql::Projection;

            use super::{ADD_DAY, ADD_PRODUCT, NAME, OrderPlaced};

            async fn add(order: OrderPlaced, tx: &mut $connection) -> sqlx::Result<()> {
                sqlx::query(ADD_DAY).bind(order.placed_at.day()).bind(order.total_cents).execute(&mut *tx).await?;
                for line in order.lines {
                    let cents = line.quantity * line.cents;
                    let add = sqlx::query(ADD_PRODUCT).bind(line.sku).bind(line.quantity).bind(cents);
                    add.execute(&mut *tx).await?;
                }
                Ok(())
            }

            async fn empty(tx: &mut $connection) -> sqlx::Result<()> {
                sqlx::query("DELETE FROM analytics_days").execute(&mut *tx).await?;
                sqlx::query("DELETE FROM analytics_products").execute(tx).await?;
                Ok(())
            }

            pub(super) fn projection() -> Projection<$connection> {
                Projection::new(NAME, empty).on(add)
            }
        }
    };
}

projection!(postgres, sqlx::PgConnection);
projection!(sqlite, sqlx::SqliteConnection);

impl Analytics {
    /// Opens `sqlite:PATH` or `postgres://…`, and creates a missing file and missing tables.
    ///
    /// # Errors
    ///
    /// [`AnalyticsError::Address`] for another URL, or an error of the database.
    pub async fn open(url: &str) -> Result<Self, AnalyticsError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?;
            return Self::postgres(pool).await;
        }
        let path = url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
        let path = path.filter(|path| !path.is_empty() && *path != ":memory:").ok_or(AnalyticsError::Address)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(BUSY);
        Self::sqlite(SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await?).await
    }

    /// Creates missing tables in a database of the caller.
    ///
    /// # Errors
    ///
    /// An error of the database.
    pub async fn postgres(pool: PgPool) -> Result<Self, AnalyticsError> {
        Projections::migrate(&pool).await?;
        let mut tx = pool.begin().await?;
        // Two processes that create one table at the same time fail on PostgreSQL.
        sqlx::raw_sql("SELECT pg_advisory_xact_lock(hashtext('leveret_analytics'))").execute(&mut *tx).await?;
        sqlx::raw_sql(TABLES).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Self::Postgres(pool))
    }

    /// As [`postgres`](Self::postgres).
    ///
    /// # Errors
    ///
    /// An error of the database.
    pub async fn sqlite(pool: SqlitePool) -> Result<Self, AnalyticsError> {
        Projections::migrate(&pool).await?;
        sqlx::raw_sql(TABLES).execute(&pool).await?;
        Ok(Self::Sqlite(pool))
    }

    /// Keeps the view until `stop` is ready.
    ///
    /// # Errors
    ///
    /// The errors of [`run`](leveret_sql::Projection::run).
    pub async fn run(&self, broker: &Broker, stop: impl Future<Output = ()>) -> Result<(), AnalyticsError> {
        match self {
            Self::Postgres(pool) => postgres::projection().run(broker, pool, stop).await?,
            Self::Sqlite(pool) => sqlite::projection().run(broker, pool, stop).await?,
        }
        Ok(())
    }

    /// Returns the revenue of all days, oldest first.
    ///
    /// # Errors
    ///
    /// An error of the database.
    pub async fn days(&self) -> Result<Vec<DayRevenue>, AnalyticsError> {
        let rows: Vec<(String, i64, i64)> = match self {
            Self::Postgres(pool) => sqlx::query_as(DAYS).fetch_all(pool).await?,
            Self::Sqlite(pool) => sqlx::query_as(DAYS).fetch_all(pool).await?,
        };
        Ok(rows.into_iter().map(|(day, orders, cents)| DayRevenue { day, orders, cents }).collect())
    }

    /// Returns the products with the most revenue.
    ///
    /// # Errors
    ///
    /// An error of the database.
    pub async fn top_products(&self, limit: u32) -> Result<Vec<ProductSales>, AnalyticsError> {
        let rows: Vec<(String, i64, i64)> = match self {
            Self::Postgres(pool) => sqlx::query_as(PRODUCTS).bind(i64::from(limit)).fetch_all(pool).await?,
            Self::Sqlite(pool) => sqlx::query_as(PRODUCTS).bind(i64::from(limit)).fetch_all(pool).await?,
        };
        Ok(rows.into_iter().map(|(sku, pieces, cents)| ProductSales { sku, pieces, cents }).collect())
    }
}
