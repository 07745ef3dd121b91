//! `email-worker`: sends the mails of the queue `email` until it is told to stop.

use std::io::{IsTerminal, stderr};

use anyhow::Context;
use clap::Parser;
use leveret::{Broker, Config, shutdown_signal};
use leveret_email::{Mail, MailSettings, worker};
use tracing_subscriber::EnvFilter;

/// Sends the mails of the queue `email`: through SMTP, or into .eml files.
#[derive(Parser)]
#[command(name = "email-worker", version)]
struct Settings {
    #[command(flatten)]
    broker: Config,

    /// What to log: a level, or levels by module (lapin's warnings show payloads)
    #[arg(long, env = "RUST_LOG", default_value = "info,lapin=off")]
    log: String,

    #[command(flatten)]
    mail: MailSettings,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let filter = EnvFilter::try_new(&settings.log).context("RUST_LOG")?;
    let colours = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(stderr).init();
    let mail = Mail::new(&settings.mail)?;
    tracing::info!(to = %mail, "mails go out");
    let broker = Broker::amqp(settings.broker)?;
    let health = broker.serve_health()?;
    tracing::info!(address = %health.address(), "metrics and health are served");
    worker(mail).run(&broker, shutdown_signal()).await?;
    Ok(())
}
