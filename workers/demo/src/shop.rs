//! The shop of the demo: an orders worker with its relay, a stock that runs out, and the analytics of its orders.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use leveret::{Broker, Job};
use leveret_analytics::{Analytics, AnalyticsError, DayRevenue, ProductSales};
use leveret_email::jobs::ORDER_MAILS;
use leveret_orders::{PlaceOrder, Shop, ShopError, event_id, warehouse::WAREHOUSE};
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;

/// Stock at the start of each run.
const STOCK: [(&str, u32); 4] = [("TEA-0101", 40), ("CUP-0012", 12), ("POT-0003", 4), ("TIN-0042", 2)];

/// Credit at the start of each run, in euro cents.
const CREDIT: [(&str, u32); 3] =
    [("zoe.obrien@example.com", 20_000), ("liam@example.com", 1_000), ("jose.nunez@example.com", 20_000)];

/// The copies of `order.placed`, each with its subscription.
const COPIES: [(&str, &str); 2] = [("order.placed@order-mails", ORDER_MAILS), ("order.placed@warehouse", WAREHOUSE)];

/// Interval of looks at the view of the analytics.
const VIEW_INTERVAL: Duration = Duration::from_millis(50);
const TOP_PRODUCTS: u32 = 3;

/// Registers the copies of the event that the job with this id and queue emits.
pub(crate) fn expect_copies(ledger: &Ledger, (id, queue): (&str, &str), label: &str) {
    for copy in COPIES {
        ledger.expect(Some((id, queue)), &event_id(id), copy, &event_id(label));
    }
}

/// The rows of this run in the database of the shop, and the view of the analytics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShopRows {
    /// The database.
    pub database: PathBuf,
    /// Orders.
    pub orders: usize,
    /// Pick lists of these orders.
    pub pick_lists: usize,
    /// Revenue per day of all orders in the log.
    pub days: Vec<DayRevenue>,
    /// The products with the most revenue.
    pub top_products: Vec<ProductSales>,
}

/// A shop with the stock of the demo.
#[derive(Clone, Debug)]
pub struct DemoShop {
    shop: Shop,
    path: PathBuf,
    analytics: Analytics,
}

impl DemoShop {
    /// Opens the database in this directory, which keeps the orders of earlier runs. The view of the analytics is computed
    /// anew, because the log of the in-memory broker begins with each run.
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
        for (customer, cents) in CREDIT {
            shop.set_credit(customer, cents).await.context("filling up the credit")?;
        }
        let view = output.join("analytics.db");
        for suffix in ["", "-wal", "-shm"] {
            match fs::remove_file(format!("{}{suffix}", view.display())) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).context("removing the old view");
                }
                _ => {}
            }
        }
        let analytics = Analytics::open(&format!("sqlite:{}", view.display())).await.context("opening the view")?;
        Ok(Self { shop, path, analytics })
    }

    /// Keeps the view of the analytics until `stop` is cancelled.
    ///
    /// # Errors
    ///
    /// The projection fails.
    pub async fn analyse(self, broker: Broker, stop: CancellationToken) -> Result<(), AnalyticsError> {
        self.analytics.run(&broker, stop.cancelled_owned()).await
    }

    /// Returns once the view has this many orders or more.
    ///
    /// # Errors
    ///
    /// The view cannot be read.
    pub async fn analysed(&self, orders: usize) -> anyhow::Result<()> {
        let counted = async || self.analytics.days().await.map(|days| days.iter().map(|day| day.orders).sum::<i64>());
        while usize::try_from(counted().await.context("reading the view")?)? < orders {
            tokio::time::sleep(VIEW_INTERVAL).await;
        }
        Ok(())
    }

    /// Registers the copies of the event that an order emits.
    pub fn expect(&self, ledger: &Ledger, (job, queue): (&str, &str), id: &str, label: &str) {
        if job == PlaceOrder::NAME {
            expect_copies(ledger, (id, queue), label);
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

    /// Returns the credit of a customer in euro cents; `None` if there is no account.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn credit(&self, customer: &str) -> anyhow::Result<Option<i64>> {
        self.shop.credit(customer).await.context("reading the credit")
    }

    /// Returns the rows of the orders of these jobs.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn rows(&self, ids: impl IntoIterator<Item = String>) -> anyhow::Result<ShopRows> {
        let mut rows = ShopRows {
            database: self.path.clone(),
            orders: 0,
            pick_lists: 0,
            days: self.analytics.days().await.context("reading the view")?,
            top_products: self.analytics.top_products(TOP_PRODUCTS).await.context("reading the view")?,
        };
        for id in ids {
            for order in self.shop.orders(&id).await.context("reading the orders")? {
                rows.orders += 1;
                rows.pick_lists += self.shop.pick_lists(order.number).await.context("reading the pick lists")?.len();
            }
        }
        Ok(rows)
    }
}
