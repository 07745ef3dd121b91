//! Records the outcome of every job of a run, with a middleware of the workers.
//!
//! A middleware sees attempts and not the decision after them, so dead letters are read from the store of the server.

use std::{collections::HashMap, sync::Arc};

use leveret::{Context, JobResult, Middleware, Next};
use leveret_store::{DeadFilter, DeadLetter, Store};
use tokio::sync::watch;

/// The ledger of one run. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    records: Arc<watch::Sender<JobRecords>>,
}

/// All jobs of the run, in the order of their registration.
#[derive(Debug, Default)]
pub struct JobRecords {
    records: Vec<JobRecord>,
    by_key: HashMap<String, usize>,
    /// Steps of workflows, and copies of events that jobs emit at their end, before their first attempt.
    expected: HashMap<String, JobRecord>,
}

/// One job, or one copy of an event.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// Name of the job, or of the copy.
    pub job: &'static str,
    /// Queue of the job, or subscription of the copy.
    pub queue: &'static str,
    /// Label for people.
    pub label: String,
    /// Number of the last started attempt; 0 before the first one.
    pub attempt: u32,
    /// Number of publishes with the same id.
    pub copies: usize,
    /// Number of copies that ended as duplicates.
    pub duplicates: usize,
    /// Error of the last failed attempt.
    pub error: Option<String>,
    /// Outcome of the job.
    pub outcome: JobOutcome,
    /// Keys of the copies of the event that this job emits at its end.
    follow_ups: Vec<String>,
}

/// Outcome of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// The job waits or runs.
    Open,
    /// A handler succeeded.
    Succeeded,
    /// The job is a dead letter.
    Dead {
        /// Kind of the error.
        kind: String,
        /// Text of the error.
        reason: String,
    },
}

impl Ledger {
    /// Registers a job by its id, before its copies are published.
    pub fn enter(&self, id: &str, route: (&'static str, &'static str), label: &str, copies: usize) {
        self.records.send_modify(|records| records.enter(key(id, route.1), JobRecord::new(route, label, copies)));
    }

    /// Registers a job that counts from its first attempt: a step of a workflow, or a copy of the event that the job `of` of
    /// this queue emits at its end. A copy counts from the end of that job.
    pub fn expect(&self, of: Option<(&str, &str)>, id: &str, route: (&'static str, &'static str), label: &str) {
        let (of, expected) = (of.map(|(id, queue)| key(id, queue)), key(id, route.1));
        self.records.send_modify(|records| {
            if let Some(record) = of.and_then(|of| records.find(&of)) {
                record.follow_ups.push(expected.clone());
            }
            records.expected.insert(expected, JobRecord::new(route, label, 1));
        });
    }

    /// Returns the middleware that records attempts. It ignores jobs that are not registered.
    pub fn recorder<S: Send + Sync + 'static>(&self) -> impl Middleware<S> + use<S> {
        LedgerMiddleware { ledger: self.clone() }
    }

    /// Reads the records.
    pub fn read<T>(&self, look: impl FnOnce(&JobRecords) -> T) -> T {
        look(&self.records.borrow())
    }

    /// Waits until the records satisfy the condition.
    pub async fn wait_for(&self, condition: impl FnMut(&JobRecords) -> bool) {
        let mut seen = self.records.subscribe();
        // An error means that the sender is dropped, and `self` has the sender.
        drop(seen.wait_for(condition).await);
    }

    /// Reads the dead letters of every queue with started jobs from the store of the server.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub async fn read_dead_letters(&self, store: &Store) -> anyhow::Result<()> {
        for queue in self.read(JobRecords::queues_with_open_jobs) {
            let letters = dead_letters(store, queue).await?;
            self.records.send_modify(|records| {
                for (id, outcome) in letters {
                    records.change(&key(&id, queue), |record| record.outcome = outcome);
                }
            });
        }
        Ok(())
    }

    fn change(&self, key: &str, change: impl FnOnce(&mut JobRecord)) {
        self.records.send_if_modified(|records| records.change(key, change));
    }
}

