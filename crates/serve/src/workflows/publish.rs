//! Publishes the messages of the store's outbox: jobs of steps, and cancellations. A message is deleted after its
//! confirm.

use std::{
    collections::BTreeSet,
    future::IntoFuture,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use leveret::{
    NewJob, PublishError,
    time::{at_unix_ms, millis, now_ms},
    workflow::{StepEnd, StepOutcome, cancel_id, engine::Input},
};
use leveret_store::{BlockedMessage, WorkflowInput, WorkflowMessage, WorkflowPublish, WorkflowPublishes};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::services::Services;

/// The jobs of one message that are in memory: of a group, the next page.
const PAGE: u32 = 500;
/// The most messages in memory that wait for the publishing task. At this limit the callers wait.
pub(super) const WAITING: usize = 10_000;
/// Longest wait of a caller at that limit. It ends because the publishing task itself may be the caller.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(5);
/// The messages that are published together.
const AT_ONCE: usize = 200;
/// Confirmed messages are deleted together: after this pause without another message, at the latest after
/// [`FLUSHED_WITHIN`].
const FLUSH_AFTER: Duration = Duration::from_millis(100);
const FLUSHED_WITHIN: Duration = Duration::from_secs(1);
const MOST_UNFLUSHED: usize = 1_000;
/// First and longest pause before a failed publish is retried.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The pause of a message whose queue does not exist, while another message tries that queue.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// The longest wait for a confirm. Without one the job is published again later.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);
/// A message with less than this left of its lease is leased again before its publish. The time exceeds
/// [`CONFIRMED_WITHIN`], because the clocks of servers differ.
const LEASED_FOR: Duration = Duration::from_secs(14);

/// The fate of a message.
enum Fate {
    /// This many of its jobs are published.
    Published(u32),
    /// This many of its jobs are published, and no other was sent.
    PublishedPage(u32),
    /// The message is published later: the queue, if it does not exist, and the reason.
    Later(Option<String>, String),
    /// Of the message's first jobs, this many are published, and the others can never be published: their ends.
    Ended(u32, Vec<StepEnd>),
}

impl Services {
    /// Lets messages be published: by the task of the server process if it runs here, or now.
    pub(super) async fn hand_over(&self, messages: Vec<WorkflowMessage>) {
        if messages.is_empty() {
            return;
        }
        let Some(sender) = self.workflow_messages.sender() else {
            // A program that has not read the catalogue knows no queues and no lanes: a server publishes.
            if self.prepared().await.is_err() {
                return;
            }
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
            let contents = async {
                let leased = self.still_leased(open).await?;
                let contents = self.store.workflow_publishes(&leased, PAGE).await?;
                Ok::<_, leveret_store::Error>(leased.into_iter().zip(contents))
            };
            let contents = match contents.await {
                Ok(contents) => contents,
                Err(error) => {
                    // The messages are taken again after their lease.
                    let error = leveret::text::error_chain(&error);
                    tracing::warn!(error, "cannot read the messages of workflows to publish, retrying");
                    break;
                }
            };
            let fates = contents.map(|(message, content)| async move {
                let fate = self.publish_one(&message, content).await;
                (message, fate)
            });
            let fates: Vec<_> = stream::iter(fates.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await;
            open = self.note_fates(fates, &mut published).await;
        }
        published
    }

    /// Returns the messages that no other server can have taken: after a long wait here, a lease may be over.
    async fn still_leased(&self, messages: Vec<WorkflowMessage>) -> Result<Vec<WorkflowMessage>, leveret_store::Error> {
        let now = now_ms();
        let enough = now.saturating_add(millis(LEASED_FOR));
        let (mut leased, old): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| message.leased_until >= enough);
        if !old.is_empty() {
            leased.extend(self.store.renew_workflow_messages(old, now).await?);
        }
        Ok(leased)
    }

    async fn publish_one(&self, message: &WorkflowMessage, content: WorkflowPublishes) -> Fate {
        match content {
            WorkflowPublishes::Nothing => Fate::Published(message.jobs()),
            WorkflowPublishes::Ends(ends) => Fate::Ended(0, ends),
            WorkflowPublishes::Unreadable(reason) => {
                tracing::error!(error = reason, "cannot read a step that is to be published, retrying");
                Fate::Later(None, reason)
            }
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
            let WorkflowPublish { job, queue, is_cancelled, end } = publish;
            let queue = queue.or_else(|| self.catalogue.find(job.name()).map(|entry| entry.queue.clone()));
            let Some(queue) = queue else {
                if is_cancelled {
                    return Err(Fate::Ended(0, vec![*end]));
                }
                let reason = format!("no worker has announced job {:?}, and the step names no queue", job.name());
                return Err(Fate::Later(Some(format!("of job {}", job.name())), reason));
            };
            let lanes = self.catalogue.has_lanes(job.name(), &queue);
            let job = job.queue(queue);
            let job = if lanes { job.lanes() } else { job };
            match timeout(CONFIRMED_WITHIN, self.send(job, decided_at)).await {
                Ok(sent) => sent.map_err(|error| fate(&error, *end, is_cancelled)),
                Err(_) => Err(Fate::Later(None, "the broker does not confirm it".to_owned())),
            }
        });
        let window = usize::from(self.broker.config().publish_window.get());
        let results: Vec<_> = stream::iter(publishes.collect::<Vec<_>>()).buffered(window).collect().await;
        together(results)
    }

    /// Publishes a job. Its delay counts from the time at which it was decided, and so does a cancellation.
    async fn send(&self, job: NewJob, decided_at: SystemTime) -> Result<(), PublishError> {
        let job = NewJob::from(job.into_stored(decided_at)?);
        self.publisher.publish(job).into_future().await.map(drop)
    }

    /// Records the fates of messages. Returns the messages that still have jobs to publish.
    async fn note_fates(
        &self,
        fates: Vec<(WorkflowMessage, Fate)>,
        published: &mut Vec<(WorkflowMessage, u32)>,
    ) -> Vec<WorkflowMessage> {
        let (mut open, mut pages, mut blocked) = (Vec::new(), Vec::new(), Vec::new());
        for (message, fate) in fates {
            let is_whole = matches!(fate, Fate::PublishedPage(_));
            let jobs = match fate {
                Fate::Published(jobs) | Fate::PublishedPage(jobs) => jobs,
                Fate::Ended(jobs, ends) => match self.end(&ends).await {
                    Ok(()) => jobs + u32::try_from(ends.len()).unwrap_or(u32::MAX),
                    // The message is taken again after its lease.
                    Err(_) => continue,
                },
                Fate::Later(queue, error) => {
                    blocked.push(BlockedMessage { message, queue, error, due_at: 0 });
                    continue;
                }
            };
            if jobs >= message.jobs() {
                published.push((message, jobs));
            } else if jobs == 0 {
                open.push(message);
            } else {
                // Jobs without a confirm may have been published nevertheless.
                let rest = message.clone().without_first(jobs);
                open.push(if is_whole { rest } else { rest.uncertain() });
                pages.push((message, jobs));
            }
        }
        self.note_published(&pages).await;
        self.note_blocked(blocked).await;
        open
    }

    /// Lets messages be published later. Of the messages that wait for one queue, only the first is retried often.
    async fn note_blocked(&self, mut blocked: Vec<BlockedMessage>) {
        let (mut tried, now) = (BTreeSet::new(), now_ms());
        for BlockedMessage { message, queue, error, due_at } in &mut blocked {
            tracing::debug!(queue, error, "a step cannot be published yet");
            let is_first = queue.as_ref().is_none_or(|queue| tried.insert(queue.clone()));
            let pause = FIRST_PAUSE.saturating_mul(1 << message.attempts.min(10)).min(LONGEST_PAUSE);
            *due_at = now.saturating_add(millis(if is_first { pause } else { LONG_PAUSE }));
        }
        if let Err(error) = self.store.workflows_blocked(&blocked).await {
            tracing::warn!(error = leveret::text::error_chain(&error), "cannot record that steps wait");
        }
    }

    /// Ends jobs of one workflow that are not published.
    async fn end(&self, ends: &[StepEnd]) -> Result<(), leveret_store::Error> {
        let inputs = ends.iter().map(|end| {
            if let StepOutcome::Failed { error, .. } = &end.outcome {
                tracing::error!(
                    job_id = %end.of,
                    error,
                    "cannot publish a step, and a retry cannot succeed: the step has failed"
                );
            }
            let end = StepEnd { at: SystemTime::now(), ..end.clone() };
            WorkflowInput::Input { workflow: end.of.workflow.clone(), input: Box::new(Input::End(end)) }
        });
        Box::pin(self.apply(inputs.collect())).await.map(drop)
    }
}

