//! Tests of jobs without a broker: one attempt in process, dead letters, an idle in-memory broker.

#[cfg(feature = "worker")]
mod run;
#[cfg(feature = "worker")]
mod workflow;

use std::time::Duration;

use tokio::time::Instant;

pub use crate::message::dead_letter::DeadLetter;
#[cfg(feature = "worker")]
pub use crate::testing::{
    run::{Running, perform, perform_raw, start},
    workflow::{WorkflowRun, workflow},
};
use crate::{broker::Broker, error::Error, topology::DEAD};

/// Reads the dead letters of a queue without removing them.
///
/// ```
/// use leveret::{Broker, Context, ErrorKind, JobError, JobResult, Worker, testing::{dead_letters, idle, start}};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "charge", queue = "money")]
/// # struct Charge { cents: i64 }
///
/// async fn refuse(_job: Charge, _ctx: Context<()>) -> JobResult {
///     Err(JobError::permanent("no such account"))
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let broker = Broker::memory();
/// let running = start(Worker::new(()).handle(refuse), &broker).await.unwrap();
/// broker.publisher().publish(&Charge { cents: 5 }).await.unwrap();
/// idle(&broker).await;
/// let letters = dead_letters(&broker, "money").await.unwrap();
/// assert_eq!((letters[0].kind, letters[0].reason.as_str()), (Some(ErrorKind::Permanent), "no such account"));
/// running.stop().await.unwrap();
/// # }
/// ```
///
/// # Errors
///
/// [`Error::Unavailable`] if the queue does not exist, or if the connection is lost.
pub async fn dead_letters(broker: &Broker, queue: &str) -> Result<Vec<DeadLetter>, Error> {
    /// Silence after which the queue counts as empty; a quorum queue with messages delivers faster.
    const QUIET: Duration = Duration::from_millis(300);
    let name = format!("{queue}{DEAD}");
    let mut session = broker.transport().open_raw(&name, 2_000).await.map_err(|error| error.of(&name))?;
    let mut letters = Vec::new();
    while let Ok(delivered) = tokio::time::timeout(QUIET, session.next()).await {
        let delivery = delivered.map_err(|ended| Error::unavailable(&name, ended))?;
        letters.push(DeadLetter::read(&delivery.message, broker.now_ms()));
    }
    session.close().await;
    Ok(letters)
}

/// Waits until the in-memory broker has no ready, delayed or unacknowledged job. With tokio's clock paused, delays pass
/// at once.
///
/// ```
/// # async fn doc(broker: leveret::Broker, job: impl leveret::Job) -> Result<(), leveret::PublishError> {
/// broker.publisher().publish(&job).delay(std::time::Duration::from_secs(24 * 3600)).await?;
/// leveret::testing::idle(&broker).await;
/// # Ok(()) }
/// ```
///
/// # Panics
///
/// Panics on any other broker, whose state is unknown.
#[expect(clippy::expect_used, reason = "a mistake of the test")]
pub async fn idle(broker: &Broker) {
    let began = Instant::now();
    while !broker.transport().is_idle().expect("only the in-memory broker knows whether it is idle") {
        // A fixed 10 ms would mean nine million checks for a day that passes at once.
        tokio::time::sleep((began.elapsed() / 64).max(Duration::from_millis(10))).await;
    }
}
