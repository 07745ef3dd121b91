//! A vhost, a store and a worker for one test, and the program under test.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use leveret::{
    Broker, Config,
    testing::{self, Running},
};
use leveret_harness::{Process, RawClient, TestVhost, eventually_eq, shared_node, shared_postgres};
use leveret_tests::jobs::{Act, Log, publish, script, worker};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const LONG: Duration = Duration::from_secs(60);
/// The job queue of each test, in a vhost of its own.
pub(crate) const QUEUE: &str = "mail";

pub(crate) struct Post {
    pub(crate) vhost: TestVhost,
    pub(crate) store: String,
    pub(crate) log: Log,
    pub(crate) folder: TempDir,
    worker: Option<Running>,
}

/// The output and the exit code of the program.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

impl Post {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = format!("sqlite:{}", folder.path().join("leveret.db").display());
        Self::with(store, folder).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::with(shared_postgres().await.database().await, tempfile::tempdir().unwrap()).await
    }

    async fn with(store: String, folder: TempDir) -> Self {
        let mut post =
            Self { vhost: shared_node().await.vhost().await, store, log: Log::default(), folder, worker: None };
        post.worker = Some(testing::start(worker(QUEUE, |queue| queue, &post.log), &post.broker()).await.unwrap());
        post
    }

    pub(crate) async fn stop_worker(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop().await.unwrap();
        }
    }

    pub(crate) fn broker(&self) -> Broker {
        Broker::amqp(Config { amqp_url: vec![self.vhost.url()], ..Config::default() }).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Makes jobs fail permanently once with these reasons. Replayed jobs succeed. Their ids are their labels, `j0` and so on.
    pub(crate) async fn kill(&self, reasons: impl IntoIterator<Item = String>) {
        let broker = self.broker();
        for (number, reason) in reasons.into_iter().enumerate() {
            let label = format!("j{number}");
            let job = script(&label, [Act::GiveUp(reason), Act::Succeed]);
            publish(&broker, QUEUE, &job).id(label).await.unwrap();
        }
    }

    pub(crate) async fn dead_in_broker(&self, count: u32) {
        let raw = RawClient::connect(&self.vhost.url()).await.unwrap();
        eventually_eq("dead letters in the broker", LONG, Some(count), async || {
            raw.depth(&format!("{QUEUE}.dead")).await.unwrap()
        })
        .await;
    }

    pub(crate) async fn dead_in_store(&self, count: usize) {
        eventually_eq("dead letters in the store", LONG, count, async || {
            let list = self.run(&["dead", "list", "--limit", "1000", "--output", "json"]).await;
            if list.code == 0 { list.json()["items"].as_array().unwrap().len() } else { usize::MAX }
        })
        .await;
    }

    /// A command of the program with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LEVERET_")) {
            command.env_remove(name);
        }
        command.env("AMQP_URL", self.vhost.url()).env("DATABASE_URL", &self.store).env("USER", "anna").args(arguments);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Said {
        say(self.command(arguments), Vec::new()).await
    }

    pub(crate) async fn run_with(&self, arguments: &[&str], input: &str) -> Said {
        say(self.command(arguments), input.as_bytes().to_vec()).await
    }

    /// Starts the server, and returns once it listens.
    pub(crate) async fn serve(&self) -> Process {
        let process = Process::spawn(&self.command(&["serve", "--listen", "127.0.0.1:0"]));
        process.wait_line("/api", LONG).await;
        process
    }

    /// The ids of completed jobs.
    pub(crate) fn done(&self) -> Vec<String> {
        let runs = self.log.runs();
        let mut seen = std::collections::HashSet::new();
        // The first run of each job is the failed one.
        let later = runs.iter().filter(|run| !seen.insert(run.job_id.clone()) && run.finished);
        let mut done: Vec<_> = later.map(|run| run.job_id.clone()).collect();
        done.sort();
        done
    }
}

pub(crate) async fn say(mut command: Command, input: Vec<u8>) -> Said {
    let run = move || {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&input).ok();
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
