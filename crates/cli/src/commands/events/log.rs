//! The log of events: `leveret events log` and `tail`.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::anyhow;
use leveret::{
    Broker, Config,
    event_log::{self, EventLog, LoggedEvent, Start},
    names,
    time::unix_ms,
    topology::Topology,
};
use leveret_store::time::to_rfc3339;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::shared::{broker, moment, reach};
use crate::output::{Exit, Failure, Format, print};

/// Longest line of an event, in bytes.
const LONGEST: usize = 8 * 1024;
/// Silence after which the log is read to its end.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// The place to start, as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Next,
    Offset(u64),
    Time(u64),
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
    pub(super) fn start(self) -> Start {
        match self {
            Self::First => Start::First,
            Self::Next => Start::Next,
            Self::Offset(offset) => Start::Offset(offset),
            Self::Time(ms) => Start::Time(UNIX_EPOCH + Duration::from_millis(ms)),
        }
    }

    /// The broker starts up to some minutes before a time.
    pub(super) fn includes(self, event: &LoggedEvent) -> bool {
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

pub(super) fn check(topic: Option<&str>) -> Result<(), Failure> {
    let Some(topic) = topic else { return Ok(()) };
    names::pattern(topic).map_err(|rule| Failure::Usage(anyhow!("--topic {topic:?}: {rule}")))
}

/// A handle on a broker that has the log.
pub(super) async fn with_log(config: &Config) -> Result<Broker, Failure> {
    let mut probe = reach(config).await?;
    let log = Topology::new(&config.namespace).event_log();
    if super::depth(&mut probe, &log).await?.is_none() {
        let hint = "make it with `leveret events log`; it has the events from then on";
        return Err(Failure::NotFound(anyhow!("there is no log of events: {hint}")));
    }
    probe.close().await;
    broker(config).await
}

pub(super) async fn newest(broker: &Broker) -> Result<Option<u64>, Failure> {
    event_log::newest(broker).await.map_err(|error| Failure::Other(error.into()))
}

pub(super) async fn open(broker: &Broker, start: Start) -> Result<EventLog, Failure> {
    EventLog::open(broker, start).await.map_err(|error| Failure::Other(error.into()))
}