/// Combines the fates of a page's jobs, up to the first job that is published later.
fn together(results: Vec<Result<(), Fate>>) -> Fate {
    let is_blocked = |result: &Result<(), Fate>| matches!(result, Err(Fate::Later(Some(_), _)));
    let is_unpublished = results.iter().all(is_blocked);
    let (sent, mut confirmed, mut ended) = (u32::try_from(results.len()).unwrap_or(u32::MAX), 0, Vec::new());
    for result in results {
        match result {
            Ok(()) => confirmed += 1,
            Err(Fate::Ended(_, ends)) => ended.extend(ends),
            Err(Fate::Later(queue, reason)) if confirmed == 0 && ended.is_empty() => {
                // A fate with a queue means that no job was published, but a job behind this one may have been.
                return Fate::Later(queue.filter(|_| is_unpublished), reason);
            }
            // The remaining jobs are retried at once, and get fates of their own.
            Err(_) => break,
        }
    }
    match ended.is_empty() {
        true if confirmed == sent => Fate::PublishedPage(confirmed),
        true => Fate::Published(confirmed),
        false => Fate::Ended(confirmed, ended),
    }
}

fn fate(error: &PublishError, mut end: StepEnd, is_cancelled: bool) -> Fate {
    let reason = error.to_string();
    match error {
        PublishError::Unroutable { .. } if is_cancelled => Fate::Ended(0, vec![end]),
        PublishError::Unroutable { queue } => Fate::Later(Some(queue.clone()), reason),
        PublishError::Invalid { .. } | PublishError::TooLarge { .. } | PublishError::Encode { .. } => {
            end.outcome = StepOutcome::failed("permanent", &reason);
            Fate::Ended(0, vec![end])
        }
        _ => Fate::Later(None, reason),
    }
}

