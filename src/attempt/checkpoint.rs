//! Checkpoints: how far a long job has come, carried by its copies.

use std::sync::{Mutex, PoisonError};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    attempt::context::Context,
    error::{Class, JobError, JobResult},
    message::{COPY_HEADER_LIMIT, Message, header, republish::ERROR_TEXT_LIMIT, text, undecoded},
};

/// The largest checkpoint, in bytes of JSON.
const LIMIT: usize = 16 * 1024;
/// The room that a copy needs for its error and its counters.
const RESERVED: usize = ERROR_TEXT_LIMIT + 1024;

/// The checkpoint that an attempt has saved, as JSON.
#[derive(Debug, Default)]
pub(crate) struct CheckpointSlot(Mutex<Option<Box<str>>>);

impl CheckpointSlot {
    /// Writes the checkpoint into a copy of the job.
    pub(crate) fn carry(&self, copy: &mut Message) {
        if let Some(checkpoint) = self.saved() {
            copy.set_header(header::CHECKPOINT, text(&checkpoint));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn saved(&self) -> Option<Box<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn save(&self, json: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(json.into());
    }
}

/// The reason why a checkpoint cannot be saved or read.
///
/// ```
/// # use leveret::{CheckpointError, Context, JobResult};
/// async fn import(_file: (), ctx: Context<()>) -> JobResult {
///     let line: u64 = match ctx.checkpoint() {
///         Ok(line) => line.unwrap_or(0),
///         Err(CheckpointError::Decode(_)) => 0,         // of an older version of this handler: start again
///         Err(error) => return Err(error.into()),
///     };
///     tracing::info!(line, "goes on");
///     Ok(())
/// }
/// # let _ = import;
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// It does not serialise to JSON.
    #[error("the checkpoint does not serialise")]
    Encode(#[source] serde_json::Error),
    /// The saved checkpoint does not decode as the requested type.
    #[error("the checkpoint does not decode as the requested type: {0}")]
    Decode(String),
    /// It is too large for the headers of a copy. Keep the data in a file or a database, and its name in the checkpoint.
    #[error(
        "the checkpoint has {size} bytes, and {limit} are allowed: keep the data in a file or a database, and its name in \
         the checkpoint"
    )]
    TooLarge {
        /// Its size in bytes, as JSON.
        size: usize,
        /// The largest size for this job: 16 KiB, or less if the job's own headers leave less room.
        limit: usize,
    },
}

impl<S> Context<S> {
    /// Returns the checkpoint that this attempt saved last, or else the one that the job brought along; `None` for a job
    /// that has none.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Decode`] if it is no `T`, for example after a deploy that changed the type.
    pub fn checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, CheckpointError> {
        let saved = self.inner.received.checkpoint.saved();
        let json = saved.as_deref().or_else(|| of_message(self.message()));
        let decode = |json: &str| {
            let decoded = serde_json::from_str(json);
            decoded.map_err(|error| CheckpointError::Decode(undecoded::reason(&error, json.as_bytes())))
        };
        json.map(decode).transpose()
    }

    /// Keeps `position` for the job's next attempt. It replaces the checkpoint before it, and is at most 16 KiB of JSON.
    ///
    /// The checkpoint stays in this process until the worker publishes a copy of the job: at a retry, at a snooze, when
    /// it requeues the job at its drain timeout, and in a dead letter, whose replay goes on from there. A process that
    /// is killed loses what came after the last copy. [`yield_with`](Self::yield_with) makes a copy at once.
    ///
    /// ```
    /// # use leveret::{Context, JobResult};
    /// # struct Import { lines: Vec<String> }
    /// # async fn import_line(_: &str) -> std::io::Result<()> { Ok(()) }
    /// async fn import(job: Import, ctx: Context<()>) -> JobResult {
    ///     let done: usize = ctx.checkpoint()?.unwrap_or(0);
    ///     for (number, line) in job.lines.iter().enumerate().skip(done) {
    ///         import_line(line).await?;                  // a retry goes on at this line
    ///         ctx.save_checkpoint(&(number + 1))?;
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = import;
    /// ```
    ///
    /// On a queue with a single active consumer, a worker that stops requeues its jobs without a copy, so that they
    /// keep their order. There a stop loses the checkpoint.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::TooLarge`] and [`CheckpointError::Encode`]. The checkpoint before it stays.
    pub fn save_checkpoint<T: Serialize + ?Sized>(&self, position: &T) -> Result<(), CheckpointError> {
        let json = serde_json::to_string(position).map_err(CheckpointError::Encode)?;
        let limit = limit(self.message());
        if json.len() > limit {
            return Err(CheckpointError::TooLarge { size: json.len(), limit });
        }
        self.inner.received.checkpoint.save(json);
        Ok(())
    }

