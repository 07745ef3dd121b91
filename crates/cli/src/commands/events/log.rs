//! The log of events: `leveret events log` and `tail`.

use std::{
    borrow::Cow,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use leveret::{
    Broker, Config,
    event_log::{self, EventLog, LoggedEvent, Start},
    names,
    time::unix_ms,
    topology::Topology,
};
use leveret_store::time::to_rfc3339;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{
    super::shared::{broker, moment, reach},
    subscriptions::depth,
};
use crate::output::{Exit, Failure, Format, closed, one_line, print, print_document};

/// Longest line of an event, in bytes.
const LONGEST: usize = 8 * 1024;
/// Silence after which the log is read to its end.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// The place to start, as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    let (log, newest) = opened(&broker, from, shown.no_follow).await?;
    if shown.no_follow && newest.is_none() {
        return Ok(Exit::Success);
    }
    tokio::select! {
        ended = follow(log, newest, from, shown) => ended,
        () = closed() => Ok(Exit::Success),
    }
}

/// Opens the log, and then asks for its newest event if that is the end. No event between the two is missed.
async fn opened(broker: &Broker, from: Place, no_follow: bool) -> Result<(EventLog, Option<u64>), Failure> {
    let log = open(broker, from.start()).await?;
    let newest = if no_follow { newest(broker).await? } else { None };
    Ok((log, newest))
}

async fn follow(mut log: EventLog, newest: Option<u64>, from: Place, shown: &Shown) -> Result<Exit, Failure> {
    loop {
        let event = match timeout(QUIET, log.next()).await {
            Ok(event) => event.map_err(|error| Failure::Other(error.into()))?,
            Err(_) if shown.no_follow => return Ok(Exit::Success),
            Err(_) => continue,
        };
        if from.includes(&event) && shown.topic.as_deref().is_none_or(|topic| event.matches(topic)) {
            show(&event, shown)?;
        }
        if newest.is_some_and(|newest| event.offset() >= newest) {
            return Ok(Exit::Success);
        }
    }
}

fn show(event: &LoggedEvent, shown: &Shown) -> Result<(), Failure> {
    let line = EventLine {
        offset: event.offset(),
        at: event.emitted_at().map(unix_ms).map(to_rfc3339).unwrap_or_default(),
        topic: event.topic(),
        id: event.id(),
        payload: shown.payloads.then(|| Payload::new(event.message().payload())),
    };
    match shown.output {
        Format::Json => print_document(&line.json()?)?,
        Format::Table => print(&line.text())?,
    }
    Ok(())
}

/// An event as it is shown.
#[derive(Serialize)]
struct EventLine<'a> {
    offset: u64,
    at: String,
    topic: &'a str,
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload<'a>>,
}

/// A payload: JSON byte for byte, because decoding changes numbers and loses repeated keys, or else text.
#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Json(&'a RawValue),
    Text(Cow<'a, str>),
}

impl<'a> Payload<'a> {
    fn new(payload: &'a [u8]) -> Self {
        serde_json::from_slice(payload).map_or_else(|_| Self::Text(String::from_utf8_lossy(payload)), Self::Json)
    }

    fn text(&self) -> &str {
        match self {
            Self::Json(json) => json.get(),
            Self::Text(text) => text,
        }
    }
}

impl EventLine<'_> {
    fn json(&self) -> anyhow::Result<String> {
        let json = serde_json::to_string(self).context("encoding an event as JSON")?;
        // Line ends are only in a payload, between its values.
        Ok(json.replace(['\n', '\r'], " ") + "\n")
    }

    fn text(&self) -> String {
        let Self { offset, at, topic, id, payload } = self;
        let (id, payload) = (id.unwrap_or("-"), payload.as_ref().map(|payload| format!("  {}", payload.text())));
        let line = format!("{offset}  {at}  {topic}  {id}{}", payload.unwrap_or_default());
        one_line(&line, LONGEST) + "\n"
    }
}

pub(super) fn check(topic: Option<&str>) -> Result<(), Failure> {
    let Some(topic) = topic else { return Ok(()) };
    names::pattern(topic).map_err(|rule| Failure::Usage(anyhow!("--topic {topic:?}: {rule}")))
}

/// A handle on a broker that has the log.
pub(super) async fn with_log(config: &Config) -> Result<Broker, Failure> {
    let mut probe = reach(config).await?;
    let log = Topology::new(&config.namespace).event_log();
    if depth(&mut probe, &log).await?.is_none() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(payload: &[u8]) -> EventLine<'_> {
        let at = "2026-11-21T15:00:00.000Z".to_owned();
        EventLine { offset: 7, at, topic: "order.\u{200d}", id: None, payload: Some(Payload::new(payload)) }
    }

    #[test]
    fn an_event_is_one_line_of_json_with_the_payload_that_was_published() {
        let same = r#"{"n":123456789012345678901234567890,"x":0.10000000000000000555,"a":1,"a":[2, 1e400]}"#;
        for (payload, expected) in [
            (same.as_bytes(), same),
            ("{\n  \"a\": \"\u{200d}\"\r\n}".as_bytes(), r#"{   "a": "\u200d"  }"#),
            (br#" "\ud800" "#, r#""\ud800""#),
            (b"{} {}", r#""{} {}""#),
            (b"a\n\xff", "\"a\\n\u{fffd}\""),
            (b"", r#""""#),
        ] {
            let json = line(payload).json().unwrap();
            let printed = leveret::text::json(&json);
            let start = r#"{"offset":7,"at":"2026-11-21T15:00:00.000Z","topic":"order.\u200d","id":null,"payload":"#;
            assert_eq!(printed, format!("{start}{expected}}}\n"));
        }
    }

    #[tokio::test]
    async fn a_tail_that_follows_reads_each_event_from_its_start_on() {
        let broker = Broker::memory();
        event_log::declare(&broker).await.unwrap();
        let emit = async { broker.publisher().emit_raw("order.placed", "{}").await.unwrap() };
        let (opened, _) = tokio::join!(opened(&broker, Place::Next, false), emit);
        let (mut log, newest) = opened.unwrap();
        let event = timeout(QUIET, log.next()).await.expect("the log is open before the event is emitted").unwrap();
        assert_eq!((event.topic(), newest), ("order.placed", None));
    }

    #[test]
    fn an_event_is_one_line_of_text_however_long_it_is() {
        let text = line(b"{\n\"a\": \"\x1b[31m\"}").text();
        assert_eq!(text, "7  2026-11-21T15:00:00.000Z  order.\\u{200d}  -  { \"a\": \"\\u{1b}[31m\"}\n");
        let long = line(&[b'x'; 2 * LONGEST]).text();
        assert!(long.len() < 2 * LONGEST && long.ends_with("x…\n"), "{long}");
    }
}
