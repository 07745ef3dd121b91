//! Publishes what the store decided: the jobs of steps, and cancellations. Each message is deleted after the confirm.

use std::{
    future::IntoFuture,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use leveret::{
    NewJob, PublishError,
    time::{at_unix_ms, now_ms},
    workflow::{StepEnd, StepOutcome, cancel_id, engine::Input},
};
use leveret_store::{WorkflowInput, WorkflowMessage, WorkflowPublish, WorkflowPublishes};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::services::Services;

/// The jobs of one message that are in memory: of a group, the next page.
const PAGE: u32 = 500;
/// The messages that wait for this process. Beyond, the callers wait.
pub(super) const WAITING: usize = 10_000;
/// The longest wait for that task, which itself may hand messages over.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(5);
/// The messages that are published together.
const AT_ONCE: usize = 200;
/// A confirmed message is deleted once no other comes within this time, or after the other one. Its lease is far longer.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
const FLUSHED_WITHIN: Duration = Duration::from_secs(1);
const MOST_UNFLUSHED: usize = 1_000;
/// The pauses before a message is published again that could not be.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The fate of a message.
enum Fate {
    /// This many of its jobs are published.
    Published(u32),
    /// It is published later, for this reason; with the queue that does not exist.
    Later(Option<String>, String),
    /// This many jobs are published, and the next one never can be: its end.
    Never(u32, Box<StepEnd>),
}

impl Services {
    /// Lets messages be published: by the task of the server process if it runs here, or now.
    pub(super) async fn hand_over(&self, messages: Vec<WorkflowMessage>) {
        if messages.is_empty() {
            return;
        }
        let Some(sender) = self.workflow_messages.sender() else {
            let published = self.publish_messages(messages).await;
            self.note_published(&published).await;
            return;
        };
        for message in messages {
            // A full or closed channel: the rest is published after its lease, by any server.
            if sender.send_timeout(message, HANDED_OVER_WITHIN).await.is_err() {
                return;
            }
        }
    }

    /// Publishes messages until the sender is dropped.
    pub(super) async fn publish_until_closed(&self, mut messages: mpsc::Receiver<WorkflowMessage>) {
        let (mut taken, mut published) = (Vec::new(), Vec::new());
        // The first wait has no end.
        while messages.recv_many(&mut taken, AT_ONCE).await > 0 {
            let first = Instant::now();
            loop {
                published.extend(self.publish_messages(std::mem::take(&mut taken)).await);
                if published.len() >= MOST_UNFLUSHED || first.elapsed() >= FLUSHED_WITHIN {
                    break;
                }
                match timeout(FLUSH_AFTER, messages.recv_many(&mut taken, AT_ONCE)).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
            }
            self.note_published(&published).await;
            published.clear();
        }
    }

    /// Deletes published messages. If that fails, they are published again after their lease.
    async fn note_published(&self, published: &[(WorkflowMessage, u32)]) {
        if let Err(error) = self.store.workflow_published(published, now_ms()).await {
            let error = leveret::text::error_chain(&error);
            tracing::warn!(error, "cannot record that steps are published: they may be published again");
        }
    }

    /// Publishes messages, a page of each at a time, and returns those that are published with the number of their jobs.
    async fn publish_messages(&self, messages: Vec<WorkflowMessage>) -> Vec<(WorkflowMessage, u32)> {
        let (mut open, mut published) = (messages, Vec::new());
        while !open.is_empty() {
            let contents = match self.store.workflow_publishes(&open, PAGE).await {
                Ok(contents) => contents,
                Err(error) => {
                    // The messages are taken again after their lease.
                    tracing::warn!(error = leveret::text::error_chain(&error), "cannot read what is to be published");
                    break;
                }
            };
            let fates = open.into_iter().zip(contents).map(|(message, content)| async move {
                let fate = self.publish_one(&message, content).await;
                (message, fate)
            });
            let fates: Vec<_> = stream::iter(fates.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await;
            open = Vec::new();
            for (message, fate) in fates {
                match self.note_fate(message, fate).await {
                    Noted::Done(message, jobs) => published.push((message, jobs)),
                    Noted::More(message) => open.push(message),
                    Noted::Later => {}
                }
            }
        }
        published
    }

    async fn publish_one(&self, message: &WorkflowMessage, content: WorkflowPublishes) -> Fate {
        match content {
            WorkflowPublishes::Nothing => Fate::Published(message.jobs()),
            WorkflowPublishes::Cancel(id) => match self.publisher.cancel(cancel_id(&id)).await {
                Ok(()) => Fate::Published(1),
                Err(error) => Fate::Later(None, error.to_string()),
            },
            WorkflowPublishes::Jobs(jobs) => self.publish_jobs(message, jobs).await,
        }
    }

    async fn publish_jobs(&self, message: &WorkflowMessage, jobs: Vec<WorkflowPublish>) -> Fate {
        let decided_at = at_unix_ms(message.created_at);
        let publishes = jobs.into_iter().map(|publish| async move {
            let WorkflowPublish { job, queue, end } = publish;
            let queue = queue.or_else(|| self.catalogue.find(job.name()).map(|entry| entry.queue.clone()));
            let Some(queue) = queue else {
                let reason = format!("no worker has announced job {:?}, and the step names no queue", job.name());
                return Err(Fate::Later(Some(format!("of job {}", job.name())), reason));
            };
            let lanes = self.catalogue.has_lanes(job.name(), &queue);
            let job = job.queue(queue);
            let job = if lanes { job.lanes() } else { job };
            self.send(job, decided_at).await.map_err(|error| fate(&error, end))
        });
        let window = usize::from(self.broker.config().publish_window.get());
        let results: Vec<_> = stream::iter(publishes.collect::<Vec<_>>()).buffered(window).collect().await;
        let count = results.len();
        let confirmed = results.iter().take_while(|result| result.is_ok()).count();
        let confirmed = u32::try_from(confirmed).unwrap_or(u32::MAX);
        match results.into_iter().find_map(Result::err) {
            None => Fate::Published(u32::try_from(count).unwrap_or(u32::MAX)),
            Some(Fate::Never(_, end)) => Fate::Never(confirmed, end),
            Some(later) if confirmed == 0 => later,
            // The rest is retried at once, and fails for itself.
            Some(_) => Fate::Published(confirmed),
        }
    }

    /// Publishes a job. Its delay counts from the time at which it was decided, and so does a cancellation.
    async fn send(&self, job: NewJob, decided_at: SystemTime) -> Result<(), PublishError> {
        let job = NewJob::from(job.into_stored(decided_at)?);
        self.publisher.publish(job).into_future().await.map(drop)
    }

    async fn note_fate(&self, message: WorkflowMessage, fate: Fate) -> Noted {
        match fate {
            Fate::Published(jobs) if jobs >= message.jobs() => Noted::Done(message, jobs),
            Fate::Published(jobs) => self.go_on(message, jobs).await,
            Fate::Later(queue, reason) => {
                tracing::debug!(queue, error = reason.as_str(), "a step cannot be published yet");
                let pause = FIRST_PAUSE.saturating_mul(1 << message.attempts.min(10)).min(LONGEST_PAUSE);
                let due_at = now_ms().saturating_add(leveret::time::millis(pause));
                let noted = self.store.workflow_blocked(&message, queue.as_deref(), &reason, due_at).await;
                if let Err(error) = noted {
                    tracing::warn!(error = leveret::text::error_chain(&error), "cannot record that a step waits");
                }
                Noted::Later
            }
            Fate::Never(jobs, end) => self.fail(message, jobs, *end).await,
        }
    }

    /// Ends a step whose job can never be published, and goes on with the jobs after it.
    async fn fail(&self, message: WorkflowMessage, jobs: u32, end: StepEnd) -> Noted {
        if let StepOutcome::Failed { error, .. } = &end.outcome {
            tracing::error!(job_id = %end.of, error, "a step can never be published: it has failed");
        }
        let (workflow, input) = (end.of.workflow.clone(), Box::new(Input::End(end)));
        let applied = Box::pin(self.apply(vec![WorkflowInput::Input { workflow, input }])).await;
        match applied {
            Ok(_) if jobs + 1 >= message.jobs() => Noted::Done(message, jobs + 1),
            Ok(_) => self.go_on(message, jobs + 1).await,
            // The message is taken again after its lease.
            Err(_) => Noted::Later,
        }
    }

    /// Records a page of a group, and returns the rest.
    async fn go_on(&self, message: WorkflowMessage, jobs: u32) -> Noted {
        let page = [(message, jobs)];
        self.note_published(&page).await;
        let [(message, jobs)] = page;
        Noted::More(message.without_first(jobs))
    }
}

enum Noted {
    Done(WorkflowMessage, u32),
    More(WorkflowMessage),
    Later,
}

fn fate(error: &PublishError, mut end: Box<StepEnd>) -> Fate {
    let reason = error.to_string();
    match error {
        PublishError::Unroutable { queue } => Fate::Later(Some(queue.clone()), reason),
        PublishError::Invalid { .. } | PublishError::TooLarge { .. } | PublishError::Encode { .. } => {
            (end.at, end.outcome) = (SystemTime::now(), StepOutcome::failed("permanent", &reason));
            Fate::Never(0, end)
        }
        _ => Fate::Later(None, reason),
    }
}
