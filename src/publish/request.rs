//! Requests: jobs that are published, and whose result is waited for.

use std::{any::type_name, fmt, future::IntoFuture, marker::PhantomData, pin::Pin, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::{
    config::without_bom,
    error::PublishError,
    job::{Job, JobOutput},
    message::{Message, short},
    outcome::ErrorKind,
    publish::{draft::require, header_value::HeaderValue, new_job::NewJob, publisher::Publisher},
    request::{
        error::RequestError,
        replies::{MOST_WAITING, NoReplyQueue, ReplyWaiter},
    },
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// One request and its options. Awaiting it publishes the job and waits for its result. See
/// [`Publisher::request`] for an example.
///
/// # Cancel safety
///
/// If it is dropped before it completes, the job may or may not run. Its reply is dropped.
#[must_use = "a request is sent when this is awaited"]
pub struct Request<J> {
    publisher: Publisher,
    new: NewJob,
    timeout: Duration,
    job: PhantomData<fn() -> J>,
}

impl Publisher {
    /// Publishes a job when awaited, and waits for its result; set options before.
    ///
    /// The worker replies at the end of the job, not at a retry. The request expires with its timeout: attempts that have
    /// not started by then do not start any more, and the job leaves its queue without becoming a dead letter. All requests
    /// of a broker handle share one reply queue, which is opened on the consuming connection with the first of them.
    /// At most 100,000 of them wait at once.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use leveret::{Context, Job, JobResult, RequestError};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Quote { cents: u64 }
    ///
    /// #[derive(Serialize, Deserialize, Job)]
    /// #[job(name = "quote", queue = "quotes", output = Quote)]
    /// struct GetQuote { item: String }
    ///
    /// async fn quote(job: GetQuote, _ctx: Context<()>) -> JobResult<Quote> {
    ///     Ok(Quote { cents: 100 * job.item.len() as u64 })
    /// }
    /// # let _ = leveret::Worker::new(()).handle(quote);
    ///
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), RequestError> {
    /// let quote = publisher.request(&GetQuote { item: "tea".into() }).timeout(Duration::from_secs(2)).await?;
    /// println!("{} cents", quote.cents);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`RequestError`] when it is awaited.
    pub fn request<J: JobOutput>(&self, job: &J) -> Request<J> {
        Request { publisher: self.clone(), new: job.into(), timeout: DEFAULT_TIMEOUT, job: PhantomData }
    }
}

impl<J: JobOutput> Request<J> {
    /// Sets how long to wait for the result, 1 ms to 24 hours; 30 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the job's id, as [`NewJob::id`] does.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.new = self.new.id(id);
        self
    }

    /// Sends the request to another queue than the job's own, as [`NewJob::queue`] does.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.new = self.new.queue(queue);
        self
    }

    /// Sets the priority, as [`NewJob::priority`] does.
    pub fn priority(mut self, priority: u8) -> Self {
        self.new = self.new.priority(priority);
        self
    }

    /// Adds a header of your own, as [`NewJob::header`] does.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.new = self.new.header(name, value);
        self
    }

    async fn run(self) -> Result<J::Output, RequestError> {
        let Self { publisher, new, timeout, .. } = self;
        let is_possible = (Duration::from_millis(1)..=LONGEST_TIMEOUT).contains(&timeout);
        require(is_possible, "timeout", &format_args!("{timeout:?}"), "it must be 1 ms to 24 hours")?;
        let deadline = Instant::now() + timeout;
        let broker = publisher.broker.clone();
        let mut waiter = match timeout_at(deadline, broker.replies().register(broker.transport())).await {
            Ok(Ok(waiter)) => waiter,
            Ok(Err(NoReplyQueue::Full)) => return Err(RequestError::TooMany { limit: MOST_WAITING }),
            Ok(Err(NoReplyQueue::Closed)) => return Err(PublishError::Closed.into()),
            Err(_) => {
                let reason = "there is no queue for replies".to_owned();
                return Err(PublishError::Unavailable { timeout, reason }.into());
            }
        };
        let exchanged = exchange::<J>(&publisher, new, &mut waiter, deadline);
        timeout_at(deadline, exchanged).await.unwrap_or(Err(RequestError::TimedOut { timeout }))
    }
}

/// Publishes the job and waits for the reply.
async fn exchange<J: JobOutput>(
    publisher: &Publisher,
    new: NewJob,
    waiter: &mut ReplyWaiter,
    deadline: Instant,
) -> Result<J::Output, RequestError> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let new = new.expires(left).correlation_id(waiter.correlation_id());
    let (id, target, mut message) = new.into_message(publisher.broker.config().payload_limit, publisher.now_ms())?;
    message.properties = std::mem::take(&mut message.properties).with_reply_to(short(waiter.queue()));
    match publisher.send_job(J::NAME, target, id, (message, false)).await {
        // The job may be on its queue, and then it is answered.
        Ok(_) | Err(PublishError::Uncertain { .. }) => {}
        Err(PublishError::Unroutable { queue }) => return Err(RequestError::Unroutable { queue }),
        Err(error) => return Err(error.into()),
    }
    match waiter.reply().await {
        Some(reply) => read::<J>(&reply),
        None => Err(RequestError::Lost),
    }
}

fn read<J: JobOutput>(reply: &Message) -> Result<J::Output, RequestError> {
    if let Some((kind, error)) = reply.failure() {
        return Err(match (kind, ErrorKind::parse(kind)) {
            (_, Some(kind)) => RequestError::Failed { kind, error: error.to_owned() },
            ("cancelled", None) => RequestError::Cancelled,
            ("duplicate", None) => RequestError::Duplicate,
            (kind, None) => RequestError::Failed { kind: ErrorKind::Error, error: format!("{kind}: {error}") },
        });
    }
    if let Some(encoding) = reply.foreign_encoding() {
        return Err(RequestError::Undecodable { reason: format!("{encoding} is not understood") });
    }
    let body = without_bom(&reply.body);
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let (output, line, column) = (type_name::<J::Output>(), error.line(), error.column());
        // The text of the error may have values of the reply.
        let reason = format!("{:?} error at line {line} column {column}, as {output}", error.classify());
        RequestError::Undecodable { reason }
    })
}

impl<J: JobOutput> IntoFuture for Request<J> {
    type Output = Result<J::Output, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let broker = self.publisher.broker.clone();
            let result = self.run().await;
            broker.metrics().requests.sent(J::QUEUE, J::NAME, outcome(&result)).inc();
            result
        })
    }
}

/// Returns the value of the metric's label `outcome`.
fn outcome<T>(result: &Result<T, RequestError>) -> &'static str {
    match result {
        Ok(_) => "answered",
        Err(RequestError::Failed { .. } | RequestError::Cancelled | RequestError::Duplicate) => "failed",
        Err(RequestError::Undecodable { .. }) => "undecodable",
        Err(RequestError::TimedOut { .. }) => "timed_out",
        Err(RequestError::Lost) => "lost",
        Err(RequestError::Unroutable { .. } | RequestError::TooMany { .. } | RequestError::Publish(_)) => "unsent",
    }
}

impl<J: Job> fmt::Debug for Request<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("job", &J::NAME).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
