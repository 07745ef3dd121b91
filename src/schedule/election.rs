//! One worker's part in one schedule: it waits for the token, takes over, publishes what is due and passes the token on.

use std::{collections::VecDeque, mem, time::Duration};

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::schedule::{
    RUN, Schedule,
    rival::Rivals,
    seat::{Event, Request, Seat},
    timetable::{Due, GRACE, Timetable},
    token::{Token, tokens},
};
use crate::{
    broker::Broker,
    error::{Error, PublishError},
    job::JobId,
    message::{Message, millis},
    observe::metrics::ScheduleMetrics,
    publish::publisher::Publisher,
    shutdown::Stop,
    topology::{Target, Topology},
    transport::session::{Delivery, Ended, OpenError, Session},
};

/// How old a token may become before it is put anew, so that no consumer timeout meets it; also how often a worker that
/// waits sees to it that there is one.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// How long a new leader waits for more tokens: what is in a queue comes sooner.
const GATHER: Duration = Duration::from_millis(100);
/// A clock that was set is noticed after so long.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// Jobs that are published before a token says so.
const BATCH: usize = 32;
/// Tokens and requests on their way at once.
const PREFETCH: u16 = 200;
/// What is being published when the worker is to stop may take so long.
const FAREWELL: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Election {
    broker: Broker,
    publisher: Publisher,
    schedule: Schedule,
    table: Timetable,
    stop: Stop,
    metrics: ScheduleMetrics,
    /// The highest token that this worker has seen.
    known: Option<Token>,
    rivals: Rivals,
    requests: VecDeque<Request>,
}

impl Election {
    pub(super) fn new(publisher: &Publisher, schedule: Schedule, table: Timetable, stop: &Stop) -> Self {
        let broker = publisher.broker().clone();
        let metrics = broker.metrics().schedule(&schedule.name);
        let (publisher, stop, rivals) = (publisher.clone(), stop.clone(), Rivals::new(Token::of(&schedule, 0)));
        Self { broker, publisher, rivals, schedule, table, stop, metrics, known: None, requests: VecDeque::new() }
    }

    /// For the schedule's part in [`watch`](super::watch).
    pub(crate) fn rivals(&self) -> Rivals {
        Rivals::new(Token::of(&self.schedule, 0))
    }

