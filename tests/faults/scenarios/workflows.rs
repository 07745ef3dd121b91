//! Workflows: servers, workers, the database and the broker are killed at random moments. Every step that should run runs, no
//! other does, and no workflow stands still.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use fastrand::Rng;
use leveret::{
    Broker, Config,
    workflow::{StartError, engine::Status},
};
use leveret_harness::{Postgres, Process};
use leveret_store::Store;
use leveret_tests::workflows::{Ended, PlannedWorkflow, WorkflowRuns};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::stage::{LONG, POLL, Stage};

/// The servers that share the work.
const SERVERS: usize = 2;
const WORKERS: usize = 3;
/// The kills of a round: sixty of the whole suite, which take a quarter of an hour in all; six of the short form.
const KILLS_SHORT: usize = 6;
const KILLS_FULL: usize = 60;
/// The pause between two starts.
const START_EVERY: Duration = Duration::from_millis(40);
/// The workflows that have not ended at once, beyond which none is started.
const MOST_OPEN: usize = 150;

struct Servers {
    urls: Vec<String>,
    store: String,
    running: Vec<Process>,
}

impl Servers {
    fn start(urls: &[String], store: &str) -> Self {
        let mut servers = Self { urls: urls.to_vec(), store: store.to_owned(), running: Vec::new() };
        servers.running = (0..SERVERS).map(|_| servers.new_server()).collect();
        servers
    }

    fn new_server(&self) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_workflow-server"));
        command.env("AMQP_URL", self.urls.join(",")).env("RUST_LOG", "info,lapin=off").arg("--store").arg(&self.store);
        Process::spawn(&command)
    }

    fn kill(&mut self, index: usize) {
        self.running[index].sigkill();
        self.running[index] = self.new_server();
    }
}

/// Starts workflows until it is stopped. Each start is repeated until it is confirmed.
struct Starter {
    stop: Arc<AtomicBool>,
    started: Arc<AtomicUsize>,
    /// The number of those that have ended, as far as it is known.
    ended: Arc<AtomicUsize>,
    task: JoinHandle<Vec<PlannedWorkflow>>,
}

impl Starter {
    fn start(stage: &Stage<'_>, seed: u64) -> anyhow::Result<Self> {
        let (stop, started, ended) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let broker = Broker::amqp(Config { amqp_url: stage.raw_urls.clone(), ..Config::default() })?;
        let starting = start_until(
            (broker, stage.queue.clone(), seed),
            Arc::clone(&stop),
            (Arc::clone(&started), Arc::<AtomicUsize>::clone(&ended)),
        );
        Ok(Self { stop, started, ended, task: tokio::spawn(starting) })
    }

    async fn stop(self) -> anyhow::Result<Vec<PlannedWorkflow>> {
        self.stop.store(true, Ordering::SeqCst);
        Ok(self.task.await?)
    }
}

async fn start_until(
    (broker, queue, seed): (Broker, String, u64),
    stop: Arc<AtomicBool>,
    (started, ended): (Arc<AtomicUsize>, Arc<AtomicUsize>),
) -> Vec<PlannedWorkflow> {
    let (mut random, publisher, mut plans) = (Rng::with_seed(seed), broker.publisher(), Vec::new());
    while !stop.load(Ordering::SeqCst) {
        sleep(START_EVERY).await;
        if plans.len() >= ended.load(Ordering::SeqCst) + MOST_OPEN {
            continue;
        }
        let plan = PlannedWorkflow::random(&mut random, format!("{queue}-{}", plans.len()));
        let definition = plan.definition(&queue);
        while let Err(error) = publisher.start(&definition).await {
            assert!(matches!(error, StartError::Publish(_)), "{error}: {definition:?}");
            sleep(POLL).await;
        }
        plans.push(plan);
        started.store(plans.len(), Ordering::SeqCst);
    }
    broker.close().await;
    plans
}

