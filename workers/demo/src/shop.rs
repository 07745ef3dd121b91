//! The shop of the demo: an orders worker with its relay, and a stock that runs out.

use std::path::{Path, PathBuf};

use anyhow::Context;
use leveret::{Broker, Job};
use leveret_email::SendEmail;
use leveret_orders::{PlaceOrder, Shop, ShopError, confirmation_id};
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;

/// Stock at the start of each run.
const STOCK: [(&str, u32); 3] = [("TEA-0101", 40), ("CUP-0012", 12), ("POT-0003", 4)];

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

    /// Registers the mail that an order enqueues.
    pub fn expect(&self, ledger: &Ledger, (job, _): (&str, &str), id: &str, label: &str) {
        if job == PlaceOrder::NAME {
            ledger.expect(id, confirmation_id(id), (SendEmail::NAME, SendEmail::QUEUE), &confirmation_id(label));
        }
    }

    /// Places orders and publishes their mails until `stop` is cancelled.
    ///
    /// # Errors
    ///
    /// The worker or the relay fails.
    pub async fn run(self, broker: Broker, ledger: Ledger, stop: CancellationToken) -> Result<(), ShopError> {
        let relay = self.shop.relay(&broker);
        let worker = leveret_orders::worker(self.shop, relay.waker()).middleware(ledger.recorder());
        leveret_orders::run(worker, relay, &broker, stop.cancelled_owned()).await
    }

    /// Returns the file of the database, and the number of orders of these jobs.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn orders(&self, ids: impl IntoIterator<Item = String>) -> anyhow::Result<(PathBuf, usize)> {
        let mut orders = 0;
        for id in ids {
            orders += self.shop.orders(&id).await.context("reading the orders")?.len();
        }
        Ok((self.path.clone(), orders))
    }
}
