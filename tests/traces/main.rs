//! Traces, as a collector receives them from a worker in its own process.
#![expect(clippy::unwrap_used, reason = "what is missing fails the test")]

use std::{collections::BTreeSet, process::Command, time::Duration};

use leveret::{Broker, Config};
use leveret_harness::{Collector, Exported, Process, eventually, free_port, shared_node, unique};
use leveret_tests::certificates::Authority;

const LONG: Duration = Duration::from_secs(60);
const FOREIGN: (&str, &str) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");

/// A worker of its own queue.
struct Stage {
    url: String,
    queue: String,
    process: Process,
}

impl Stage {
    async fn new(endpoint: &str, arguments: &[&str]) -> Self {
        Self::with(endpoint, &[], arguments).await
    }

    async fn with(endpoint: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        let (url, queue) = (shared_node().await.url(), unique("traced"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_traced-worker"));
        command.env("AMQP_URL", &url).env("LEVERET_HTTP_ADDR", "127.0.0.1:0");
        // What comes is flushed at the end.
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "600000");
        command.envs(environment.iter().copied());
        command.args(["--queue", &queue, "--log-format", "json"]).args(arguments);
        Self { url, queue, process: Process::spawn(&command) }
    }

    fn broker(&self) -> Broker {
        Broker::amqp(Config { amqp_url: vec![self.url.clone()], ..Config::default() }).unwrap()
    }

    async fn publish_second(&self, traceparent: &str) {
        let publisher = self.broker().publisher();
        let publish = async || {
            let job = publisher.publish_raw("traced.second", &self.queue, "{}").header("traceparent", traceparent);
            job.header("tracestate", "vendor=1").await.is_ok()
        };
        eventually("it is published", LONG, publish).await;
    }

    async fn wait(&self, text: &str) {
        self.process.wait_line(text, LONG).await;
    }

    async fn end(&self) {
        self.process.sigterm();
        assert!(self.process.wait_exit(LONG).await.success());
    }
}

fn attribute<'a>(span: &'a Exported, name: &str) -> &'a str {
    span.attributes.get(name).map_or("", String::as_str)
}

/// Returns each span as a line, after its parent and further right; `Q` stands for the queue.
fn tree(spans: &[Exported], queue: &str, parent: &str, depth: usize) -> Vec<String> {
    let within = spans.iter().filter(|span| span.parent == parent);
    let lines = |span: &Exported| {
        let details =
            ["leveret.job", "leveret.attempt", "leveret.outcome", "error.type"].map(|name| attribute(span, name));
        let words = [&[span.kind.as_str(), &span.name], &details[..]].concat();
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let line = format!("{}{}", "  ".repeat(depth), words.join(" ").replace(queue, "Q"));
        [vec![line], tree(spans, queue, &span.id, depth + 1)].concat()
    };
    within.flat_map(lines).collect()
}

const LIFE: &str = "\
Producer publish leveret.v1.jobs:Q traced.first
  Consumer process leveret.v1.jobs:Q traced.first 1 retried error
    Client ack leveret.v1.jobs:Q traced.first 1 retried
  Consumer process leveret.v1.jobs:Q traced.first 2 retried error
    Client ack leveret.v1.jobs:Q traced.first 2 retried
  Consumer process leveret.v1.jobs:Q traced.first 3 dead error
    Client ack leveret.v1.jobs:Q traced.first 3 dead
  Producer publish leveret.v1.jobs:Q traced.first
    Consumer process leveret.v1.jobs:Q traced.first 1 succeeded
      Internal prepare
        Producer publish leveret.v1.jobs:Q traced.second
          Consumer process leveret.v1.jobs:Q traced.second 1 succeeded
            Producer publish leveret.v1.jobs:Q traced.third
              Client ack leveret.v1.jobs:Q traced.third 1 dead
            Client ack leveret.v1.jobs:Q traced.second 1 succeeded
      Client ack leveret.v1.jobs:Q traced.first 1 succeeded";

#[tokio::test]
async fn a_job_that_is_retried_dead_lettered_replayed_and_done_is_one_trace() {
    let collector = Collector::start().await;
    let id = unique("job");
    let stage = Stage::new(&collector.endpoint(), &["--publish", &id]).await;
    stage.wait("a dead letter of Some(\\\"traced.third").await;
    assert_eq!(collector.spans(), [], "what comes is flushed at the end");
    stage.end().await;

    // Publishes that found no queue yet are traces of their own.
    let spans = collector.spans();
    let first = spans.iter().find(|span| span.name.starts_with("publish") && span.error.is_none()).unwrap();
    let spans: Vec<_> = spans.iter().filter(|span| span.trace == first.trace).cloned().collect();
    let lines = tree(&spans, &stage.queue, "", 0);
    assert_eq!(lines.join("\n"), LIFE);
    assert_eq!(lines.len(), spans.len(), "none is without its parent");

    assert!(spans.iter().all(|span| span.service == "traced-worker"));
    let process = spans.iter().find(|span| span.kind == "Consumer").unwrap();
    assert_eq!(process.error.as_deref(), Some("not before it is replayed"));
    for (name, value) in [
        ("messaging.system", "rabbitmq"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", &format!("leveret.v1.jobs:{}", stage.queue)),
        ("messaging.rabbitmq.destination.routing_key", &stage.queue),
        ("messaging.message.id", &id),
    ] {
        assert_eq!(attribute(process, name), value, "{name}");
    }
    let operations = |kind: &str| {
        let span = spans.iter().find(|span| span.kind == kind).unwrap();
        ["messaging.operation.name", "messaging.operation.type"].map(|name| attribute(span, name).to_owned())
    };
    assert_eq!(operations("Producer"), ["publish", "send"]);
    assert_eq!(operations("Client"), ["ack", "settle"]);

    // A log line within a job has the id of its trace.
    let line = stage.process.wait_line("the second job is done", LONG).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["message"], "the second job is done");
    assert_eq!(line["spans"][0]["trace_id"], first.trace);
    assert_eq!(line["spans"][0]["job"], "traced.second");
    let failed = stage.process.wait_line("attempt failed", LONG).await;
    let failed: serde_json::Value = serde_json::from_str(&failed).unwrap();
    assert_eq!((&failed["trace_id"], &failed["job_id"]), (&first.trace.as_str().into(), &id.as_str().into()));
}

