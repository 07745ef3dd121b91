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
    log::{self, Place, QUIET},
    position::{Journal, Options, Position},
    subscriptions::{Api, check, existing},
};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json};

/// Events that wait for their confirms at once.
const IN_FLIGHT: usize = 64;
/// Longest wait for an event that the log should have.
const EXPECTED_WITHIN: Duration = Duration::from_secs(10);
/// The most topics in the output for people.
const MOST_TOPICS: usize = 20;
/// Interval at which the position is kept while no event is sent.
const KEEP_EVERY: Duration = Duration::from_millis(200);

/// Publishes events of the log to one subscription again
#[derive(Args)]
pub(super) struct Replay {
    /// Subscription that gets the events
    #[arg(long, value_name = "NAME")]
    to: String,

    /// Place to start: `first`, `offset:N`, a time such as 2026-11-21T15:00:00Z, or a duration before now
    #[arg(long, value_parser = beginning, value_name = "PLACE")]
    from: Beginning,

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

    #[command(flatten)]
    api: Api,
}

/// The place to start, and the text that names it.
#[derive(Clone, Debug)]
struct Beginning {
    text: String,
    place: Place,
}

fn beginning(text: &str) -> Result<Beginning, String> {
    match log::start(text)? {
        Place::Next => Err("expected `first`, `offset:N`, a time or a duration before now".to_owned()),
        place => Ok(Beginning { text: text.to_owned(), place }),
    }
}

pub(super) async fn run(config: &Config, replay: &Replay, output: Format) -> Result<Exit, Failure> {
    log::check(replay.topic.as_deref())?;
    let mut probe = reach(config).await?;
    existing(&mut probe, &replay.to).await?;
    check(&probe, config, &replay.api, &replay.to).await?;
    let options = replay.options(config, probe.vhost());
    probe.close().await;
    let broker = log::with_log(config).await?;
    let counts = match replay.begin(options, &broker).await? {
        Some(position) if !position.is_done() => {
            Run { replay, position: Mutex::new(position), publisher: broker.publisher() }.all(&broker).await?
        }
        _ => BTreeMap::new(),
    };
    broker.close().await;
    let total: u64 = counts.values().sum();
    match output {
        Format::Json => print_json(&json!({ "events": total, "topics": counts, "dry_run": replay.dry_run }))?,
        Format::Table => {
            let done = if replay.dry_run { "would be published" } else { "published" };
            print(&format!("{total} events {done} to {}\n{}", replay.to, topics(&counts)))?;
        }
    }
    Ok(Exit::Success)
}

/// A line for each topic. Topics come from any publisher.
fn topics(counts: &BTreeMap<String, u64>) -> String {
    let line = |(topic, count): (&String, &u64)| format!("  {}: {count}\n", one_line(topic, 255));
    let lines: String = counts.iter().take(MOST_TOPICS).map(line).collect();
    match counts.len().saturating_sub(MOST_TOPICS) {
        0 => lines,
        more => format!("{lines}  and {more} more topics\n"),
    }
}

impl Replay {
    fn options(&self, config: &Config, vhost: &str) -> Options {
        Options {
            vhost: vhost.to_owned(),
            namespace: config.namespace.clone(),
            to: self.to.clone(),
            from: self.from.text.clone(),
            topic: self.topic.clone(),
            again: self.again,
        }
    }

    /// The position of an earlier run, or of a replay that begins now; none if the log is empty.
    async fn begin(&self, options: Options, broker: &Broker) -> Result<Option<Position>, Failure> {
        let path = self.position.as_deref();
        let journal = path.filter(|_| !self.dry_run).map(Journal::open).transpose()?;
        let known = path.map(|path| Position::read(path, &options)).transpose()?.flatten();
        let position = match known {
            Some(position) => {
                report_resumed(&position);
                position
            }
            None => {
                let Some(newest) = log::newest(broker).await? else { return Ok(None) };
                Position::new(options, self.from.place, newest)
            }
        };
        match journal {
            Some(journal) => position.keep(journal).map(Some),
            None => Ok(Some(position)),
        }
    }
}

