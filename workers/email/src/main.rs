//! `email-worker`: sends the mails of the queue `email` until it is told to stop.

use clap::Parser;
use leveret::{Broker, Config, shutdown_signal, telemetry::Telemetry};
use leveret_email::{Mail, MailSettings, worker};

/// Sends the mails of the queue `email`: through SMTP, or into .eml files if `MAIL_DIR` asks for them.
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

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let _telemetry = settings.telemetry.init("email-worker")?;
    let mail = Mail::new(&settings.mail)?;
    tracing::info!(to = %mail, "mails go out");
    let broker = Broker::amqp(settings.broker)?;
    let health = broker.serve_health()?;
    tracing::info!(address = %health.address(), "metrics and health are served");
    worker(mail).run(&broker, shutdown_signal()).await?;
    Ok(())
}