#[tokio::test]
async fn a_foreign_trace_is_continued_and_what_is_none_is_ignored() {
    let collector = Collector::start().await;
    let stage = Stage::new(&collector.endpoint(), &[]).await;
    let (trace, parent) = FOREIGN;
    let malformed = format!("00-{trace}-0000000000000000-01");
    stage.publish_second(&format!("00-{trace}-{parent}-01")).await;
    stage.publish_second(&malformed).await;
    stage.publish_second(&format!("00-{trace}-{parent}-00")).await;
    let third = async || stage.process.count("a dead letter of") == 3;
    eventually("all three have been done", LONG, third).await;
    stage.end().await;

    let spans = collector.spans();
    // They may have run beside each other, and may have ended in any order.
    let processes = spans.iter().filter(|span| span.kind == "Consumer");
    let (foreigners, own): (Vec<_>, Vec<_>) = processes.partition(|span| span.trace == trace);
    let ([foreign], [own]) = (foreigners.as_slice(), own.as_slice()) else {
        panic!("two of three are sampled: {spans:?}")
    };
    assert_eq!((foreign.trace.as_str(), foreign.parent.as_str()), FOREIGN);
    assert!(own.parent.is_empty(), "{own:?}");
    let follows = |of: &Exported| spans.iter().any(|span| span.kind == "Producer" && span.parent == of.id);
    assert!(follows(foreign) && follows(own));
}

#[tokio::test]
async fn jobs_run_while_the_collector_is_away_and_the_log_says_so_once() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let stage = Stage::new(&endpoint, &["--publish", "lost"]).await;
    stage.wait("a dead letter of Some(\\\"traced.third").await;
    stage.end().await;
    let reported = stage.process.wait_line("traces cannot be exported", LONG).await;
    assert_eq!(stage.process.count("traces cannot be exported"), 1, "{reported}");
    assert!(reported.contains("Connection refused"), "{reported}");
}

#[tokio::test]
async fn a_collector_with_a_certificate_is_trusted_as_its_authority_is() {
    let (authority, foreign) = (Authority::new("Shop CA"), Authority::new("Other CA"));
    let collector = Collector::start_tls(&authority.node(&authority.certify("localhost"), false)).await;
    let run = async |authority: &Authority| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority.pem()).unwrap();
        let trusted = [("OTEL_EXPORTER_OTLP_CERTIFICATE", file.path().to_str().unwrap())];
        let stage = Stage::with(&collector.endpoint(), &trusted, &["--publish", "secret"]).await;
        stage.wait("a dead letter of Some(\\\"traced.third").await;
        stage.end().await;
        stage
    };
    let said = run(&foreign).await.process.wait_line("traces cannot be exported", LONG).await;
    assert!(said.contains("UnknownIssuer"), "{said}");
    assert_eq!(collector.spans(), []);
    run(&authority).await;
    assert!(!collector.spans().is_empty());
}

#[tokio::test]
async fn the_variables_of_opentelemetry_are_heeded() {
    let collector = Collector::start().await;
    let run = async |environment: &[(&str, &str)]| {
        let stage = Stage::with(&collector.endpoint(), environment, &["--publish", "heeded"]).await;
        stage.wait("a dead letter of Some(\\\"traced.third").await;
        stage.end().await;
    };
    run(&[("OTEL_SDK_DISABLED", "true")]).await;
    run(&[("OTEL_TRACES_EXPORTER", "none")]).await;
    run(&[("OTEL_TRACES_SAMPLER", "always_off")]).await;
    assert_eq!(collector.spans(), []);
    run(&[("OTEL_SERVICE_NAME", "named")]).await;
    run(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=described")]).await;
    let services: BTreeSet<_> = collector.spans().into_iter().map(|span| span.service).collect();
    assert_eq!(services, BTreeSet::from(["described".to_owned(), "named".to_owned()]));
}

#[tokio::test]
async fn a_setting_of_traces_that_cannot_work_stops_the_start_by_its_name() {
    for (endpoint, environment, named) in [
        ("http://localhost:4317", Some(("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")), "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ("no address", None, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("collector:4318", None, "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ] {
        let environment: Vec<_> = environment.into_iter().collect();
        let stage = Stage::with(endpoint, &environment, &[]).await;
        assert!(!stage.process.wait_exit(LONG).await.success(), "{endpoint}");
        stage.wait(named).await;
    }
}
