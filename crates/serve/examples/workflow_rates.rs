//! Measures how fast a server runs workflows, on a RabbitMQ node and databases of its own:
//! `cargo run --release -p leveret-serve --example workflow_rates [sqlite|postgres] [size] [celery=PYTHON]`.
//!
//! With `celery=` and a Python that has `celery[redis]`, a chain and a chord of Celery follow, on the same RabbitMQ node and a
//! `redis-server` of their own.
//!
//! Server, worker and starter share one process. The handler does nothing, so that what is measured is the way of a step: its
//! end to the broker, the transition in the store, the next job to the broker and to the worker.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures")]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use leveret::{Broker, Config, Context, Job, JobResult, NewJob, Queue, Worker, testing, workflow::Workflow};
use leveret_harness::{Postgres, shared_node};
use leveret_serve::{Options, Server, Services, workflows::WorkflowStatus};
use leveret_store::Store;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

const SIZE: u32 = 10_000;
/// The workflows that run at once, and the steps of each chain.
const AT_ONCE: u32 = 1_000;
const STEPS: u32 = 10;
const LONG: Duration = Duration::from_secs(1_800);

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Step {
    number: u32,
}

impl Job for Step {
    const NAME: &'static str = "step";
    const QUEUE: &'static str = "steps";
}

/// The start and the end of each step of a chain.
type Times = Arc<Mutex<Vec<(Instant, Instant)>>>;

async fn step(_: Step, ctx: Context<Times>) -> JobResult {
    let started = Instant::now();
    ctx.state().lock().unwrap().push((started, Instant::now()));
    Ok(())
}

fn job(number: u32) -> NewJob {
    NewJob::of(&Step { number })
}

fn chain(id: String, steps: u32) -> Workflow {
    (0..steps).fold(Workflow::new("chain").id(id), |workflow, number| {
        let workflow = workflow.step(format!("s{number}"), job(number));
        if number == 0 { workflow } else { workflow.after(format!("s{}", number - 1)) }
    })
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let size = arguments.iter().find_map(|word| word.parse().ok()).unwrap_or(SIZE);
    let only = arguments.iter().find(|word| ["sqlite", "postgres"].contains(&word.as_str()));
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start().await;
    for database in ["sqlite", "postgres"] {
        if only.is_some_and(|only| only != database) {
            continue;
        }
        let url = match database {
            "sqlite" => folder.path().join("leveret.db").display().to_string(),
            // The server has no pooler, so statements may stay prepared.
            _ => format!("{}?statement-cache-capacity=100", postgres.database().await),
        };
        measure(database, &url, size).await;
    }
    if let Some(python) = arguments.iter().find_map(|word| word.strip_prefix("celery=")) {
        measure_celery(python, size).await;
    }
}

async fn measure_celery(python: &str, size: u32) {
    let vhost = shared_node().await.vhost().await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut redis = Command::new("redis-server").args(["--port", &port.to_string(), "--save", ""]).spawn().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/celery/rates.py");
    let mut celery = Command::new(python);
    celery.arg(script).env("BENCH_AMQP", vhost.url()).env("BENCH_SIZE", size.to_string());
    celery.env("BENCH_REDIS", format!("redis://127.0.0.1:{port}/0"));
    let ended = celery.status();
    redis.kill().unwrap();
    redis.wait().unwrap();
    assert!(ended.unwrap().success(), "the script of Celery failed");
}

async fn measure(database: &str, store: &str, size: u32) {
    let vhost = shared_node().await.vhost().await;
    let broker = Broker::amqp(Config { amqp_url: vec![vhost.url()], ..Config::default() }).unwrap();
    let times = Times::default();
    let queue = Queue::new("steps").concurrency(100).prefetch(200);
    let worker = testing::start(Worker::new(Arc::clone(&times)).queue(queue).handle(step), &broker).await.unwrap();
    let services = Services::new(&broker, Store::open(store).await.unwrap());
    let options = Options { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Options::default() };
    let (server, stop) = (Server::bind(services.clone(), options).await.unwrap(), CancellationToken::new());
    let serving = tokio::spawn(server.run(stop.clone().cancelled_owned()));

    let took = run(&services, &broker, vec![chain("chain".to_owned(), size)]).await;
    let (p50, p99) = latencies(&times);
    println!(
        "{database}: a chain of {size}: {:.0} steps/s; from an end to the next start p50 {p50:.1} ms, p99 {p99:.1} ms",
        f64::from(size) / took
    );

    let many = (0..AT_ONCE).map(|number| chain(format!("many-{number}"), STEPS)).collect();
    let took = run(&services, &broker, many).await;
    println!("{database}: {AT_ONCE} chains of {STEPS} at once: {:.0} steps/s", f64::from(AT_ONCE * STEPS) / took);

    let before = memory_mib("VmRSS:");
    let group = Workflow::new("group").id("group").steps("each", (0..size).map(job)).step("join", job(0)).after("each");
    let took = run(&services, &broker, vec![group]).await;
    let grown = memory_mib("VmHWM:").saturating_sub(before);
    println!(
        "{database}: a group of {size} and its join: {:.0} jobs/s, {took:.2} s, at most {grown} MiB more",
        f64::from(size + 1) / took
    );

    worker.stop().await.unwrap();
    stop.cancel();
    serving.await.unwrap().unwrap();
    broker.close().await;
}

/// Runs workflows to their end, and returns the seconds.
async fn run(services: &Services, broker: &Broker, workflows: Vec<Workflow>) -> f64 {
    let (started, publisher) = (Instant::now(), broker.publisher());
    for workflow in &workflows {
        publisher.start(workflow).await.unwrap();
    }
    for workflow in &workflows {
        let id = workflow.workflow_id().unwrap();
        let ended = loop {
            match services.wait_for_workflow(id, LONG).await {
                Ok(workflow) => break workflow,
                // It is not ingested yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        assert_eq!(ended.status, WorkflowStatus::Completed, "{id}");
    }
    started.elapsed().as_secs_f64()
}

/// The times in milliseconds from the end of a step to the start of the next one: the median, and that of one in a hundred.
fn latencies(times: &Times) -> (f64, f64) {
    let mut times = std::mem::take(&mut *times.lock().unwrap());
    times.sort_unstable();
    let mut gaps: Vec<_> = times.windows(2).map(|pair| (pair[1].0 - pair[0].1).as_secs_f64() * 1e3).collect();
    gaps.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| gaps.get(gaps.len() * part / 100).copied().unwrap_or(0.0);
    (at(50), at(99))
}

/// The memory of this process in MiB, now (`VmRSS:`) or at most (`VmHWM:`).
fn memory_mib(which: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}
