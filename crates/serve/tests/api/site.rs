//! A server with its client, broker and store.

use std::time::Duration;

use leveret::{Broker, Config};
use leveret_harness::{eventually, eventually_eq};
use leveret_serve::{Options, Server, Services};
use leveret_store::Store;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::work::Running;

/// A time limit for events that should take far less.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Site {
    pub(crate) broker: Broker,
    pub(crate) services: Services,
    pub(crate) base: String,
    pub(crate) client: Client,
    stop: DropGuard,
    serving: JoinHandle<Result<(), leveret_serve::Error>>,
    _folder: Option<TempDir>,
}

pub(crate) fn options() -> Options {
    Options {
        listen: ([127, 0, 0, 1], 0).into(),
        default_job: Some("demo.nap".into()),
        drain: Duration::from_secs(5),
        ..Options::default()
    }
}

/// A file for a store of one test.
pub(crate) fn sqlite() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("leveret.db").display());
    (folder, url)
}

impl Site {
    /// Starts a server on the in-memory broker, with a worker.
    pub(crate) async fn with_worker() -> (Self, Running) {
        let site = Self::in_memory().await;
        let worker = site.work().await;
        (site, worker)
    }

    /// Starts a server on the in-memory broker, without a worker.
    pub(crate) async fn in_memory() -> Self {
        Self::with_options(options()).await
    }

    pub(crate) async fn with_options(options: Options) -> Self {
        let config = Config { payload_limit: 64 * 1024, ..Config::default() };
        let (folder, url) = sqlite();
        let mut site = Self::start(&Broker::memory_with(config), &url, options).await;
        site._folder = Some(folder);
        site
    }

    pub(crate) async fn start(broker: &Broker, store: &str, options: Options) -> Self {
        let services = Services::new(broker, Store::open(store).await.unwrap());
        let server = Server::bind(services.clone(), options).await.unwrap();
        let base = format!("http://{}", server.address());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.run(stop.clone().cancelled_owned()));
        let (stop, client) = (stop.drop_guard(), Client::new());
        Self { broker: broker.clone(), services, base, client, stop, serving, _folder: None }
    }

    /// Starts a worker, and waits until its jobs are known here.
    pub(crate) async fn work(&self) -> Running {
        let running = Running::start(&self.broker).await;
        self.knows_jobs().await;
        running
    }

    pub(crate) async fn knows_jobs(&self) {
        self.services.catalogue.wait_for("demo.work").await;
        self.services.catalogue.wait_for("demo.nap").await;
    }

    /// The dead letter of a job, once the server has ingested it.
    pub(crate) async fn dead_letter(&self, job_id: &str) -> Value {
        let mut number = None;
        let ingested = async || {
            number = self.get(&format!("/api/dead?job_id={job_id}")).await.1["dead_letters"][0]["id"].as_i64();
            number.is_some()
        };
        eventually("the dead letter is ingested", SOON, ingested).await;
        self.get(&format!("/api/dead/{}", number.unwrap())).await.1
    }

    /// Stops the server as a signal would.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.serving.await.unwrap().unwrap();
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Response {
        let request = self.client.request(method, format!("{}{path}", self.base));
        let request = if let Some(body) = body { request.json(body) } else { request };
        request.send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.send(Method::GET, path, None).await).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        read(self.send(Method::POST, path, Some(body)).await).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (StatusCode, Value) {
        read(self.send(Method::DELETE, path, None).await).await
    }

    /// Submits a job that must be accepted, and returns its id.
    pub(crate) async fn submit(&self, body: &Value) -> String {
        let (status, answer) = self.post("/api/tasks", body).await;
        assert_eq!(status, 202, "{answer}");
        answer["task_id"].as_str().unwrap().to_owned()
    }

    /// Submits a job with this act.
    pub(crate) async fn submit_work(&self, act: &str) -> String {
        self.submit(&json!({ "job": "demo.work", "payload": { "act": act } })).await
    }

    pub(crate) async fn task(&self, id: &str) -> Value {
        let (status, task) = self.get(&format!("/api/tasks/{id}")).await;
        assert_eq!(status, 200, "{task}");
        task
    }

    /// Waits until a task has this status, and returns it.
    pub(crate) async fn reaches(&self, id: &str, status: &str) -> Value {
        eventually_eq("the status of the task", SOON, json!(status), async || self.task(id).await["status"].clone())
            .await;
        self.task(id).await
    }
}

pub(crate) async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
