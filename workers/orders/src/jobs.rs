//! The jobs of this worker. Each runs one transaction.

mod payment;
mod place;
mod stock;

pub use self::{
    payment::{charge_payment, refund_payment},
    place::place_order,
    stock::{release_stock, reserve_stock},
};
use crate::{error::OrderError, order::OrderLine};

const TAKE: &str = "UPDATE stock SET quantity = quantity - $1 WHERE sku = $2 AND quantity >= $1";
const LEFT: &str = "SELECT quantity FROM stock WHERE sku = $1";

/// Takes the stock of a line, or returns from the handler with a permanent error.
macro_rules! take_stock {
    ($tx:expr, $line:expr) => {
        let (taken, sku) = (i64::from($line.quantity.get()), &$line.sku);
        let take = sqlx::query($crate::jobs::TAKE).bind(taken).bind(sku).execute(&mut *$tx).await;
        if take.map_err($crate::error::database_error)?.rows_affected() == 0 {
            let left = sqlx::query_scalar($crate::jobs::LEFT).bind(sku).fetch_optional(&mut *$tx).await;
            let left = left.map_err($crate::error::database_error)?;
            return Err(leveret::JobError::permanent($crate::jobs::too_few($line, left)));
        }
    };
}
use take_stock;

fn too_few(line: &OrderLine, left: Option<i64>) -> OrderError {
    let sku = line.sku.clone();
    match left {
        Some(left) => OrderError::OutOfStock { sku, ordered: line.quantity.get(), left },
        None => OrderError::UnknownArticle { sku },
    }
}
