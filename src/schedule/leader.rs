//! The work of a schedule's leader: it takes over from earlier leaders, publishes due jobs and records them in the token.

use futures_util::future::try_join_all;

use crate::schedule::{
    election::Election,
    timetable::{Due, GRACE},
    token::{Token, tokens},
};
use crate::{error::PublishError, job::JobId, message::Message, time::millis, topology::Target};

/// Most jobs published before a token records them.
const BATCH: usize = 32;
/// The property `type` of a token.
pub(super) const TOKEN: &str = "leveret.schedule.token";

impl Election {
    /// Makes this worker the leader, with the known state of earlier leaders.
    pub(super) async fn take_over(&self, found: Token) -> Result<Token, String> {
        let found = if found.epoch == 0 { self.recover().await } else { Some(found) };
        let last = [found, self.known.clone()].into_iter().flatten().max_by_key(Token::rank);
        let now = self.now_ms();
        let (epoch, mut settled_until) = last.as_ref().map_or((1, now), |last| (last.epoch + 1, last.settled_until));
        let same = |last: &Token| last.expression == self.schedule.expression && last.zone == self.schedule.zone;
        if let Some(last) = last.as_ref().filter(|last| !same(last)) {
            tracing::info!(
                schedule = self.schedule.name,
                was = last.expression,
                zone = last.zone,
                "the timetable changed"
            );
            settled_until = settled_until.max(now.saturating_sub(millis(GRACE)));
        }
        let mut token = self.token(epoch, settled_until);
        token.last_fire = last.and_then(|last| last.last_fire);
        self.put("token", &token).await?;
        tracing::info!(schedule = self.schedule.name, epoch, "leading");
        self.metrics.lead();
        Ok(token)
    }

    /// Returns the schedule's last token from the stream, if the queue has none.
    async fn recover(&self) -> Option<Token> {
        match tokens(&self.broker).await {
            Ok(tokens) => tokens.into_iter().find(|token| token.schedule == self.schedule.name),
            Err(reason) => {
                self.warn(&format!("{reason}: it restarts now, and missed times are not caught up"));
                None
            }
        }
    }

    /// Publishes due jobs. Returns the token that is then in the queue, if it has changed.
    pub(super) async fn lead(&self, token: &Token, refresh: bool) -> Result<Option<Token>, String> {
        let now = self.now_ms();
        if token.settled_until > now + millis(GRACE) {
            tracing::warn!(
                schedule = self.schedule.name,
                ahead_ms = token.settled_until - now,
                "the clock was set back"
            );
            let reset = Token { last_fire: token.last_fire, ..self.token(token.epoch + 1, now) };
            self.put("token", &reset).await?;
            return Ok(Some(reset));
        }
        let Due { mut fires, missed, missed_until } = self.table.due(token.settled_until, now, self.schedule.catch_up);
        fires.truncate(BATCH);
        let Some(settled_until) = fires.last().copied().or(missed_until) else {
            if !refresh {
                return Ok(None);
            }
            let fresh = Token { last_fire: token.last_fire, ..self.token(token.epoch, token.settled_until) };
            self.put("token", &fresh).await?;
            return Ok(Some(fresh));
        };
        let namespace = &self.broker.config().namespace;
        let publishes = fires.iter().map(async |at| self.publish(&self.schedule.id(namespace, *at), *at).await);
        let published = try_join_all(publishes).await.map_err(|error| error.to_string())?;
        let last_fire = fires.last().copied().or(token.last_fire);
        let next = Token { last_fire, ..self.token(token.epoch, settled_until) };
        self.put("token", &next).await?;
        // The metrics follow the token: until then, the next attempt finds the same times again.
        self.metrics.fired(published.into_iter().filter(|published| *published).count(), missed);
        if missed > 0 {
            tracing::warn!(schedule = self.schedule.name, missed, "skipped missed times");
        }
        Ok(Some(next))
    }

    /// Publishes the job of one time, unless an earlier job still has its unique key: retrying until that job is done
    /// would delay all later times. Returns whether the job is published.
    pub(super) async fn publish(&self, id: &JobId, at: u64) -> Result<bool, PublishError> {
        match self.publisher.publish(self.schedule.job(id, at)).await {
            Ok(_) => Ok(true),
            Err(PublishError::NotUnique { key, id }) => {
                let (schedule, job_id) = (&self.schedule.name, id.as_str());
                tracing::info!(schedule, key, job_id, "skipped a time: another job has its unique key");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Creates a token of this worker.
    pub(super) fn token(&self, epoch: u64, settled_until: u64) -> Token {
        Token {
            epoch,
            settled_until,
            next_fire: self.table.next(settled_until),
            rival: self.conflicts.clash().map(Box::new),
            ..Token::of(&self.schedule, self.now_ms())
        }
    }

    pub(super) async fn put(&self, kind: &'static str, token: &Token) -> Result<(), String> {
        let body = serde_json::to_vec(token).map_err(|error| error.to_string())?;
        let message = Message::new(TOKEN, &JobId::mint(), body, self.broker.now_ms());
        let target = Target::Schedule(kind, self.schedule.name.clone());
        let sent = self.broker.send(&target, Box::new(message), false).await;
        sent.map_err(|error| format!("the token was not confirmed: {error}"))
    }
}
