//! The job that the task API runs when it is told no other: some seconds of work, which can be watched and cancelled.

use std::time::Duration;

use leveret::{Context, Job, JobError, JobResult, Queue, Worker};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

/// How often the work says how far it is.
const STEPS: u32 = 20;

/// Work that takes its time.
///
/// ```
/// let task: leveret_demo::task::Task = serde_json::from_str("{}")?;
/// assert_eq!((task.seconds, task.fail), (2.0, None));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "demo.task", queue = "tasks", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "Work that takes its time.")]
pub struct Task {
    /// How long it takes, in seconds.
    #[serde(default = "two")]
    #[schemars(range(min = 0.0, max = 60.0))]
    pub seconds: f64,
    /// Why it fails at its end, if it is to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<String>,
}

fn two() -> f64 {
    2.0
}

/// What is told of a task that is done.
#[derive(Debug, Serialize)]
struct Worked {
    seconds: f64,
    attempt: u32,
}

/// Four tasks at once, and of those that wait the one with the highest priority first where the broker can.
#[must_use]
pub fn worker() -> Worker<()> {
    Worker::new(()).queue(Queue::new(Task::QUEUE).concurrency(4).prefetch(4)).handle(work)
}

async fn work(task: Task, ctx: Context<()>) -> JobResult<Worked> {
    let seconds = task.seconds.clamp(0.0, 60.0);
    let step = Duration::from_secs_f64(seconds / f64::from(STEPS));
    for done in 0..STEPS {
        ctx.progress(f64::from(done) / f64::from(STEPS), "");
        tokio::select! {
            () = sleep(step) => {}
            () = ctx.cancelled() => return Err("stopped before it was done".into()),
        }
    }
    match task.fail {
        Some(reason) => Err(JobError::permanent(reason)),
        None => Ok(Worked { seconds, attempt: ctx.attempt() }),
    }
}