    /// Takes part until told to stop.
    ///
    /// # Errors
    ///
    /// What keeps it from ever starting; once it has been up, nothing does.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let queue = Topology::new(&self.broker.config().namespace).schedule(&self.schedule.name);
        let mut wanted = self.broker.health().want(&queue);
        let mut has_been_up = false;
        while let Some(mut session) = self.open(&queue, &mut has_been_up).await? {
            wanted.set_up(true);
            let opened = Instant::now();
            let ended = self.attend(&mut session).await;
            wanted.set_up(false);
            self.metrics.resign();
            match ended {
                None => {
                    session.stop().await;
                    session.close().await;
                    return Ok(());
                }
                // Told once by the connection, for all that lives on it.
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

    /// Tries until there is a session; none if told to stop.
    async fn open(&self, queue: &str, has_been_up: &mut bool) -> Result<Option<Session>, Error> {
        let plan = Topology::new(&self.broker.config().namespace).of_schedule(&self.schedule.name);
        let mut pause = Duration::from_millis(50);
        loop {
            let opening = async {
                self.broker.transport().ensure(&plan).await?;
                self.broker.transport().open_raw(queue, PREFETCH).await
            };
            let reason = match self.stop.drain.run_until_cancelled(opening).await {
                None => return Ok(None),
                Some(Ok(session)) => {
                    *has_been_up = true;
                    return Ok(Some(session));
                }
                Some(Err(OpenError::Fatal(error))) if !*has_been_up => return Err(error),
                Some(Err(error)) => error.to_string(),
            };
            self.complain(&reason);
            if self.stop.drain.run_until_cancelled(sleep(pause)).await.is_none() {
                return Ok(None);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes part on one session until it ends; none if told to stop.
    async fn attend(&mut self, session: &mut Session) -> Option<Ended> {
        let (mut seat, drain) = (Seat::Waiting { seed_at: Instant::now() }, self.stop.drain.clone());
        self.requests.clear();
        loop {
            let asked = self.requests.front().map(|request| request.at);
            let act_at = asked.map_or(seat.act_at(), |asked| asked.min(seat.act_at()));
            // What is delivered comes first: it may be the news that another leads.
            let event = tokio::select! {
                biased;
                () = drain.cancelled() => Event::Stop,
                taken = session.next() => taken.map_or_else(Event::Lost, |delivery| Event::ReadMessage(Box::new(delivery))),
                () = sleep_until(act_at) => Event::Act,
            };
            match event {
                Event::Stop => return None,
                Event::Lost(ended) => return Some(ended),
                Event::ReadMessage(delivery) => self.take(&mut seat, session, &delivery),
                Event::Act => {
                    let done = tokio::select! {
                        ended = session.next_if(false) => return ended.err(),
                        () = farewell(&drain) => return None,
                        done = self.act(&mut seat) => done,
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
    fn take(&mut self, seat: &mut Seat, session: &mut Session, delivery: &Delivery) {
        let tag = delivery.tag;
        if delivery.message.job_name() == Some(RUN) {
            let id = delivery.message.id().map_or_else(JobId::mint, JobId::from);
            return self.requests.push_back(Request { tag, id, at: Instant::now() });
        }
        let Some(theirs) = Token::read(&delivery.message) else {
            tracing::warn!(schedule = self.schedule.name, "dropped a token that cannot be read");
            session.ack(tag, false);
            return;
        };
        // What a worker has seeded that waits. A leader that was replaced is not there any more.
        if theirs.epoch == 0
            && self.rivals.see(&theirs)
            && let Seat::Leading { refresh_at, .. } = seat
        {
            *refresh_at = Instant::now();
        }
        let until = Instant::now() + GATHER;
        let dropped = match mem::replace(seat, Seat::Waiting { seed_at: until }) {
            Seat::Waiting { .. } => {
                *seat = Seat::Gathering { token: theirs, tag, until };
                None
            }
            Seat::Gathering { token, tag: mine, .. } => {
                let higher = theirs.rank() > token.rank();
                let (token, kept, dropped) = if higher { (theirs, tag, mine) } else { (token, mine, tag) };
                *seat = Seat::Gathering { token, tag: kept, until };
                Some(dropped)
            }
            Seat::Leading { token, tag: mine, act_at, refresh_at } if theirs.rank() >= token.rank() => {
                *seat = Seat::Leading { token: theirs, tag: Some(tag), act_at, refresh_at };
                mine
            }
            leading @ Seat::Leading { .. } => {
                *seat = leading;
                Some(tag)
            }
        };
        if let Some(tag) = dropped {
            session.ack(tag, false);
        }
    }

    /// Does what it is time for. Returns the delivery that is done with, if one is.
    async fn act(&mut self, seat: &mut Seat) -> Option<u64> {
        if let Some(request) = self.requests.pop_front_if(|request| request.at <= Instant::now()) {
            return self.answer(request).await;
        }
        self.try_act(seat).await.unwrap_or_else(|reason| {
            self.complain(&reason);
            None
        })
    }

    async fn try_act(&mut self, seat: &mut Seat) -> Result<Option<u64>, String> {
        let again = Instant::now() + RETRY;
        match seat {
            Seat::Waiting { seed_at } => {
                *seed_at = again;
                self.put("seed", &self.token(0, 0)).await?;
                *seed_at = Instant::now() + self.refresh();
                Ok(None)
            }
            Seat::Gathering { token, tag, until } => {
                *until = again;
                let (token, tag) = (token.clone(), *tag);
                *seat = self.leading(self.take_over(token).await?);
                Ok(Some(tag))
            }
            Seat::Leading { token, tag, act_at, refresh_at } => {
                let is_old = *refresh_at <= Instant::now();
                (*act_at, *refresh_at) = (again, again.max(*refresh_at));
                let Some(next) = self.lead(token, is_old).await? else {
                    *act_at = self.next_act(token);
                    return Ok(None);
                };
                let tag = *tag;
                *seat = self.leading(next);
                Ok(tag)
            }
        }
    }

    /// Publishes what was asked for.
    async fn answer(&mut self, request: Request) -> Option<u64> {
        let Err(error) = self.publish(&request.id, self.now_ms()).await else { return Some(request.tag) };
        self.complain(&error.to_string());
        self.requests.push_back(Request { at: Instant::now() + RETRY, ..request });
        None
    }

    /// Makes itself the leader, with what is known of those before it.
    async fn take_over(&self, found: Token) -> Result<Token, String> {
        let found = if found.epoch == 0 { self.recover().await } else { Some(found) };
        let last = [found, self.known.clone()].into_iter().flatten().max_by_key(Token::rank);
        let now = self.now_ms();
        let (epoch, mut settled_until) = last.as_ref().map_or((1, now), |last| (last.epoch + 1, last.settled_until));
        let same = |last: &Token| last.expression == self.schedule.expression && last.zone == self.schedule.zone;
        if let Some(last) = last.as_ref().filter(|last| !same(last)) {
            tracing::info!(schedule = self.schedule.name, was = last.expression, zone = last.zone, "a new timetable");
            settled_until = settled_until.max(now.saturating_sub(millis(GRACE)));
        }
        let mut token = self.token(epoch, settled_until);
        token.last_fire = last.and_then(|last| last.last_fire);
        self.put("token", &token).await?;
        tracing::info!(schedule = self.schedule.name, epoch, "leading");
        self.metrics.lead();
        Ok(token)
    }

    /// What the stream knows of a token that is not in the queue.
    async fn recover(&self) -> Option<Token> {
        match tokens(&self.broker).await {
            Ok(tokens) => tokens.into_iter().find(|token| token.schedule == self.schedule.name),
            Err(reason) => {
                self.complain(&format!("{reason}: it begins anew, and what it may have missed is not caught up with"));
                None
            }
        }
    }

    /// Publishes what is due. Returns the token that is in the queue then, if it is another one.
    async fn lead(&self, token: &Token, refresh: bool) -> Result<Option<Token>, String> {
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
        // Only now: until the token says so, the next try finds the same times again.
        self.metrics.fired(published.into_iter().filter(|published| *published).count(), missed);
        if missed > 0 {
            tracing::warn!(schedule = self.schedule.name, missed, "missed times are passed over");
        }
        Ok(Some(next))
    }

    /// Publishes the job of one time, unless an earlier one still has its unique key: to be tried again until that one
    /// is done would hold up all times after it. Returns whether it is published.
    async fn publish(&self, id: &JobId, at: u64) -> Result<bool, PublishError> {
        match self.schedule.job(&self.publisher, id, at).await {
            Ok(_) => Ok(true),
            Err(PublishError::NotUnique { key, id }) => {
                let (schedule, job_id) = (&self.schedule.name, id.as_str());
                tracing::info!(schedule, key, job_id, "skipped a time: another job has its unique key");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn leading(&mut self, token: Token) -> Seat {
        self.metrics.set_fires(token.last_fire, token.next_fire);
        let act_at = self.next_act(&token);
        self.known = Some(token.clone());
        Seat::Leading { token, tag: None, act_at, refresh_at: Instant::now() + self.refresh() }
    }

    /// When the leader has to look again.
    fn next_act(&self, token: &Token) -> Instant {
        let now = self.now_ms();
        let next = token.next_fire.map_or(LONGEST_SLEEP, |next| self.schedule.pace.between(now, next));
        Instant::now() + next.min(LONGEST_SLEEP)
    }

    fn refresh(&self) -> Duration {
        REFRESH.min(self.broker.config().consumer_timeout / 2)
    }

    /// A token of this worker's.
    fn token(&self, epoch: u64, settled_until: u64) -> Token {
        Token {
            epoch,
            settled_until,
            next_fire: self.table.next(settled_until),
            rival: self.rivals.clash().map(Box::new),
            ..Token::of(&self.schedule, self.now_ms())
        }
    }

    async fn put(&self, kind: &'static str, token: &Token) -> Result<(), String> {
        let body = serde_json::to_vec(token).map_err(|error| error.to_string())?;
        let message = Message::new(TOKEN, &JobId::mint(), body, self.broker.now_ms());
        let target = Target::Schedule(kind, self.schedule.name.clone());
        let sent = self.broker.send(&target, Box::new(message), false).await;
        sent.map_err(|error| format!("the token was not confirmed: {error}"))
    }

    fn now_ms(&self) -> u64 {
        self.schedule.pace.now_ms(&self.broker)
    }

    fn complain(&self, reason: &str) {
        let schedule = &self.schedule.name;
        if self.broker.log_throttle().should_log(format!("schedule {schedule}: {reason}")) {
            tracing::warn!(schedule, error = reason, "the schedule cannot be kept for now, trying again");
        }
    }
}

/// The property `type` of a token.
const TOKEN: &str = "leveret.schedule.token";

/// Ready when a worker that is to stop has waited long enough.
async fn farewell(drain: &CancellationToken) {
    drain.cancelled().await;
    sleep(FAREWELL).await;
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
