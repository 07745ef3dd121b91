//! A queue for each test on RabbitMQ, and workers in their own processes.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use leveret::{Broker, Config, ErrorKind, PublishError, testing::dead_letters};
use leveret_harness::{Process, RawClient, eventually, shared_node, unique};
use leveret_tests::jobs::{Act, Log, Script, publish, script, start, worker};

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A handle on a broker and a queue that no other test uses.
pub(crate) struct Place {
    pub(crate) broker: Broker,
    pub(crate) queue: String,
    pub(crate) url: String,
}

impl Place {
    /// On the broker that the tests share.
    pub(crate) async fn shared(name: &str) -> Self {
        Self::at(&shared_node().await.url(), name)
    }

    pub(crate) fn at(url: &str, name: &str) -> Self {
        // A failure shows the workers' own log.
        drop(tracing_subscriber::fmt().with_test_writer().with_env_filter("leveret=info").try_init());
        Self { broker: broker(url), queue: unique(name), url: url.to_owned() }
    }

    pub(crate) async fn publish(&self, job: &Script) {
        publish(&self.broker, &self.queue, job).await.unwrap();
    }

    pub(crate) async fn publish_many(&self, jobs: impl IntoIterator<Item = Script>) {
        let publishes: Vec<_> = jobs.into_iter().map(|job| publish(&self.broker, &self.queue, &job)).collect();
        let publishes = publishes.into_iter().map(IntoFuture::into_future);
        for published in futures_util::future::join_all(publishes).await {
            published.unwrap();
        }
    }

    /// Kills a worker in the middle of a thousand jobs and lets another one finish them; returns how many ran twice.
    pub(crate) async fn doubled_by_a_kill(&self, arguments: &[&str]) -> usize {
        let file = RunFile::new();
        let first = self.process(&file, arguments);
        self.declared().await;
        self.publish_many((0..1_000).map(|n| script(&format!("job-{n}"), [Act::WorkMs(5)]))).await;
        file.until("a good part is done", |lines| labels(lines, "job-").len() >= 300).await;
        first.sigkill();
        first.wait_exit(LONG).await;
        let _second = self.process(&file, arguments);
        file.until("all are done", |lines| labels(lines, "job-").len() == 1_000).await;
        let mut starts: HashMap<String, usize> = HashMap::new();
        for line in file.lines().into_iter().filter(|line| !line.ended && line.label.starts_with("job-")) {
            *starts.entry(line.label).or_default() += 1;
        }
        starts.values().filter(|count| **count > 1).count()
    }

    /// Checks that a job that kills its process each time is convicted, and that those beside it, which take so long, are
    /// done.
    pub(crate) async fn a_killer_is_convicted_alone(&self, arguments: &[&str], work: Act) {
        let file = RunFile::new();
        let mut worker = self.process(&file, arguments);
        self.declared().await;
        file.until("the worker works", |lines| !labels(lines, "probe").is_empty()).await;
        let good =
            |numbers: Range<u32>| numbers.map(|n| script(&format!("good-{n}"), [work.clone()])).collect::<Vec<_>>();
        self.publish_many(good(0..10)).await;
        publish(&self.broker, &self.queue, &script("killer", [Act::Abort])).id("killer").await.unwrap();
        self.publish_many(good(10..20)).await;
        let mut crashes = 0;
        for _ in 0..7 {
            let settled =
                async || dead_letters(&self.broker, &self.queue).await.is_ok_and(|letters| !letters.is_empty());
            let over = async { eventually("the killer is convicted", LONG, settled).await };
            tokio::select! {
                () = over => break,
                _ = worker.wait_exit(LONG) => crashes += 1,
            }
            worker = self.process(&file, arguments);
        }
        assert!(crashes <= 6, "{crashes} crashes");
        let letters = dead_letters(&self.broker, &self.queue).await.unwrap();
        assert_eq!((letters.len(), letters[0].id.as_deref()), (1, Some("killer")));
        assert_eq!(letters[0].kind, Some(ErrorKind::CrashLoop));
        file.until("all others are done", |lines| labels(lines, "good-").len() == 20).await;
    }

    /// Waits until a worker has declared the queue.
    pub(crate) async fn declared(&self) {
        let probe = script("probe", [Act::Succeed]);
        let declared = async {
            while let Err(error) = publish(&self.broker, &self.queue, &probe).await {
                // A quorum queue that is still electing its leader refuses.
                assert!(matches!(error, PublishError::Unroutable { .. } | PublishError::Nacked { .. }), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, declared).await.expect("the worker declares its queue");
    }

    /// Makes a worker declare the queue, process its messages, and stop.
    pub(crate) async fn declare(&self) {
        let log = Log::default();
        let running = start(worker(&self.queue, |queue| queue, &log), &self.broker);
        self.declared().await;
        log.until("the probe has run", |runs| runs.iter().any(|run| run.finished)).await;
        running.stop().await.unwrap();
    }

    pub(crate) async fn raw(&self) -> RawClient {
        RawClient::connect(&self.url).await.unwrap()
    }

    /// Starts a worker process whose runs are appended to `file`.
    pub(crate) fn process(&self, file: &RunFile, arguments: &[&str]) -> Process {
        self.process_by(Command::new(env!("CARGO_BIN_EXE_scripted-worker")), file, arguments)
    }

    /// Starts a worker that may open this many files.
    pub(crate) fn process_with_files(&self, file: &RunFile, files: u32) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -n "$1" && shift && exec "$@""#, "sh", &files.to_string()]);
        command.arg(env!("CARGO_BIN_EXE_scripted-worker"));
        self.process_by(command, file, &[])
    }

    fn process_by(&self, mut command: Command, file: &RunFile, arguments: &[&str]) -> Process {
        command
            .env("AMQP_URL", &self.url)
            .env("LEVERET_HTTP_ADDR", "127.0.0.1:0")
            .env("RUST_LOG", "info,leveret::worker::consumer=debug,lapin=off");
        command.args(["--queue", &self.queue, "--runs"]).arg(&file.path).args(arguments);
        Process::spawn(&command)
    }
}

pub(crate) fn broker(url: &str) -> Broker {
    Broker::amqp(Config { amqp_url: vec![url.to_owned()], ..Config::default() }).unwrap()
}

/// The file that worker processes write their runs to.
pub(crate) struct RunFile {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

/// A line of a [`RunFile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) ended: bool,
    pub(crate) process: u32,
    pub(crate) attempt: u32,
    pub(crate) label: String,
}

impl RunFile {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("runs"), _folder: folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let parse = |line: &str| {
            let mut words = line.splitn(4, ' ');
            let mut next = || words.next().unwrap();
            let ended = next() == "end";
            let (process, attempt) = (next().parse().unwrap(), next().parse().unwrap());
            Line { ended, process, attempt, label: next().to_owned() }
        };
        text.lines().map(parse).collect()
    }

    pub(crate) fn of(&self, label: &str) -> Vec<Line> {
        self.lines().into_iter().filter(|line| line.label == label).collect()
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&[Line]) -> bool) {
        eventually(what, LONG, async || holds(&self.lines())).await;
    }
}

/// The distinct labels that start with `prefix`.
pub(crate) fn labels<'a>(lines: &'a [Line], prefix: &str) -> std::collections::BTreeSet<&'a str> {
    lines.iter().filter(|line| line.ended && line.label.starts_with(prefix)).map(|line| line.label.as_str()).collect()
}
