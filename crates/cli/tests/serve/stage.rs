//! A server process, its broker and its store, and a worker whose jobs take a moment.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use leveret::{
    Broker, Config, Context, Job, JobError, JobResult, Queue, TopologyMode, Worker,
    testing::{self, Running},
};
use leveret_harness::{Process, eventually, free_port};
use serde::{Deserialize, Serialize};

use crate::client::Client;

pub(crate) const LONG: Duration = Duration::from_secs(60);
/// The job queue of the worker.
pub(crate) const QUEUE: &str = "moments";

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Moment {
    fail: bool,
}

impl Job for Moment {
    const NAME: &'static str = "test.moment";
    const QUEUE: &'static str = QUEUE;
}

async fn take(moment: Moment, ctx: Context<Arc<AtomicUsize>>) -> JobResult {
    tokio::time::sleep(Duration::from_millis(20)).await;
    ctx.state().fetch_add(1, Ordering::SeqCst);
    if moment.fail { Err(JobError::permanent("as the job says")) } else { Ok(()) }
}

/// Starts the worker; it counts what it has done.
pub(crate) async fn work(url: &str, topology: TopologyMode) -> (Running, Arc<AtomicUsize>) {
    work_on(QUEUE, url, topology).await
}

/// As [`work`], on a queue of another name.
pub(crate) async fn work_on(queue: &str, url: &str, topology: TopologyMode) -> (Running, Arc<AtomicUsize>) {
    let broker = Broker::amqp(Config { amqp_url: vec![url.to_owned()], topology, ..Config::default() }).unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let worker = Worker::new(Arc::clone(&done)).queue(Queue::new(queue).concurrency(8)).handle(take).on(queue);
    (testing::start(worker, &broker).await.unwrap(), done)
}

/// The settings of a server process.
#[derive(Clone, Debug)]
pub(crate) struct ServerSetup {
    pub(crate) address: String,
    pub(crate) amqp_url: String,
    pub(crate) store: String,
    pub(crate) topology: TopologyMode,
}

impl ServerSetup {
    pub(crate) fn new(amqp_url: String, store: String) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        Self { address, amqp_url, store, topology: TopologyMode::Declare }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.address)
    }

    /// Starts a server and returns when it knows the worker's job.
    pub(crate) async fn serve(&self) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command.args(["serve", "--listen", &self.address, "--default-job", Moment::NAME]);
        command.env("AMQP_URL", &self.amqp_url).env("DATABASE_URL", &self.store).env_remove("LEVERET_API_TOKENS");
        let verifies = self.topology == TopologyMode::Verify;
        command.env("LEVERET_TOPOLOGY", if verifies { "verify" } else { "declare" });
        let server = Process::spawn(&command);
        let client = self.client();
        let knows = async || {
            let client = client.clone();
            let jobs = tokio::task::spawn_blocking(move || client.get("/api/jobs")).await.unwrap();
            jobs.is_some_and(|(status, jobs)| status == 200 && jobs.to_string().contains(Moment::NAME))
        };
        eventually("the server knows the job", LONG, knows).await;
        server
    }
}
