//! `reports-worker`: makes the reports of the queue `reports` until it is told to stop.

use anyhow::Context;
use clap::Parser;
use leveret::{Broker, Config, shutdown_signal};
use leveret_reports::{ReportSettings, worker};
use tracing_subscriber::EnvFilter;

/// Makes the reports of the queue `reports`: CSV, XLSX or PDF files from CSV data.
#[derive(Parser)]
#[command(name = "reports-worker", version)]
struct Settings {
    #[command(flatten)]
    broker: Config,

    /// What to log: a level, or levels by module (lapin's warnings show payloads)
    #[arg(long, env = "RUST_LOG", default_value = "info,lapin=off")]
    log: String,

    #[command(flatten)]
    reports: ReportSettings,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let filter = EnvFilter::try_new(&settings.log).context("RUST_LOG")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let reports = &settings.reports;
    tracing::info!(data = %reports.data_dir.display(), output = %reports.output_dir.display(), "reports are made");
    let broker = Broker::amqp(settings.broker)?;
    let health = broker.serve_health()?;
    tracing::info!(address = %health.address(), "metrics and health are served");
    worker(reports.into(), reports.concurrency.get()).run(&broker, shutdown_signal()).await?;
    Ok(())
}
