//! `leveret dead`: why jobs died, and how to bring them back. What it does is in `leveret_serve::dead`.
//!
//! [`look`] reads the store, [`change`] decides, [`replay`] publishes, [`files`] exports and imports; [`direct`] does
//! what can be done without a store.

mod change;
mod direct;
mod files;
mod look;
mod replay;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use leveret_store::{DeadFilter, DeadState, Selection};

use super::shared::moment;
use crate::output::{Exit, Failure};

/// Shows why jobs died, and brings them back
///
/// The server (`leveret serve`) takes dead letters out of the broker into its store, where they can be searched, edited,
/// replayed, purged and restored; these commands work on that store. With --direct, `list`, `replay`, `export` and
/// `purge` work on the dead letters of a queue as they lie in the broker, without a store.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    done in part: some could not be replayed or imported, or canaries stopped the rest
  2    wrong usage, or `purge` without --yes
  3    the broker could not be reached
  4    an error of the program or its surroundings, such as a store that is away
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
    List(Box<look::List>),
    Show(look::Show),
    Groups(look::Groups),
    Replays(look::Replays),
    Replay(Box<replay::Replay>),
    Edit(Box<change::Edit>),
    Restore(change::Restore),
    Export(Box<files::Export>),
    Import(files::Import),
    Purge(Box<change::Purge>),
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    match arguments.command {
        Command::List(list) => list.run().await,
        Command::Show(show) => show.run().await,
        Command::Groups(groups) => groups.run().await,
        Command::Replays(replays) => replays.run().await,
        Command::Replay(replay) => replay.run().await,
        Command::Edit(edit) => edit.run().await,
        Command::Restore(restore) => restore.run().await,
        Command::Export(export) => export.run().await,
        Command::Import(import) => import.run().await,
        Command::Purge(purge) => purge.run().await,
    }
}

/// Which dead letters: those that all of it fits.
#[derive(Args)]
struct Filter {
    /// Of this job queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,

    /// Of the job of this name
    #[arg(long, value_name = "NAME")]
    job: Option<String>,

    /// Of the job of this id
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,

    /// With an error of this class, such as error, permanent, timeout, panic or decode
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,

    /// With this text in the error or the payload
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,

    /// Of this group, as `leveret dead groups` names it
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// Given up then or later: RFC 3339, or how long ago, such as 2h
    #[arg(long, value_parser = moment, value_name = "TIME")]
    since: Option<u64>,

    /// Given up before then
    #[arg(long, value_parser = moment, value_name = "TIME")]
    until: Option<u64>,
}

impl Filter {
    fn in_states(&self, states: Vec<DeadState>) -> DeadFilter {
        DeadFilter {
            states,
            queue: self.queue.clone(),
            job: self.job.clone(),
            job_id: self.job_id.clone(),
            kind: self.kind.clone(),
            text: self.text.clone(),
            fingerprint: self.group.clone(),
            failed_from: self.since,
            failed_until: self.until,
            ..DeadFilter::default()
        }
    }

    fn lying(&self) -> DeadFilter {
        self.in_states(vec![DeadState::Dead])
    }

    fn is_empty(&self) -> bool {
        self.lying() == DeadFilter::default()
    }

    /// The queue, if it is all that is asked for: without a store nothing else can be told apart.
    fn only_queue(&self) -> Result<&str, Failure> {
        let wanted = || Failure::Usage(anyhow!("--direct works on a whole queue: give --queue and no other filter"));
        let queue = self.queue.as_deref().ok_or_else(wanted)?;
        let alone = DeadFilter { queue: self.queue.clone(), ..DeadFilter::default() };
        if self.lying() == alone { Ok(queue) } else { Err(wanted()) }
    }
}

/// Dead letters to do something with; nothing is done to all of them by mistake.
#[derive(Args)]
struct Chosen {
    /// These, by number
    #[arg(value_name = "ID")]
    ids: Vec<i64>,

    #[command(flatten)]
    filter: Filter,

    /// All that lie there
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

impl Chosen {
    fn selection(&self) -> Result<Selection, Failure> {
        match (self.ids.is_empty(), self.filter.is_empty(), self.all) {
            (false, true, false) => Ok(Selection::Ids(self.ids.clone())),
            (true, false, _) | (true, true, true) => Ok(Selection::Filter(self.filter.lying())),
            _ => Err(Failure::Usage(anyhow!("say which: numbers, filters such as --group, or --all"))),
        }
    }
}

/// How it ended; that there was none of those that were named is told.
fn changed(count: u64, selection: &Selection) -> Exit {
    if count == 0 && matches!(selection, Selection::Ids(_)) { Exit::NotFound } else { Exit::Well }
}

/// What the desk could not do, by exit code.
fn failure(error: leveret_serve::dead::Error) -> Failure {
    use leveret_serve::dead::Error;
    match error {
        Error::NoLetter(_) | Error::NoReplay(_) => Failure::NotFound(error.into()),
        Error::Payload { .. } | Error::Options(_) | Error::NotEdited(_) | Error::Running(_) | Error::Ended(_) => {
            Failure::Usage(error.into())
        }
        Error::Interrupted { replay, .. } => {
            let hint = format!("go on with: leveret dead replay --resume {replay}");
            Failure::Unreachable(anyhow::Error::from(error).context(hint))
        }
        Error::Store(error) => error.into(),
        _ => Failure::Other(error.into()),
    }
}
