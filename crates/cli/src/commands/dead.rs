//! `leveret dead`: dead letters, and their replay. The operations are those of `leveret_serve::dead`.
//!
//! [`list`] reads the store. [`edit`] changes dead letters in it, [`replay`] publishes them, [`files`] exports and
//! imports them. [`direct`] works on the broker without a store. All use [`selection`] and [`outcome`].

mod direct;
mod edit;
mod files;
mod list;
mod outcome;
mod replay;
mod selection;
mod table;

use clap::{Args, Subcommand};

use crate::output::{Exit, Failure, Format};

/// Lists, edits, replays and purges dead letters
///
/// The server (`leveret serve`) ingests dead letters from the broker into its store. These commands work on that store. With
/// --direct, `list`, `replay`, `export` and `purge` work on the dead letters of one queue in the broker, without a store.
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
  0    done
  1    partly done: some dead letters could not be replayed or imported, or failed canaries stopped the replay
  2    wrong usage, or `purge` without --yes
  3    the broker is unreachable
  4    an error of the program or its environment, such as an unreachable store
  5    no such dead letter, replay or queue

Examples:
  leveret dead groups
  leveret dead list --queue email --since 2h
  leveret dead show 17
  leveret dead replay --group 5d41402abc4b2a76 --canary 5
  leveret dead replay --all --rate 100
  leveret dead replay --stop 3
  leveret dead show 17 --raw > broken.json
  leveret dead replay 17 --payload fixed.json
  leveret dead replay --direct --queue email";

#[derive(Subcommand)]
enum Command {
    List(Box<list::List>),
    Show(list::Show),
    Groups(list::Groups),
    Replays(list::Replays),
    Replay(Box<replay::Replay>),
    Edit(Box<edit::Edit>),
    Restore(edit::Restore),
    Export(Box<files::Export>),
    Import(files::Import),
    Purge(Box<edit::Purge>),
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { command, output } = arguments;
    match command {
        Command::List(list) => list.run(output).await,
        Command::Show(show) => show.run(output).await,
        Command::Groups(groups) => groups.run(output).await,
        Command::Replays(replays) => replays.run(output).await,
        Command::Replay(replay) => replay.run(output).await,
        Command::Edit(edit) => edit.run(output).await,
        Command::Restore(restore) => restore.run(output).await,
        Command::Export(export) => export.run().await,
        Command::Import(import) => import.run(output).await,
        Command::Purge(purge) => purge.run(output).await,
    }
}
