//! Steps of workflows: what their handlers read and add, and the report of their end, which is confirmed before the job is
//! settled.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lapin::types::FieldTable;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    attempt::{
        admission::Incoming,
        context::Context,
        disposition::{Disposition, Settlement, Update},
        settle::confirm,
    },
    broker::Broker,
    error::JobResult,
    identity::PROCESS,
    message::{
        LONGEST_ORIGIN, Message, header,
        republish::ERROR_TEXT_LIMIT,
        step::{Role, StepRef},
        truncated,
    },
    time::at_unix_ms,
    topology::{QueueDeclaration, Target},
    workflow::{
        ADDED_LIMIT, END, PredecessorResults, RESULT_LIMIT, StepEnd, StepOutcome, StepResultError, Steps, WorkflowError,
    },
};

/// The parts of the report of a success that an attempt at a step leaves.
#[derive(Debug, Default)]
pub(crate) struct StepSlot(Mutex<Success>);

/// The reason why the result of a step is not kept.
#[derive(Debug)]
pub(crate) enum NotKept {
    /// Its size in bytes.
    TooLarge(usize),
    Unserialisable(serde_json::Error),
}

/// The parts of the report of a success, also as an inbox keeps them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Success {
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    too_large: Option<u64>,
    #[serde(skip_serializing_if = "Steps::is_empty")]
    add: Steps,
}

