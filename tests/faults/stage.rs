//! The stage of one scenario: a queue, its workers and publishers as processes, and the operations on them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use anyhow::ensure;
use fastrand::Rng;
use leveret::Event;
use leveret_harness::{Node, unique};
use leveret_tests::load::{Ledger, Load, What};
use tokio::time::sleep;

use crate::{
    actor::Actor,
    books::Books,
    prober::{self, Aim},
    report::Figures,
};

/// The time limit of everything that must happen.
pub(crate) const LONG: Duration = Duration::from_secs(120);
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// The size of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    /// The least number of jobs.
    pub(crate) jobs: u64,
    /// Jobs each second.
    pub(crate) rate: u64,
    /// Number of rounds of faults.
    pub(crate) rounds: usize,
    pub(crate) heartbeat: Duration,
    /// Longest absence of a broker.
    pub(crate) absence: Duration,
    /// Time limit until every worker must run jobs again.
    pub(crate) recovery: Duration,
    /// Number of times that the soak goes through all faults.
    pub(crate) soaks: usize,
}

impl Size {
    /// For every change: a minute or two of faults.
    pub(crate) fn short() -> Self {
        Self {
            jobs: 800,
            rate: 120,
            rounds: 2,
            heartbeat: Duration::from_secs(2),
            absence: Duration::from_secs(2),
            // On a machine that builds and tests other things meanwhile; the long form holds it to 2 s.
            recovery: Duration::from_secs(5),
            soaks: 1,
        }
    }

    /// For a release: more than a million jobs.
    pub(crate) fn full() -> Self {
        Self {
            jobs: 50_000,
            rate: 2_000,
            rounds: 5,
            heartbeat: Duration::from_secs(10),
            absence: Duration::from_secs(5),
            recovery: Duration::from_secs(2),
            soaks: 2,
        }
    }
}

/// The prefetch of a worker.
pub(crate) const PREFETCH: usize = 40;

/// The processes of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    /// Of the queue, or of each subscription.
    pub(crate) workers: usize,
    /// The number of subscriptions to the load, which is events then.
    pub(crate) subscriptions: usize,
    /// More arguments for workers and publishers.
    pub(crate) work: Vec<String>,
    pub(crate) publish: Vec<String>,
}

impl Default for Cast {
    fn default() -> Self {
        Self { workers: 3, subscriptions: 0, work: Vec::new(), publish: Vec::new() }
    }
}

/// Returns whether all consumers of a worker are connected.
fn is_whole(worker: &Actor) -> bool {
    let sample = worker.watch.last();
    sample.up == sample.wanted
}

/// Arguments in one line.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

