//! Schedules publish jobs by a timetable. Of any number of workers with a schedule, one publishes its due jobs.
//!
//! The workers of a schedule consume one queue, `leveret.v1.schedule.<name>`, which has a single active consumer: that
//! worker leads. The queue holds a [`Token`] that states up to which time everything is published. The leader publishes
//! due jobs, then a token that records them, and only then acks the old token. So after the crash of a leader, the next
//! one finds the remaining work:
//!
//! * No time is lost. A time is published twice if a leader crashes between the job's confirm and that of the token, or
//!   is disconnected without knowing it; both jobs have the same id.
//! * The token with the highest epoch and time counts, and all others are dropped. Each worker publishes an empty token
//!   at its start and every few minutes. This creates the first token, and a lost one again: from the copy in the
//!   stream `leveret.v1.schedules`, so that no time is missed. Without that copy the schedule restarts from now.
//! * A worker without the schedule never consumes its queue.
//! * A leader whose expression or zone differs from those in the token uses its own from now on. While workers of both
//!   kinds run, those of the leader apply.
//! * Times up to a minute late are always published. Later ones are missed, and [`CatchUp`] decides about them; so are
//!   the times that a clock skips when it is set forward. If a clock is set back by over a minute, the times in between
//!   are published again, under the same ids.

mod clock;
mod conflict;
mod election;
mod leader;
mod role;
mod timetable;
mod token;

use std::{any::Any, collections::HashSet, fmt};

use futures_util::FutureExt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::timetable::Timetable;
pub use self::token::{Token, tokens};
use self::{clock::ClockSpeed, conflict::watch, election::Election};
use crate::{
    error::{Error, PublishError},
    job::{JobId, is_valid_name},
    message::Message,
    publish::{new_job::NewJob, publisher::Publisher},
    shutdown::Stop,
    topology::Target,
    trace::TraceSpan,
    worker::{
        background::{Background, Tasks},
        builder::Worker,
    },
};

/// The ids of scheduled jobs are derived from this, the namespace, the schedule's name and the time.
const IDS: Uuid = Uuid::from_u128(0x6c65_7665_7265_7421_8000_7363_6865_6475);
/// The property `type` of a request to publish now.
const RUN: &str = "leveret.schedule.run";

/// A job and its timetable.
///
/// ```
/// use std::time::Duration;
/// use leveret::{CatchUp, Context, JobResult, NewJob, Schedule, Worker};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize, leveret::Job)]
/// #[job(name = "books.close", queue = "books")]
/// struct CloseMonth { books: String }
///
/// async fn close(job: CloseMonth, ctx: Context<()>) -> JobResult {
///     let month = ctx.fired_at();                                  // also if it is published a day late
///     # let _ = (job, month);
///     Ok(())
/// }
///
/// let monthly = |books: &str| {
///     let job = NewJob::of(&CloseMonth { books: books.into() }).track().expires(Duration::from_secs(20 * 24 * 3600));
///     Schedule::new(format!("close-{books}"), "0 6 1 * *", "Europe/Berlin", job).catch_up(CatchUp::All)
/// };
/// let worker = Worker::new(()).handle(close).schedule(monthly("shop")).schedule(monthly("works"));
/// # let _ = worker;
/// ```
#[derive(Clone)]
pub struct Schedule {
    name: String,
    expression: String,
    zone: String,
    new: NewJob,
    catch_up: CatchUp,
    clock_speed: ClockSpeed,
}

/// The handling of missed times: more than a minute ago, because no worker ran or the broker was unreachable.
///
/// ```
/// # use leveret::CatchUp;
/// assert_eq!(CatchUp::default(), CatchUp::Last);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CatchUp {
    /// Missed times are skipped.
    None,
    /// The last missed time is published, unless a later one is due by then.
    #[default]
    Last,
    /// All missed times are published, up to the last thousand. Earlier ones are logged and counted as missed.
    All,
}

