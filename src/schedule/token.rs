//! The token of a schedule, which a leader leaves for the next one and for tools.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};
use uuid::Uuid;

use crate::schedule::{IDS, Schedule};
use crate::{
    broker::Broker,
    error::Error,
    identity::PROCESS,
    message::{Message, header},
    time::at_unix_ms,
    topology::{Stream, Topology},
    tracking::stream::{Reading, follow},
};

/// Longest wait until the stream of all tokens is read.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// The state of a schedule. Its times are whole milliseconds; those since the epoch in JSON.
///
/// ```
/// # use leveret::schedule::Token;
/// # fn doc(token: &Token) {
/// let waits = token.next_fire().and_then(|next| next.duration_since(token.told_at()).ok());
/// # let _ = waits; }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Token {
    /// The schedule's name.
    pub schedule: String,
    /// Its expression.
    pub expression: String,
    /// Its time zone.
    pub zone: String,
    /// The job that it publishes.
    pub job: String,
    /// The queue of that job.
    pub queue: String,
    /// A digest of its payload; `None` in a token of an earlier version.
    #[serde(default)]
    pub payload: Option<String>,
    /// The number of the leader, counted from the first one; 0 in an empty token.
    pub epoch: u64,
    pub(super) settled_until: u64,
    pub(super) last_fire: Option<u64>,
    pub(super) next_fire: Option<u64>,
    /// The leader, as `host:process`.
    pub leader: String,
    pub(super) told_at: u64,
    /// Another schedule with this name, which a waiting worker has had within the last minutes. Its jobs are not
    /// published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<Box<Self>>,
}

impl Token {
    /// Returns the time up to which everything is published or skipped.
    #[must_use]
    pub fn settled_until(&self) -> SystemTime {
        at_unix_ms(self.settled_until)
    }

    /// Returns the last published time; `None` before the first.
    #[must_use]
    pub fn last_fire(&self) -> Option<SystemTime> {
        self.last_fire.map(at_unix_ms)
    }

    /// Returns the next time; `None` if the timetable has no further one.
    #[must_use]
    pub fn next_fire(&self) -> Option<SystemTime> {
        self.next_fire.map(at_unix_ms)
    }

    /// Returns the time of the token. The leader publishes one at least every five minutes.
    #[must_use]
    pub fn told_at(&self) -> SystemTime {
        at_unix_ms(self.told_at)
    }

    /// Returns the empty token of a worker with the schedule.
    pub(super) fn of(schedule: &Schedule, told_at: u64) -> Self {
        Self {
            schedule: schedule.name.clone(),
            expression: schedule.expression.clone(),
            zone: schedule.zone.clone(),
            job: schedule.new.name().to_owned(),
            queue: schedule.new.queue_name().to_owned(),
            payload: schedule.new.payload().ok().map(digest),
            epoch: 0,
            settled_until: 0,
            last_fire: None,
            next_fire: None,
            leader: PROCESS.clone(),
            told_at,
            rival: None,
        }
    }

    /// Returns the rank; the token with the highest rank counts.
    pub(super) fn rank(&self) -> (u64, u64) {
        (self.epoch, self.settled_until)
    }

    pub(super) fn read(message: &Message) -> Option<Self> {
        // No schedule has had so many leaders; without this check, no leader could follow such a token.
        serde_json::from_slice(&message.body).ok().filter(|token: &Self| token.epoch < u64::MAX / 2)
    }
}

/// Returns the last token of each schedule, by name, from the stream `leveret.v1.schedules`.
///
/// ```no_run
/// # async fn doc(broker: leveret::Broker) -> Result<(), leveret::Error> {
/// for token in leveret::schedule::tokens(&broker).await? {
///     println!("{}: {} {}, led by {}", token.schedule, token.expression, token.zone, token.leader);
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`Error::Unavailable`] if the stream was not read within ten seconds, as one that does not exist.
pub async fn tokens(broker: &Broker) -> Result<Vec<Token>, Error> {
    let found = Mutex::new(BTreeMap::<String, Token>::new());
    let reading = watch::Sender::new(Reading::Behind);
    let mut caught_up = reading.subscribe();
    let began = i64::try_from(broker.now_ms()).unwrap_or(i64::MAX);
    let on_message = |message: &Message| {
        // A stream with continuous writes never falls silent.
        if message.number(header::ENQUEUED_AT).and_then(Result::ok).is_some_and(|at| at >= began) {
            reading.send_replace(Reading::CaughtUp);
        }
        let (Some(token), Ok(mut found)) = (Token::read(message), found.lock()) else { return };
        if found.get(&token.schedule).is_none_or(|known| known.rank() <= token.rank()) {
            found.insert(token.schedule.clone(), token);
        }
    };
    let following = follow(broker.transport(), Stream::Schedules, &reading, on_message);
    let read = async {
        tokio::select! {
            () = following => {}
            _ = caught_up.wait_for(|reading| *reading == Reading::CaughtUp) => {}
        }
    };
    if timeout(READ_WITHIN, read).await.is_err() {
        let stream = Topology::new(&broker.config().namespace).schedules();
        return Err(Error::unavailable(&stream, format_args!("it was not read within {READ_WITHIN:?}")));
    }
    Ok(found.into_inner().unwrap_or_default().into_values().collect())
}

/// Returns a digest that distinguishes payloads, but not the order of their fields, because the order of a map differs
/// between processes.
pub(super) fn digest(payload: &[u8]) -> String {
    let sorted = serde_json::from_slice::<Value>(payload).and_then(|mut value| {
        value.sort_all_objects();
        serde_json::to_vec(&value)
    });
    Uuid::new_v5(&IDS, sorted.as_deref().unwrap_or(payload)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    #[test]
    fn a_token_with_an_exhausted_epoch_is_ignored() {
        let read = |epoch: u64| {
            let body = format!(
                r#"{{"schedule": "s", "expression": "@daily", "zone": "UTC", "job": "j", "queue": "q", "epoch": {epoch},
                    "settled_until": 0, "last_fire": null, "next_fire": null, "leader": "", "told_at": 0}}"#
            );
            Token::read(&Message::new("t", &JobId::from("t"), body.into_bytes(), 0)).map(|token| token.epoch)
        };
        assert_eq!((read(7), read(u64::MAX)), (Some(7), None));
    }
}
