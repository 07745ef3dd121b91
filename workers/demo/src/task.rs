//! The default job of the task API: some seconds of work, with progress and cancellation.

use std::time::Duration;

use leveret::{Context, Job, JobError, JobResult, Queue, Worker};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

/// Number of progress updates.
const STEPS: u32 = 20;

/// A task that takes some seconds.
///
/// ```
/// let task: leveret_demo::task::Task = serde_json::from_str("{}")?;
/// assert_eq!((task.seconds, task.fail), (2.0, None));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "demo.task", queue = "tasks", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "A task that takes some seconds.")]
pub struct Task {
    /// Duration in seconds.
    #[serde(default = "two")]
    #[schemars(range(min = 0.0, max = 60.0))]
    pub seconds: f64,
    /// Error at the end; the task succeeds when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<String>,
}

fn two() -> f64 {
    2.0
}

/// Result of a task.
#[derive(Debug, Serialize)]
struct TaskResult {
    seconds: f64,
    attempt: u32,
}

/// Returns a worker that runs four tasks at the same time, by priority if the broker supports it.
#[must_use]
pub fn worker() -> Worker<()> {
    Worker::new(()).queue(Queue::of::<Task>().concurrency(4).prefetch(4)).handle(work)
}

async fn work(task: Task, ctx: Context<()>) -> JobResult<TaskResult> {
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
        None => Ok(TaskResult { seconds, attempt: ctx.attempt() }),
    }
}