    /// Saves `position` in the broker and ends the attempt, which is not charged: return its result from the handler. The
    /// job goes to the end of its queue and continues from `position`, in any worker.
    ///
    /// So a job may take longer than its timeout and longer than the broker's consumer timeout, in parts that a kill
    /// cannot undo.
    ///
    /// ```
    /// # use leveret::{Context, JobResult};
    /// # use std::time::{Duration, Instant};
    /// # struct Import { lines: Vec<String> }
    /// # async fn import_line(_: &str) -> std::io::Result<()> { Ok(()) }
    /// async fn import(job: Import, ctx: Context<()>) -> JobResult {
    ///     let started = Instant::now();
    ///     let done: usize = ctx.checkpoint()?.unwrap_or(0);
    ///     for (number, line) in job.lines.iter().enumerate().skip(done) {
    ///         import_line(line).await?;
    ///         if started.elapsed() > Duration::from_secs(20) {
    ///             return ctx.yield_with(&(number + 1));
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = import;
    /// ```
    ///
    /// # Errors
    ///
    /// Always: the error ends the attempt. It is a failure, which counts, if `position` cannot be saved
    /// ([`save_checkpoint`](Self::save_checkpoint)), or is the checkpoint that the attempt began with: a job that makes no
    /// progress must not run indefinitely.
    pub fn yield_with<T: Serialize + ?Sized, R>(&self, position: &T) -> JobResult<R> {
        self.save_checkpoint(position)?;
        if self.inner.received.checkpoint.saved().as_deref() == of_message(self.message()) {
            return Err("it yielded without progress: its checkpoint is the one that the attempt began with".into());
        }
        Err(JobError::new(Class::Yield, "yielded"))
    }
}

fn of_message(message: &Message) -> Option<&str> {
    message.text(header::CHECKPOINT)
}

