//! Moves definitions and the ends of steps from the broker into the store. A batch is acked after its commit.
//!
//! A message that can never be applied becomes a dead letter of the queue `leveret.v1.workflows`, with the reason.

use std::time::Duration;

use leveret::{
    Error,
    backoff::Backoff,
    reader::{ERROR_TEXT_LIMIT, QueueReader, ReadMessage, Source},
    time::now_ms,
    topology::Topology,
    workflow::{
        DEFINITION_LIMIT, END, START, StepEnd, Workflow,
        engine::{Input, Refusal},
    },
};
use leveret_store::{DeadSource, InputOutcome, NewDead, NewWorkflow, WorkflowInput};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{dead::letter, services::Services};

/// The greatest number of messages in one commit.
const AT_ONCE: usize = PREFETCH as usize;
/// The prefetch. A definition may have 8 MiB, so it bounds the memory to 256 MiB.
const PREFETCH: u16 = 32;
/// The largest message in bytes that is read without another thread: that takes less than a millisecond.
const READ_AT_ONCE: usize = 64 * 1024;
/// Failed attempts to store a single input, after which it becomes a dead letter.
const MOST_TRIES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Ingests until `stop`.
pub(super) async fn ingest(services: &Services, stop: &CancellationToken) -> Result<(), Error> {
    let mut feed = QueueReader::new(&services.broker, Source::Workflows, PREFETCH)?;
    while let Some(batch) = stop.run_until_cancelled(feed.next(AT_ONCE)).await {
        let kept = async {
            let mut read = Vec::with_capacity(batch.messages().len());
            for message in batch.messages() {
                read.push((message, read_apart(message).await));
            }
            services.keep(read).await;
        };
        if stop.run_until_cancelled(kept).await.is_none() {
            break;
        }
        feed.ack(batch);
    }
    feed.close().await;
    Ok(())
}

/// Reads a message: a large one on another thread, so that nothing else of the server waits for it.
async fn read_apart(message: &ReadMessage) -> Result<WorkflowInput, String> {
    let size = message.message().payload().len();
    if size > DEFINITION_LIMIT {
        return Err(format!("the message has {size} bytes, and at most {DEFINITION_LIMIT} are possible"));
    }
    if size <= READ_AT_ONCE {
        return read(message.job(), message.message().payload());
    }
    let (kind, message) = (message.job().map(str::to_owned), message.message().clone());
    let reading = spawn_blocking(move || read(kind.as_deref(), message.payload()));
    // It only fails by a panic, or if the runtime ends.
    reading.await.unwrap_or_else(|error| Err(format!("the message cannot be read: {error}")))
}

/// Reads a message, or returns the reason why it can never be applied.
fn read(kind: Option<&str>, payload: &[u8]) -> Result<WorkflowInput, String> {
    match kind {
        Some(START) => {
            let workflow: Workflow = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
            workflow.check().map_err(|error| error.to_string())?;
            if workflow.workflow_id().is_none() {
                return Err("the workflow has no id: set one, so that a repeated publish does not start two".to_owned());
            }
            Ok(WorkflowInput::Start(Box::new(NewWorkflow::new(workflow))))
        }
        Some(END) => {
            let end: StepEnd = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
            Ok(WorkflowInput::Input { workflow: end.of.workflow.clone(), input: Box::new(Input::End(end)) })
        }
        Some(other) => Err(format!("the property type is {other:?}: expected {START:?} or {END:?}")),
        None => Err(format!("the property type is missing: expected {START:?} or {END:?}")),
    }
}

impl Services {
    /// Returns once the store has all messages.
    async fn keep(&self, read: Vec<(&ReadMessage, Result<WorkflowInput, String>)>) {
        let (mut inputs, mut refused) = (Vec::with_capacity(read.len()), Vec::new());
        for (message, input) in read {
            match input {
                Ok(input) => inputs.push((message, input)),
                Err(reason) => refused.push(self.dead(message, &reason)),
            }
        }
        if !refused.is_empty() {
            self.keep_dead(&refused).await;
        }
        if !inputs.is_empty() {
            self.keep_inputs(inputs).await;
        }
    }