#[cfg(test)]
mod tests {
    use leveret::workflow::StepRef;

    use super::*;

    fn ended(member: u32) -> Result<(), Fate> {
        let (of, at, outcome) = (StepRef::member("w", "s", member), SystemTime::UNIX_EPOCH, StepOutcome::Cancelled);
        let (origin, started_at, replayed_at, worker) = (String::new(), None, None, None);
        Err(Fate::Ended(0, vec![StepEnd { of, origin, attempt: 0, started_at, at, replayed_at, worker, outcome }]))
    }

    fn later(queue: Option<&str>) -> Result<(), Fate> {
        Err(Fate::Later(queue.map(str::to_owned), "no".to_owned()))
    }

    /// The published and the ended jobs, or the queue that all wait for.
    fn fate_of(results: Vec<Result<(), Fate>>) -> Result<(u32, usize), Option<String>> {
        match together(results) {
            Fate::Published(jobs) | Fate::PublishedPage(jobs) => Ok((jobs, 0)),
            Fate::Ended(jobs, ends) => Ok((jobs, ends.len())),
            Fate::Later(queue, _) => Err(queue),
        }
    }

    #[test]
    fn no_job_of_a_page_is_published_twice_because_another_one_never_can_be() {
        assert_eq!(fate_of(vec![Ok(()), ended(1), Ok(()), ended(3), Ok(())]), Ok((3, 2)));
        assert_eq!(fate_of(vec![Ok(()), ended(1), later(None), Ok(())]), Ok((1, 1)), "the rest is retried");
        assert_eq!(fate_of(vec![Ok(()), later(Some("q")), Ok(())]), Ok((1, 0)));
    }

    #[test]
    fn a_page_counts_as_unpublished_only_if_the_queue_existed_for_none_of_its_jobs() {
        assert_eq!(fate_of(vec![later(Some("q")), later(Some("q"))]), Err(Some("q".to_owned())));
        assert_eq!(fate_of(vec![later(Some("q")), Ok(())]), Err(None), "the queue was declared in between");
        assert_eq!(fate_of(vec![later(Some("q")), later(None)]), Err(None), "that one may be published");
    }
}
