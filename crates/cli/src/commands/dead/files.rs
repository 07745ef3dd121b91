//! `leveret dead export|import`: JSON lines, one for each dead letter.

use anyhow::Context;
use clap::Args;
use leveret::Config;
use leveret_serve::dead::transfer;
use leveret_store::DeadState;
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncBufRead, AsyncWrite, BufReader, BufWriter},
};

use super::{
    super::shared::{ActorArguments, StoreArguments, hidden_if_of_workers},
    direct,
    outcome::{failure, unless_closed},
    selection::Filter,
};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json};

/// Exports dead letters as JSON lines, with their messages in base64; the dead letters are kept
#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
pub(super) struct Export {
    #[command(flatten)]
    filter: Filter,

    #[command(flatten)]
    store: StoreArguments,

    /// State: dead, replaying, replayed or purged; `dead` by default
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<DeadState>,

    /// Output file; `-` is standard output
    #[arg(long, short, default_value = "-", value_name = "FILE")]
    file: String,

    /// Export the dead letters of --queue in the broker, without a store; they are requeued and lose their order
    #[arg(long, requires = "queue")]
    direct: bool,

    #[command(flatten)]
    config: Config,
}

impl Export {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        if self.direct {
            let queue = self.filter.only_queue()?;
            return direct::export(&self.config, queue, writer(&self.file).await?).await;
        }
        let store = self.store.open().await?;
        let states = if self.states.is_empty() { vec![DeadState::Dead] } else { self.states.clone() };
        let filter = self.filter.in_states(states);
        let exported = transfer::export(&store, &filter, writer(&self.file).await?).await;
        let Some(count) = unless_closed(exported)? else { return Ok(Exit::Success) };
        notice!("{count} dead letters exported.");
        Ok(Exit::Success)
    }
}

async fn writer(file: &str) -> Result<Box<dyn AsyncWrite + Unpin>, Failure> {
    if file == "-" {
        return Ok(Box::new(BufWriter::new(tokio::io::stdout())));
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    // Readable by its owner only: payloads contain secrets.
    #[cfg(unix)]
    options.mode(0o600);
    let created = options.open(file).await.with_context(|| format!("writing {file}"));
    Ok(Box::new(BufWriter::new(created.map_err(Failure::Usage)?)))
}

/// Imports exported dead letters; those that the store already has are skipped
#[derive(Args)]
pub(super) struct Import {
    /// File that `export` wrote; `-` is standard input
    file: String,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    actor: ActorArguments,
}

impl Import {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let reader: Box<dyn AsyncBufRead + Unpin> = if self.file == "-" {
            Box::new(BufReader::new(tokio::io::stdin()))
        } else {
            let opened = File::open(&self.file).await.with_context(|| format!("reading {}", self.file));
            Box::new(BufReader::new(opened.map_err(Failure::Usage)?))
        };
        let store = self.store.create().await?;
        let imported = transfer::import(&store, reader, &self.actor.actor).await.map_err(failure)?;
        match output {
            Format::Json => print_json(&imported)?,
            Format::Table => {
                for bad in &imported.bad_lines {
                    notice!("line {}: {}", bad.line, one_line(&bad.reason, 1024));
                }
                let transfer::Imported { imported, known, bad, .. } = imported;
                print(&format!(
                    "{imported} dead letters imported; {known} were already in the store; {bad} bad lines.\n"
                ))?;
            }
        }
        Ok(if imported.bad == 0 { Exit::Success } else { Exit::Problems })
    }
}