impl Schedule {
    /// Creates a schedule for a reference to a [`Job`](crate::Job) or a [`NewJob`], with a name of the form
    /// `[a-z0-9_.-]{1,128}` that is unique on this broker.
    ///
    /// The expression has five fields (minute, hour, day of month, month, day of week) or six (a second before them),
    /// or is one of `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly`. The zone is an IANA time zone, such as
    /// `Europe/Berlin` or `UTC`.
    ///
    /// If day of month and day of week both restrict the day, a day matches when either does, also with `*/n`. A `+`
    /// before the day of week requires both (`0 0 1-7 * +MON`).
    ///
    /// An expression without a `*` among its seconds, minutes and hours has fixed times. A time that the clock skips
    /// fires right after the gap, and a time that the clock repeats fires once. An expression with a `*` (`*/15 * * *
    /// *`, `0 * * * *`) keeps real time.
    ///
    /// The job may have options, except for an id: each of its times has an id of its own. A delay and a time to live
    /// count from the publish.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        expression: impl Into<String>,
        zone: impl Into<String>,
        job: impl Into<NewJob>,
    ) -> Self {
        Self {
            name: name.into(),
            expression: expression.into(),
            zone: zone.into(),
            new: job.into(),
            catch_up: CatchUp::default(),
            clock_speed: ClockSpeed::default(),
        }
    }

    /// Sets the handling of missed times; the last one is published by default.
    #[must_use]
    pub fn catch_up(mut self, catch_up: CatchUp) -> Self {
        self.catch_up = catch_up;
        self
    }

    /// Makes time pass `times` as fast, from that moment on, for tests.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    #[must_use]
    pub fn hastened(mut self, from_ms: u64, times: u32) -> Self {
        self.clock_speed = ClockSpeed::hastened(from_ms, times);
        self
    }

    /// Describes the job of one of its times, or of a request.
    fn job(&self, id: &JobId, at: u64) -> NewJob {
        self.new.clone().id(id.as_str()).fired_at(at)
    }

    /// Returns the id of the job of one of its times: the same for every publisher.
    fn id(&self, namespace: &str, at: u64) -> JobId {
        let name = format!("{namespace}/{}/{at}", self.name);
        JobId::from(Uuid::new_v5(&IDS, name.as_bytes()).to_string())
    }

    /// Returns its timetable after all checks that are possible before the first publish.
    fn check(&self, publisher: &Publisher, now: u64) -> Result<Timetable, String> {
        if !is_valid_name(&self.name) {
            return Err("its name is not of the form [a-z0-9_.-]{1,128}".to_owned());
        }
        if self.new.has_id() {
            return Err("each of its jobs gets its own id: remove the id of the job".to_owned());
        }
        publisher.check(self.job(&JobId::mint(), now)).map_err(|error| error.to_string())?;
        let table = Timetable::new(&self.expression, &self.zone)?;
        if table.next(0).is_none() {
            return Err(format!("the expression {:?} never fires", self.expression));
        }
        if table.next(now).is_none() {
            tracing::warn!(schedule = self.name, expression = self.expression, "the schedule will not fire again");
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
        let elections = self.0.into_iter().map(|schedule| {
            let name = schedule.name.clone();
            let wrong = |reason| Error::Schedule { schedule: name.clone(), reason };
            if !names.insert(name.clone()) {
                return Err(wrong("there are two schedules with this name: rename one with Schedule::new".to_owned()));
            }
            let table = schedule.check(publisher, publisher.now_ms()).map_err(wrong)?;
            Ok(Election::new(publisher, schedule, table, stop))
        });
        let elections: Vec<_> = elections.collect::<Result<_, _>>()?;
        let conflicts = elections.iter().map(Election::conflicts).collect();
        let awaited = elections.into_iter().map(|election| election.run().boxed()).collect();
        Ok(Tasks { awaited, dropped: vec![watch(publisher.broker().clone(), conflicts).boxed()] })
    }
}

impl<S: Send + Sync + 'static> Worker<S> {
    /// Publishes `job` at the times of the expression, in that time zone. The leader among the workers with the
    /// schedule publishes it. The schedule has the job's name. Use [`schedule`](Self::schedule) for several schedules
    /// of one job, and for another name.
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
    pub fn cron(self, expression: impl Into<String>, zone: impl Into<String>, job: impl Into<NewJob>) -> Self {
        let job = job.into();
        self.schedule(Schedule::new(job.name().to_owned(), expression, zone, job))
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
    /// Makes the leader of a schedule publish its job now, in addition to its times. The broker keeps the request until
    /// a worker with that schedule runs. Returns the id that the job will have.
    ///
    /// ```no_run
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), leveret::PublishError> {
    /// publisher.run_schedule("digest").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The same as for a publish; [`PublishError::Unroutable`] if no worker has had a schedule of that name.
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
            .field("job", &self.new)
            .finish_non_exhaustive()
    }
}
