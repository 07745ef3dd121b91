//! The jobs of these tests, and a worker for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use leveret::{Broker, Context, Job, JobError, Queue, Worker, testing};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// A job that does its act.
#[derive(Serialize, Deserialize)]
pub(crate) struct Work {
    act: String,
}

impl Job for Work {
    const NAME: &'static str = "demo.work";
    const QUEUE: &'static str = "demo";

    fn schema() -> Option<Value> {
        let acts = ["echo", "fail", "fail_twice", "gate", "progress", "large", "fail_once", "lose_the_commit"];
        Some(json!({
            "type": "object",
            "required": ["act"],
            "properties": { "act": { "enum": acts }, "times": { "type": "integer", "minimum": 1 } },
        }))
    }
}

/// The default job. Its payload may be anything.
#[derive(Serialize, Deserialize)]
pub(crate) struct Nap {}

impl Job for Nap {
    const NAME: &'static str = "demo.nap";
    const QUEUE: &'static str = "demo";
}

/// Reports that a gated job runs, and lets it continue.
pub(crate) struct Gate {
    pub(crate) started: Semaphore,
    pub(crate) open: Semaphore,
    failed: AtomicBool,
}

/// A worker that runs until it is stopped.
pub(crate) struct Running {
    pub(crate) gate: Arc<Gate>,
    running: testing::Running,
}

impl Running {
    pub(crate) async fn start(broker: &Broker) -> Self {
        let gate =
            Arc::new(Gate { started: Semaphore::new(0), open: Semaphore::new(0), failed: AtomicBool::new(false) });
        let worker = Worker::new(Arc::clone(&gate)).queue(Queue::new("demo").concurrency(4)).handle(work).handle(nap);
        Self { gate, running: testing::start(worker, broker).await.unwrap() }
    }

    /// Waits until one more gated job runs.
    pub(crate) async fn one_started(&self) {
        self.gate.started.acquire().await.unwrap().forget();
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await.unwrap();
    }
}

async fn work(job: Work, ctx: Context<Arc<Gate>>) -> Result<Value, JobError> {
    match job.act.as_str() {
        "fail" => Err(JobError::permanent("the printer is on fire")),
        "fail_once" if !ctx.state().failed.swap(true, Ordering::Relaxed) => {
            Err(JobError::permanent("the first time is hard"))
        }
        "fail_twice" if ctx.attempt() < 3 => Err(JobError::retry_after(Duration::from_millis(300), "out of paper")),
        // Its effect is there, and the reply to its commit was lost. The next attempt finds it.
        "lose_the_commit" if ctx.attempt() == 1 => {
            ctx.state().started.add_permits(1);
            Err(JobError::retry_after(Duration::from_secs(1), "the reply was lost"))
        }
        "gate" => gate(&ctx).await,
        "progress" => {
            ctx.progress(0.5, "half the pages");
            gate(&ctx).await
        }
        "large" => Ok(Value::String("x".repeat(70_000))),
        _ => Ok(json!({ "attempt": ctx.attempt() })),
    }
}

async fn gate(ctx: &Context<Arc<Gate>>) -> Result<Value, JobError> {
    ctx.state().started.add_permits(1);
    tokio::select! {
        () = ctx.cancelled() => Err("stopped".into()),
        opened = ctx.state().open.acquire() => {
            opened.unwrap().forget();
            Ok(json!("through the gate"))
        }
    }
}

async fn nap(_: Nap, _: Context<Arc<Gate>>) -> Result<(), JobError> {
    Ok(())
}