pub(crate) struct Stage<'a> {
    pub(crate) node: &'a Node,
    pub(crate) size: Size,
    pub(crate) random: Rng,
    pub(crate) queue: String,
    pub(crate) subscriptions: Vec<String>,
    pub(crate) workers: Vec<Actor>,
    pub(crate) publishers: Vec<Actor>,
    pub(crate) books: Books,
    /// The addresses that the workers and publishers connect to.
    pub(crate) urls: Vec<String>,
    /// The addresses that the suite itself connects to; one of them must always be reachable.
    pub(crate) raw_urls: Vec<String>,
    cast: Cast,
    seed: u64,
    pub(crate) began: Instant,
    pub(crate) figures: Figures,
    /// Processes that have ended.
    pub(crate) gone: Vec<Actor>,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(name: &str, node: &'a Node, seed: u64, size: Size) -> Self {
        let mut hasher = DefaultHasher::new();
        (seed, name).hash(&mut hasher);
        Self {
            node,
            size,
            random: Rng::with_seed(hasher.finish()),
            queue: unique(&name.replace('_', "-")),
            subscriptions: Vec::new(),
            workers: Vec::new(),
            publishers: Vec::new(),
            books: Books::open().expect("a temporary folder"),
            urls: vec![node.url()],
            raw_urls: vec![node.url()],
            cast: Cast::default(),
            seed,
            began: Instant::now(),
            figures: Figures::default(),
            gone: Vec::new(),
        }
    }

    /// Starts the workers and a publisher.
    pub(crate) async fn enter(&mut self, cast: Cast) {
        self.cast = cast;
        self.subscriptions = (1..=self.cast.subscriptions).map(|number| format!("{}-{number}", self.queue)).collect();
        for index in 0..self.cast.workers * self.cast.subscriptions.max(1) {
            let worker = self.new_worker(index).await;
            self.workers.push(worker);
        }
        if self.cast.subscriptions > 0 {
            // An event that is published before has no copy in them.
            let subscribed = |worker: &Actor| worker.watch.last().wanted > 0 && is_whole(worker);
            self.until("all workers subscribe", |stage| stage.workers.iter().all(subscribed))
                .await
                .expect("the subscriptions begin");
        }
        let publisher = self.new_publisher().await;
        self.publishers.push(publisher);
    }

    /// Starts the workers and a publisher, and returns when the load flows.
    pub(crate) async fn begin(&mut self, cast: Cast) -> anyhow::Result<()> {
        self.enter(cast).await;
        self.flowing().await?;
        self.until("the load flows", |stage| stage.books.audit.published() > 50).await
    }

    pub(crate) async fn new_worker(&self, index: usize) -> Actor {
        Actor::start(&self.urls, &self.worker_arguments(index)).await
    }

    pub(crate) fn worker_arguments(&self, index: usize) -> Vec<String> {
        let mut more = words(&format!("--prefetch {PREFETCH}"));
        let subscription = self.subscriptions.get(index / self.cast.workers);
        more.extend(subscription.map(|_| "--subscribe".to_owned()));
        more.extend_from_slice(&self.cast.work);
        let queue = subscription.unwrap_or(&self.queue);
        self.arguments("work", queue, &self.books.effects().display().to_string(), &more)
    }

    /// The queues of the load, each with the end of the ids of its jobs in the audit.
    pub(crate) fn queues(&self) -> Vec<(String, String)> {
        match self.subscriptions.as_slice() {
            [] => vec![(self.queue.clone(), String::new())],
            all => all.iter().map(|name| (name.clone(), format!("@{name}"))).collect(),
        }
    }

    /// A worker at random.
    pub(crate) fn victim(&mut self) -> usize {
        self.random.usize(..self.workers.len())
    }

    /// Starts a worker in place of one that has ended, whose figures still count.
    pub(crate) async fn replace(&mut self, index: usize) {
        let next = self.new_worker(index).await;
        self.gone.push(std::mem::replace(&mut self.workers[index], next));
    }

    async fn new_publisher(&self) -> Actor {
        let mut more = self.cast.publish.clone();
        if !self.subscriptions.is_empty() {
            more.extend(words("--form events"));
            more.extend(self.subscriptions.iter().flat_map(|name| ["--subscription".to_owned(), name.clone()]));
        }
        // It publishes the rest of its jobs after the signal, and waits for the last requests.
        let stopping = self.size.jobs / self.size.rate + 80;
        more.extend(words(&format!("--drain-timeout {stopping}s --grace-period {}s", stopping + 10)));
        more.extend(["--effects".to_owned(), self.books.effects().display().to_string()]);
        for (name, value) in [
            ("--seed", self.seed + self.publishers.len() as u64),
            ("--at-least", self.size.jobs),
            ("--rate", self.size.rate),
        ] {
            more.extend([name.to_owned(), value.to_string()]);
        }
        let log = self.books.receipts().display().to_string();
        Actor::start(&self.urls, &self.arguments("publish", &self.queue, &log, &more)).await
    }

    fn arguments(&self, role: &str, queue: &str, log: &str, more: &[String]) -> Vec<String> {
        let heartbeat = format!("{}s", self.size.heartbeat.as_secs());
        let mut arguments = words(&format!("{role} --queue {queue} --log {log} --heartbeat {heartbeat}"));
        arguments.extend_from_slice(more);
        arguments
    }

    /// Lets the load run for a random time.
    pub(crate) async fn play(&mut self) {
        let longest = if self.size.rounds > 2 { 3_000 } else { 1_000 };
        sleep(Duration::from_millis(self.random.u64(300..longest))).await;
    }

    /// Returns a random duration of an absence of the broker or the network.
    pub(crate) fn absence(&mut self) -> Duration {
        Duration::from_millis(self.random.u64(200..self.size.absence.as_millis() as u64))
    }

    /// Waits until `holds`, and reads the books meanwhile.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + LONG;
        loop {
            self.books.read()?;
            if holds(self) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "waited {LONG:?} in vain until {what}");
            sleep(POLL).await;
        }
    }

    /// Waits until every worker runs jobs published from now on.
    pub(crate) async fn flowing(&mut self) -> anyhow::Result<()> {
        let mut struck = self.struck();
        self.figures.faults -= 1;
        self.recovered(&mut struck).await?;
        self.figures.recoveries.pop();
        Ok(())
    }

    /// Returns the target of this scenario's jobs.
    pub(crate) fn aim(&self) -> Aim {
        let ledger = Ledger::open(&self.books.receipts()).expect("the folder is writable");
        let (to, ledgers) = match self.subscriptions.as_slice() {
            [] => (("", self.queue.clone()), vec![ledger]),
            all => {
                let ledgers = all.iter().map(|name| ledger.of_subscription(name));
                (("leveret.v1.topics", Load::TOPIC.to_owned()), ledgers.collect())
            }
        };
        Aim { urls: self.raw_urls.clone(), to, ledgers, jobs: 0 }
    }

    /// Publishes one job without the framework.
    pub(crate) async fn publish(&self, job: &Load, id: &str) -> anyhow::Result<()> {
        let client = prober::connect(&self.raw_urls).await?;
        prober::publish(&client, &self.aim(), job, id).await
    }

    /// Waits until the publishers have a confirm for a job published since, which counts as a recovery.
    pub(crate) async fn publishing_again(&mut self, since: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + LONG;
        loop {
            let receipts = self.books.read()?;
            let mut own = receipts.iter().filter(|line| self.publishers.iter().any(|actor| actor.id() == line.process));
            if let Some(line) = own.find(|line| line.what == What::Confirmed && line.made_us >= since) {
                let recovery = Duration::from_micros(line.at_us - since);
                self.figures.recoveries.push(recovery);
                ensure!(recovery <= self.size.recovery, "publishing again after {recovery:?}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not publishing again after {LONG:?}");
            sleep(POLL).await;
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// Returns the last lines of every process, for a failure.
    pub(crate) fn transcript(&self) -> String {
        let all = self.workers.iter().chain(&self.publishers).chain(&self.gone);
        let words = all.map(|actor| {
            // Failed attempts belong to the load, and would crowd out the connections' story.
            let lines: Vec<_> = actor.process.lines().into_iter().filter(|line| !line.contains(" job_id=")).collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n        ");
            format!("    process {}, {:?}\n        {last}", actor.id(), actor.watch.last())
        });
        words.collect::<Vec<_>>().join("\n")
    }
}