    /// Retries until the store has applied all inputs. A refused batch is halved until the refused input is alone. All other
    /// errors, such as a missing permission, are of the database: the messages wait until an operator has repaired it.
    async fn keep_inputs(&self, inputs: Vec<(&ReadMessage, WorkflowInput)>) {
        let (mut backoff, mut tries) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), 0);
        loop {
            tries += 1;
            let error = match self.apply(inputs.iter().map(|(_, input)| input.clone()).collect()).await {
                Ok(applied) => return self.log(&inputs, &applied.outcomes),
                Err(error) => error,
            };
            let is_of_an_input = error.is_refusal() || error.is_unreadable();
            if is_of_an_input && inputs.len() > 1 {
                let mut first = inputs;
                let second = first.split_off(first.len() / 2);
                Box::pin(self.keep_inputs(first)).await;
                return Box::pin(self.keep_inputs(second)).await;
            }
            // An unreadable row, for example of a newer server, must not hold up the other messages.
            let is_final = error.is_refusal() || (is_of_an_input && tries >= MOST_TRIES);
            if is_final && let [(message, _)] = inputs.as_slice() {
                let reason = leveret::text::error_chain(&error).to_string();
                return self.keep_dead(&[self.dead(message, &reason)]).await;
            }
            if tries == 1 {
                let error = leveret::text::error_chain(&error);
                tracing::warn!(error, "cannot apply messages of workflows, retrying: they stay in the broker");
            }
            backoff.sleep().await;
        }
    }

    fn log(&self, inputs: &[(&ReadMessage, WorkflowInput)], outcomes: &[InputOutcome]) {
        for ((_, input), outcome) in inputs.iter().zip(outcomes) {
            self.workflow_metrics.ingested(outcome);
            let (workflow_id, step) = match input {
                WorkflowInput::Start(new) => (new.id(), String::new()),
                WorkflowInput::Input { workflow, input } => match &**input {
                    Input::End(end) => (workflow.as_str(), end.of.to_string()),
                    _ => (workflow.as_str(), String::new()),
                },
            };
            let dropped = match outcome {
                InputOutcome::Applied | InputOutcome::Repeated => continue,
                InputOutcome::Refused(Refusal::Late) => {
                    tracing::debug!(workflow_id, job_id = step, "the end of a step was known");
                    continue;
                }
                InputOutcome::Refused(refusal) => refusal.to_string(),
                InputOutcome::Conflict => "the id is that of a workflow with another definition".to_owned(),
                InputOutcome::Unknown => "there is no workflow of that id".to_owned(),
            };
            tracing::warn!(workflow_id, job_id = step, error = dropped, "dropped a message to a workflow");
        }
    }

    fn dead(&self, message: &ReadMessage, reason: &str) -> NewDead {
        let queue = Topology::new(&self.broker.config().namespace).workflows();
        let new = letter::as_new(message, DeadSource::Dead, &queue);
        let error = &reason[..reason.floor_char_boundary(ERROR_TEXT_LIMIT)];
        tracing::error!(job_id = new.job_id, error, "a message to the workflows cannot be read: it is a dead letter");
        self.workflow_metrics.rejected();
        NewDead { kind: "decode".to_owned(), error: error.to_owned(), ..new }
    }

    /// Retries until the store has the dead letters.
    async fn keep_dead(&self, letters: &[NewDead]) {
        let (mut backoff, mut is_logged) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), false);
        while let Err(error) = self.store.ingest(letters, now_ms()).await {
            if !std::mem::replace(&mut is_logged, true) {
                let (source, error) = (Source::Workflows, leveret::text::error_chain(&error));
                tracing::warn!(%source, error, "cannot store dead letters: they wait in the broker");
            }
            backoff.sleep().await;
        }
    }
}
