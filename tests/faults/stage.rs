//! One scenario's stage: a queue, its workers and publishers as processes, the faults, and the audit at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use fastrand::Rng;
use leveret_harness::{Node, RawClient, lapin::BasicProperties, lapin::Confirmation, unique};
use leveret_tests::load::{End, Ledger, Load, What, job_id, now_us};
use tokio::time::sleep;

use crate::{actor::Actor, books::Books, report::Figures, watch::Sample};

/// How long anything may take that must happen.
pub(crate) const LONG: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);
/// What a process logs in its busiest second, at most.
const LINES_A_SECOND: usize = 25;
/// How much a worker's memory may grow from its first seconds of work on, whatever happens to it.
const GROWTH_KIB: u64 = 48 * 1024;

/// How much is done in a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    /// At least so many jobs.
    pub(crate) jobs: u64,
    /// Jobs each second.
    pub(crate) rate: u64,
    /// How often a fault comes.
    pub(crate) rounds: usize,
    pub(crate) heartbeat: Duration,
    /// How long a broker stays away, at most.
    pub(crate) absence: Duration,
    /// How soon every worker must run jobs again.
    pub(crate) recovery: Duration,
    /// How often the soak goes through all faults.
    pub(crate) soaks: usize,
}

impl Size {
    /// For every change: a minute or two of faults.
    pub(crate) fn short() -> Self {
        Self {
            jobs: 1_200,
            rate: 300,
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
            soaks: 6,
        }
    }
}

/// Who plays in a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    pub(crate) workers: usize,
    /// More arguments for workers and publishers.
    pub(crate) work: Vec<String>,
    pub(crate) publish: Vec<String>,
}