/// Returns the most bytes that a checkpoint of this message may have, so that its copies stay within the limit of headers.
fn limit(message: &Message) -> usize {
    let others = message.header_size() - of_message(message).map_or(0, str::len);
    LIMIT.min(COPY_HEADER_LIMIT.saturating_sub(others + RESERVED))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};
    use tokio::sync::mpsc;

    use crate::{
        Broker, CheckpointError, Context, Job, JobError, JobResult, Queue, RetryPolicy, Worker,
        reader::{QueueReader, Source},
        testing::{self, Running},
    };

    #[derive(Serialize, Deserialize)]
    struct Count;

    impl Job for Count {
        const NAME: &'static str = "count";
        const QUEUE: &'static str = "counts";
    }

    /// The number and the checkpoint of each attempt.
    type Seen = mpsc::UnboundedSender<(u32, Option<u32>)>;

    async fn started<H, Fut>(handler: H) -> (Broker, Running, mpsc::UnboundedReceiver<(u32, Option<u32>)>)
    where
        H: Fn(Count, Context<Seen>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = JobResult> + Send + 'static,
    {
        let (sender, seen) = mpsc::unbounded_channel();
        let broker = Broker::memory();
        let queue = Queue::new("counts").retry(RetryPolicy::fixed(Duration::from_secs(1)).max_attempts(3));
        let running = testing::start(Worker::new(sender).queue(queue).handle(handler), &broker).await.unwrap();
        (broker, running, seen)
    }

    fn look(ctx: &Context<Seen>) -> u32 {
        let position = ctx.checkpoint().unwrap();
        ctx.state().send((ctx.attempt(), position)).unwrap();
        position.unwrap_or(0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_begins_where_the_failed_attempt_stopped() {
        let (broker, running, mut seen) = started(async |_: Count, ctx: Context<Seen>| {
            let position = look(&ctx);
            ctx.save_checkpoint(&(position + 1))?;
            ctx.save_checkpoint(&(position + 2))?;
            assert_eq!(ctx.checkpoint::<u32>()?, Some(position + 2), "the last one counts");
            if position < 4 { Err("down".into()) } else { Ok(()) }
        })
        .await;
        broker.publisher().publish(&Count).await.unwrap();
        for expected in [(1, None), (2, Some(2)), (3, Some(4))] {
            assert_eq!(seen.recv().await, Some(expected));
        }
        testing::idle(&broker).await;
        running.stop().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_yields_is_charged_no_attempt_and_needs_no_more_than_its_progress() {
        let (broker, running, mut seen) = started(async |_: Count, ctx: Context<Seen>| {
            let position = look(&ctx);
            if position == 20 { Ok(()) } else { ctx.yield_with(&(position + 1)) }
        })
        .await;
        broker.publisher().publish(&Count).await.unwrap();
        testing::idle(&broker).await;
        running.stop().await.unwrap();
        let positions = (0..=20).map(|position| (1, Some(position).filter(|position| *position > 0)));
        for expected in positions {
            assert_eq!(seen.recv().await, Some(expected));
        }
        assert_eq!(seen.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_yields_without_progress_fails_and_does_not_run_for_ever() {
        let (broker, running, mut seen) = started(async |_: Count, ctx: Context<Seen>| {
            look(&ctx);
            ctx.yield_with(&7)
        })
        .await;
        broker.publisher().publish(&Count).await.unwrap();
        testing::idle(&broker).await;
        running.stop().await.unwrap();
        for expected in [(1, None), (1, Some(7)), (2, Some(7)), (3, Some(7))] {
            assert_eq!(seen.recv().await, Some(expected));
        }
        let dead = testing::dead_letters(&broker, "counts").await.unwrap();
        assert!(dead[0].reason.starts_with("it yielded without progress"), "{}", dead[0].reason);
    }

    #[tokio::test(start_paused = true)]
    async fn the_replay_of_a_dead_letter_goes_on_from_its_checkpoint_unless_its_payload_is_another() {
        let (broker, running, mut seen) = started(async |_: Count, ctx: Context<Seen>| {
            if look(&ctx) > 0 {
                return Ok(());
            }
            ctx.save_checkpoint(&9)?;
            Err(JobError::permanent("down"))
        })
        .await;
        broker.publisher().publish(&Count).await.unwrap();
        testing::idle(&broker).await;
        let mut reader = QueueReader::new(&broker, Source::DeadLetters("counts".into()), 1).unwrap();
        let dead = reader.next(1).await;
        let message = dead.messages()[0].message();
        broker.publisher().replay(message, "counts").payload(b"null".to_vec()).await.unwrap();
        testing::idle(&broker).await;
        broker.publisher().replay(message, "counts").payload(b" null".to_vec()).await.unwrap();
        testing::idle(&broker).await;
        running.stop().await.unwrap();
        for expected in [(1, None), (1, Some(9)), (1, None)] {
            assert_eq!(seen.recv().await, Some(expected));
        }
    }

    /// Returns the size and the limit of a refused checkpoint.
    fn refused(ctx: &Context<Seen>, size: usize) -> (usize, usize) {
        match ctx.save_checkpoint(&"x".repeat(size)) {
            Err(CheckpointError::TooLarge { size, limit }) => (size, limit),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_that_would_not_fit_into_a_copy_is_refused_with_its_limit() {
        let (broker, running, mut seen) = started(async |_: Count, ctx: Context<Seen>| {
            ctx.save_checkpoint(&1)?;
            let room = if ctx.header("large").is_some() { 1_000..12_000 } else { 16_384..16_385 };
            for size in [16_383, 100_000] {
                let refused = refused(&ctx, size);
                assert!(refused.0 == size + 2 && room.contains(&refused.1), "{refused:?}");
            }
            ctx.state().send((ctx.attempt(), ctx.checkpoint()?)).unwrap();
            Ok(())
        })
        .await;
        broker.publisher().publish(&Count).await.unwrap();
        broker.publisher().publish(&Count).header("large", "x".repeat(100_000)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(seen.recv().await, Some((1, Some(1))), "the one before stays");
        }
        running.stop().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_of_another_type_is_an_error_that_the_handler_can_answer() {
        let (broker, running, mut seen) = started(async |_: Count, ctx: Context<Seen>| {
            ctx.save_checkpoint("line 7")?;
            let refused = ctx.checkpoint::<u32>().unwrap_err();
            assert!(matches!(refused, CheckpointError::Decode(_)), "{refused:?}");
            ctx.state().send((1, None)).unwrap();
            Ok(())
        })
        .await;
        broker.publisher().publish(&Count).await.unwrap();
        assert_eq!(seen.recv().await, Some((1, None)));
        running.stop().await.unwrap();
    }
}