fn report_resumed(position: &Position) {
    let end = position.end();
    if position.is_done() {
        return notice!("This replay is done: event {end} was its last. For another one name another --position file.");
    }
    let next = position.next().map_or_else(|| "its first event".to_owned(), |next| format!("event {next}"));
    let in_doubt = position.in_doubt();
    if in_doubt.is_empty() {
        return notice!("The replay goes on with {next}, up to event {end}. It repeats none.");
    }
    let (count, numbers) = (in_doubt.len(), in_doubt.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
    notice!(
        "The replay goes on with {next}, up to event {end}. Events that were sent before the interruption, without a \
         confirm, are sent again under the same ids ({count}): {numbers}"
    );
}

struct Run<'a> {
    replay: &'a Replay,
    position: Mutex<Position>,
    publisher: Publisher,
}

impl Run<'_> {
    /// Publishes the events that are left, in their order, and counts them by topic.
    async fn all(&self, broker: &Broker) -> Result<BTreeMap<String, u64>, Failure> {
        let to = self.position().end();
        let start = self.position().place().start();
        let log = log::open(broker, start).await?;
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
        let (began, mut number) = (Instant::now(), 0_u32);
        let publishes = events.map(|event: Result<LoggedEvent, Failure>| {
            let chosen = event.as_ref().is_ok_and(|event| self.is_chosen(event));
            let due = self.replay.rate.filter(|_| chosen).map(|rate| began + Duration::from_secs(number.into()) / rate);
            number = number.wrapping_add(u32::from(chosen));
            self.publish(event, chosen, due)
        });
        let mut publishes = std::pin::pin!(publishes.buffered(IN_FLIGHT));
        let (bar, mut counts, mut kept) = (bar(to), BTreeMap::new(), Instant::now());
        while let Some(published) = publishes.next().await {
            let (offset, topic) = published?;
            bar.set_position(offset);
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
        self.position().reached(to + 1, true)?;
        Ok(counts)
    }

    fn is_chosen(&self, event: &LoggedEvent) -> bool {
        let is_of_topic = self.replay.topic.as_deref().is_none_or(|topic| event.matches(topic));
        let position = self.position();
        is_of_topic && position.includes(event) && !position.is_confirmed(event.offset())
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
            false => format!(
                "the replay stopped: --from offset:{offset} goes on, also with events since its start; with --position \
                 a replay keeps its end"
            ),
        })
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use leveret::{NewEvent, event_log};

    use super::*;

    #[tokio::test]
    async fn a_replay_that_goes_on_leaves_out_events_before_its_start_and_after_its_end() {
        let broker = Broker::memory();
        event_log::declare(&broker).await.unwrap();
        for second in 1..=5 {
            let at = UNIX_EPOCH + Duration::from_secs(second);
            broker.publisher().emit(NewEvent::raw("order.placed", "{}").enqueued_at(at)).await.unwrap();
        }
        let from = Beginning { text: "1h".to_owned(), place: Place::Time(2_000) };
        let (to, api) = ("audit".to_owned(), Api::default());
        let replay = Replay { to, from, topic: None, rate: None, dry_run: true, again: false, position: None, api };
        let mut position = Position::new(replay.options(broker.config(), "/"), replay.from.place, 3);
        // The broker had started before the time, and the kill came before the first publish.
        position.reached(0, true).unwrap();
        let run = Run { replay: &replay, position: Mutex::new(position), publisher: broker.publisher() };
        assert_eq!(run.all(&broker).await.unwrap(), BTreeMap::from([("order.placed".to_owned(), 3)]));
        assert!(run.position().is_done());
    }

    #[test]
    fn a_replay_starts_at_an_event_that_the_log_has() {
        assert_eq!(beginning("offset:7").unwrap().place, Place::Offset(7));
        assert_eq!(beginning("1h").unwrap().text, "1h");
        assert!(beginning("next").unwrap_err().contains("offset:N"));
    }

    #[test]
    fn each_topic_has_one_line_and_only_the_first_are_shown() {
        let evil = BTreeMap::from([("order.placed\n9 events\u{202e}".to_owned(), 2)]);
        assert_eq!(topics(&evil), "  order.placed 9 events\\u{202e}: 2\n");
        let many = |count: usize| (0..count).map(|number| (format!("t{number:02}"), 1)).collect::<BTreeMap<_, _>>();
        assert_eq!(topics(&many(MOST_TOPICS)).lines().count(), MOST_TOPICS);
        let shown = topics(&many(MOST_TOPICS + 3));
        assert_eq!(shown.lines().count(), MOST_TOPICS + 1);
        assert!(shown.ends_with("  t19: 1\n  and 3 more topics\n"), "{shown}");
    }
}
