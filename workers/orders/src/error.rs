//! What is wrong with an order, and what keeps the shop from being open.

use leveret_email::error::MailError;

/// An order that cannot be placed; no later attempt can change it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// The customer cannot be written to.
    #[error("the customer cannot be written to")]
    Customer(#[from] MailError),
    /// Nothing was ordered, or too much at once.
    #[error("the order has {count} lines: it must have 1 to {limit}")]
    Lines {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The shop does not have the article.
    #[error("there is no article {sku:?}")]
    UnknownArticle {
        /// The article.
        sku: String,
    },
    /// The shop has too few of the article.
    #[error("{wanted} of {sku:?} are wanted and {left} are left")]
    OutOfStock {
        /// The article.
        sku: String,
        /// How many the line is for.
        wanted: u16,
        /// How many there are, less those that the order's other lines took.
        left: i64,
    },
}

/// Why the shop could not be opened, or closed of itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShopError {
    /// Not the address of a database. It is left out: it may hold a password.
    #[error("DATABASE_URL: give sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE")]
    Address,
    /// The database cannot be reached or changed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The outbox or the inbox failed.
    #[error("the outbox or the inbox failed")]
    Store(#[from] leveret_sql::Error),
    /// The worker could not start.
    #[error(transparent)]
    Worker(#[from] leveret::Error),
}
