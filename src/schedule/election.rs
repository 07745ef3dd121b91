//! One worker's part in the election of one schedule: it waits for the token, takes over and passes the token on.

use std::{collections::VecDeque, mem, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::schedule::{
    RUN, Schedule,
    conflict::Conflicts,
    role::{Role, RunRequest, Wakeup},
    timetable::Timetable,
    token::Token,
};
use crate::{
    backoff::Backoff,
    broker::Broker,
    error::Error,
    job::JobId,
    observe::metrics::ScheduleMetrics,
    publish::publisher::Publisher,
    shutdown::Stop,
    topology::Topology,
    transport::session::{Delivery, Ended, OpenError, Session},
};

/// Age at which a token is replaced, so that the consumer timeout never reaches it. Also the period in which a waiting
/// worker ensures that there is a token.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// Time for which a new leader waits for more tokens; tokens in the queue arrive sooner.
const GATHER: Duration = Duration::from_millis(100);
/// Longest sleep, after which a changed clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// Most unacknowledged tokens and requests.
const PREFETCH: u16 = 200;
/// Time to finish a publish after a stop signal.
const STOP_GRACE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Election {
    pub(super) broker: Broker,
    pub(super) publisher: Publisher,
    pub(super) schedule: Schedule,
    pub(super) table: Timetable,
    stop: Stop,
    pub(super) metrics: ScheduleMetrics,
    /// The highest token that this worker has seen.
    pub(super) known: Option<Token>,
    pub(super) conflicts: Conflicts,
    requests: VecDeque<RunRequest>,
}

impl Election {
    pub(super) fn new(publisher: &Publisher, schedule: Schedule, table: Timetable, stop: &Stop) -> Self {
        let broker = publisher.broker().clone();
        let metrics = broker.metrics().schedule(&schedule.name);
        let (publisher, stop, conflicts) = (publisher.clone(), stop.clone(), Conflicts::new(Token::of(&schedule, 0)));
        Self { broker, publisher, conflicts, schedule, table, stop, metrics, known: None, requests: VecDeque::new() }
    }

    /// Returns the state for the schedule's part in [`watch`](super::watch).
    pub(crate) fn conflicts(&self) -> Conflicts {
        Conflicts::new(Token::of(&self.schedule, 0))
    }

    /// Takes part until the worker stops.
    ///
    /// # Errors
    ///
    /// The error that prevents the first start; after the first session there is none.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let queue = Topology::new(&self.broker.config().namespace).schedule(&self.schedule.name);
        let mut expected = self.broker.health().expect_consumer(&queue);
        let mut was_connected = false;
        while let Some(mut session) = self.open(&queue, &mut was_connected).await? {
            expected.set_up(true);
            let opened = Instant::now();
            let ended = self.attend(&mut session).await;
            expected.set_up(false);
            self.metrics.resign();
            match ended {
                None => {
                    session.stop().await;
                    session.close().await;
                    return Ok(());
                }
                // The connection logs its loss once, for all sessions on it.
                Some(Ended::Connection) => {}
                Some(Ended::Channel(reason)) => tracing::warn!(queue, error = reason, "lost the schedule's queue"),
            }
            session.close().await;
            if opened.elapsed() < LONGEST_PAUSE {
                self.stop.drain.run_until_cancelled(sleep(LONGEST_PAUSE)).await;
            }
        }
        Ok(())
    }

    /// Retries until there is a session; `None` if the worker stops.
    async fn open(&self, queue: &str, was_connected: &mut bool) -> Result<Option<Session>, Error> {
        let plan = Topology::new(&self.broker.config().namespace).of_schedule(&self.schedule.name);
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let opening = async {
                self.broker.transport().ensure(&plan).await?;
                self.broker.transport().open_raw(queue, PREFETCH).await
            };
            let reason = match self.stop.drain.run_until_cancelled(opening).await {
                None => return Ok(None),
                Some(Ok(session)) => {
                    *was_connected = true;
                    return Ok(Some(session));
                }
                Some(Err(OpenError::Fatal(error))) if !*was_connected => return Err(error),
                Some(Err(error)) => error.to_string(),
            };
            self.warn(&reason);
            if self.stop.drain.run_until_cancelled(backoff.sleep()).await.is_none() {
                return Ok(None);
            }
        }
    }

    /// Takes part on one session until it ends; `None` if the worker stops.
    async fn attend(&mut self, session: &mut Session) -> Option<Ended> {
        let (mut role, drain) = (Role::Waiting { seed_at: Instant::now() }, self.stop.drain.clone());
        self.requests.clear();
        loop {
            let asked = self.requests.front().map(|request| request.at);
            let act_at = asked.map_or(role.act_at(), |asked| asked.min(role.act_at()));
            // Deliveries have priority, because one may show that another worker leads.
            let wakeup = tokio::select! {
                biased;
                () = drain.cancelled() => Wakeup::Stop,
                delivered = session.next() => delivered.map_or_else(Wakeup::Lost, |delivery| Wakeup::Delivered(Box::new(delivery))),
                () = sleep_until(act_at) => Wakeup::Act,
            };
            match wakeup {
                Wakeup::Stop => return None,
                Wakeup::Lost(ended) => return Some(ended),
                Wakeup::Delivered(delivery) => self.take(&mut role, session, &delivery),
                Wakeup::Act => {
                    let done = tokio::select! {
                        ended = session.next_if(false) => return ended.err(),
                        () = stop_grace(&drain) => return None,
                        done = self.act(&mut role) => done,
                    };
                    if let Some(tag) = done {
                        session.ack(tag, false);
                    }
                }
            }
            session.flush();
        }
    }

    /// Keeps the highest token and drops the others.
    fn take(&mut self, role: &mut Role, session: &mut Session, delivery: &Delivery) {
        let tag = delivery.tag;
        if delivery.message.job_name() == Some(RUN) {
            let id = delivery.message.id().map_or_else(JobId::mint, JobId::from);
            return self.requests.push_back(RunRequest { tag, id, at: Instant::now() });
        }
        let Some(theirs) = Token::read(&delivery.message) else {
            tracing::warn!(schedule = self.schedule.name, "dropped an unreadable token");
            session.ack(tag, false);
            return;
        };
        // An empty token comes from a waiting worker. A replaced leader no longer takes part.
        if theirs.epoch == 0
            && self.conflicts.see(&theirs)
            && let Role::Leading { refresh_at, .. } = role
        {
            *refresh_at = Instant::now();
        }
        let until = Instant::now() + GATHER;
        let dropped = match mem::replace(role, Role::Waiting { seed_at: until }) {
            Role::Waiting { .. } => {
                *role = Role::Gathering { token: theirs, tag, until };
                None
            }
            Role::Gathering { token, tag: mine, .. } => {
                let higher = theirs.rank() > token.rank();
                let (token, kept, dropped) = if higher { (theirs, tag, mine) } else { (token, mine, tag) };
                *role = Role::Gathering { token, tag: kept, until };
                Some(dropped)
            }
            Role::Leading { token, tag: mine, act_at, refresh_at } if theirs.rank() >= token.rank() => {
                *role = Role::Leading { token: theirs, tag: Some(tag), act_at, refresh_at };
                mine
            }
            leading @ Role::Leading { .. } => {
                *role = leading;
                Some(tag)
            }
        };
        if let Some(tag) = dropped {
            session.ack(tag, false);
        }
    }

    /// Performs the next due action. Returns the delivery that is finished by it, if any.
    async fn act(&mut self, role: &mut Role) -> Option<u64> {
        if let Some(request) = self.requests.pop_front_if(|request| request.at <= Instant::now()) {
            return self.answer(request).await;
        }
        self.try_act(role).await.unwrap_or_else(|reason| {
            self.warn(&reason);
            None
        })
    }

    async fn try_act(&mut self, role: &mut Role) -> Result<Option<u64>, String> {
        let again = Instant::now() + RETRY;
        match role {
            Role::Waiting { seed_at } => {
                *seed_at = again;
                self.put("seed", &self.token(0, 0)).await?;
                *seed_at = Instant::now() + self.refresh();
                Ok(None)
            }
            Role::Gathering { token, tag, until } => {
                *until = again;
                let (token, tag) = (token.clone(), *tag);
                *role = self.leading(self.take_over(token).await?);
                Ok(Some(tag))
            }
            Role::Leading { token, tag, act_at, refresh_at } => {
                let is_old = *refresh_at <= Instant::now();
                (*act_at, *refresh_at) = (again, again.max(*refresh_at));
                let Some(next) = self.lead(token, is_old).await? else {
                    *act_at = self.next_act(token);
                    return Ok(None);
                };
                let tag = *tag;
                *role = self.leading(next);
                Ok(tag)
            }
        }
    }

    /// Publishes the job of a request.
    async fn answer(&mut self, request: RunRequest) -> Option<u64> {
        let Err(error) = self.publish(&request.id, self.now_ms()).await else { return Some(request.tag) };
        self.warn(&error.to_string());
        self.requests.push_back(RunRequest { at: Instant::now() + RETRY, ..request });
        None
    }

    fn leading(&mut self, token: Token) -> Role {
        self.metrics.set_fires(token.last_fire, token.next_fire);
        let act_at = self.next_act(&token);
        self.known = Some(token.clone());
        Role::Leading { token, tag: None, act_at, refresh_at: Instant::now() + self.refresh() }
    }

    /// Returns when the leader must check again.
    fn next_act(&self, token: &Token) -> Instant {
        let now = self.now_ms();
        let next = token.next_fire.map_or(LONGEST_SLEEP, |next| self.schedule.clock_speed.between(now, next));
        Instant::now() + next.min(LONGEST_SLEEP)
    }

    fn refresh(&self) -> Duration {
        REFRESH.min(self.broker.config().consumer_timeout / 2)
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.schedule.clock_speed.now_ms(&self.broker)
    }

    pub(super) fn warn(&self, reason: &str) {
        let schedule = &self.schedule.name;
        self.broker.log_throttle().log(format!("schedule {schedule}: {reason}"), || {
            tracing::warn!(schedule, error = reason, "the schedule cannot run now, retrying");
        });
    }
}

/// Completes when a stopping worker has waited long enough.
async fn stop_grace(drain: &CancellationToken) {
    drain.cancelled().await;
    sleep(STOP_GRACE).await;
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
