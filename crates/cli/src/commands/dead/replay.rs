//! `leveret dead replay`.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use indicatif::ProgressBar;
use leveret::{Broker, Config, catalogue::Catalogue};
use leveret_serve::dead::{
    DeadLetterService,
    replay::{ReplayOptions, ReplayProgress, ReplaySummary},
};
use leveret_store::Selection;

use super::{
    super::shared::{ActorArguments, StoreArguments, bar, broker, catalogue, contents, hidden_if_of_workers},
    direct,
    outcome::{changed, failure, report_unchecked},
    selection::Chosen,
};
use crate::output::{Exit, Failure, Format, one_line, print, print_json};

/// Publishes dead letters to their queues again
///
/// The jobs keep their ids, payloads and headers, and start with attempt 1. Each is published and confirmed before it is
/// marked as replayed. An interrupted replay continues with --resume, or by itself where a server runs; at worst some jobs
/// are published twice, with the same id.
#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
pub(super) struct Replay {
    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    actor: ActorArguments,

    /// New payload for a single dead letter, from a file or `-` for standard input; checked against the schema of the job
    #[arg(long, value_name = "FILE", conflicts_with_all = ["direct", "resume"])]
    payload: Option<String>,

    /// Target queue, instead of the queue that each dead letter came from
    #[arg(long, value_name = "QUEUE")]
    to: Option<String>,

    /// Maximum number of dead letters per second
    #[arg(long, value_name = "NUMBER")]
    rate: Option<f64>,

    /// Replay this many first, as tracked jobs; if one fails, the rest is not replayed. Requires a worker, and a server on the same store
    #[arg(long, value_name = "NUMBER", conflicts_with = "direct")]
    canary: Option<u32>,

    /// Maximum time to wait for the end of the canaries
    #[arg(long, value_parser = leveret::duration, default_value = "5m", value_name = "DURATION")]
    canary_timeout: Duration,

    /// Track the jobs: the server records their status
    #[arg(long, conflicts_with = "direct")]
    track: bool,

    /// Continue an interrupted replay with its original options; after a kill, up to 20 s must pass first
    #[arg(long, value_name = "REPLAY", conflicts_with_all = ["ids", "all", "direct", "to", "rate", "canary", "track"])]
    resume: Option<i64>,

    /// Stop a replay, no matter which process runs it; dead letters that are not published yet are kept. A running replay takes some seconds to stop
    #[arg(long, value_name = "REPLAY", conflicts_with_all = ["ids", "all", "direct", "to", "rate", "canary", "track", "payload", "resume"])]
    stop: Option<i64>,

    /// Replay the dead letters of --queue in the broker, without a store
    #[arg(long, requires = "queue", conflicts_with_all = ["ids", "all"])]
    direct: bool,

    #[command(flatten)]
    config: Config,
}

impl Replay {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        if let Some(replay) = self.stop {
            return self.end(replay, output).await;
        }
        self.options().check().map_err(failure)?;
        if self.direct {
            let queue = self.chosen.filter.only_queue()?;
            return direct::replay(&self.config, queue, (self.to.as_deref(), self.rate), output).await;
        }
        let selection = if self.resume.is_none() { Some(self.chosen.selection()?) } else { None };
        let store = self.store.open().await?;
        let broker = broker(&self.config).await?;
        let dead = DeadLetterService::new(&broker, &store, &catalogue(&broker).await.0);
        if let Some(file) = &self.payload {
            let Some(Selection::Ids(ids)) = &selection else { return Err(one_letter()) };
            let [id] = ids[..] else { return Err(one_letter()) };
            report_unchecked(dead.edit(id, &contents(file).await?, &self.actor.actor).await.map_err(failure)?);
        }
        let bar = bar(0);
        let shown = bar.clone();
        let progress = |progress: &ReplayProgress| show(&shown, progress);
        let replayed = match (&selection, self.resume) {
            (Some(selection), _) => dead.replay(selection, &self.options(), &self.actor.actor, progress).await,
            (None, replay) => dead.resume(replay.unwrap_or_default(), &self.actor.actor, progress).await,
        };
        bar.finish_and_clear();
        broker.close().await;
        let summary = replayed.map_err(failure)?;
        match output {
            Format::Json => print_json(&summary)?,
            Format::Table => print(&text(&summary))?,
        }
        Ok(match selection {
            Some(selection) if summary.total == 0 => changed(0, &selection),
            _ if summary.replayed == summary.total => Exit::Success,
            _ => Exit::Problems,
        })
    }

    async fn end(&self, replay: i64, output: Format) -> Result<Exit, Failure> {
        let (store, broker) = (self.store.open().await?, Broker::amqp(self.config.clone()));
        let broker = broker.map_err(|error| Failure::Usage(error.into()))?;
        let dead = DeadLetterService::new(&broker, &store, &Catalogue::follow(&broker));
        let ended = dead.stop(replay, &self.actor.actor).await;
        broker.close().await;
        let ended = ended.map_err(failure)?;
        let text = || format!("Replay {replay} was stopped; {} of {} were replayed.\n", ended.replayed, ended.total);
        match output {
            Format::Json => print_json(&ended)?,
            Format::Table => print(&text())?,
        }
        Ok(Exit::Success)
    }

    fn options(&self) -> ReplayOptions {
        ReplayOptions {
            rate: self.rate,
            canary: self.canary,
            canary_timeout: self.canary_timeout.as_secs(),
            queue: self.to.clone(),
            track: self.track,
        }
    }
}

fn one_letter() -> Failure {
    Failure::Usage(anyhow!("--payload is for one dead letter: set its number"))
}

fn show(bar: &ProgressBar, progress: &ReplayProgress) {
    bar.set_length(progress.total);
    bar.set_position(progress.replayed + progress.failed);
    let what = if progress.waiting { "waiting for the canaries of replay" } else { "replay" };
    bar.set_message(format!("{what} {}", progress.replay));
}

fn text(summary: &ReplaySummary) -> String {
    let ReplaySummary { replay, total, replayed, returned, failed, outcome } = summary;
    if *total == 0 {
        return "No dead letter matches: nothing was replayed.\n".to_owned();
    }
    let left = if *returned > 0 { format!(", {returned} not replayed") } else { String::new() };
    let mut text = format!("Replay {replay}: {replayed} of {total} replayed{left}: {}\n", one_line(outcome, 1024));
    for failed in failed {
        text.push_str(&format!("  {}: {}\n", failed.id, one_line(&failed.reason, 1024)));
    }
    text
}
