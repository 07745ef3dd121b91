//! `leveret inbox`: the jobs whose effects are in a database. What it does is in `leveret_store::Inbox`.

use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use leveret_store::Inbox;
use serde_json::json;

use super::shared::{DatabaseArguments, now_ms, rfc3339};
use crate::output::{Exit, Failure, Format, print, print_json};

/// Keeps the notes by which a job's effect happens once
///
/// The inbox is a table in your own database, PostgreSQL or SQLite. Handlers note a job there in the transaction that has
/// its effect (`leveret_store::Inbox`).
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  2  wrong usage, or `prune` without --yes
  4  an error of the program or its surroundings, such as a database that is away
  5  there is no inbox: `leveret inbox migrate` makes it

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

/// Makes the inbox's tables, or brings them up to date; an SQLite file is made if it is not there
///
/// They are `leveret_inbox` and `leveret_inbox_migrations`.
#[derive(Args)]
struct Migrate {
    #[command(flatten)]
    database: DatabaseArguments,

    /// How to print what was done
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Shows how many jobs are noted, and since when
#[derive(Args)]
struct Status {
    #[command(flatten)]
    database: DatabaseArguments,

    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Forgets jobs that were done long ago
///
/// Without --yes it does nothing. A job that comes again after it is forgotten is done again: keep the notes for longer
/// than jobs can wait, be retried, and lie among the dead letters.
#[derive(Args)]
struct Prune {
    #[command(flatten)]
    database: DatabaseArguments,

    /// Those that were done so long ago
    #[arg(long, value_parser = leveret::duration, default_value = "30d", value_name = "DURATION")]
    older_than: Duration,

    /// Do it
    #[arg(long)]
    yes: bool,

    /// How to print what was done
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    match arguments.command {
        Command::Migrate(migrate) => {
            Inbox::migrate(&Inbox::open(&migrate.database.url).await?).await?;
            match migrate.output {
                Format::Json => print_json(&json!({ "migrated": true }))?,
                Format::Table => print("The inbox is there.\n")?,
            }
        }
        Command::Status(status) => status.run().await?,
        Command::Prune(prune) => prune.run().await?,
    }
    Ok(Exit::Success)
}

impl Status {
    async fn run(self) -> Result<(), Failure> {
        let status = Inbox::open(self.database.existing()?).await?.status().await?;
        match self.output {
            Format::Json => print_json(&json!({ "jobs": status.jobs, "oldest_at": status.oldest_at.map(rfc3339) }))?,
            Format::Table => {
                let days = |at: u64| now_ms().saturating_sub(at) / (24 * 3600 * 1000);
                let oldest =
                    status.oldest_at.map_or_else(String::new, |at| format!(", the oldest {} days ago", days(at)));
                print(&format!("{} jobs are noted{oldest}\n", status.jobs))?;
            }
        }
        Ok(())
    }
}

impl Prune {
    async fn run(self) -> Result<(), Failure> {
        let inbox = Inbox::open(self.database.existing()?).await?;
        if !self.yes {
            return Err(Failure::Usage(anyhow!("nothing was done: it takes --yes")));
        }
        let pruned = inbox.prune(self.older_than).await?;
        match self.output {
            Format::Json => print_json(&json!({ "pruned": pruned }))?,
            Format::Table => print(&format!("{pruned} jobs are forgotten.\n"))?,
        }
        Ok(())
    }
}
