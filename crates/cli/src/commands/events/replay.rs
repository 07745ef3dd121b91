//! `leveret events replay`.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::anyhow;
use clap::Args;
use futures_util::{StreamExt, stream};
use leveret::{Broker, Config, PublishError, Publisher, event_log::LoggedEvent};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    super::shared::{bar, reach},
    existing,
    log::{self, Place, QUIET},
    position::Position,
};
use crate::output::{Exit, Failure, Format, notice, print, print_json};

/// Events that wait for their confirms at once.
const IN_FLIGHT: usize = 64;
/// Longest wait for an event that the log should have.
const EXPECTED_WITHIN: Duration = Duration::from_secs(10);
/// Interval at which the position is kept while no event is sent.
const KEEP_EVERY: Duration = Duration::from_millis(200);

/// Publishes events of the log to one subscription again
#[derive(Args)]
pub(super) struct Replay {
    /// Subscription that gets the events
    #[arg(long, value_name = "NAME")]
    to: String,

    /// Place to start: `first`, `offset:N`, a time such as 2026-11-21T15:00:00Z, or a duration before now
    #[arg(long, value_parser = log::start, value_name = "PLACE")]
    from: Place,

    /// Only events whose topic matches this pattern
    #[arg(long, value_name = "PATTERN")]
    topic: Option<String>,

    /// Most events per second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    rate: Option<u32>,

    /// Only count the events
    #[arg(long)]
    dry_run: bool,

    /// Give the events new ids, so that an inbox handles them again
    #[arg(long)]
    again: bool,

    /// File that keeps how far the replay is, so that it can go on after an interruption
    #[arg(long, value_name = "FILE")]
    position: Option<PathBuf>,
}

pub(super) async fn run(config: &Config, replay: &Replay, output: Format) -> Result<Exit, Failure> {
    log::check(replay.topic.as_deref())?;
    let mut probe = reach(config).await?;
    existing(&mut probe, &replay.to).await?;
    probe.close().await;
    let broker = log::with_log(config).await?;
    let newest = log::newest(&broker).await?;
    let position = open_position(replay)?;
    let from = position.next().map_or(replay.from, Place::Offset);
    if let Some(next) = position.next() {
        report_resumed(next, &position.in_doubt());
    }
    let mut counts = BTreeMap::new();
    let is_behind = |newest: u64| !matches!(from, Place::Offset(offset) if offset > newest);
    if let Some(newest) = newest.filter(|newest| is_behind(*newest)) {
        counts = Run { replay, position: Mutex::new(position), publisher: broker.publisher() }
            .all(&broker, (from, newest))
            .await?;
    }
    broker.close().await;
    let total: u64 = counts.values().sum();
    match output {
        Format::Json => print_json(&json!({ "events": total, "topics": counts, "dry_run": replay.dry_run }))?,
        Format::Table => {
            let done = if replay.dry_run { "would be published" } else { "published" };
            let topics: Vec<_> = counts.iter().map(|(topic, count)| format!("  {topic}: {count}\n")).collect();
            print(&format!("{total} events {done} to {}\n{}", replay.to, topics.concat()))?;
        }
    }
    Ok(Exit::Success)
}

fn open_position(replay: &Replay) -> Result<Position, Failure> {
    let (to, topic) = (replay.to.as_str(), replay.topic.as_deref());
    match &replay.position {
        None => Ok(Position::unkept(to, topic)),
        Some(path) if replay.dry_run => Position::read(path, to, topic),
        Some(path) => Position::keep(path, to, topic),
    }
}

fn report_resumed(next: u64, in_doubt: &[u64]) {
    if in_doubt.is_empty() {
        return notice!("The replay goes on with event {next}. It repeats none.");
    }
    let (count, numbers) = (in_doubt.len(), in_doubt.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
    notice!(
        "The replay goes on with event {next}. Events that were sent before the interruption, without a confirm, are sent \
         again under the same ids ({count}): {numbers}"
    );
}

struct Run<'a> {
    replay: &'a Replay,
    position: Mutex<Position>,
    publisher: Publisher,
}

