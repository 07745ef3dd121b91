//! A vhost for each test on one node with the management plugin, workers in it, and runs of the doctor.

use std::process::Command;

use leveret::{
    Broker, Config, Queue,
    testing::{self, Running},
};
use leveret_harness::{Node, NodeOptions, RawClient, unique};
use leveret_tests::jobs::{Log, worker};
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};

/// The node of all these tests.
pub(crate) async fn node() -> &'static Node {
    static NODE: OnceCell<Node> = OnceCell::const_new();
    NODE.get_or_init(async || {
        // The API has statistics of a new queue after a tick and a collection, which are 5 s apart by default.
        let options = NodeOptions::default().plugin("rabbitmq_management").config("collect_statistics_interval = 500");
        // The plugin measures memory through /proc, which a node in a root file system of its own does not have.
        let options = options.config("vm_memory_calculation_strategy = erlang");
        let node = Node::start(options).await;
        node.eval("application:set_env(rabbit, quorum_tick_interval, 500).").await.unwrap();
        node
    })
    .await
}

/// A vhost in which nothing is declared yet.
pub(crate) struct Clinic {
    pub(crate) node: &'static Node,
    pub(crate) vhost: String,
}

impl Clinic {
    pub(crate) async fn open() -> Self {
        static SPARE: Mutex<Vec<String>> = Mutex::const_new(Vec::new());
        let (node, mut spare) = (node().await, SPARE.lock().await);
        if spare.is_empty() {
            *spare = add_vhosts(node).await;
        }
        Self { node, vhost: spare.pop().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        self.url_for("guest", "guest")
    }

    pub(crate) fn url_for(&self, user: &str, password: &str) -> String {
        self.node.url_for(user, password, &self.vhost)
    }

    pub(crate) fn broker(&self) -> Broker {
        Broker::amqp(Config { amqp_url: vec![self.url()], ..Config::default() }).unwrap()
    }

    /// Starts a worker of the queue `email`, which declares everything.
    pub(crate) async fn work(&self, set: impl FnOnce(Queue) -> Queue) -> Running {
        testing::start(worker("email", set, &Log::default()), &self.broker()).await.unwrap()
    }

    /// Lets a worker of the queue `email` declare everything and stop.
    pub(crate) async fn declare(&self) {
        self.work(|queue| queue).await.stop().await.unwrap();
    }

    pub(crate) async fn raw(&self) -> RawClient {
        RawClient::connect(&self.url()).await.unwrap()
    }

    /// A visit over AMQP alone.
    pub(crate) async fn visit(&self, arguments: &[&str]) -> Visit {
        visit(&self.url(), arguments).await
    }

    /// A visit with the management API too.
    pub(crate) async fn thorough_visit(&self, arguments: &[&str]) -> Visit {
        let management = format!("http://127.0.0.1:{}", self.node.http_port());
        self.visit(&[&["--management-url", &management], arguments].concat()).await
    }
}

/// Many at once, because one call of `rabbitmqctl` costs more than all of them.
async fn add_vhosts(node: &Node) -> Vec<String> {
    let names: Vec<_> = (0..24).map(|_| unique("clinic")).collect();
    let binaries: Vec<_> = names.iter().map(|name| format!("<<\"{name}\">>")).collect();
    let add = format!(
        r#"[begin
            ok = rabbit_vhost:add(Name, <<"harness">>),
            ok = rabbit_auth_backend_internal:set_permissions(
                <<"guest">>, Name, <<".*">>, <<".*">>, <<".*">>, <<"harness">>)
        end || Name <- [{}]]."#,
        binaries.join(",")
    );
    node.eval(&add).await.unwrap();
    names
}

/// The output and the exit code of the doctor.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Visit {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The findings of a level: check, subject, and the other fields in one line.
    pub(crate) fn findings(&self, level: &str) -> Vec<(String, String, String)> {
        let findings = self.json()["findings"].as_array().unwrap().clone();
        let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or("-").to_owned();
        let said =
            |finding: &Value| ["message", "expected", "found", "remedy"].map(|name| text(finding, name)).join(" | ");
        let of_level = findings.iter().filter(|finding| finding["level"] == level);
        of_level.map(|finding| (text(finding, "check"), text(finding, "subject"), said(finding))).collect()
    }

    /// Asserts that these are the problems, by check and subject, and returns their texts.
    pub(crate) fn problems(&self, wanted: &[(&str, &str)]) -> Vec<String> {
        let problems = self.findings("problem");
        let named: Vec<_> = problems.iter().map(|(check, subject, _)| (check.as_str(), subject.as_str())).collect();
        assert_eq!(named, wanted, "{self:#?}");
        assert_eq!(self.code, i32::from(!wanted.is_empty()), "{self:#?}");
        problems.into_iter().map(|(_, _, said)| said).collect()
    }

    /// The text of the finding of this level, check and subject.
    pub(crate) fn says(&self, level: &str, check: &str, subject: &str) -> String {
        let findings = self.findings(level);
        let found = findings.into_iter().find(|finding| finding.0 == check && finding.1 == subject);
        found.unwrap_or_else(|| panic!("no {level} of {check} about {subject}: {self:#?}")).2
    }
}

pub(crate) fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// A visit to the broker at `url`, in JSON unless `arguments` say otherwise.
pub(crate) async fn visit(url: &str, arguments: &[&str]) -> Visit {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    let foreign =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("LEVERET_"));
    for name in foreign {
        command.env_remove(name);
    }
    command.env("AMQP_URL", url).arg("doctor").args(arguments);
    if !arguments.contains(&"--output") {
        command.args(["--output", "json"]);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Visit { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
