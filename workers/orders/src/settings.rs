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
    #[arg(long, value_name = "SKU=COUNT", value_parser = leveret::comma_list(stock))]
    pub stock: Vec<Box<[(String, u32)]>>,

    /// Credit of new customers in euro cents, such as ann@example.org=5000; an account that exists is left as it is
    #[arg(long, value_name = "CUSTOMER=CENTS", value_parser = leveret::comma_list(credit))]
    pub credit: Vec<Box<[(String, u32)]>>,
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
        for (sku, quantity) in self.stock.iter().flatten() {
            shop.set_stock(sku, *quantity).await?;
        }
        for (customer, cents) in self.credit.iter().flatten() {
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

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    #[test]
    fn the_items_of_a_list_have_no_spaces_around_them_and_none_is_empty() {
        let given = ["orders-worker", "--stock", "TEA-0101=40, POT-0003=2,", "--credit", "ann@example.org=5000 ,"];
        let matches = OrderSettings::augment_args(Command::new("orders-worker")).try_get_matches_from(given).unwrap();
        let settings = OrderSettings::from_arg_matches(&matches).unwrap();
        assert_eq!(settings.stock.concat(), [("TEA-0101".to_owned(), 40), ("POT-0003".to_owned(), 2)]);
        assert_eq!(settings.credit.concat(), [("ann@example.org".to_owned(), 5000)]);
    }
}
