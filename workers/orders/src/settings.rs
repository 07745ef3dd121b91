//! The settings of this worker, from flags or environment variables.

use std::fmt;

use crate::{error::ShopError, shop::Shop};

/// Database, stock and credit of the shop.
#[derive(Clone, clap::Args)]
#[command(mut_args(leveret::setting))]
pub struct OrderSettings {
    /// Database of the shop: `sqlite:PATH`, or `postgres://user:password@host/database` for several workers
    #[arg(long, env = "DATABASE_URL", value_name = "URL", default_value = "sqlite:orders.db", hide_env_values = true)]
    pub database_url: String,

    /// Stock of articles, set at the start, such as TEA-0101=40,POT-0003=2
    #[arg(long, value_name = "SKU=COUNT", value_delimiter = ',', value_parser = stock)]
    pub stock: Vec<(String, u32)>,

    /// Credit of new customers in euro cents, such as ann@example.org=5000; an account that exists is left as it is
    #[arg(long, value_name = "CUSTOMER=CENTS", value_delimiter = ',', value_parser = credit)]
    pub credit: Vec<(String, u32)>,
}

impl fmt::Debug for OrderSettings {
    /// Leaves out the URL, which may have a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderSettings").field("stock", &self.stock).finish_non_exhaustive()
    }
}

impl OrderSettings {
    /// Opens the shop.
    ///
    /// # Errors
    ///
    /// The errors of [`Shop::open`].
    pub async fn open(&self) -> Result<Shop, ShopError> {
        let shop = Shop::open(&self.database_url).await?;
        for (sku, quantity) in &self.stock {
            shop.set_stock(sku, *quantity).await?;
        }
        for (customer, cents) in &self.credit {
            shop.open_account(customer, *cents).await?;
        }
        Ok(shop)
    }
}

fn stock(text: &str) -> Result<(String, u32), String> {
    number_of(text).ok_or("it must be SKU=COUNT, such as TEA-0101=40")?
}

fn credit(text: &str) -> Result<(String, u32), String> {
    number_of(text).ok_or("it must be CUSTOMER=CENTS, such as ann@example.org=5000")?
}

fn number_of(text: &str) -> Option<Result<(String, u32), String>> {
    let (name, number) = text.rsplit_once('=')?;
    Some(number.parse().map(|parsed| (name.to_owned(), parsed)).map_err(|error| format!("{number:?}: {error}")))
}
