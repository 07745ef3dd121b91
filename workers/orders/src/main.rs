//! `orders-worker`: places the orders of the queue `orders` until it is told to stop.

use std::io::{IsTerminal, stderr};

use anyhow::Context;
use clap::Parser;
use leveret::{Broker, Config, shutdown_signal};
use leveret_orders::{OrderSettings, run, worker};
use tracing_subscriber::EnvFilter;

/// Places the orders of the queue `orders`, and publishes the mails that confirm them.
#[derive(Parser)]
#[command(name = "orders-worker", version)]
struct Settings {
    #[command(flatten)]
    broker: Config,

    /// What to log: a level, or levels by module (lapin's warnings show payloads)
    #[arg(long, env = "RUST_LOG", default_value = "info,lapin=off")]
    log: String,

    #[command(flatten)]
    orders: OrderSettings,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let filter = EnvFilter::try_new(&settings.log).context("RUST_LOG")?;
    let colours = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(stderr).init();
    let shop = settings.orders.open().await?;
    let broker = Broker::amqp(settings.broker)?;
    let health = broker.serve_health()?;
    tracing::info!(address = %health.address(), "metrics and health are served");
    let relay = shop.relay(&broker);
    let worker = worker(shop.clone(), relay.waker());
    run(worker, relay, &broker, shutdown_signal()).await?;
    shop.close().await;
    Ok(())
}
