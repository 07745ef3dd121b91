//! `leveret projections`: views that are computed from the log of events (`leveret_sql::Projection`).

use anyhow::anyhow;
use clap::{Args, Subcommand};
use leveret::{Broker, Config, event_log, time::unix_ms};
use leveret_sql::{Error, ProjectionStatus, Projections};
use leveret_store::time::to_rfc3339;
use serde_json::json;
use tokio::time::{Duration, timeout};

use super::shared::{DatabaseArguments, broker, hidden_if_of_workers};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json, table};

/// Longest wait for the end of the log. An empty log takes 5 s.
const END_WITHIN: Duration = Duration::from_secs(20);

/// Shows projections, rebuilds their views, and skips events
///
/// A projection computes a view in your own database, PostgreSQL or SQLite, from the log of events
/// (`leveret_sql::Projection`). It stands still at an event that fails, and never skips one by itself.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_of_workers))]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    config: Config,

    /// Output format
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Format,
}

const AFTER_HELP: &str = "\
LAG is the number of offsets between a projection and the end of the log. `list` omits it when the broker is unreachable.

A projection that stopped:
  1. `leveret projections list` shows the event and the error.
  2. An event that its handler does not read: deploy a version that reads it, or skip the event.
  3. A log that lacks the last applied event, because retention removed it or the log was made anew: reset the projection, \
which empties the view and computes it again.
  4. Start its process again, if that ended.

Exit codes:
  0  done
  2  wrong usage, `reset` or `skip` without --yes, or a log that lacks its first events
  3  the broker is unreachable (`reset` without --allow-truncated)
  4  an error of the program or its environment, such as an unreachable database
  5  no such projection, or no tables: `leveret projections migrate` creates them

Examples:
  leveret projections migrate --database postgres://shop@db/shop
  DATABASE_URL=postgres://shop@db/shop leveret projections list
  leveret projections skip revenue 4711 --yes
  leveret projections reset revenue --yes";

