//! Detects that another worker has a different schedule under the same name. Only the leader of a name publishes, so
//! one of the two never fires. Each worker logs what it detects: the leader from the empty tokens of others, the others
//! from the leader's tokens in the stream. The leader's token names the other schedule, for `leveret doctor`.
//!
//! Another job or queue is a clash at once. A rolling deploy causes different expressions, zones or payloads for some
//! minutes, so such a difference must last longer to be a clash.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::schedule::token::Token;
use crate::{
    broker::Broker,
    message::Message,
    time::millis,
    topology::{Stream, Topology},
    tracking::stream::{Reading, follow},
};

/// Longest duration of a deploy. Also the time for which a worker counts after its last token.
const DEPLOY: Duration = Duration::from_secs(10 * 60);
const LOG_AGAIN: Duration = Duration::from_secs(60 * 60);
const RETRY: Duration = Duration::from_secs(5);

/// The known other schedules with the schedule's name.
pub(crate) struct Conflicts {
    own: Token,
    /// The first and the last time at which a token with another expression, zone or payload was seen.
    changed: Option<(Instant, Instant)>,
    /// The last clashing token.
    clash: Option<(Token, Instant)>,
    logged: Option<Instant>,
}

impl Conflicts {
    pub(super) fn new(own: Token) -> Self {
        Self { own, changed: None, clash: None, logged: None }
    }

    /// Compares another worker's token with this worker's schedule. Returns whether a clash is new.
    pub(super) fn see(&mut self, other: &Token) -> bool {
        let now = Instant::now();
        let Some(differs) = self.difference(other).filter(|differs| self.clashes(differs, now)) else { return false };
        let is_new = self.clash().is_none();
        self.clash = Some((Token { rival: None, ..other.clone() }, now));
        if self.logged.is_none_or(|logged| now - logged >= LOG_AGAIN) {
            self.logged = Some(now);
            tracing::warn!(
                schedule = self.own.schedule,
                differs,
                job = self.own.job,
                queue = self.own.queue,
                other_job = other.job,
                other_queue = other.queue,
                other = other.leader,
                "two schedules have this name: only the leader's is published"
            );
        }
        is_new
    }

    /// Returns the other schedule, while its worker publishes tokens.
    pub(super) fn clash(&self) -> Option<Token> {
        self.clash.as_ref().filter(|(_, seen)| seen.elapsed() < DEPLOY).map(|(other, _)| other.clone())
    }

    fn difference(&self, other: &Token) -> Option<&'static str> {
        let Token { expression, zone, job, queue, payload, .. } = &self.own;
        let differences = [
            ("job", *job != other.job),
            ("queue", *queue != other.queue),
            ("expression", *expression != other.expression),
            ("zone", *zone != other.zone),
            ("payload", payload.is_some() && other.payload.is_some() && *payload != other.payload),
        ];
        differences.into_iter().find_map(|(field, differs)| differs.then_some(field))
    }

    fn clashes(&mut self, differs: &str, now: Instant) -> bool {
        if matches!(differs, "job" | "queue") {
            return true;
        }
        let first = match self.changed {
            Some((first, last)) if now - last < DEPLOY => first,
            _ => now,
        };
        self.changed = Some((first, now));
        now - first >= DEPLOY
    }
}

/// Compares the tokens of other leaders with the schedules of this worker; never returns.
pub(crate) async fn watch(broker: Broker, mut schedules: Vec<Conflicts>) {
    let topology = Topology::new(&broker.config().namespace);
    let Some(plan) = schedules.first().map(|first| topology.of_schedule(&first.own.schedule)) else { return };
    // Until the stream exists, the elections log why it does not.
    while broker.transport().ensure(&plan).await.is_err() {
        sleep(RETRY).await;
    }
    let reading = watch::Sender::new(Reading::Behind);
    let on_message = |message: &Message| {
        let Some(token) = Token::read(message) else { return };
        // An older token may come from a worker that no longer runs.
        if token.told_at.saturating_add(millis(DEPLOY)) < broker.now_ms() {
            return;
        }
        for schedule in schedules.iter_mut().filter(|schedule| schedule.own.schedule == token.schedule) {
            schedule.see(&token);
        }
    };
    follow(broker.transport(), Stream::Schedules, &reading, on_message).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Job, Schedule};

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Cleanup {
        of: String,
    }

    impl Job for Cleanup {
        const NAME: &'static str = "cleanup";
        const QUEUE: &'static str = "cleanups";
    }

    fn token(of: &str, expression: &str, set: impl FnOnce(&mut Token)) -> Token {
        let mut token = Token::of(&Schedule::new("cleanup", expression, "UTC", &Cleanup { of: of.into() }), 0);
        set(&mut token);
        token
    }

    #[tokio::test(start_paused = true)]
    async fn another_job_or_queue_is_a_clash_at_once_and_any_other_change_if_it_outlasts_a_deploy() {
        let conflicts = || Conflicts::new(token("orders", "@daily", |_| ()));
        let same = token("orders", "@daily", |token| (token.epoch, token.leader) = (7, "other:1".into()));
        assert!(!conflicts().see(&same));
        for clash in [
            token("orders", "@daily", |token| token.job = "sweep".into()),
            token("orders", "@daily", |token| token.queue = "sweeps".into()),
        ] {
            let mut conflicts = conflicts();
            assert!(conflicts.see(&clash) && !conflicts.see(&clash), "it is new once");
            assert_eq!(conflicts.clash(), Some(clash));
            tokio::time::advance(DEPLOY).await;
            assert_eq!(conflicts.clash(), None);
        }
        for changed in [
            token("orders", "@hourly", |_| ()),
            token("carts", "@daily", |_| ()),
            token("orders", "@daily", |token| token.zone = "Europe/Berlin".into()),
        ] {
            let mut conflicts = conflicts();
            // A deploy yesterday.
            assert!(!conflicts.see(&changed));
            tokio::time::advance(24 * 60 * DEPLOY / 10).await;
            let pauses: Vec<_> = [0, 5, 5].map(|minutes| Duration::from_secs(minutes * 60)).into();
            let mut news = Vec::new();
            for after in pauses {
                tokio::time::advance(after).await;
                news.push(conflicts.see(&changed));
            }
            assert_eq!(news, [false, false, true], "{changed:?}");
        }
    }

    #[test]
    fn a_digest_does_not_depend_on_the_order_of_fields() {
        let digest = |json: &str| super::super::token::digest(json.as_bytes());
        assert_eq!(digest(r#"{"a": 1, "b": {"c": 2, "d": 3}}"#), digest(r#"{"b":{"d":3,"c":2},"a":1}"#));
        assert_ne!(digest(r#"{"a": 1}"#), digest(r#"{"a": 2}"#));
    }
}
