//! Errors of an order and of the shop.

use leveret::{JobError, workflow::WorkflowError};
use leveret_email::{error::MailError, money::Currency};

/// Error of an order that cannot be placed. A later attempt fails too.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// The mail address of the customer is invalid.
    #[error("the mail address of the customer is invalid")]
    Customer(#[from] MailError),
    /// The order has no lines, or too many.
    #[error("the order has {count} lines: it must have 1 to {limit}")]
    Lines {
        /// Number of lines.
        count: usize,
        /// Maximum number of lines.
        limit: usize,
    },
    /// The shop does not have the article.
    #[error("there is no article {sku:?}")]
    UnknownArticle {
        /// The article.
        sku: String,
    },
    /// The credit of the customer does not cover the charge.
    #[error(
        "{} are to pay, and the credit of {customer} is {}",
        Currency::EUR.format(*cents),
        Currency::EUR.format(*credit)
    )]
    CreditTooSmall {
        /// Mail address of the customer.
        customer: String,
        /// Amount of the charge.
        cents: i64,
        /// Credit of the customer.
        credit: i64,
    },
    /// No payment of this customer and amount that could pay an order has this id.
    #[error(
        "payment {payment:?} cannot be used for this order: it is used or refunded, or its customer or amount differs"
    )]
    NoPayment {
        /// Id of the job that charged it.
        payment: String,
    },
    /// No stock for these lines is reserved under this id.
    #[error("no stock for these lines is reserved by {reservation:?}: it is used, released, or for other lines")]
    NoReservation {
        /// Id of the job.
        reservation: String,
    },
    /// The number of a checkout names its workflow, its invoice and its event.
    #[error(
        "the number {number:?} must have 1 to 100 ASCII letters, digits, dots, hyphens and underscores, and begin with one of the first two"
    )]
    Number {
        /// The number.
        number: String,
    },
    /// The order cannot be a workflow.
    #[error("the order cannot be a workflow")]
    Workflow(#[from] WorkflowError),
    /// The stock of the article is too small.
    #[error("{ordered} of {sku:?} are ordered, and {left} are in stock")]
    OutOfStock {
        /// The article.
        sku: String,
        /// Quantity of the line.
        ordered: u16,
        /// Quantity in stock, less the other lines of the order.
        left: i64,
    },
}

/// Error of the shop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShopError {
    /// The URL is not one of a database. The message does not show it, because it may have a password.
    #[error("DATABASE_URL is invalid: set sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE")]
    Address,
    /// The database is unreachable, or refuses a statement.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The outbox or the inbox failed.
    #[error("the outbox or the inbox failed")]
    Store(#[from] leveret_sql::Error),
    /// The worker cannot start.
    #[error(transparent)]
    Worker(#[from] leveret::Error),
}

/// Returns a permanent error for data that the database refuses, such as a NUL in a text, else a retry.
pub(crate) fn database_error(error: impl Into<leveret_sql::Error>) -> JobError {
    let error = error.into();
    if error.is_refusal() { JobError::permanent(error) } else { error.into() }
}
