//! The program `analytics-worker`, which computes revenue per day and best-selling products until a signal stops it.

use clap::Parser;
use leveret::{Broker, Config, shutdown_signal, telemetry::Telemetry};
use leveret_analytics::Analytics;

/// Computes revenue per day and best-selling products from the events `order.placed`.
#[derive(Parser)]
#[command(name = "analytics-worker", version, mut_args(leveret::setting))]
struct Settings {
    #[command(flatten)]
    broker: Config,

    #[command(flatten)]
    telemetry: Telemetry,

    /// Database of the view: `sqlite:PATH`, or `postgres://user:password@host/database` for several processes
    #[arg(
        long,
        env = "DATABASE_URL",
        value_name = "URL",
        default_value = "sqlite:analytics.db",
        hide_env_values = true
    )]
    database_url: String,
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(run(settings));
    // A thread that blocks, in a name lookup for example, must not keep the process alive.
    runtime.shutdown_background();
    ended
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let _telemetry = settings.telemetry.init("analytics-worker")?;
    let analytics = Analytics::open(&settings.database_url).await?;
    let broker = Broker::amqp(settings.broker)?;
    let health = broker.serve_health()?;
    tracing::info!(address = %health.address(), "serving metrics and health");
    analytics.run(&broker, shutdown_signal()).await?;
    broker.close().await;
    Ok(())
}
