//! Jobs by a timetable: of any number of workers that have a schedule, one publishes what is due.
//!
//! The workers of a schedule consume one queue, `leveret.v1.schedule.<name>`, which has a single active consumer: that
//! worker leads. The queue holds a [`Token`] that says up to which time everything is published. The leader publishes what
//! is due, then puts a token that says so, and only then takes the old one away. So whenever a leader dies, the next one
//! finds out what is left to do:
//!
//! * No time is lost. One is published twice if a leader dies between the job's confirm and that of the token, or is cut
//!   off and does not know it yet; both jobs bear the same id.
//! * The token with the highest epoch and time counts, and all others are dropped. Each worker puts an empty one when it
//!   comes and every few minutes, which is how the first token comes to be and how a lost one is made anew: from the copy
//!   in the stream `leveret.v1.schedules`, so that nothing is missed. Without that the schedule begins anew.
//! * A worker without the schedule never consumes its queue.
//! * A leader whose expression or zone differs from those in the token takes its own from now on. While workers of both
//!   kinds run, that of the leader counts.
//! * What is up to a minute late is published in any case. What is later was missed, and [`CatchUp`] says what becomes of
//!   it; so with a clock that was set forward. With one that was set back by over a minute the times in between come
//!   again, under the same ids.

mod clock;
mod election;
mod rival;
mod seat;
mod timetable;
mod token;

use std::{any::Any, collections::HashSet, fmt, sync::Arc};

use futures_util::FutureExt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::timetable::Timetable;
pub use self::token::{Token, tokens};
use self::{clock::Flow, election::Election, rival::watch};
use crate::{
    error::{Error, PublishError},
    job::{Job, JobId, is_valid_name},
    message::Message,
    publish::{builder::Publish, publisher::Publisher},
    shutdown::Stop,
    topology::Target,
    trace::TraceSpan,
    worker::{
        background::{Background, Tasks},
        builder::Worker,
    },
};

/// The ids of what schedules publish are made from this, the namespace, the schedule's name and the time.
const IDS: Uuid = Uuid::from_u128(0x6c65_7665_7265_7421_8000_7363_6865_6475);
/// The property `type` of a request to publish now.
const RUN: &str = "leveret.schedule.run";

/// A job and when it is to be published.
///
/// ```
/// use std::time::Duration;
/// use leveret::{CatchUp, Context, JobResult, Schedule, Worker};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize, leveret::Job)]
/// #[job(name = "books.close", queue = "books")]
/// struct CloseMonth { books: String }
///
/// async fn close(job: CloseMonth, ctx: Context<()>) -> JobResult {
///     let month = ctx.fired_at();                                  // also if it was caught up with a day later
///     # let _ = (job, month);
///     Ok(())
/// }
///
/// let monthly = |books: &str| {
///     Schedule::new(format!("close-{books}"), "0 6 1 * *", "Europe/Berlin", &CloseMonth { books: books.into() })
///         .catch_up(CatchUp::All)
///         .publish(|publish| publish.track().expires(Duration::from_secs(20 * 24 * 3600)))
/// };
/// let worker = Worker::new(()).handle(close).schedule(monthly("shop")).schedule(monthly("works"));
/// # let _ = worker;
/// ```
#[derive(Clone)]
pub struct Schedule {
    name: String,
    expression: String,
    zone: String,
    job: &'static str,
    queue: &'static str,
    /// The queue that the options say.
    to: String,
    lanes: bool,
    body: Result<Vec<u8>, String>,
    catch_up: CatchUp,
    options: Arc<dyn Fn(Publish) -> Publish + Send + Sync>,
    pace: Flow,
}

/// What becomes of times that were missed: more than a minute ago, because no worker was there or the broker was away.
///
/// ```
/// # use leveret::CatchUp;
/// assert_eq!(CatchUp::default(), CatchUp::Last);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are passed over.
    None,
    /// The last of them is made up for, unless a later one has come by then.
    #[default]
    Last,
    /// All are made up for, up to the last thousand. Those before them are logged and counted as missed.
    All,
}

impl Schedule {
    /// A schedule for a job, by a name of the form `[a-z0-9_.-]{1,128}` that no other has on this broker.
    ///
    /// The expression has five fields (minute, hour, day of month, month, day of week) or six (a second before them), or
    /// is one of `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly`. The zone is one of the IANA's, such as
    /// `Europe/Berlin` or `UTC`.
    ///
    /// If day of month and day of week both restrict the day, a day matches when either does, also with `*/n`; a `+` before
    /// the day of week requires both (`0 0 1-7 * +MON`).
    ///
    /// Without a `*` among its seconds, minutes and hours an expression has fixed times: one that the clock skips fires
    /// right after the gap, one that the clock repeats fires once. With a `*` (`*/15 * * * *`, `0 * * * *`) it keeps real
    /// time.
    #[must_use]
    pub fn new<J: Job>(
        name: impl Into<String>,
        expression: impl Into<String>,
        zone: impl Into<String>,
        job: &J,
    ) -> Self {
        Self {
            name: name.into(),
            expression: expression.into(),
            zone: zone.into(),
            job: J::NAME,
            queue: J::QUEUE,
            to: J::QUEUE.to_owned(),
            lanes: J::LANES,
            body: serde_json::to_vec(job).map_err(|error| PublishError::from(error).to_string()),
            catch_up: CatchUp::default(),
            options: Arc::new(|publish| publish),
            pace: Flow::default(),
        }
    }

