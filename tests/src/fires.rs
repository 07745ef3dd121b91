//! Schedules in tests: their jobs, and a log of the runs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use leveret::{Context, Job, JobResult, NewJob, Schedule, Worker};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The job of all schedules.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fire {
    pub schedule: String,
}

impl Job for Fire {
    const NAME: &'static str = "test.fire";
    const QUEUE: &'static str = "fires";
}

/// One run of the handler.
#[derive(Clone, Debug)]
pub struct Fired {
    pub schedule: String,
    pub id: String,
    /// The schedule's time, in seconds.
    pub at: u64,
    pub ran: Instant,
}

/// The log of the runs.
#[derive(Clone, Debug, Default)]
pub struct Fires(Arc<Mutex<Vec<Fired>>>);

/// The runs of one schedule, by time.
#[derive(Debug)]
pub struct Account {
    pub times: usize,
    /// Jobs of a time that had one already, under the same id.
    pub doubled: usize,
}

impl Fires {
    pub fn all(&self) -> Vec<Fired> {
        self.0.lock().unwrap().clone()
    }

    /// Sees to it that no second is missing between the first time and the last, and that each has one id.
    pub fn every_second(&self, schedule: &str) -> Account {
        let mut ids = BTreeMap::<u64, String>::new();
        let mut doubled = 0;
        for fired in self.all().into_iter().filter(|fired| fired.schedule == schedule) {
            if let Some(id) = ids.insert(fired.at, fired.id.clone()) {
                assert_eq!(id, fired.id, "two ids for {} of {schedule}", fired.at);
                doubled += 1;
            }
        }
        let (first, last) = (ids.keys().next().copied(), ids.keys().last().copied());
        let wanted = first.zip(last).into_iter().flat_map(|(first, last)| first..=last);
        let lost: Vec<_> = wanted.filter(|at| !ids.contains_key(at)).collect();
        assert!(lost.is_empty(), "{} times of {schedule} are lost: {lost:?}", lost.len());
        Account { times: ids.len(), doubled }
    }
}

async fn note(job: Fire, ctx: Context<Fires>) -> JobResult {
    let at = ctx.fired_at().ok_or("no schedule")?.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let fired = Fired { schedule: job.schedule, id: ctx.job_id().to_string(), at, ran: Instant::now() };
    ctx.state().0.lock().unwrap().push(fired);
    Ok(())
}

/// A worker that takes what schedules publish to this queue.
pub fn noting(queue: &str, fires: &Fires) -> Worker<Fires> {
    Worker::new(fires.clone()).handle_with(note, |h| h.queue(queue))
}

/// A schedule that publishes to this queue.
pub fn schedule(name: &str, expression: &str, queue: &str) -> Schedule {
    let job = NewJob::of(&Fire { schedule: name.to_owned() }).queue(queue);
    Schedule::new(name, expression, "UTC", job)
}
