//! The log of events: `leveret events log`, `tail` and `replay`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use clap::Args;
use futures_util::{StreamExt, stream};
use leveret::{
    Broker, Config, JobId, PublishError, Publisher,
    event_log::{self, EventLog, LoggedEvent, Start},
    names,
    time::unix_ms,
    topology::Topology,
};
use leveret_store::time::to_rfc3339;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use super::super::shared::{bar, broker, moment, reach};
use super::existing;
use crate::output::{Exit, Failure, Format, notice, print, print_json};

/// Events that wait for their confirms at once.
const IN_FLIGHT: usize = 64;
/// Longest line of an event, in bytes.
const LONGEST: usize = 8 * 1024;
/// Silence after which the log is read to its end.
const QUIET: Duration = Duration::from_secs(1);

/// The place to start, as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Next,
    Offset(u64),
    Time(u64),
}

/// Publishes events of the log to one subscription again
#[derive(Args)]
pub(super) struct Replay {
    /// Subscription that gets the events
    #[arg(long, value_name = "NAME")]
    to: String,

    /// Place to start: `first`, `offset:N`, a time such as 2026-11-21T15:00:00Z, or a duration before now
    #[arg(long, value_parser = start, value_name = "PLACE")]
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

/// The options of `tail`.
pub(super) struct Shown {
    pub(super) topic: Option<String>,
    pub(super) no_follow: bool,
    pub(super) payloads: bool,
    pub(super) output: Format,
}

pub(super) fn start(text: &str) -> Result<Place, String> {
    Ok(match text {
        "first" => Place::First,
        "next" => Place::Next,
        _ => match text.strip_prefix("offset:") {
            Some(offset) => Place::Offset(offset.parse().map_err(|_| "expected a number after offset:".to_owned())?),
            None => Place::Time(moment(text)?),
        },
    })
}

impl Place {
    fn start(self) -> Start {
        match self {
            Self::First => Start::First,
            Self::Next => Start::Next,
            Self::Offset(offset) => Start::Offset(offset),
            Self::Time(ms) => Start::Time(UNIX_EPOCH + Duration::from_millis(ms)),
        }
    }

