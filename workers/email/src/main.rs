//! The program `email-worker`, which sends the mails of the queue `email` and of placed orders until a signal stops it.

use clap::Parser;
use leveret::{Broker, Config, shutdown_signal, telemetry::Telemetry};
use leveret_email::{Mail, MailSettings, worker};

/// Sends the mails of the queue `email` and of placed orders through SMTP, or writes them into .eml files if `MAIL_DIR` is
/// set.
#[derive(Parser)]
#[command(name = "email-worker", version)]
struct Settings {
    #[command(flatten)]
    broker: Config,

    #[command(flatten)]
    telemetry: Telemetry,

    #[command(flatten)]
    mail: MailSettings,
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
    let _telemetry = settings.telemetry.init("email-worker")?;
    let mail = Mail::new(&settings.mail)?;
    tracing::info!(to = %mail, "sending mail");
    let broker = Broker::amqp(settings.broker)?;
    let health = broker.serve_health()?;
    tracing::info!(address = %health.address(), "serving metrics and health");
    worker(mail).run(&broker, shutdown_signal()).await?;
    Ok(())
}