impl Default for Cast {
    fn default() -> Self {
        Self { workers: 3, work: Vec::new(), publish: Vec::new() }
    }
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
    pub(crate) workers: Vec<Actor>,
    pub(crate) publishers: Vec<Actor>,
    pub(crate) books: Books,
    /// Where the workers and publishers connect.
    pub(crate) urls: Vec<String>,
    /// Where the suite itself connects, which must always be possible at one of them.
    pub(crate) raw_urls: Vec<String>,
    cast: Cast,
    seed: u64,
    began: Instant,
    figures: Figures,
    probes: u64,
    /// Processes that have left the stage.
    gone: Vec<Actor>,
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
            workers: Vec::new(),
            publishers: Vec::new(),
            books: Books::open().expect("a temporary folder"),
            urls: vec![node.url()],
            raw_urls: vec![node.url()],
            cast: Cast::default(),
            seed,
            began: Instant::now(),
            figures: Figures::default(),
            probes: 0,
            gone: Vec::new(),
        }
    }

    /// Starts the workers and a publisher.
    pub(crate) async fn enter(&mut self, cast: Cast) {
        self.cast = cast;
        for _ in 0..self.cast.workers {
            let worker = self.new_worker().await;
            self.workers.push(worker);
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

    async fn new_worker(&self) -> Actor {
        Actor::start(&self.urls, &self.worker_arguments()).await
    }

    pub(crate) fn worker_arguments(&self) -> Vec<String> {
        self.arguments("work", &self.books.effects().display().to_string(), &self.cast.work)
    }

    /// A client past the framework.
    pub(crate) async fn raw(&self) -> anyhow::Result<RawClient> {
        let mut refusal = anyhow::anyhow!("no address");
        for url in &self.raw_urls {
            match RawClient::connect(url).await {
                Ok(client) => return Ok(client),
                Err(error) => refusal = error.into(),
            }
        }
        Err(refusal)
    }

    /// A worker at random.
    pub(crate) fn victim(&mut self) -> usize {
        self.random.usize(..self.workers.len())
    }

    /// Starts a worker in the place of one that has ended, whose figures still count.
    pub(crate) async fn replace(&mut self, index: usize) {
        let next = self.new_worker().await;
        self.gone.push(std::mem::replace(&mut self.workers[index], next));
    }

    async fn new_publisher(&self) -> Actor {
        let mut more = self.cast.publish.clone();
        for (name, value) in [
            ("--seed", self.seed + self.publishers.len() as u64),
            ("--at-least", self.size.jobs),
            ("--rate", self.size.rate),
        ] {
            more.extend([name.to_owned(), value.to_string()]);
        }
        let log = self.books.receipts().display().to_string();
        Actor::start(&self.urls, &self.arguments("publish", &log, &more)).await
    }

    fn arguments(&self, role: &str, log: &str, more: &[String]) -> Vec<String> {
        let heartbeat = format!("{}s", self.size.heartbeat.as_secs());
        let mut arguments = words(&format!("{role} --queue {} --log {log} --heartbeat {heartbeat}", self.queue));
        arguments.extend_from_slice(more);
        arguments
    }

    /// Lets the load run for a random while.
    pub(crate) async fn play(&mut self) {
        let longest = if self.size.rounds > 2 { 3_000 } else { 1_000 };
        sleep(Duration::from_millis(self.random.u64(300..longest))).await;
    }

    /// A random time that a broker or a network stays away.
    pub(crate) fn absence(&mut self) -> Duration {
        Duration::from_millis(self.random.u64(200..self.size.absence.as_millis() as u64))
    }

    pub(crate) fn count_fault(&mut self) {
        self.figures.faults += 1;
    }

    /// Waits until `holds`, reading the books meanwhile.
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

    /// Waits until every worker runs jobs that are made from now on.
    pub(crate) async fn flowing(&mut self) -> anyhow::Result<()> {
        self.first_starts(now_us()).await.map(drop)
    }

    /// Measures the recovery: from the moment when a new client could publish, and the loss could be known (`knowable`),
    /// until every worker has started a job that was made since. Then everything must tell that it is well.
    pub(crate) async fn recovered(&mut self, knowable: u64) -> anyhow::Result<Duration> {
        self.usable().await?;
        self.flowing_after(knowable.max(now_us())).await
    }

    /// As [`recovered`](Self::recovered), where it is known since when the broker was usable.
    pub(crate) async fn flowing_after(&mut self, since: u64) -> anyhow::Result<Duration> {
        let starts = self.first_starts(since).await?;
        let last = starts.values().max().copied().unwrap_or(since);
        let recovery = Duration::from_micros(last - since);
        self.figures.recoveries.push(recovery);
        let limit = self.size.recovery;
        ensure!(recovery <= limit, "consuming again after {recovery:?}, which is more than {limit:?}");
        self.ready_again(since).await?;
        Ok(recovery)
    }

    /// Waits until the broker takes a publish of a client that has just come.
    async fn usable(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LONG;
        loop {
            let probing = async {
                let client = self.raw().await.ok()?;
                self.probe(&client).await.ok()
            };
            if let Ok(Some(())) = tokio::time::timeout(Duration::from_secs(2), probing).await {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the broker was not usable within {LONG:?}");
            sleep(POLL).await;
        }
    }

    /// Waits until the publishers have a confirm for a job that they made since, which counts as a recovery.
    pub(crate) async fn publishing_again(&mut self, since: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + LONG;
        loop {
            let receipts = self.books.read()?.receipts;
            let again = receipts.iter().find(|line| line.what == What::Confirmed && line.made_us >= since);
            if let Some(line) = again {
                let recovery = Duration::from_micros(line.at_us - since);
                self.figures.recoveries.push(recovery);
                ensure!(recovery <= self.size.recovery, "publishing again after {recovery:?}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not publishing again after {LONG:?}");
            sleep(POLL).await;
        }
    }

    /// For each worker, when it first started a job that was made since.
    async fn first_starts(&mut self, since: u64) -> anyhow::Result<BTreeMap<u32, u64>> {
        let deadline = Instant::now() + LONG;
        let wanted: BTreeSet<_> = self.workers.iter().map(Actor::id).collect();
        let (mut starts, mut client) = (BTreeMap::new(), None);
        loop {
            for line in self.books.read()?.effects {
                if line.what == What::Start && line.made_us >= since && wanted.contains(&line.process) {
                    starts.entry(line.process).or_insert(line.at_us);
                }
            }
            if starts.len() == wanted.len() {
                return Ok(starts);
            }
            ensure!(Instant::now() < deadline, "of the workers {wanted:?} only {starts:?} consume after {LONG:?}");
            let probed = match &client {
                Some(client) => self.probe(client).await.is_ok(),
                None => false,
            };
            if !probed {
                client = self.raw().await.ok();
            }
            sleep(POLL).await;
        }
    }

    /// Publishes a few jobs past the framework.
    async fn probe(&mut self, client: &RawClient) -> anyhow::Result<()> {
        let ledger = Ledger::open(&self.books.receipts())?;
        for _ in 0..2 * self.workers.len() {
            let id = job_id(End::Done, false, &format!("probe-{}", self.probes));
            self.probes += 1;
            let job = Load { made_us: now_us(), work_ms: 1, fails: 0, end: End::Done };
            self.publish_raw(client, &ledger, &job, &id).await?;
        }
        Ok(())
    }

    pub(crate) async fn publish_raw(
        &self,
        client: &RawClient,
        ledger: &Ledger,
        job: &Load,
        id: &str,
    ) -> anyhow::Result<()> {
        let properties =
            BasicProperties::default().with_type("test.load".into()).with_message_id(id.into()).with_delivery_mode(2);
        let confirmed = client.publish("", &self.queue, properties, &serde_json::to_vec(job)?).await?;
        ensure!(matches!(confirmed, Confirmation::Ack(None)), "not confirmed: {confirmed:?}");
        ledger.publish(What::Confirmed, job.made_us, id);
        Ok(())
    }

    /// Every worker must be ready within two seconds of the return of its last consumer.
    async fn ready_again(&mut self, since: u64) -> anyhow::Result<()> {
        let all_ready = |stage: &Self| {
            let ready = |worker: &Actor| worker.watch.last().ready && worker.watch.last().at_us > since;
            stage.workers.iter().all(ready)
        };
        self.until("every worker is ready", all_ready).await?;
        for worker in &self.workers {
            let samples = worker.watch.since(since);
            let whole = |sample: &&Sample| sample.wanted > 0 && sample.up == sample.wanted;
            let back = samples.iter().find(whole).context("a sample with all consumers up")?;
            let ready = samples.iter().find(|sample| sample.ready).context("a sample that is ready")?;
            let late = Duration::from_micros(ready.at_us.saturating_sub(back.at_us));
            ensure!(late <= Duration::from_secs(2), "ready {late:?} after the return of the last consumer");
        }
        Ok(())
    }

    /// Every worker must have told that it lost its consumers, and have been unready with it.
    pub(crate) fn told_of_loss(&self, since: u64) -> anyhow::Result<()> {
        for worker in &self.workers {
            let samples = worker.watch.since(since);
            let told = samples.iter().any(|sample| sample.up < sample.wanted && !sample.ready);
            ensure!(told, "worker {} never told that it lost a consumer", worker.id());
        }
        Ok(())
    }

    /// Every worker must have logged that it lost a consumer, so often by now. A channel is back before a scrape sees it.
    pub(crate) fn logged_loss(&self, times: usize) -> anyhow::Result<()> {
        for worker in &self.workers {
            let logged = worker.process.count("lost the consumer");
            ensure!(logged == times, "worker {} logged {logged} lost consumers, not {times}", worker.id());
        }
        Ok(())
    }

    /// How many connections each worker has lost so far.
    pub(crate) fn reconnects(&self) -> Vec<u64> {
        self.workers.iter().map(|worker| worker.watch.last().reconnects).collect()
    }

    /// Stops the publishers, waits until every job has come to its end, stops the workers, and audits.
    pub(crate) async fn finish(&mut self) -> anyhow::Result<()> {
        self.finish_except(|_| false).await
    }

    /// As [`finish`](Self::finish); jobs that were confirmed at a time that is `excused` may be gone.
    pub(crate) async fn finish_except(&mut self, excused: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        for publisher in &self.publishers {
            publisher.process.sigterm();
        }
        let publishing = Duration::from_secs(self.size.jobs / self.size.rate) + LONG;
        for publisher in &self.publishers {
            let status = publisher.process.wait_exit(publishing).await;
            ensure!(status.success(), "a publisher ended with {status}");
        }
        self.all_ended(&excused).await?;
        for worker in &self.workers {
            worker.process.sigterm();
        }
        for worker in &self.workers {
            let status = worker.process.wait_exit(LONG).await;
            ensure!(status.success(), "a worker ended with {status}");
        }
        self.books.read()?;
        self.take_kept().await?;
        self.judge(&excused).await
    }

    async fn all_ended(&mut self, excused: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + LONG;
        loop {
            self.books.read()?;
            let open = self.books.audit.open().filter(|(_, at)| !excused(*at)).count();
            if open == 0 {
                return Ok(());
            }
            self.take_kept().await?;
            if Instant::now() > deadline {
                let examples: Vec<_> = self.books.audit.open().take(5).collect();
                anyhow::bail!("after {LONG:?} {open} jobs have not come to an end: {examples:?}");
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Takes out what lies in the dead letters and in the queue of what has no queue.
    pub(crate) async fn take_kept(&mut self) -> anyhow::Result<()> {
        let raw = self.raw().await?;
        while let Some(letter) = raw.take(&format!("{}.dead", self.queue)).await? {
            let properties = &letter.delivery.properties;
            let id = properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
            let headers = properties.headers().clone().unwrap_or_default();
            let kind = headers.inner().get("leveret-error-kind").and_then(|kind| kind.as_long_string());
            let kind = kind.map_or_else(|| "by the broker".to_owned(), ToString::to_string);
            self.books.audit.dead(&id, &kind);
        }
        while let Some(kept) = raw.take("leveret.v1.unrouted").await? {
            let id = kept.delivery.properties.message_id().as_ref().map(ToString::to_string);
            self.books.audit.unrouted(&id.unwrap_or_default());
        }
        Ok(())
    }

    async fn judge(&mut self, excused: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        let raw = self.raw().await?;
        for queue in [self.queue.clone(), format!("{}.suspect", self.queue)] {
            let left = raw.depth(&queue).await?;
            ensure!(left == Some(0), "{left:?} messages are left in {queue}");
        }
        let gone: BTreeSet<String> =
            self.books.audit.open().filter(|(_, at)| excused(*at)).map(|(id, _)| id.to_owned()).collect();
        let mut verdict = self.books.audit.verdict();
        verdict.lost.retain(|id| !gone.contains(id));
        verdict.published -= gone.len();
        self.figures.deleted = gone.len();
        self.figures.took = self.began.elapsed();
        let all = || self.workers.iter().chain(&self.publishers).chain(&self.gone);
        self.figures.acks_lost = all().map(|actor| actor.watch.last().acks_lost).sum();
        self.figures.largest_rss_kib =
            all().flat_map(|actor| actor.watch.samples()).map(|sample| sample.rss_kib).max().unwrap_or_default();
        self.figures.verdict = verdict.clone();
        ensure!(verdict.lost.is_empty(), "{} jobs are lost: {:?}", verdict.lost.len(), some(&verdict.lost));
        ensure!(verdict.unexplained.is_empty(), "done twice for no known reason: {:?}", some(&verdict.unexplained));
        ensure!(verdict.overlapping.is_empty(), "run beside themselves: {:?}", some(&verdict.overlapping));
        for actor in all() {
            bounded(actor)?;
        }
        Ok(())
    }

    pub(crate) fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// The last words of every process, for a failure.
    pub(crate) fn transcript(&self) -> String {
        let all = self.workers.iter().chain(&self.publishers).chain(&self.gone);
        let words = all.map(|actor| {
            let lines = actor.process.lines();
            let last = lines[lines.len().saturating_sub(15)..].join("\n        ");
            format!("    process {}, {:?}\n        {last}", actor.id(), actor.watch.last())
        });
        words.collect::<Vec<_>>().join("\n")
    }
}

fn some(ids: &[String]) -> &[String] {
    &ids[..ids.len().min(5)]
}

/// A process must neither grow with time nor flood its log.
fn bounded(actor: &Actor) -> anyhow::Result<()> {
    let samples = actor.watch.samples();
    let Some(settled) = samples.get(20) else { return Ok(()) };
    let largest = samples.iter().map(|sample| sample.rss_kib).max().unwrap_or_default();
    ensure!(
        largest < settled.rss_kib + GROWTH_KIB,
        "process {} grew from {} to {largest} KiB",
        actor.id(),
        settled.rss_kib
    );
    for pair in samples.windows(10) {
        let (first, last) = (pair[0], pair[9]);
        let seconds = (last.at_us - first.at_us).div_ceil(1_000_000).max(1) as usize;
        let logged = last.lines - first.lines;
        ensure!(logged <= LINES_A_SECOND * seconds, "process {} logged {logged} lines in {seconds} s", actor.id());
    }
    Ok(())
}
