//! A broker, a store, and a job that fails until it is fixed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use leveret::{
    Broker, Context, JobError, JobResult, Queue, RetryPolicy, Worker,
    catalogue::Catalogue,
    reader::{QueueReader, Source},
    testing::{self, Running},
};
use leveret_serve::dead::{DeadLetterService, ingest};
use leveret_store::{DeadFilter, DeadLetter, Selection, Store};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A charge of some cents.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Charge {
    pub(crate) cents: i64,
}

impl leveret::Job for Charge {
    const NAME: &'static str = "charge";
    const QUEUE: &'static str = "money";

    fn schema() -> Option<serde_json::Value> {
        Some(serde_json::json!({
            "type": "object",
            "required": ["cents"],
            "properties": { "cents": { "type": "integer" } },
        }))
    }
}

/// State that the handler shares with the test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) fixed: Arc<AtomicBool>,
    pub(crate) done: Arc<Mutex<Vec<(String, i64)>>>,
}

async fn charge(job: Charge, ctx: Context<Ledger>) -> JobResult {
    if !ctx.state().fixed.load(Ordering::SeqCst) {
        return Err(JobError::permanent(format!("account {} is closed", job.cents)));
    }
    ctx.state().done.lock().unwrap().push((ctx.job_id().to_string(), job.cents));
    Ok(())
}

pub(crate) struct Stage {
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) catalogue: Catalogue,
    pub(crate) ledger: Ledger,
    _worker: Running,
    _folder: TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("leveret.db").display().to_string()).await.unwrap();
        let (broker, ledger) = (Broker::memory(), Ledger::default());
        let catalogue = Catalogue::follow(&broker);
        let queue =
            Queue::new("money").lanes([6, 3, 1]).retry(RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(2));
        let worker = Worker::new(ledger.clone()).queue(queue).handle(charge);
        let worker = testing::start(worker, &broker).await.unwrap();
        catalogue.wait_for("charge").await;
        Self { broker, store, catalogue, ledger, _worker: worker, _folder: folder }
    }

    pub(crate) fn dead(&self) -> DeadLetterService {
        DeadLetterService::new(&self.broker, &self.store, &self.catalogue)
    }

    pub(crate) fn fix(&self) {
        self.ledger.fixed.store(true, Ordering::SeqCst);
    }

    /// Publishes jobs that are dead-lettered, one for each amount. Their ids are `c<cents>`.
    pub(crate) async fn kill(&self, cents: impl IntoIterator<Item = i64>) {
        for cents in cents {
            self.broker.publisher().publish(&Charge { cents }).id(format!("c{cents}")).await.unwrap();
        }
        testing::idle(&self.broker).await;
    }

    /// The number of jobs that were published to this queue, including replays.
    pub(crate) fn published(&self, queue: &str) -> usize {
        let text = self.broker.metrics_text();
        let line = format!(r#"leveret_jobs_published_total{{job="charge",outcome="confirmed",queue="{queue}"}} "#);
        text.lines().find_map(|counted| counted.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    /// Publishes jobs as `kill` does, and then ingests the dead letters.
    pub(crate) async fn bury(&self, cents: impl IntoIterator<Item = i64>) -> Vec<DeadLetter> {
        self.kill(cents).await;
        let dead = testing::dead_letters(&self.broker, "money").await.unwrap().len();
        let before = self.store.count_dead(&any()).await.unwrap() as usize;
        let ingest = self.ingest();
        self.until_dead(before + dead).await;
        ingest.stop().await;
        self.letters().await
    }

    pub(crate) async fn until_dead(&self, count: usize) {
        leveret_harness::eventually_eq(
            "dead letters are ingested",
            Duration::from_secs(20),
            count as u64,
            async || self.store.count_dead(&any()).await.unwrap(),
        )
        .await;
    }

    pub(crate) fn ingest(&self) -> Ingest {
        let stop = CancellationToken::new();
        let (broker, store, catalogue) = (self.broker.clone(), self.store.clone(), self.catalogue.clone());
        let task = tokio::spawn(ingest::run((broker, store, catalogue), Vec::new(), no_steps(), stop.clone()));
        Ingest { stop, task }
    }

    /// The dead letters in the store, the oldest first.
    pub(crate) async fn letters(&self) -> Vec<DeadLetter> {
        let mut letters = self.store.dead_letters(&DeadFilter::default(), None, 1000).await.unwrap().items;
        letters.reverse();
        letters
    }

    /// The charged amounts in ascending order, when all jobs have ended.
    pub(crate) async fn charged(&self) -> Vec<i64> {
        testing::idle(&self.broker).await;
        let mut cents: Vec<_> = self.ledger.done.lock().unwrap().iter().map(|(_, cents)| *cents).collect();
        cents.sort_unstable();
        cents
    }

    /// Ingests status updates as a server does.
    pub(crate) fn track(&self) -> JoinHandle<()> {
        let (broker, store) = (self.broker.clone(), self.store.clone());
        tokio::spawn(async move {
            let mut feed = QueueReader::new(&broker, Source::StatusUpdates, 100).unwrap();
            loop {
                let batch = feed.next(100).await;
                let events: Vec<_> =
                    batch.messages().iter().filter_map(leveret::reader::ReadMessage::status_update).collect();
                store.record(&events).await.unwrap();
                feed.ack(batch);
            }
        })
    }
}

/// For dead letters of which none is a step of a workflow.
pub(crate) fn no_steps() -> ingest::ReportEnds {
    Arc::new(|ends| panic!("no workflow runs: {ends:?}"))
}

/// A running ingest task.
pub(crate) struct Ingest {
    stop: CancellationToken,
    task: JoinHandle<Result<(), leveret::Error>>,
}

impl Ingest {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Dead letters in any state.
pub(crate) fn any() -> DeadFilter {
    DeadFilter { states: Vec::new(), ..DeadFilter::default() }
}

pub(crate) fn all() -> Selection {
    Selection::Filter(DeadFilter::default())
}