#[derive(Subcommand)]
enum Command {
    /// Creates or updates the tables of projections; a missing SQLite file is created
    Migrate {
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// Shows position, lag, holder and last error of each projection that has run
    List {
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// Skips the event at which a projection stands still
    ///
    /// The view then lacks the event, until the projection is reset and a version that reads the event runs.
    Skip {
        /// Name of the projection
        name: String,

        /// Offset of the event, as `list` shows it
        offset: u64,

        #[command(flatten)]
        database: DatabaseArguments,

        /// Confirm that the view will lack the event
        #[arg(long)]
        yes: bool,
    },
    /// Empties the view of a projection and computes it again, from the first event of the log
    ///
    /// The process that runs the projection does both. The view is incomplete until its lag is 0.
    Reset {
        /// Name of the projection
        name: String,

        /// Start with the first event that the log still has, so that the view lacks earlier events
        #[arg(long)]
        allow_truncated: bool,

        #[command(flatten)]
        database: DatabaseArguments,

        /// Confirm that the view is emptied
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { command, config, output } = arguments;
    match command {
        Command::Migrate { database } => {
            Projections::migrate(&Projections::open(database.address()?).await?).await?;
            done(output, &json!({ "migrated": true }), "The tables of projections are up to date.")
        }
        Command::List { database } => list(&config, &database, output).await,
        Command::Skip { name, offset, database, yes } => {
            let projections = open(&database).await?;
            confirmed(yes, "nothing was skipped")?;
            projections.skip(&name, offset).await.map_err(failure)?;
            let text = format!("Event {offset} will be skipped by {name}. Start its process again if that ended.");
            done(output, &json!({ "skips": offset }), &text)
        }
        Command::Reset { name, allow_truncated, database, yes } => {
            let projections = open(&database).await?;
            confirmed(yes, "nothing was reset")?;
            let broker = if allow_truncated {
                // The log is not read.
                Broker::amqp(config).map_err(|error| Failure::Usage(error.into()))?
            } else {
                broker(&config).await?
            };
            projections.reset(&name, &broker, allow_truncated).await.map_err(failure)?;
            broker.close().await;
            let text = format!("{name} starts again with the first event. Start its process again if that ended.");
            done(output, &json!({ "reset": true }), &text)
        }
    }
}

async fn open(database: &DatabaseArguments) -> Result<Projections, Failure> {
    Ok(Projections::open(database.existing()?).await?)
}

fn confirmed(yes: bool, nothing: &str) -> Result<(), Failure> {
    if yes { Ok(()) } else { Err(Failure::Usage(anyhow!("{nothing}: confirm with --yes"))) }
}

fn done(output: Format, document: &serde_json::Value, text: &str) -> Result<Exit, Failure> {
    match output {
        Format::Json => print_json(document)?,
        Format::Table => print(&format!("{text}\n"))?,
    }
    Ok(Exit::Success)
}

fn failure(error: Error) -> Failure {
    match error {
        Error::NoProjection { .. } => Failure::NotFound(error.into()),
        Error::LogTruncated { .. } | Error::NotFailing { .. } => Failure::Usage(error.into()),
        error => error.into(),
    }
}

async fn list(config: &Config, database: &DatabaseArguments, output: Format) -> Result<Exit, Failure> {
    let projections = open(database).await?.list().await?;
    let newest = if projections.is_empty() { None } else { newest(config).await };
    let lag = |projection: &ProjectionStatus| {
        // Offsets begin with 0, so before the first event the lag is one more.
        Some((newest? + 1).saturating_sub(projection.position.map_or(0, |position| position + 1)))
    };
    match output {
        Format::Json => print_json(&projections.iter().map(|one| document(one, lag(one))).collect::<Vec<_>>())?,
        Format::Table => {
            let rows: Vec<_> = projections.iter().map(|one| row(one, lag(one))).collect();
            print(&table(["NAME", "POSITION", "LAG", "APPLIED", "HOLDER", "FAILS AT", "TRIES", "ERROR"], &rows))?;
        }
    }
    Ok(Exit::Success)
}

/// The newest event of the log, or `None` with a notice. The database has all the rest.
async fn newest(config: &Config) -> Option<u64> {
    let reading = async {
        let broker = broker(config).await?;
        let newest = event_log::newest(&broker).await.map_err(|error| Failure::Other(error.into()))?;
        broker.close().await;
        Ok::<_, Failure>(newest)
    };
    match timeout(END_WITHIN, reading).await {
        Ok(Ok(newest)) => newest,
        Ok(Err(failure)) => {
            notice!("the lag is unknown: {:#}", failure.error());
            None
        }
        Err(_) => {
            notice!("the lag is unknown: the broker does not answer");
            None
        }
    }
}

fn document(projection: &ProjectionStatus, lag: Option<u64>) -> serde_json::Value {
    let failure = projection.failure.as_ref();
    json!({
        "name": projection.name,
        "position": projection.position,
        "lag": lag,
        "applied": projection.applied,
        "holder": projection.holder,
        "failed_offset": failure.and_then(|failure| failure.offset),
        "error": failure.map(|failure| &failure.error),
        "failed_at": failure.map(|failure| to_rfc3339(unix_ms(failure.at))),
        "tries": failure.map_or(0, |failure| failure.tries),
    })
}

fn row(projection: &ProjectionStatus, lag: Option<u64>) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let failure = projection.failure.as_ref();
    [
        one_line(&projection.name, 32),
        or_dash(projection.position.map(|position| position.to_string())),
        or_dash(lag.map(|lag| lag.to_string())),
        projection.applied.to_string(),
        or_dash(projection.holder.as_deref().map(|holder| one_line(holder, 40))),
        or_dash(failure.and_then(|failure| failure.offset).map(|offset| offset.to_string())),
        or_dash(failure.map(|failure| failure.tries.to_string())),
        or_dash(failure.map(|failure| one_line(&failure.error, 100))),
    ]
}
