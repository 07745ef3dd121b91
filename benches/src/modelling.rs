//! Compares the model of `leveret simulate` with real workers that run the same jobs, and measures its input `--queue-rate`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use leveret::{
    Broker as Handle, Config, Context, Job, JobResult, Queue, RetryPolicy, Worker,
    testing::{self, Running},
};
use leveret_simulate::{
    Arrivals, Histogram, Job as Simulated, Load, Outcome, Service, System, Workers, run as simulate,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinSet, time::sleep_until};

use crate::{
    bench::Bench,
    broker::{Broker, Kind},
    measures::{Measure, Row, Sample, Table},
};

pub(crate) const MEASURED: &str = "measured";
pub(crate) const SIMULATED: &str = "simulated";
pub(crate) const STEADY: &str = "model: four fifths of the slots are busy";
pub(crate) const BACKLOG: &str = "model: a backlog of 1,500 jobs";
pub(crate) const FAILURES: &str = "model: one attempt in ten fails";

const WORKERS: Workers = Workers { count: 3, concurrency: 4, prefetch: 8 };
/// The delay after each failure.
const RETRY: Duration = Duration::from_secs(1);

/// A job with its duration and its number of failures.
#[derive(Serialize, Deserialize)]
struct Timed {
    number: usize,
    service_us: u64,
    failures: usize,
}

impl Job for Timed {
    const NAME: &'static str = "bench.timed";
    const QUEUE: &'static str = "leveret-bench-timed";
}

/// The attempts of the workers, in seconds from the start.
struct Record {
    start: Instant,
    /// The start and the end of each attempt, by job.
    attempts: Mutex<Vec<Vec<(f64, f64)>>>,
    succeeded: watch::Sender<usize>,
}

