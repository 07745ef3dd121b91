//! The program `orders-worker`, which places the orders of the queue `orders` and writes their pick lists until a signal
//! stops it.

use clap::Parser;
use leveret::{Broker, Config, shutdown_signal, telemetry::Telemetry};
use leveret_orders::{OrderSettings, worker};

/// Places the orders of the queue `orders`, emits an event for each, and writes its pick list.
#[derive(Parser)]
#[command(name = "orders-worker", version)]
struct Settings {
    #[command(flatten)]
    broker: Config,

    #[command(flatten)]
    telemetry: Telemetry,

    #[command(flatten)]
    orders: OrderSettings,
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(run(settings));
    // A thread that blocks, in a handler or a name lookup, must not keep the process alive.
    runtime.shutdown_background();
    ended
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let _telemetry = settings.telemetry.init("orders-worker")?;
    let shop = settings.orders.open().await?;
    let broker = Broker::amqp(settings.broker)?;
    let health = broker.serve_health()?;
    tracing::info!(address = %health.address(), "serving metrics and health");
    let relay = shop.relay(&broker);
    let worker = worker(shop.clone(), relay.waker());
    leveret_orders::run(worker, relay, &broker, shutdown_signal()).await?;
    shop.close().await;
    Ok(())
}
