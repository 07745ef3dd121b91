//! The fate of every job of this run, written down as it happens by a middleware of the workers.
//!
//! A middleware sees attempts, not verdicts: that a job was given up is read from the broker's dead letters.

use std::{collections::HashMap, sync::Arc};

use leveret::{Broker, Context, JobResult, Middleware, Next, testing};
use leveret_store::{DeadFilter, DeadLetter, Store};
use tokio::sync::watch;

/// The ledger of one run. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    book: Arc<watch::Sender<Book>>,
}

/// All jobs of the run, in the order in which they were entered.
#[derive(Debug, Default)]
pub struct Book {
    entries: Vec<Entry>,
    by_id: HashMap<String, usize>,
    /// Jobs that others enqueue when they are done, and that nobody has heard of yet.
    expected: HashMap<String, Entry>,
}

/// One job.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The job's name.
    pub job: &'static str,
    /// Its queue.
    pub queue: &'static str,
    /// What a person calls it.
    pub label: String,
    /// The highest attempt that was begun; 0 while the job waits for its first.
    pub attempt: u32,
    /// How often it was published, under one id.
    pub copies: usize,
    /// How many of the copies were found to be done before.
    pub duplicates: usize,
    /// Why the latest attempt that failed did so.
    pub error: Option<String>,
    /// What became of it.
    pub fate: Fate,
    /// The id of the job that it enqueues when it is done.
    follow_up: Option<String>,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits, runs, or waits for its next attempt.
    Open,
    /// A handler has done it.
    Succeeded,
    /// It lies in the dead letters.
    Dead {
        /// The class of the reason.
        kind: String,
        /// The reason in words.
        reason: String,
    },
}

impl Ledger {
    /// Enters a job under its id, before so many copies of it are published.
    pub fn enter(&self, id: String, route: (&'static str, &'static str), label: &str, copies: usize) {
        self.book.send_modify(|book| book.enter(id, Entry::new(route, label, copies)));
    }

    /// Names the job that another one, which was entered, enqueues when it is done. It is entered when it is first heard
    /// of: if the other one fails, it never is.
    pub fn expect(&self, of: &str, id: String, route: (&'static str, &'static str), label: &str) {
        self.book.send_modify(|book| {
            book.change(of, |entry| entry.follow_up = Some(id.clone()));
            book.expected.insert(id, Entry::new(route, label, 1));
        });
    }

    /// The middleware that writes attempts down; jobs of others pass it unrecorded.
    pub fn recorder<S: Send + Sync + 'static>(&self) -> impl Middleware<S> + use<S> {
        Recorder { ledger: self.clone() }
    }

    /// Looks at the book.
    pub fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.borrow())
    }

    /// Waits until the book satisfies the condition.
    pub async fn wait_for(&self, condition: impl FnMut(&Book) -> bool) {
        let mut seen = self.book.subscribe();
        // It fails when the sender is gone, which `self` holds.
        drop(seen.wait_for(condition).await);
    }

    /// Looks into the dead letters of every queue that has jobs begun and not done. They are in the store, if there is a
    /// server that takes them in, and else in the broker.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub async fn read_dead_letters(&self, broker: &Broker, store: Option<&Store>) -> anyhow::Result<()> {
        for queue in self.read(Book::queues_in_doubt) {
            let letters = match store {
                Some(store) => kept(store, queue).await?,
                None => waiting(broker, queue).await?,
            };
            self.book.send_modify(|book| {
                for (id, fate) in letters {
                    book.change(&id, |entry| entry.fate = fate);
                }
            });
        }
        Ok(())
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Entry)) {
        self.book.send_if_modified(|book| book.change(id, change));
    }
}

async fn kept(store: &Store, queue: &str) -> anyhow::Result<Vec<(String, Fate)>> {
    let filter = DeadFilter { queue: Some(queue.to_owned()), ..DeadFilter::default() };
    let page = store.dead_letters(&filter, None, 1_000).await?;
    let fate = |letter: DeadLetter| Some((letter.job_id?, Fate::Dead { kind: letter.kind, reason: letter.error }));
    Ok(page.items.into_iter().filter_map(fate).collect())
}

async fn waiting(broker: &Broker, queue: &str) -> anyhow::Result<Vec<(String, Fate)>> {
    let letters = testing::dead_letters(broker, queue).await.map_err(anyhow::Error::msg)?;
    let fate = |letter: testing::DeadLetter| {
        let kind = letter.kind.map_or("unknown", leveret::ErrorKind::as_str).to_owned();
        Some((letter.id?, Fate::Dead { kind, reason: letter.reason }))
    };
    Ok(letters.into_iter().filter_map(fate).collect())
}

impl Book {
    /// All jobs.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many jobs are as the condition says.
    pub fn count(&self, condition: impl Fn(&Entry) -> bool) -> usize {
        self.entries.iter().filter(|entry| condition(entry)).count()
    }

    fn enter(&mut self, id: String, entry: Entry) {
        self.by_id.insert(id, self.entries.len());
        self.entries.push(entry);
    }

    fn queues_in_doubt(&self) -> Vec<&'static str> {
        let in_doubt = self.entries.iter().filter(|entry| entry.is_open() && entry.attempt > 0);
        let mut queues: Vec<_> = in_doubt.map(|entry| entry.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    fn succeed(&mut self, id: &str) {
        let mut follow_up = None;
        self.change(id, |entry| {
            entry.fate = Fate::Succeeded;
            follow_up.clone_from(&entry.follow_up);
        });
        // In one step, so that nobody finds all jobs decided in between.
        if let Some(follow_up) = follow_up {
            self.change(&follow_up, |_| {});
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Entry)) -> bool {
        if let Some(entry) = self.expected.remove(id) {
            self.enter(id.to_owned(), entry);
        }
        let entry = self.by_id.get(id).map(|&index| &mut self.entries[index]);
        entry.map(change).is_some()
    }
}

impl Entry {
    fn new((job, queue): (&'static str, &'static str), label: &str, copies: usize) -> Self {
        let (label, error, fate) = (label.to_owned(), None, Fate::Open);
        Self { job, queue, label, attempt: 0, copies, duplicates: 0, error, fate, follow_up: None }
    }

    /// Whether its fate is not decided yet, or a copy of it still under way.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.fate == Fate::Open || (self.is_done() && self.duplicates + 1 < self.copies)
    }

    /// Whether it is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.fate == Fate::Succeeded
    }

    /// Whether it was given up.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.fate, Fate::Dead { .. })
    }

    /// Whether it needed more than one attempt.
    #[must_use]
    pub fn is_retried(&self) -> bool {
        self.attempt > 1
    }
}

struct Recorder {
    ledger: Ledger,
}

impl<S: Send + Sync + 'static> Middleware<S> for Recorder {
    async fn handle(&self, ctx: Context<S>, next: Next<S>) -> JobResult {
        let (id, attempt) = (ctx.job_id().to_owned(), ctx.attempt());
        self.ledger.change(&id, |entry| entry.attempt = entry.attempt.max(attempt));
        let result = next.run(ctx).await;
        match &result {
            Ok(()) => self.ledger.book.send_modify(|book| book.succeed(&id)),
            Err(error) if error.is_duplicate() => self.ledger.change(&id, |entry| entry.duplicates += 1),
            Err(error) => self.ledger.change(&id, |entry| entry.error = Some(error.to_string())),
        }
        result
    }
}
