//! A coalesced ack is never sent for an unfinished job: real workers on the stub broker, over random finish orders,
//! channel losses and flush times. `LEVERET_MODEL_SEED=7` runs that seed alone. It repeats the plan, but not the scheduling
//! of threads.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use fastrand::Rng;
use leveret::{Broker, Config, Context, Job, JobResult, Queue, Worker};
use leveret_bench::stub::{Counts, Feed, Stub, job_number};
use serde::{Deserialize, Serialize};
use tokio::{
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const SEEDS: u64 = 30;
const DEATHS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Step;

impl Job for Step {
    const NAME: &'static str = "model.step";
    const QUEUE: &'static str = "model";
}

/// The plan of a seed.
#[derive(Debug)]
struct Plan {
    seed: u64,
    jobs: u64,
    workers: usize,
    concurrency: u16,
    prefetch: u16,
    /// The percentages of jobs that finish at once, and of jobs that run for long.
    at_once: u8,
    held_back: u8,
    /// The losses: after this number of acks, of the connection if true, else of the channel.
    deaths: Vec<(u64, bool)>,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let jobs = rng.u64(500..=2_000);
        let mut deaths: Vec<_> = (0..DEATHS).map(|_| (rng.u64(0..jobs), rng.bool())).collect();
        deaths.sort_unstable();
        let concurrency = rng.u16(1..=64);
        Self {
            seed,
            jobs,
            workers: rng.usize(1..=2),
            concurrency,
            prefetch: rng.u16(concurrency..=200),
            at_once: rng.choice([0, 50, 90, 99]).unwrap_or_default(),
            held_back: rng.u8(0..=1),
            deaths,
        }
    }

    /// Runs a job. Its duration is the same in every run.
    async fn work(&self, job: u64) {
        let mut rng = Rng::with_seed(self.seed ^ job.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let kind = rng.u8(0..100);
        if kind < self.at_once {
            return;
        }
        if kind >= 100 - self.held_back {
            return sleep(Duration::from_millis(rng.u64(50..400))).await;
        }
        for _ in 0..rng.u8(0..5) {
            yield_now().await;
        }
        if rng.bool() {
            sleep(Duration::from_micros(rng.u64(0..5_000))).await;
        }
    }
}

/// The events of a run.
struct Run {
    plan: Plan,
    finished: Vec<AtomicBool>,
    acked: Vec<AtomicBool>,
    broken: Mutex<Option<String>>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let plan = Plan::new(seed);
        let marks = || (0..plan.jobs).map(|_| AtomicBool::new(false)).collect();
        Self { finished: marks(), acked: marks(), broken: Mutex::default(), plan }
    }

    fn on_ack(&self, job: u64) {
        let is_finished = mark(&self.finished, job).load(Ordering::SeqCst);
        let again = mark(&self.acked, job).swap(true, Ordering::SeqCst);
        if !is_finished || again {
            let what = if again { "acked twice" } else { "acked before it had finished" };
            self.broken.lock().unwrap().get_or_insert(format!("job {job} was {what}"));
        }
    }

    fn check(&self) -> Result<()> {
        self.broken.lock().unwrap().clone().map_or(Ok(()), |broken| Err(anyhow!(broken)))
    }
}

fn mark(marks: &[AtomicBool], job: u64) -> &AtomicBool {
    &marks[usize::try_from(job).unwrap()]
}

async fn step(_: Step, ctx: Context<Arc<Run>>) -> JobResult {
    let job = job_number(ctx.job_id()).unwrap();
    ctx.state().plan.work(job).await;
    mark(&ctx.state().finished, job).store(true, Ordering::SeqCst);
    Ok(())
}

async fn play(seed: u64) -> Result<Counts> {
    let run = Arc::new(Run::new(seed));
    let plan = &run.plan;
    let observer = Arc::clone(&run);
    let body = Bytes::from_static(b"null");
    let feed = Feed { queue: Step::QUEUE.to_owned(), job: Step::NAME.to_owned(), body, jobs: plan.jobs };
    let stub = Stub::observed(feed, move |job| observer.on_ack(job))?;
    let stop = CancellationToken::new();
    let mut workers = JoinSet::new();
    for _ in 0..plan.workers {
        let broker = Broker::amqp(Config { amqp_url: vec![stub.url()], ..Config::default() })?;
        let queue = Queue::new(Step::QUEUE).concurrency(plan.concurrency).prefetch(plan.prefetch);
        let worker = Worker::new(Arc::clone(&run)).queue(queue).handle(step);
        let stopped = stop.clone().cancelled_owned();
        workers.spawn(async move { worker.run(&broker, stopped).await });
    }
    timeout(PATIENCE, all_acked(&run, &stub)).await.with_context(|| format!("stuck: {:?}", stub.acked()))??;
    stop.cancel();
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    let counts = stub.finish()?;
    run.check()?;
    let expected = (plan.jobs, plan.jobs + counts.redelivered, 0);
    let found = (counts.acked, counts.delivered, counts.published);
    ensure!(found == expected, "acked, delivered and published are {found:?} and not {expected:?}");
    Ok(counts)
}

/// Waits until every job is acked, and causes the planned losses.
async fn all_acked(run: &Run, stub: &Stub) -> Result<()> {
    let mut deaths = run.plan.deaths.iter().peekable();
    loop {
        run.check()?;
        let acked = stub.acked()?;
        if acked == run.plan.jobs {
            return Ok(());
        }
        if let Some((_, cut)) = deaths.next_if(|(after, _)| *after <= acked) {
            die(stub, *cut).await?;
        }
        sleep(Duration::from_micros(500)).await;
    }
}

/// Ends a channel or connection. Waits for one if there is none.
async fn die(stub: &Stub, cut: bool) -> Result<()> {
    while (if cut { stub.cut() } else { stub.close_channels() }) == 0 {
        stub.acked()?;
        sleep(Duration::from_micros(500)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_ack_is_never_sent_for_an_unfinished_job() {
    let alone = std::env::var("LEVERET_MODEL_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seeds = alone.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut games = JoinSet::new();
    for seed in seeds {
        games.spawn(async move { play(seed).await.map_err(|error| format!("{error:#}: {:?}", Plan::new(seed))) });
    }
    let (mut failed, mut all) = (Vec::new(), Counts::default());
    while let Some(played) = games.join_next().await {
        match played.unwrap() {
            Ok(counts) => {
                all.acked += counts.acked;
                all.ack_frames += counts.ack_frames;
                all.redelivered += counts.redelivered;
            }
            Err(error) => failed.push(error),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(
        all.ack_frames < all.acked && all.redelivered > 0,
        "no acks were batched, or no jobs were redelivered: {all:?}"
    );
}