    /// The broker starts up to some minutes before a time.
    fn includes(self, event: &LoggedEvent) -> bool {
        match self {
            Self::Time(ms) => event.emitted_at().is_none_or(|at| unix_ms(at) >= ms),
            Self::First | Self::Next | Self::Offset(_) => true,
        }
    }
}

pub(super) async fn declare(config: &Config) -> Result<Exit, Failure> {
    let broker = broker(config).await?;
    event_log::declare(&broker).await.map_err(|error| Failure::Other(error.into()))?;
    broker.close().await;
    print(&format!("The stream {} keeps every event from now on.\n", Topology::new(&config.namespace).event_log()))?;
    Ok(Exit::Success)
}

pub(super) async fn tail(config: &Config, from: Place, shown: &Shown) -> Result<Exit, Failure> {
    check(shown.topic.as_deref())?;
    let broker = with_log(config).await?;
    let newest = newest(&broker).await?;
    if shown.no_follow && newest.is_none() {
        return Ok(Exit::Success);
    }
    let mut log = open(&broker, from.start()).await?;
    loop {
        let event = match timeout(QUIET, log.next()).await {
            Ok(event) => event.map_err(|error| Failure::Other(error.into()))?,
            Err(_) if shown.no_follow => return Ok(Exit::Success),
            Err(_) => continue,
        };
        if from.includes(&event) && shown.topic.as_deref().is_none_or(|topic| event.matches(topic)) {
            show(&event, shown)?;
        }
        if shown.no_follow && newest.is_some_and(|newest| event.offset() >= newest) {
            return Ok(Exit::Success);
        }
    }
}

fn show(event: &LoggedEvent, shown: &Shown) -> Result<(), Failure> {
    let at = event.emitted_at().map(unix_ms).map(to_rfc3339).unwrap_or_default();
    let payload = || String::from_utf8_lossy(event.message().payload()).into_owned();
    match shown.output {
        Format::Json => {
            let mut line = json!({ "offset": event.offset(), "at": at, "topic": event.topic(), "id": event.id() });
            if shown.payloads {
                line["payload"] = serde_json::from_slice(event.message().payload()).unwrap_or(Value::String(payload()));
            }
            print(&format!("{line}\n"))?;
        }
        Format::Table => {
            let (offset, topic, id) = (event.offset(), event.topic(), event.id().unwrap_or("-"));
            let payload = if shown.payloads { format!("  {}", payload()) } else { String::new() };
            print(&format!(
                "{}\n",
                crate::output::one_line(&format!("{offset}  {at}  {topic}  {id}{payload}"), LONGEST)
            ))?;
        }
    }
    Ok(())
}

pub(super) async fn replay(config: &Config, replay: &Replay, output: Format) -> Result<Exit, Failure> {
    check(replay.topic.as_deref())?;
    let mut probe = reach(config).await?;
    existing(&mut probe, &replay.to).await?;
    probe.close().await;
    let broker = with_log(config).await?;
    let newest = newest(&broker).await?;
    let from = match replay.position.as_deref().map(read_position).transpose()?.flatten() {
        Some(last) => {
            notice!(
                "The replay goes on after event {last}. Events that were published within a second before the interruption \
                 may be published again."
            );
            Place::Offset(last + 1)
        }
        None => replay.from,
    };
    let mut counts = BTreeMap::new();
    let is_behind = |newest: u64| !matches!(from, Place::Offset(offset) if offset > newest);
    if let Some(newest) = newest.filter(|newest| is_behind(*newest)) {
        counts = run(&broker, replay, (from, newest)).await?;
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

/// Publishes the events from one place to another, in their order, and counts them by topic.
async fn run(broker: &Broker, replay: &Replay, (from, to): (Place, u64)) -> Result<BTreeMap<String, u64>, Failure> {
    let log = open(broker, from.start()).await?;
    let events = stream::unfold(Some(log), async |log| {
        let mut log = log?;
        let event = match timeout(QUIET.max(Duration::from_secs(10)), log.next()).await {
            Ok(Ok(event)) => event,
            Ok(Err(reason)) => return Some((Err(reason), None)),
            // The newest events may have been cut off by retention.
            Err(_) => return None,
        };
        let more = event.offset() < to;
        (event.offset() <= to).then(|| (Ok(event), more.then_some(log)))
    });
    let (publisher, began) = (broker.publisher(), Instant::now());
    let mut number = 0_u32;
    let publishes = events.map(|event| {
        let event = event.map_err(|error| Failure::Other(error.into()));
        let chosen = event.as_ref().is_ok_and(|event| {
            from.includes(event) && replay.topic.as_deref().is_none_or(|topic| event.matches(topic))
        });
        let due = replay.rate.filter(|_| chosen).map(|rate| began + Duration::from_secs(number.into()) / rate);
        number = number.wrapping_add(u32::from(chosen));
        publish(&publisher, replay, (event, chosen), due)
    });
    let mut publishes = std::pin::pin!(publishes.buffered(IN_FLIGHT));
    let (bar, mut counts, mut kept) = (bar(to), BTreeMap::new(), Instant::now());
    let mut last = None;
    while let Some(published) = publishes.next().await {
        let (offset, topic) = published?;
        bar.set_position(offset);
        last = Some(offset);
        if let Some(topic) = topic {
            *counts.entry(topic).or_insert(0) += 1;
        }
        if kept.elapsed() > Duration::from_millis(200) {
            keep_position(replay, offset)?;
            kept = Instant::now();
        }
    }
    bar.finish_and_clear();
    if let Some(last) = last {
        keep_position(replay, last)?;
    }
    Ok(counts)
}

/// Publishes one event when it is due, and returns its offset, and its topic if it was chosen.
async fn publish(
    publisher: &Publisher,
    replay: &Replay,
    (event, chosen): (Result<LoggedEvent, Failure>, bool),
    due: Option<Instant>,
) -> Result<(u64, Option<String>), Failure> {
    let event = event?;
    if !chosen {
        return Ok((event.offset(), None));
    }
    if !replay.dry_run {
        if let Some(due) = due {
            sleep_until(due).await;
        }
        let copy = publisher.replay(event.message(), replay.to.as_str());
        let copy = if replay.again || event.id().is_none() { copy.id(JobId::mint().as_str()) } else { copy };
        copy.await.map_err(|error| stopped(error, event.offset()))?;
    }
    Ok((event.offset(), Some(event.topic().to_owned())))
}

fn stopped(error: PublishError, offset: u64) -> Failure {
    Failure::from(error).context(|| format!("the replay stopped: continue with --from offset:{offset}"))
}

fn keep_position(replay: &Replay, offset: u64) -> Result<(), Failure> {
    let Some(file) = replay.position.as_deref().filter(|_| !replay.dry_run) else { return Ok(()) };
    let new = file.with_extension("new");
    let written = std::fs::write(&new, format!("{offset}\n")).and_then(|()| std::fs::rename(&new, file));
    Ok(written.with_context(|| format!("writing {}", file.display()))?)
}

fn read_position(file: &Path) -> Result<Option<u64>, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => match text.trim().parse() {
            Ok(offset) => Ok(Some(offset)),
            Err(_) => Err(Failure::Usage(anyhow!("{} has no offset: delete it, or name another file", file.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Usage(anyhow!("{}: {error}", file.display()))),
    }
}

fn check(topic: Option<&str>) -> Result<(), Failure> {
    let Some(topic) = topic else { return Ok(()) };
    names::pattern(topic).map_err(|rule| Failure::Usage(anyhow!("--topic {topic:?}: {rule}")))
}

/// A handle on a broker that has the log.
async fn with_log(config: &Config) -> Result<Broker, Failure> {
    let mut probe = reach(config).await?;
    let log = Topology::new(&config.namespace).event_log();
    if super::depth(&mut probe, &log).await?.is_none() {
        let hint = "make it with `leveret events log`; it has the events from then on";
        return Err(Failure::NotFound(anyhow!("there is no log of events: {hint}")));
    }
    probe.close().await;
    broker(config).await
}

async fn newest(broker: &Broker) -> Result<Option<u64>, Failure> {
    event_log::newest(broker).await.map_err(|error| Failure::Other(error.into()))
}

async fn open(broker: &Broker, start: Start) -> Result<EventLog, Failure> {
    EventLog::open(broker, start).await.map_err(|error| Failure::Other(error.into()))
}
