//! What the leader of a schedule leaves behind, for the next one and for whoever asks.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};
use uuid::Uuid;

use crate::schedule::{IDS, Schedule};
use crate::{
    broker::Broker,
    identity::PROCESS,
    message::{Message, header},
    topology::Stream,
    tracking::stream::{Reading, follow},
};

/// How long the stream of all tokens may take to be read.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// How far a schedule is. All times are milliseconds since the epoch.
///
/// ```
/// # use leveret::schedule::Token;
/// # fn doc(token: &Token) {
/// let waits = token.next_fire.map(|next| next.saturating_sub(token.told_at));
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
    /// A digest of its payload; none in a token of an earlier version.
    #[serde(default)]
    pub payload: Option<String>,
    /// The number of the leader, counted from the first one; 0 says that nothing is known.
    pub epoch: u64,
    /// Everything up to this time is published or passed over.
    pub settled_until: u64,
    /// The last of its times that was published.
    pub last_fire: Option<u64>,
    /// The time that comes next.
    pub next_fire: Option<u64>,
    /// The leader, as `host:process`.
    pub leader: String,
    /// When the leader said so. It does at least every five minutes.
    pub told_at: u64,
    /// Another schedule under this name, which a worker that does not lead has had within the last minutes: its jobs are
    /// not published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<Box<Self>>,
}

impl Token {
    /// What a worker with the schedule says of it, of which nothing is known.
    pub(super) fn of(schedule: &Schedule, told_at: u64) -> Self {
        Self {
            schedule: schedule.name.clone(),
            expression: schedule.expression.clone(),
            zone: schedule.zone.clone(),
            job: schedule.job.to_owned(),
            queue: schedule.to.clone(),
            payload: schedule.body.as_ref().ok().map(|body| digest(body)),
            epoch: 0,
            settled_until: 0,
            last_fire: None,
            next_fire: None,
            leader: PROCESS.clone(),
            told_at,
            rival: None,
        }
    }

    /// The higher one counts.
    pub(super) fn rank(&self) -> (u64, u64) {
        (self.epoch, self.settled_until)
    }

    pub(super) fn read(message: &Message) -> Option<Self> {
        // No schedule has had so many leaders: whoever wrote that is to be succeeded all the same.
        serde_json::from_slice(&message.body).ok().filter(|token: &Self| token.epoch < u64::MAX / 2)
    }
}

/// The last token of each schedule, by name, as they stand in the stream `leveret.v1.schedules`.
///
/// ```no_run
/// # async fn doc(broker: leveret::Broker) -> Result<(), String> {
/// for token in leveret::schedule::tokens(&broker).await? {
///     println!("{}: {} {}, led by {}", token.schedule, token.expression, token.zone, token.leader);
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// In words, if the stream has not been read within ten seconds. A stream that does not exist cannot be read.
pub async fn tokens(broker: &Broker) -> Result<Vec<Token>, String> {
    let found = Mutex::new(BTreeMap::<String, Token>::new());
    let reading = watch::Sender::new(Reading::Behind);
    let mut caught_up = reading.subscribe();
    let began = i64::try_from(broker.now_ms()).unwrap_or(i64::MAX);
    let seen = |message: &Message| {
        // A stream that is always written to is never quiet.
        if message.number(header::ENQUEUED_AT).and_then(Result::ok).is_some_and(|at| at >= began) {
            reading.send_replace(Reading::CaughtUp);
        }
        let (Some(token), Ok(mut found)) = (Token::read(message), found.lock()) else { return };
        if found.get(&token.schedule).is_none_or(|known| known.rank() <= token.rank()) {
            found.insert(token.schedule.clone(), token);
        }
    };
    let following = follow(broker.transport(), Stream::Schedules, &reading, seen);
    let read = async {
        tokio::select! {
            () = following => {}
            _ = caught_up.wait_for(|reading| *reading == Reading::CaughtUp) => {}
        }
    };
    if timeout(READ_WITHIN, read).await.is_err() {
        return Err(format!("the stream of schedules was not read within {READ_WITHIN:?}"));
    }
    Ok(found.into_inner().unwrap_or_default().into_values().collect())
}

/// Tells payloads apart, but not by the order of their fields: that of a map differs between processes.
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
    fn a_token_that_nobody_could_succeed_is_none() {
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
