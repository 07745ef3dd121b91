//! `leveret outbox migrate|retry|prune`: changes the outbox.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use leveret_sql::{Outbox, SetAsideSelection};
use serde_json::json;

use super::super::shared::DatabaseArguments;
use crate::output::{Exit, Failure, Format, print, print_json};

/// Creates or updates the tables of the outbox; a missing SQLite file is created
///
/// The tables are `leveret_outbox` and `leveret_outbox_migrations`. PostgreSQL also gets the function `leveret_enqueue`,
/// with which programs in any language enqueue jobs.
#[derive(Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    database: DatabaseArguments,
}

impl Migrate {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let outbox = Outbox::open(self.database.address()?).await?;
        Outbox::migrate(&outbox).await?;
        match output {
            Format::Json => print_json(&json!({ "migrated": true }))?,
            Format::Table => print("The outbox is up to date.\n")?,
        }
        Ok(Exit::Success)
    }
}

/// Publishes jobs that were set aside, with as many tries as new ones
#[derive(Args)]
pub(super) struct Retry {
    /// Numbers of jobs that were set aside
    #[arg(value_name = "NUMBER")]
    numbers: Vec<i64>,

    /// All jobs that were set aside
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    database: DatabaseArguments,
}

impl Retry {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let chosen = chosen(&self.numbers, self.all)?;
        let retried = Outbox::open(self.database.existing()?).await?.retry(&chosen).await?;
        match output {
            Format::Json => print_json(&json!({ "retried": retried }))?,
            Format::Table => print(&format!("{retried} jobs will be published again.\n"))?,
        }
        Ok(changed(retried, &chosen))
    }
}

/// Deletes published jobs, or with --set-aside jobs that could not be published
///
/// Without --yes it changes nothing. A deleted job that was set aside is never published.
#[derive(Args)]
pub(super) struct Prune {
    /// Numbers of jobs that were set aside
    #[arg(value_name = "NUMBER", requires = "set_aside")]
    numbers: Vec<i64>,

    /// Delete jobs that were set aside: the given numbers, or --all
    #[arg(long)]
    set_aside: bool,

    /// All jobs that were set aside
    #[arg(long, requires = "set_aside")]
    all: bool,

    /// Minimum age of the published jobs to delete
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

    /// Confirm the deletion
    #[arg(long)]
    yes: bool,
}

impl Prune {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let chosen = if self.set_aside { Some(chosen(&self.numbers, self.all)?) } else { None };
        let outbox = Outbox::open(self.database.existing()?).await?;
        if !self.yes {
            return Err(Failure::Usage(anyhow!("nothing was deleted: confirm with --yes")));
        }
        let pruned = match &chosen {
            Some(chosen) => outbox.discard(chosen).await,
            None => outbox.prune(self.older_than).await,
        };
        let pruned = pruned?;
        match output {
            Format::Json => print_json(&json!({ "pruned": pruned }))?,
            Format::Table => print(&format!("{pruned} jobs deleted.\n"))?,
        }
        Ok(changed(pruned, chosen.as_ref().unwrap_or(&SetAsideSelection::All)))
    }
}

/// The selected jobs. Selecting all of them requires `--all`, so that it does not happen by mistake.
fn chosen(numbers: &[i64], all: bool) -> Result<SetAsideSelection, Failure> {
    match (numbers.is_empty(), all) {
        (false, false) => Ok(SetAsideSelection::Numbers(numbers.to_vec())),
        (true, true) => Ok(SetAsideSelection::All),
        _ => {
            Err(Failure::Usage(anyhow!("select jobs by number, as `leveret outbox status` shows them, or with --all")))
        }
    }
}

/// The exit code of a change of `count` jobs: `NotFound` if numbers were given and none of them exists.
fn changed(count: u64, chosen: &SetAsideSelection) -> Exit {
    if count == 0 && matches!(chosen, SetAsideSelection::Numbers(_)) { Exit::NotFound } else { Exit::Success }
}