impl StepSlot {
    /// Keeps the result of the handler.
    pub(crate) fn keep_result(&self, result: &impl Serialize) -> Result<(), NotKept> {
        let mut success = self.lock();
        (success.result, success.too_large) = (None, None);
        let json = serde_json::value::to_raw_value(result).map_err(NotKept::Unserialisable)?;
        let size = json.get().len();
        if size > RESULT_LIMIT {
            success.too_large = Some(size as u64);
            return Err(NotKept::TooLarge(size));
        }
        success.result = Some(json).filter(|json| json.get() != "null");
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Success> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Context<S> {
    /// Returns the step of a workflow that the job is; `None` for a job that was published by itself.
    ///
    /// ```
    /// # use leveret::{Context, JobResult};
    /// async fn charge(_job: (), ctx: Context<()>) -> JobResult {
    ///     if let Some(step) = ctx.workflow_step() {
    ///         tracing::info!(workflow = step.workflow, step = step.step, "charging");
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = charge;
    /// ```
    #[must_use]
    pub fn workflow_step(&self) -> Option<StepRef> {
        self.message().step()
    }

    /// Returns the result of a step that this one comes directly after. A compensation reads the result of the step that it
    /// compensates.
    ///
    /// The results of all direct predecessors together have at most 32 KiB. Those of a group are in the server.
    ///
    /// ```
    /// # use leveret::{Context, JobResult};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize)]
    /// struct Receipt { number: u64 }
    ///
    /// async fn ship(_job: (), ctx: Context<()>) -> JobResult {
    ///     let charge: Receipt = ctx.result_of("charge")?;
    ///     let gift: Option<String> = ctx.result_of("wrap")?;       // None if the step was skipped
    ///     println!("receipt {} {}", charge.number, gift.unwrap_or_default());
    ///     Ok(())
    /// }
    /// # let _ = ship;
    /// ```
    ///
    /// # Errors
    ///
    /// [`StepResultError`], which says where a result is that is not in the message.
    pub fn result_of<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepResultError> {
        if !self.message().is_step() {
            return Err(StepResultError::NotAStep { step: step.to_owned() });
        }
        let results = self.message().text(header::WORKFLOW_RESULTS).and_then(PredecessorResults::from_header);
        results.unwrap_or_default().get(step)
    }

    /// Adds steps to the workflow once this job has succeeded. If it fails or is retried, they are not added.
    ///
    /// A job that compensates a workflow, or that runs on its failure, adds none.
    ///
    /// Each call checks all steps that the job has added: add many steps with one call.
    ///
    /// An added step starts at once, or after those that it names in [`after`](Steps::after): the step that adds it, and
    /// others that are added with it. It may come [`before`](Steps::before) steps that have not started. Their names must be
    /// new to the workflow: jobs of a group need names with their number. A name that is taken, or a step that has started,
    /// fails the workflow.
    ///
    /// ```
    /// # use leveret::{Context, JobResult, workflow::Steps};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "page", queue = "pages")] struct Page(u32);
    /// async fn split(pages: u32, ctx: Context<()>) -> JobResult {
    ///     ctx.add_steps(Steps::new().steps("page", (0..pages).map(Page)).before("bind"))?;
    ///     Ok(())
    /// }
    /// # let _ = |pages: u32, ctx: Context<()>| split(pages, ctx);
    /// ```
    ///
    /// # Errors
    ///
    /// [`WorkflowError`] for a fault that is seen without the workflow: in names, jobs or order, or if all added steps
    /// together are larger than 4 MiB as JSON.
    pub fn add_steps(&self, steps: Steps) -> Result<(), WorkflowError> {
        let adder = self.workflow_step().unwrap_or_else(|| StepRef::step("", ""));
        let slot = self.inner.received.step.as_deref().filter(|_| adder.role == Role::Step);
        let Some(slot) = slot else { return Err(WorkflowError::NotAStep) };
        let mut success = slot.lock();
        let all = success.add.clone().and(steps);
        all.check_added_by(&adder.step)?;
        let size = serde_json::to_vec(&all).map_or(0, |json| json.len());
        if size > ADDED_LIMIT {
            return Err(WorkflowError::TooLarge { step: adder.to_string(), size, limit: ADDED_LIMIT });
        }
        success.add = all;
        Ok(())
    }
}

/// For an inbox: what a later delivery of a job reports that has been done.
#[doc(hidden)]
impl<S> Context<S> {
    /// Returns whether a workflow or a caller waits for the result of the job.
    #[must_use]
    pub fn __is_awaited(&self) -> bool {
        self.inner.received.step.is_some() || self.inner.received.reply.is_some()
    }

    /// Returns what the job reports if it ends now with this result, as JSON; `None` if nothing waits for it.
    ///
    /// # Errors
    ///
    /// The result does not serialise, or is too large to be kept.
    pub fn __success(&self, result: &impl Serialize) -> JobResult<Option<String>> {
        if !self.__is_awaited() {
            return Ok(None);
        }
        let result = serde_json::value::to_raw_value(result)?;
        let size = result.get().len();
        if size > RESULT_LIMIT {
            let limit = RESULT_LIMIT;
            return Err(
                format!("the result has {size} bytes, and at most {limit} are kept: return a smaller one").into()
            );
        }
        let add = self.inner.received.step.as_deref().map(|slot| slot.lock().add.clone()).unwrap_or_default();
        let success = Success { result: Some(result).filter(|json| json.get() != "null"), too_large: None, add };
        Ok(Some(serde_json::to_string(&success)?))
    }

    /// Makes the end of the job report what [`__success`](Self::__success) returned.
    pub fn __restore_success(&self, success: &str) {
        let Ok(success) = serde_json::from_str::<Success>(success) else { return };
        let received = &self.inner.received;
        received.restore_reply(success.result.as_deref().map_or("null", RawValue::get));
        if let Some(slot) = received.step.as_deref() {
            *slot.lock() = success;
        }
    }
}

/// Publishes the end of a step, if this is its end, and returns how its job may be settled once the end is confirmed.
///
/// Without a confirm there is no ack: the workflow would wait indefinitely for a job that has left the broker.
pub(crate) async fn report(
    disposition: &Disposition,
    settlement: Settlement,
    received: &Incoming,
    has_run: bool,
    (queue, broker): (&QueueDeclaration, &Broker),
) -> Settlement {
    let Some(outcome) = outcome(disposition, settlement, received) else { return settlement };
    let smaller = smaller(&outcome);
    let send = async |outcome| {
        let end = StepEnd {
            started_at: has_run.then(|| at_unix_ms(received.at_ms)),
            ..end_of(received, outcome, broker.now_ms())
        };
        let message = message_of(&end, received, broker.now_ms());
        confirm(broker, queue, &Target::Workflows, received, || message.clone()).await
    };
    match send(outcome).await {
        Settlement::Ack => settlement,
        Settlement::Requeue => Settlement::Requeue,
        // The broker's limit of a message is smaller than what the end carries.
        Settlement::Reject => loop {
            match send(smaller.clone()).await {
                Settlement::Ack => return settlement,
                Settlement::Requeue => return Settlement::Requeue,
                // Another worker could not report it either. The job waits here, as for a copy that is not confirmed.
                Settlement::Reject => {}
            }
        },
    }
}

/// Returns what is reported if the broker refuses the end for its size: a success without its result. Added steps cannot be
/// left out, so the step that added them has failed.
fn smaller(outcome: &StepOutcome) -> StepOutcome {
    match outcome {
        StepOutcome::Completed { result, too_large, add } if add.is_empty() => {
            let size = result.as_ref().map(|json| json.get().len() as u64);
            StepOutcome::Completed { result: None, too_large: too_large.or(size), add: Steps::default() }
        }
        _ => {
            let error = "the broker refuses the message with its end; see the broker's max_message_size";
            StepOutcome::failed("too_large", error)
        }
    }
}

/// Returns how a step has ended; `None` while it goes on.
fn outcome(disposition: &Disposition, settlement: Settlement, received: &Incoming) -> Option<StepOutcome> {
    let failed = |kind: &str, error: &str| Some(StepOutcome::failed(kind, truncated(error, ERROR_TEXT_LIMIT)));
    match settlement {
        Settlement::Requeue => return None,
        Settlement::Reject => {
            let (kind, reason) = disposition.without_copy("no copy of it could be made");
            return failed(kind.as_str(), &reason);
        }
        Settlement::Ack => {}
    }
    match disposition.row().update {
        // An inbox may have kept what the run reported that did the job.
        Update::Succeeded | Update::Duplicate => {
            let success = received.step.as_deref().map(|slot| std::mem::take(&mut *slot.lock())).unwrap_or_default();
            let Success { result, too_large, add } = success;
            Some(StepOutcome::Completed { result, too_large, add })
        }
        Update::Dead => {
            let (kind, error) = disposition.error();
            failed(kind.as_str(), error)
        }
        // A step that is a request as well, and whose caller does not wait any more.
        Update::Cancelled if matches!(disposition, Disposition::RequestExpired(_)) => {
            let (kind, error) =
                disposition.failure().unwrap_or((crate::outcome::ErrorKind::Expired, "its caller is gone"));
            failed(kind.as_str(), error)
        }
        Update::Cancelled => Some(StepOutcome::Cancelled),
        Update::None | Update::Snoozed | Update::Retrying => None,
    }
}

fn end_of(received: &Incoming, outcome: StepOutcome, now_ms: u64) -> StepEnd {
    let message = &received.message;
    StepEnd {
        of: message.step().unwrap_or_else(|| StepRef::step("", "")),
        origin: message.bounded(header::ORIGIN, LONGEST_ORIGIN).unwrap_or_default().to_owned(),
        attempt: received.envelope.attempt,
        started_at: None,
        at: at_unix_ms(now_ms),
        replayed_at: message.replayed_at().map(at_unix_ms),
        worker: Some(PROCESS.clone()),
        outcome,
    }
}

fn message_of(end: &StepEnd, received: &Incoming, now_ms: u64) -> Box<Message> {
    let body = serde_json::to_vec(end).unwrap_or_default();
    let mut headers = FieldTable::default();
    for name in [header::TRACEPARENT, header::TRACESTATE] {
        if let Some(value) = received.message.header(name) {
            headers.insert(name.into(), value.clone());
        }
    }
    Box::new(Message::with_headers(END, &end.of.job_id(), body, now_ms, headers))
}