pub(crate) async fn workflows_of_which_everything_is_killed(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let postgres = Postgres::start().await;
    let store_url = postgres.database().await;
    let store = Store::open(&store_url).await?;
    for index in 0..WORKERS {
        let worker = stage.new_worker(index).await;
        stage.workers.push(worker);
    }
    let mut servers = Servers::start(&stage.urls, &store_url);
    let seed = stage.random.u64(..);
    let starter = Starter::start(stage, seed)?;
    let kills = stage.size.rounds * if stage.size.rounds > 2 { KILLS_FULL } else { KILLS_SHORT };
    for _ in 0..kills {
        sleep(Duration::from_millis(stage.random.u64(50..700))).await;
        stage.figures.faults += 1;
        match stage.random.u8(0..20) {
            0..8 => servers.kill(stage.random.usize(..SERVERS)),
            8..15 => {
                let victim = stage.victim();
                stage.workers[victim].process.sigkill();
                stage.replace(victim).await;
            }
            15..18 => {
                postgres.kill9().await;
                sleep(stage.absence()).await;
                postgres.restart().await;
            }
            _ => {
                stage.node.sync().await?;
                stage.node.kill9().await;
                sleep(stage.absence()).await;
                stage.node.restart().await;
            }
        }
        if let Ok(counts) = store.count_workflows().await {
            let open: u64 = counts.by_status.values().sum();
            let ended = starter.started.load(Ordering::SeqCst).saturating_sub(usize::try_from(open)?);
            starter.ended.store(ended, Ordering::SeqCst);
        }
    }
    let plans = starter.stop().await?;
    let ended = all_end(stage, &store, &plans).await?;
    audit(stage, &plans, &ended)?;
    store.close().await;
    drop(servers);
    Ok(())
}

/// Waits until all workflows have ended, and returns how.
async fn all_end(
    stage: &Stage<'_>,
    store: &Store,
    plans: &[PlannedWorkflow],
) -> anyhow::Result<BTreeMap<String, Ended>> {
    let (deadline, mut ended) = (Instant::now() + LONG, BTreeMap::new());
    loop {
        for plan in plans {
            if ended.contains_key(plan.id()) {
                continue;
            }
            match store.workflow(plan.id()).await?.map(|workflow| workflow.status()) {
                Some(Status::Completed) => drop(ended.insert(plan.id().to_owned(), Ended::Completed)),
                Some(Status::Failed) => drop(ended.insert(plan.id().to_owned(), Ended::Failed)),
                _ => {}
            }
        }
        if ended.len() == plans.len() {
            return Ok(ended);
        }
        if Instant::now() > deadline {
            let open = plans.iter().find(|plan| !ended.contains_key(plan.id())).context("one is open")?;
            let (row, runs) = (store.workflow(open.id()).await?, runs(stage)?);
            let left = plans.len() - ended.len();
            anyhow::bail!(
                "after {LONG:?} {left} workflows have not ended: {open:?}\n{row:?}\n{}",
                runs.history(open.id())
            );
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn runs(stage: &Stage<'_>) -> anyhow::Result<WorkflowRuns> {
    let mut runs = WorkflowRuns::default();
    for line in std::fs::read_to_string(stage.books.effects())?.lines() {
        runs.read(&line.parse()?);
    }
    Ok(runs)
}

fn audit(stage: &mut Stage<'_>, plans: &[PlannedWorkflow], ended: &BTreeMap<String, Ended>) -> anyhow::Result<()> {
    let runs = runs(stage)?;
    let faults: Vec<_> = plans.iter().flat_map(|plan| plan.audit(ended[plan.id()], &runs)).collect();
    if let Some(first) = faults.first() {
        let id = first.split(':').next().unwrap_or_default();
        anyhow::bail!("{} faults, such as {first}\n{}", faults.len(), runs.history(id));
    }
    let (jobs, twice) = runs.counts();
    let failed = ended.values().filter(|ended| **ended == Ended::Failed).count();
    println!("{} workflows of {jobs} jobs, {failed} failed as planned, {twice} jobs published twice", plans.len());
    ensure!(failed > 0 && failed < plans.len(), "some must fail, and some must complete");
    stage.figures.verdict.published = jobs;
    stage.figures.took = stage.began.elapsed();
    Ok(())
}
