//! The job of most tests: its handler follows its payload, and logs that it ran.

use std::{
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use leveret::{
    Batch, Batching, Broker, Context, HandlerOptions, Job, JobError, JobOutput, JobResult, Publish, Queue, Worker,
};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// An action of an attempt.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    Succeed,
    Fail(String),
    GiveUp(String),
    RetryAfterMs(u64),
    SnoozeMs(u64),
    Panic,
    /// Takes this long.
    WorkMs(u64),
    /// Waits for the test to open the gate.
    Gate,
    /// Blocks the thread this long.
    BlockMs(u64),
    /// Takes the whole process down.
    Abort,
    /// Counts from its checkpoint, 20 ms a number, and logs each as the end of `<label>.<number>`. It saves each number, or
    /// yields with it.
    Count {
        to: u32,
        yields: bool,
    },
}

/// The actions of the runs of a job, in turn. Later runs repeat the last one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Script {
    pub label: String,
    pub acts: Vec<Act>,
}

impl Job for Script {
    const NAME: &'static str = "test.script";
    const QUEUE: &'static str = "script";
}

impl JobOutput for Script {
    type Output = ();
}

/// One run of the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub label: String,
    pub job_id: String,
    pub attempt: u32,
    pub at: Instant,
    pub finished: bool,
}

/// The state that a handler shares with its test.
#[derive(Clone, Debug, Default)]
pub struct Log {
    runs: Arc<Mutex<Vec<Run>>>,
    /// A file that also receives the runs, for another process to read.
    file: Option<Arc<std::fs::File>>,
    pub gate: CancellationToken,
}

impl Log {
    /// A log that is appended to a file as well.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn to_file(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::File::options().create(true).append(true).open(path)?;
        Ok(Self { file: Some(Arc::new(file)), ..Self::default() })
    }

    pub fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap().clone()
    }

    pub fn of(&self, label: &str) -> Vec<Run> {
        self.runs().into_iter().filter(|run| run.label == label).collect()
    }

    pub fn finished(&self) -> usize {
        self.runs().iter().filter(|run| run.finished).count()
    }

    /// Waits until `holds` of the runs.
    pub async fn until(&self, what: &str, holds: impl Fn(&[Run]) -> bool) {
        let waited = async {
            while !holds(&self.runs()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let over = tokio::time::timeout(Duration::from_secs(60), waited).await;
        assert!(over.is_ok(), "waited in vain until {what}; runs: {:#?}", self.runs());
    }

    async fn perform(&self, job: &Script, ctx: &Context<Self>) -> JobResult {
        let index = {
            let mut runs = self.runs.lock().unwrap();
            let (label, job_id) = (job.label.clone(), ctx.job_id().to_string());
            self.write("start", &label, ctx.attempt());
            runs.push(Run { label, job_id, attempt: ctx.attempt(), at: Instant::now(), finished: false });
            runs.len() - 1
        };
        let turn = self.of(&job.label).len() - 1;
        let result = match job.acts.get(turn).or(job.acts.last()).unwrap_or(&Act::Succeed) {
            Act::Count { to, yields } => self.count(&job.label, ctx, *to, *yields).await,
            act => self.act(act).await,
        };
        self.runs.lock().unwrap()[index].finished = true;
        self.write("end", &job.label, ctx.attempt());
        result
    }

    async fn count(&self, label: &str, ctx: &Context<Self>, to: u32, yields: bool) -> JobResult {
        for number in ctx.checkpoint()?.unwrap_or(0)..to {
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.write("end", &format!("{label}.{number}"), ctx.attempt());
            if yields {
                return ctx.yield_with(&(number + 1));
            }
            ctx.save_checkpoint(&(number + 1))?;
        }
        Ok(())
    }

    /// One line in one write, so that lines of several processes do not mix and a killed process loses none.
    fn write(&self, what: &str, label: &str, attempt: u32) {
        if let Some(mut file) = self.file.as_deref() {
            let line = format!("{what} {} {attempt} {label}\n", std::process::id());
            file.write_all(line.as_bytes()).unwrap();
        }
    }

    async fn act(&self, act: &Act) -> JobResult {
        match act {
            Act::Succeed => {}
            Act::Fail(reason) => return Err(reason.as_str().into()),
            Act::GiveUp(reason) => return Err(JobError::permanent(reason.as_str())),
            Act::RetryAfterMs(ms) => return Err(JobError::retry_after(Duration::from_millis(*ms), "asked for")),
            Act::SnoozeMs(ms) => return Err(JobError::snooze(Duration::from_millis(*ms))),
            Act::Panic => panic!("a script's panic"),
            Act::WorkMs(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Act::Gate => self.gate.cancelled().await,
            Act::BlockMs(ms) => std::thread::sleep(Duration::from_millis(*ms)),
            Act::Abort => std::process::abort(),
            Act::Count { .. } => {}
        }
        Ok(())
    }
}

/// The handler of scripts.
pub async fn run_script(job: Script, ctx: Context<Log>) -> JobResult {
    ctx.state().perform(&job, &ctx).await
}

/// The handler of batches of scripts: it runs one after the other.
pub async fn run_scripts(batch: Batch<Script, Log>) -> JobResult {
    for job in &batch {
        if let Err(error) = batch.state().perform(job.payload(), job.context()).await {
            job.fail(error);
        }
    }
    Ok(())
}

/// A worker of scripts in batches, on the queue of that name.
pub fn batch_worker(name: &str, set: impl FnOnce(Queue) -> Queue, batching: Batching, log: &Log) -> Worker<Log> {
    let worker = Worker::new(log.clone()).queue(set(Queue::new(name)));
    worker.handle_batch_with(batching, run_scripts, |h| h.queue(name))
}

pub fn script(label: &str, acts: impl IntoIterator<Item = Act>) -> Script {
    Script { label: label.to_owned(), acts: acts.into_iter().collect() }
}

/// A publish of a script to a test's queue.
pub fn publish(broker: &Broker, queue: &str, job: &Script) -> Publish {
    broker.publisher().publish(job).queue(queue)
}

/// A worker of scripts on the queue of that name.
pub fn worker(name: &str, set: impl FnOnce(Queue) -> Queue, log: &Log) -> Worker<Log> {
    worker_with(name, set, log, |h| h)
}

/// The settings of the handler of scripts.
pub type Scripts = HandlerOptions<Script, Log>;

/// A worker of scripts on the queue of that name, with settings of their handler.
pub fn worker_with(
    name: &str,
    set: impl FnOnce(Queue) -> Queue,
    log: &Log,
    options: impl FnOnce(Scripts) -> Scripts,
) -> Worker<Log> {
    Worker::new(log.clone()).queue(set(Queue::new(name))).handle_with(run_script, |h| options(h.queue(name)))
}

/// A running worker.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), leveret::Error>>,
}

pub fn start(worker: Worker<Log>, broker: &Broker) -> Running {
    let (stop, broker) = (CancellationToken::new(), broker.clone());
    let stopped = stop.clone();
    let task = tokio::spawn(async move { worker.run(&broker, stopped.cancelled_owned()).await });
    Running { stop, task }
}

impl Running {
    pub async fn stop(self) -> Result<(), leveret::Error> {
        self.stop.cancel();
        self.task.await.unwrap()
    }

    pub async fn ended(self) -> Result<(), leveret::Error> {
        self.task.await.unwrap()
    }
}