    /// Sets what becomes of times that were missed; the last one is made up for by default.
    #[must_use]
    pub fn catch_up(mut self, catch_up: CatchUp) -> Self {
        self.catch_up = catch_up;
        self
    }

    /// Sets the options that the job is published with, except for its id.
    #[must_use]
    pub fn publish(mut self, options: impl Fn(Publish) -> Publish + Send + Sync + 'static) -> Self {
        self.options = Arc::new(options);
        self
    }

    /// Has time pass so many times as fast, counted from that moment, for tests.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    #[must_use]
    pub fn hastened(mut self, from_ms: u64, times: u32) -> Self {
        self.pace = Flow::hastened(from_ms, times);
        self
    }

    /// The publish for one of its times, or for a request.
    fn job(&self, publisher: &Publisher, id: &JobId, at: u64) -> Publish {
        let body = self.body.clone().unwrap_or_default();
        let publish = publisher.publish_raw(self.job, self.queue, body);
        let publish = if self.lanes { publish.lanes() } else { publish };
        (self.options)(publish).id(id.as_str()).fired_at(at)
    }

    /// The id of the job of one of its times: the same whoever publishes it.
    fn id(&self, namespace: &str, at: u64) -> JobId {
        let name = format!("{namespace}/{}/{at}", self.name);
        JobId::from(Uuid::new_v5(&IDS, name.as_bytes()).to_string())
    }

    /// Its times, if everything is right that can be told beforehand.
    fn check(&mut self, publisher: &Publisher, now: u64) -> Result<Timetable, String> {
        if !is_valid_name(&self.name) {
            return Err("its name is not of the form [a-z0-9_.-]{1,128}".to_owned());
        }
        self.body.as_ref().map_err(Clone::clone)?;
        let publish = self.job(publisher, &JobId::mint(), now);
        publish.queue_name().clone_into(&mut self.to);
        publish.into_message().map_err(|error| error.to_string())?;
        let table = Timetable::new(&self.expression, &self.zone)?;
        if table.next(0).is_none() {
            return Err(format!("the expression {:?} has no time", self.expression));
        }
        if table.next(now).is_none() {
            tracing::warn!(schedule = self.name, expression = self.expression, "all its times are over");
        }
        Ok(table)
    }
}

/// The schedules of one worker.
#[derive(Default)]
struct Schedules(Vec<Schedule>);

impl Background for Schedules {
    fn start(self: Box<Self>, publisher: &Publisher, stop: &Stop) -> Result<Tasks, Error> {
        let mut names = HashSet::new();
        let elections = self.0.into_iter().map(|mut schedule| {
            let name = schedule.name.clone();
            let wrong = |reason| Error::Schedule { schedule: name.clone(), reason };
            if !names.insert(name.clone()) {
                return Err(wrong("there are two of that name: give one another with Schedule::new".to_owned()));
            }
            let table = schedule.check(publisher, publisher.now_ms()).map_err(wrong)?;
            Ok(Election::new(publisher, schedule, table, stop))
        });
        let elections: Vec<_> = elections.collect::<Result<_, _>>()?;
        let rivals = elections.iter().map(Election::rivals).collect();
        let awaited = elections.into_iter().map(|election| election.run().boxed()).collect();
        Ok(Tasks { awaited, dropped: vec![watch(publisher.broker().clone(), rivals).boxed()] })
    }
}

impl<S: Send + Sync + 'static> Worker<S> {
    /// Publishes `job` whenever the expression says so, in that time zone; whichever of the workers that have the schedule
    /// leads does it. Its name is that of the job: [`schedule`](Self::schedule) is for several schedules of one job, and
    /// for options.
    ///
    /// ```
    /// # use leveret::{Context, JobResult, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "digest", queue = "mail")]
    /// # struct Digest { of: String }
    /// # async fn send_digest(_: Digest, _: Context<()>) -> JobResult { Ok(()) }
    /// let digest = Digest { of: "orders".into() };
    /// let worker = Worker::new(()).handle(send_digest).cron("0 9 * * MON-FRI", "Europe/Berlin", &digest);
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn cron<J: Job>(self, expression: impl Into<String>, zone: impl Into<String>, job: &J) -> Self {
        self.schedule(Schedule::new(J::NAME, expression, zone, job))
    }

    /// Adds a schedule.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        let known = self.background.iter_mut().find_map(|known| (&mut **known as &mut dyn Any).downcast_mut());
        match known {
            Some(Schedules(schedules)) => schedules.push(schedule),
            None => self.background.push(Box::new(Schedules(vec![schedule]))),
        }
        self
    }
}

impl Publisher {
    /// Has the leader of a schedule publish its job now, besides its times. The broker keeps the request until a worker with
    /// that schedule is there. Returns the id that the job will have.
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// publisher.run_schedule("digest").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As a publish; [`PublishError::Unroutable`] if no worker has had a schedule of that name.
    pub async fn run_schedule(&self, name: &str) -> Result<JobId, PublishError> {
        let id = JobId::mint();
        let message = Message::new(RUN, &id, Vec::new(), self.now_ms());
        self.send(RUN, Target::Schedule("run", name.to_owned()), id, (message, TraceSpan::none())).await
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("name", &self.name)
            .field("expression", &self.expression)
            .field("zone", &self.zone)
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}