/// The key of a job, and of an event in one of its subscriptions, which all know it by one id.
fn key(id: &str, queue: &str) -> String {
    format!("{id}@{queue}")
}

async fn dead_letters(store: &Store, queue: &str) -> anyhow::Result<Vec<(String, JobOutcome)>> {
    let filter = DeadFilter { queue: Some(queue.to_owned()), ..DeadFilter::default() };
    let page = store.dead_letters(&filter, None, 1_000).await?;
    let outcome =
        |letter: DeadLetter| Some((letter.job_id?, JobOutcome::Dead { kind: letter.kind, reason: letter.error }));
    Ok(page.items.into_iter().filter_map(outcome).collect())
}

impl JobRecords {
    /// Returns all jobs.
    #[must_use]
    pub fn all(&self) -> &[JobRecord] {
        &self.records
    }

    /// Returns the number of jobs that satisfy the condition.
    pub fn count(&self, condition: impl Fn(&JobRecord) -> bool) -> usize {
        self.records.iter().filter(|record| condition(record)).count()
    }

    fn enter(&mut self, key: String, record: JobRecord) {
        self.by_key.insert(key, self.records.len());
        self.records.push(record);
    }

    fn queues_with_open_jobs(&self) -> Vec<&'static str> {
        let open = self.records.iter().filter(|record| record.is_open() && record.attempt > 0);
        let mut queues: Vec<_> = open.map(|record| record.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    fn succeed(&mut self, key: &str) {
        let mut follow_ups = Vec::new();
        self.change(key, |record| {
            record.outcome = JobOutcome::Succeeded;
            follow_ups.clone_from(&record.follow_ups);
        });
        // In the same change, so that no reader finds all jobs finished in between.
        for follow_up in follow_ups {
            self.change(&follow_up, |_| {});
        }
    }

    /// Finds a job that counts, or is expected.
    fn find(&mut self, key: &str) -> Option<&mut JobRecord> {
        match self.by_key.get(key) {
            Some(&index) => Some(&mut self.records[index]),
            None => self.expected.get_mut(key),
        }
    }

    fn change(&mut self, key: &str, change: impl FnOnce(&mut JobRecord)) -> bool {
        if let Some(record) = self.expected.remove(key) {
            self.enter(key.to_owned(), record);
        }
        let record = self.by_key.get(key).map(|&index| &mut self.records[index]);
        record.map(change).is_some()
    }
}

impl JobRecord {
    fn new((job, queue): (&'static str, &'static str), label: &str, copies: usize) -> Self {
        let (label, error, outcome) = (label.to_owned(), None, JobOutcome::Open);
        Self { job, queue, label, attempt: 0, copies, duplicates: 0, error, outcome, follow_ups: Vec::new() }
    }

    /// Returns whether the job or a copy of it is not finished.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.outcome == JobOutcome::Open || (self.is_done() && self.duplicates + 1 < self.copies)
    }

    /// Returns whether the job succeeded.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.outcome == JobOutcome::Succeeded
    }

    /// Returns whether the job is a dead letter.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.outcome, JobOutcome::Dead { .. })
    }

    /// Returns whether the job had more than one attempt.
    #[must_use]
    pub fn is_retried(&self) -> bool {
        self.attempt > 1
    }
}

struct LedgerMiddleware {
    ledger: Ledger,
}

impl<S: Send + Sync + 'static> Middleware<S> for LedgerMiddleware {
    async fn handle(&self, ctx: Context<S>, next: Next<S>) -> JobResult {
        let (key, attempt) = (key(ctx.job_id(), ctx.queue()), ctx.attempt());
        self.ledger.change(&key, |record| record.attempt = record.attempt.max(attempt));
        let result = next.run(ctx).await;
        match &result {
            Ok(()) => self.ledger.records.send_modify(|records| records.succeed(&key)),
            Err(error) if error.is_duplicate() => self.ledger.change(&key, |record| record.duplicates += 1),
            Err(error) => self.ledger.change(&key, |record| record.error = Some(error.to_string())),
        }
        result
    }
}
