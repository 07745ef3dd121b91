//! `leveret outbox`: jobs that were enqueued in a transaction (`leveret_store::Outbox`).
//!
//! [`list`] shows the outbox, [`edit`] changes it, [`relay`] publishes from it.

mod edit;
mod list;
mod relay;

use clap::{Args, Subcommand};
use leveret::telemetry::Telemetry;

use crate::output::{Exit, Failure, Format};

/// Publishes jobs that were enqueued in a transaction of your database
///
/// The outbox is a table in your own database, PostgreSQL or SQLite. `relay` publishes the jobs that were committed to it.
/// Any number of relays may run at once, as this command and within your services (`leveret_store::Relay`).
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Output format
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Format,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done; `relay`: stopped by SIGTERM or SIGINT
  2  wrong usage, or `prune` without --yes
  4  an error of the program or its environment, such as an unreachable database
  5  no such job, or no outbox: `leveret outbox migrate` creates it

`relay` keeps running while the broker or the database is unreachable. RUST_LOG sets its log level. It serves metrics at \
LEVERET_HTTP_ADDR: alert on leveret_outbox_oldest_seconds.

Examples:
  leveret outbox migrate --database postgres://shop@db/shop
  DATABASE_URL=postgres://shop@db/shop leveret outbox relay
  leveret outbox status --output json
  leveret outbox retry 17 18
  leveret outbox retry --all
  leveret outbox prune --older-than 7d --yes
  leveret outbox prune --set-aside 17 --yes";

#[derive(Subcommand)]
enum Command {
    Migrate(edit::Migrate),
    Relay(Box<relay::RelayCommand>),
    Status(list::Status),
    Retry(edit::Retry),
    Prune(edit::Prune),
}

impl Arguments {
    pub(super) fn telemetry(&self) -> Option<Telemetry> {
        if let Command::Relay(relay) = &self.command { Some(relay.telemetry.clone()) } else { None }
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { command, output } = arguments;
    match command {
        Command::Migrate(migrate) => migrate.run(output).await,
        Command::Relay(relay) => relay.run().await,
        Command::Status(status) => status.run(output).await,
        Command::Retry(retry) => retry.run(output).await,
        Command::Prune(prune) => prune.run(output).await,
    }
}
