//! `leveret inbox`: the table of completed jobs in the user's database (`leveret_sql::Inbox`).

use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use leveret::time::{now_ms, unix_ms};
use leveret_sql::Inbox;
use leveret_store::time::to_rfc3339;
use serde_json::json;

use super::shared::DatabaseArguments;
use crate::output::{Exit, Failure, Format, print, print_json};

/// Maintains the inbox, the table that makes the effect of a job happen once
///
/// The inbox is a table in your own database, PostgreSQL or SQLite. Handlers record a job there in the transaction that
/// contains its effect (`leveret_sql::Inbox`).
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
  0  done
  2  wrong usage, or `prune` without --yes
  4  an error of the program or its environment, such as an unreachable database
  5  there is no inbox: `leveret inbox migrate` creates it

Examples:
  leveret inbox migrate --database postgres://shop@db/shop
  leveret inbox status --output json
  leveret inbox prune --older-than 30d --yes";

#[derive(Subcommand)]
enum Command {
    Migrate(Migrate),
    Status(Status),
    Prune(Prune),
}

/// Creates or updates the tables of the inbox; a missing SQLite file is created
///
/// The tables are `leveret_inbox` and `leveret_inbox_migrations`.
#[derive(Args)]
struct Migrate {
    #[command(flatten)]
    database: DatabaseArguments,
}

/// Shows the number of recorded jobs and the age of the oldest
#[derive(Args)]
struct Status {
    #[command(flatten)]
    database: DatabaseArguments,
}

/// Deletes records of jobs that were completed long ago
///
/// Without --yes it changes nothing. A job that is delivered again after its record is deleted takes effect again. Keep
/// records for longer than jobs can wait, be retried, or remain dead letters.
#[derive(Args)]
struct Prune {
    #[command(flatten)]
    database: DatabaseArguments,

    /// Minimum age of the records to delete
    #[arg(long, value_parser = leveret::duration, default_value = "30d", value_name = "DURATION")]
    older_than: Duration,

    /// Confirm the deletion
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { command, output } = arguments;
    match command {
        Command::Migrate(migrate) => {
            Inbox::migrate(&Inbox::open(migrate.database.address()?).await?).await?;
            match output {
                Format::Json => print_json(&json!({ "migrated": true }))?,
                Format::Table => print("The inbox is up to date.\n")?,
            }
        }
        Command::Status(status) => status.run(output).await?,
        Command::Prune(prune) => prune.run(output).await?,
    }
    Ok(Exit::Success)
}

impl Status {
    async fn run(self, output: Format) -> Result<(), Failure> {
        let status = Inbox::open(self.database.existing()?).await?.status().await?;
        match output {
            Format::Json => {
                print_json(
                    &json!({ "jobs": status.jobs, "oldest_at": status.oldest_at.map(unix_ms).map(to_rfc3339) }),
                )?;
            }
            Format::Table => {
                let days = |at: u64| now_ms().saturating_sub(at) / (24 * 3600 * 1000);
                let oldest = status
                    .oldest_at
                    .map(unix_ms)
                    .map_or_else(String::new, |at| format!(", the oldest {} days old", days(at)));
                print(&format!("{} jobs are recorded{oldest}\n", status.jobs))?;
            }
        }
        Ok(())
    }
}

impl Prune {
    async fn run(self, output: Format) -> Result<(), Failure> {
        let inbox = Inbox::open(self.database.existing()?).await?;
        if !self.yes {
            return Err(Failure::Usage(anyhow!("nothing was deleted: confirm with --yes")));
        }
        let pruned = inbox.prune(self.older_than).await?;
        match output {
            Format::Json => print_json(&json!({ "pruned": pruned }))?,
            Format::Table => print(&format!("{pruned} records deleted.\n"))?,
        }
        Ok(())
    }
}
