//! The program `reports-worker`, which writes the reports of the queue `reports` until a signal stops it.

use clap::Parser;
use leveret::{Broker, Config, shutdown_signal, telemetry::Telemetry};
use leveret_reports::{ReportSettings, worker};

/// Writes the reports of the queue `reports`: CSV, XLSX or PDF files from CSV data.
#[derive(Parser)]
#[command(name = "reports-worker", version)]
struct Settings {
    #[command(flatten)]
    broker: Config,

    #[command(flatten)]
    telemetry: Telemetry,

    #[command(flatten)]
    reports: ReportSettings,
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
    let _telemetry = settings.telemetry.init("reports-worker")?;
    let reports = &settings.reports;
    tracing::info!(data = %reports.data_dir.display(), output = %reports.output_dir.display(), "writing reports");
    let broker = Broker::amqp(settings.broker)?;
    let health = broker.serve_health()?;
    tracing::info!(address = %health.address(), "serving metrics and health");
    worker(reports.into(), reports.concurrency.get()).run(&broker, shutdown_signal()).await?;
    Ok(())
}
