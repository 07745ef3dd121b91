//! `leveret outbox migrate|retry|prune`.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use leveret_store::{Chosen, Outbox};
use serde_json::json;

use super::super::shared::DatabaseArguments;
use crate::output::{Exit, Failure, Format, print, print_json};

/// Makes the outbox's tables, or brings them up to date; an SQLite file is made if it is not there
///
/// They are `leveret_outbox` and `leveret_outbox_migrations`, and on PostgreSQL the function `leveret_enqueue`, with which
/// programs in any language enqueue jobs.
#[derive(Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    database: DatabaseArguments,

    /// How to print what was done
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

impl Migrate {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        let outbox = Outbox::open(&self.database.url).await?;
        Outbox::migrate(&outbox).await?;
        match self.output {
            Format::Json => print_json(&json!({ "migrated": true }))?,
            Format::Table => print("The outbox is there.\n")?,
        }
        Ok(Exit::Success)
    }
}

/// Has jobs that were set aside published again, as often as new ones
#[derive(Args)]
pub(super) struct Retry {
    /// These, by number
    #[arg(value_name = "NUMBER")]
    numbers: Vec<i64>,

    /// All that were set aside
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    database: DatabaseArguments,

    /// How to print what was done
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

impl Retry {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        let chosen = chosen(&self.numbers, self.all)?;
        let retried = Outbox::open(self.database.existing()?).await?.retry(&chosen).await?;
        match self.output {
            Format::Json => print_json(&json!({ "retried": retried }))?,
            Format::Table => print(&format!("{retried} jobs wait again.\n"))?,
        }
        Ok(changed(retried, &chosen))
    }
}

/// Deletes jobs that were published and kept, or with --set-aside those that could not be published
///
/// Without --yes it does nothing. What was set aside and is deleted is never published.
#[derive(Args)]
pub(super) struct Prune {
    /// These of those that were set aside, by number
    #[arg(value_name = "NUMBER", requires = "set_aside")]
    numbers: Vec<i64>,

    /// Those that were set aside: the numbers given, or --all
    #[arg(long)]
    set_aside: bool,

    /// All that were set aside
    #[arg(long, requires = "set_aside")]
    all: bool,

    /// Those that were published so long ago
    #[arg(
        long,
        value_parser = leveret::duration,
        default_value = "168h",
        value_name = "DURATION",
        conflicts_with = "set_aside"
    )]
    older_than: Duration,

    #[command(flatten)]
    database: DatabaseArguments,

    /// Do it
    #[arg(long)]
    yes: bool,

    /// How to print what was done
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

impl Prune {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        let chosen = if self.set_aside { Some(chosen(&self.numbers, self.all)?) } else { None };
        let outbox = Outbox::open(self.database.existing()?).await?;
        if !self.yes {
            return Err(Failure::Usage(anyhow!("nothing was done: it takes --yes")));
        }
        let pruned = match &chosen {
            Some(chosen) => outbox.discard(chosen).await,
            None => outbox.prune(self.older_than).await,
        };
        let pruned = pruned?;
        match self.output {
            Format::Json => print_json(&json!({ "pruned": pruned }))?,
            Format::Table => print(&format!("{pruned} jobs are gone.\n"))?,
        }
        Ok(changed(pruned, chosen.as_ref().unwrap_or(&Chosen::All)))
    }
}

/// Jobs that were set aside, by number or all: nothing is done to all of them by mistake.
fn chosen(numbers: &[i64], all: bool) -> Result<Chosen, Failure> {
    match (numbers.is_empty(), all) {
        (false, false) => Ok(Chosen::Numbers(numbers.to_vec())),
        (true, true) => Ok(Chosen::All),
        _ => Err(Failure::Usage(anyhow!("say which: numbers, as `leveret outbox status` shows them, or --all"))),
    }
}

/// How it ended; that there was none of those that were named is told.
fn changed(count: u64, chosen: &Chosen) -> Exit {
    if count == 0 && matches!(chosen, Chosen::Numbers(_)) { Exit::NotFound } else { Exit::Success }
}