impl Run<'_> {
    /// Publishes the events from one place to another, in their order, and counts them by topic.
    async fn all(&self, broker: &Broker, (from, to): (Place, u64)) -> Result<BTreeMap<String, u64>, Failure> {
        let log = log::open(broker, from.start()).await?;
        let events = stream::unfold(Some(log), async |log| {
            let mut log = log?;
            let event = match timeout(QUIET.max(EXPECTED_WITHIN), log.next()).await {
                Ok(Ok(event)) => event,
                Ok(Err(reason)) => return Some((Err(Failure::Other(reason.into())), None)),
                Err(_) => {
                    let reason = anyhow!("the log was silent before event {to}: run the command again");
                    return Some((Err(Failure::Unreachable(reason)), None));
                }
            };
            let more = event.offset() < to;
            (event.offset() <= to).then(|| (Ok(event), more.then_some(log)))
        });
        let (began, mut number, mut is_first) = (Instant::now(), 0_u32, true);
        let publishes = events.map(|event| {
            let event = event.and_then(|event: LoggedEvent| {
                // A duration before now means another place in a later run.
                if std::mem::take(&mut is_first) {
                    self.position().reached(event.offset(), true)?;
                }
                Ok(event)
            });
            let chosen = event.as_ref().is_ok_and(|event| self.is_chosen(event, from));
            let due = self.replay.rate.filter(|_| chosen).map(|rate| began + Duration::from_secs(number.into()) / rate);
            number = number.wrapping_add(u32::from(chosen));
            self.publish(event, chosen, due)
        });
        let mut publishes = std::pin::pin!(publishes.buffered(IN_FLIGHT));
        let (bar, mut counts, mut kept) = (bar(to), BTreeMap::new(), Instant::now());
        let mut next = None;
        while let Some(published) = publishes.next().await {
            let (offset, topic) = published?;
            bar.set_position(offset);
            next = Some(offset + 1);
            if let Some(topic) = topic {
                *counts.entry(topic).or_insert(0) += 1;
            }
            let is_due = kept.elapsed() > KEEP_EVERY;
            self.position().reached(offset + 1, is_due)?;
            if is_due {
                kept = Instant::now();
            }
        }
        bar.finish_and_clear();
        if let Some(next) = next {
            self.position().reached(next, true)?;
        }
        Ok(counts)
    }

    fn is_chosen(&self, event: &LoggedEvent, from: Place) -> bool {
        let is_of_topic = self.replay.topic.as_deref().is_none_or(|topic| event.matches(topic));
        from.includes(event) && is_of_topic && !self.position().is_confirmed(event.offset())
    }

    /// Publishes one event when it is due, and returns its offset, and its topic if it was chosen.
    async fn publish(
        &self,
        event: Result<LoggedEvent, Failure>,
        chosen: bool,
        due: Option<Instant>,
    ) -> Result<(u64, Option<String>), Failure> {
        let event = event?;
        let offset = event.offset();
        if !chosen {
            return Ok((offset, None));
        }
        if !self.replay.dry_run {
            if let Some(due) = due {
                sleep_until(due).await;
            }
            let copy = self.publisher.replay(event.message(), self.replay.to.as_str());
            let has_new_id = self.replay.again || event.id().is_none();
            let copy = if has_new_id { copy.id(self.position().id(offset)) } else { copy };
            self.position().sending(offset)?;
            copy.await.map_err(|error| self.stopped(error, offset))?;
            self.position().confirmed(offset)?;
        }
        Ok((offset, Some(event.topic().to_owned())))
    }

    fn stopped(&self, error: PublishError, offset: u64) -> Failure {
        let has_position = self.replay.position.is_some();
        Failure::from(error).context(|| match has_position {
            true => "the replay stopped: run the same command again to go on".to_owned(),
            false => format!("the replay stopped: continue with --from offset:{offset}"),
        })
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