impl Record {
    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

async fn timed(job: Timed, ctx: Context<Arc<Record>>) -> JobResult {
    let record = ctx.state();
    let began = record.now();
    tokio::time::sleep(Duration::from_micros(job.service_us)).await;
    let mut attempts = record.attempts.lock().unwrap_or_else(PoisonError::into_inner);
    attempts[job.number].push((began, record.now()));
    if attempts[job.number].len() <= job.failures {
        return Err("as the job says".into());
    }
    record.succeeded.send_modify(|succeeded| *succeeded += 1);
    Ok(())
}

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Table>> {
    let service = Service::from_quantiles(0.050, 0.200);
    let all = f64::from(WORKERS.count * WORKERS.concurrency) / service.mean();
    let load = |share: f64, backlog, failures| Load {
        arrivals: Arrivals { backlog, ..Arrivals::steady(share * all) },
        service,
        failures,
        ..Load::default()
    };
    // The latency without a queue depends on this machine.
    let (alone, _) = measured(bench.broker()?, load(0.1, 0, 0.0).jobs(10.0, 1).collect()).await?;
    let system = System { workers: WORKERS, latency: alone.waits.mean(), ..System::default() };
    let mut tables = Vec::new();
    for (scenario, load) in
        [(STEADY, load(0.8, 0, 0.0)), (BACKLOG, load(0.5, 1_500, 0.0)), (FAILURES, load(0.7, 0, 0.1))]
    {
        tables.push(compared(bench, scenario, &load, &system).await?);
    }
    tables.push(the_most_of_a_queue(bench).await?);
    Ok(tables)
}

async fn compared(bench: &Bench, scenario: &str, load: &Load, system: &System) -> Result<Table> {
    let mut rows = [MEASURED, SIMULATED].map(|contestant| Row { contestant, samples: Vec::new() });
    let seconds = if bench.jobs(10) == 10 { 60.0 } else { 6.0 };
    for round in 0..bench.repetitions {
        if !bench.selects(scenario) {
            return Ok(Table { scenario: scenario.to_owned(), rows: Vec::new() });
        }
        bench.show(&format!("{scenario}: round {} of {}", round + 1, bench.repetitions));
        let fixed = |job: Simulated| Simulated { delays: vec![RETRY.as_secs_f64(); job.delays.len()], ..job };
        let jobs: Vec<_> = load.jobs(seconds, round as u64 + 1).map(fixed).collect();
        let (measured, seen) = measured(bench.broker()?, jobs).await?;
        let simulated = simulate(system, seen.into_iter());
        rows[0].samples.push(sample(&measured));
        rows[1].samples.push(sample(&simulated));
    }
    Ok(Table { scenario: scenario.to_owned(), rows: rows.into() })
}

fn sample(outcome: &Outcome) -> Sample {
    let Outcome { waits, ended, .. } = outcome;
    Sample::from([
        (Measure::WaitMeanMs, waits.mean() * 1_000.0),
        (Measure::WaitP95Ms, waits.quantile(0.95) * 1_000.0),
        (Measure::AllDoneMs, ended * 1_000.0),
    ])
}

/// Runs these jobs on real workers. Returns the outcome, and the jobs with their actual publish times and durations.
async fn measured(broker: &Broker, jobs: Vec<Simulated>) -> Result<(Outcome, Vec<Simulated>)> {
    let queue = broker.queue(Kind::Quorum).await?;
    let handle = || Handle::amqp(Config { amqp_url: vec![broker.url().to_owned()], ..Config::default() });
    let publisher = handle()?.publisher();
    let publish = |number: usize, job: &Simulated| {
        let service_us = Duration::from_secs_f64(job.service).as_micros().try_into().unwrap_or(u64::MAX);
        let timed = Timed { number, service_us, failures: job.delays.len() };
        publisher.publish(&timed).queue(queue.as_str()).into_future()
    };
    let waiting = jobs.iter().take_while(|job| job.at == 0.0).count();
    let backlog = jobs[..waiting].iter().enumerate().map(|(number, job)| publish(number, job));
    stream::iter(backlog).buffer_unordered(500).try_for_each(async |_| Ok(())).await?;

    let (succeeded, mut done) = watch::channel(0);
    let attempts = Mutex::new(vec![Vec::new(); jobs.len()]);
    let record = Arc::new(Record { start: Instant::now(), attempts, succeeded });
    let mut running = Vec::new();
    for _ in 0..WORKERS.count {
        running.push(worker(&queue, &record, &handle()?).await?);
    }
    let mut published = vec![0.0; waiting];
    let mut sending = JoinSet::new();
    for (number, job) in jobs.iter().enumerate().skip(waiting) {
        sleep_until((record.start + Duration::from_secs_f64(job.at)).into()).await;
        published.push(record.now());
        sending.spawn(publish(number, job));
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    done.wait_for(|done| *done == jobs.len()).await?;
    for worker in running {
        worker.stop().await?;
    }
    broker.delete(&queue, true).await?;
    let attempts = std::mem::take(&mut *record.attempts.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(account(jobs, &published, &attempts))
}

async fn worker(queue: &str, record: &Arc<Record>, broker: &Handle) -> Result<Running> {
    let Workers { concurrency, prefetch, .. } = WORKERS;
    let of_queue = Queue::new(queue).concurrency(u16::try_from(concurrency)?).prefetch(u16::try_from(prefetch)?);
    let worker = Worker::new(Arc::clone(record)).queue(of_queue.retry(RetryPolicy::fixed(RETRY))).handle(timed);
    Ok(testing::start(worker.on(queue), broker).await?)
}

fn account(jobs: Vec<Simulated>, published: &[f64], attempts: &[Vec<(f64, f64)>]) -> (Outcome, Vec<Simulated>) {
    let (mut waits, mut ended) = (Histogram::default(), 0.0_f64);
    let seen = jobs.into_iter().zip(published).zip(attempts).map(|((job, published), attempts)| {
        let mut since = *published;
        let mut took = 0.0;
        for (began, end) in attempts {
            waits.add(began - since);
            since = end + RETRY.as_secs_f64();
            took += end - began;
            ended = ended.max(*end);
        }
        Simulated { at: *published, service: took / attempts.len() as f64, ..job }
    });
    let seen = seen.collect();
    (Outcome { waits, ended, ..Outcome::default() }, seen)
}

/// Publishes and consumes at once, to measure the capacity of one queue.
async fn the_most_of_a_queue(bench: &Bench) -> Result<Table> {
    let scenario = "model: the capacity of one queue, published and consumed at once";
    let mut row = Row { contestant: "leveret", samples: Vec::new() };
    let jobs = usize::try_from(bench.jobs(100_000))?;
    for round in 0..bench.repetitions {
        if !bench.selects(scenario) {
            return Ok(Table { scenario: scenario.to_owned(), rows: Vec::new() });
        }
        bench.show(&format!("{scenario}: round {} of {}", round + 1, bench.repetitions));
        let broker = bench.broker()?;
        let queue = broker.queue(Kind::Quorum).await?;
        let handle = Handle::amqp(Config { amqp_url: vec![broker.url().to_owned()], ..Config::default() })?;
        let (succeeded, mut done) = watch::channel(0);
        let counted = Worker::new(succeeded).queue(Queue::new(queue.as_str()).concurrency(200)).handle(count);
        let running = testing::start(counted.on(queue.as_str()), &handle).await?;
        let publisher = handle.publisher();
        let started = Instant::now();
        let publishing = (0..jobs).map(|number| {
            publisher.publish(&Timed { number, service_us: 0, failures: 0 }).queue(queue.as_str()).into_future()
        });
        stream::iter(publishing).buffer_unordered(1_000).try_for_each(async |_| Ok(())).await?;
        done.wait_for(|done| *done == jobs).await?;
        let rate = jobs as f64 / started.elapsed().as_secs_f64();
        running.stop().await?;
        broker.delete(&queue, true).await?;
        row.samples.push(Sample::from([(Measure::JobsPerSecond, rate)]));
    }
    Ok(Table { scenario: scenario.to_owned(), rows: vec![row] })
}

async fn count(_: Timed, ctx: Context<watch::Sender<usize>>) -> JobResult {
    ctx.state().send_modify(|done| *done += 1);
    Ok(())
}
