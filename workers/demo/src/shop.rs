//! The shop of the demo: an orders worker with its relay, and a stock that runs out.

use std::path::{Path, PathBuf};

use anyhow::Context;
use leveret::{Broker, Job};
use leveret_email::jobs::ORDER_MAILS;
use leveret_orders::{PlaceOrder, Shop, ShopError, event_id, warehouse::WAREHOUSE};
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;

/// Stock at the start of each run.
const STOCK: [(&str, u32); 3] = [("TEA-0101", 40), ("CUP-0012", 12), ("POT-0003", 4)];

/// The copies of `order.placed`, each with its subscription.
const COPIES: [(&str, &str); 2] = [("order.placed@order-mails", ORDER_MAILS), ("order.placed@warehouse", WAREHOUSE)];

/// The rows of this run in the database of the shop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShopRows {
    /// The database.
    pub database: PathBuf,
    /// Orders.
    pub orders: usize,
    /// Pick lists of these orders.
    pub pick_lists: usize,
}

/// A shop with the stock of the demo.
#[derive(Clone, Debug)]
pub struct DemoShop {
    shop: Shop,
    path: PathBuf,
}

impl DemoShop {
    /// Opens the database in this directory, which keeps the orders of earlier runs.
    ///
    /// # Errors
    ///
    /// The database cannot be opened or written.
    pub async fn open(output: &Path) -> anyhow::Result<Self> {
        let path = output.join("orders.db");
        let shop = Shop::open(&format!("sqlite:{}", path.display())).await.context("opening the shop's database")?;
        for (sku, quantity) in STOCK {
            shop.set_stock(sku, quantity).await.context("filling up the stock")?;
        }
        Ok(Self { shop, path })
    }

    /// Registers the copies of the event that an order emits.
    pub fn expect(&self, ledger: &Ledger, (job, queue): (&str, &str), id: &str, label: &str) {
        for copy in COPIES.into_iter().filter(|_| job == PlaceOrder::NAME) {
            ledger.expect((id, queue), &event_id(id), copy, &event_id(label));
        }
    }

    /// Places orders and emits their events until `stop` is cancelled.
    ///
    /// # Errors
    ///
    /// The worker or the relay fails.
    pub async fn run(self, broker: Broker, ledger: Ledger, stop: CancellationToken) -> Result<(), ShopError> {
        let relay = self.shop.relay(&broker);
        let worker = leveret_orders::worker(self.shop, relay.waker()).middleware(ledger.recorder());
        leveret_orders::run(worker, relay, &broker, stop.cancelled_owned()).await
    }

    /// Returns the rows of the orders of these jobs.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn rows(&self, ids: impl IntoIterator<Item = String>) -> anyhow::Result<ShopRows> {
        let mut rows = ShopRows { database: self.path.clone(), orders: 0, pick_lists: 0 };
        for id in ids {
            for order in self.shop.orders(&id).await.context("reading the orders")? {
                rows.orders += 1;
                rows.pick_lists += self.shop.pick_lists(order.number).await.context("reading the pick lists")?.len();
            }
        }
        Ok(rows)
    }
}
