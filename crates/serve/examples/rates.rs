//! Measures the API against the publisher alone: `cargo run --release -p leveret-serve --example rates`. Requires an
//! installed RabbitMQ, and takes about a minute.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for developers")]

use std::time::{Duration, Instant};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use futures_util::future::join_all;
use leveret::{Broker, Config, Context, Job, JobResult, Publisher, Worker, testing};
use leveret_harness::{Node, NodeOptions};
use leveret_serve::{Options, Server, Services};
use leveret_store::Store;
use reqwest::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const BATCHES: usize = 200;
const BATCH: usize = 100;
const RATE: u64 = 200;
const SECONDS: u64 = 10;
const ROUNDS: usize = 3;

#[derive(Serialize, Deserialize)]
struct Nap {}

impl Job for Nap {
    const NAME: &'static str = "bench.nap";
    const QUEUE: &'static str = "bench";
}

#[tokio::main]
async fn main() {
    let node = Node::start(NodeOptions::default()).await;
    let broker = Broker::amqp(Config { amqp_url: vec![node.url()], ..Config::default() }).unwrap();
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = Store::open(&folder.path().join("leveret.db").display().to_string()).await.unwrap();
    let services = Services::new(&broker, store);
    // Declares the queue, and announces the job.
    let worker = testing::start(Worker::new(()).handle(nap), &broker).await.unwrap();
    services.catalogue.wait_for(Nap::NAME).await;
    worker.stop().await.unwrap();
    let options =
        Options { listen: ([127, 0, 0, 1], 0).into(), default_job: Some(Nap::NAME.into()), ..Options::default() };
    let server = Server::bind(services, options).await.unwrap();
    let api = format!("http://{}/api/tasks", server.address());
    tokio::spawn(server.run(std::future::pending()));
    let bare = bare(broker.publisher()).await;
    let client = Client::new();

    for round in 1..=ROUNDS {
        for at_once in [1, 4] {
            let publisher = rate(at_once, async || published(&broker).await).await;
            let http = rate(at_once, async || posted(&client, &api).await).await;
            println!(
                "round {round}, batches of {BATCH}, {at_once} at once: publisher {publisher:.0}/s, API {http:.0}/s, ratio {:.2}",
                http / publisher
            );
        }
        let [of_bare, of_api] = [latencies(&client, &bare).await, latencies(&client, &api).await];
        println!(
            "round {round}, {RATE} requests/s: bare handler p50 {:?} p99 {:?}, API p50 {:?} p99 {:?}, ratio of p99 {:.2}",
            of_bare.0,
            of_bare.1,
            of_api.0,
            of_api.1,
            of_api.1.as_secs_f64() / of_bare.1.as_secs_f64()
        );
    }
}

async fn nap(_: Nap, _: Context<()>) -> JobResult {
    Ok(())
}

/// A handler with one confirmed publish.
async fn bare(publisher: Publisher) -> String {
    let handle = async |State(publisher): State<Publisher>| {
        publisher.publish(&Nap {}).await.unwrap();
        StatusCode::ACCEPTED
    };
    let routes = Router::new().route("/", post(handle)).with_state(publisher);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    url
}

/// Measures jobs a second, with this number of concurrent batches.
async fn rate(at_once: usize, batch: impl AsyncFn()) -> f64 {
    let started = Instant::now();
    let lane = async || {
        for _ in 0..BATCHES / at_once {
            batch().await;
        }
    };
    join_all((0..at_once).map(|_| lane())).await;
    (BATCHES * BATCH) as f64 / started.elapsed().as_secs_f64()
}

async fn published(broker: &Broker) {
    let jobs: Vec<_> = (0..BATCH).map(|_| Nap {}).collect();
    for published in broker.publisher().publish_all(&jobs).await {
        published.unwrap();
    }
}

async fn posted(client: &Client, api: &str) {
    let batch = Value::Array(vec![json!({ "name": "Important Task" }); BATCH]);
    let answer = client.post(format!("{api}/batch")).json(&batch).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    answer.bytes().await.unwrap();
}

/// Median and 99th percentile, from the time at which each request was due.
async fn latencies(client: &Client, url: &str) -> (Duration, Duration) {
    let start = tokio::time::Instant::now();
    let requests = (0..RATE * SECONDS).map(|n| {
        let due = start + Duration::from_millis(1000 * n / RATE);
        let (client, url) = (client.clone(), url.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep_until(due).await;
            let answer = client.post(url).json(&json!({ "name": "Important Task" })).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
            answer.bytes().await.unwrap();
            due.elapsed()
        })
    });
    let mut took: Vec<_> = join_all(requests).await.into_iter().map(Result::unwrap).collect();
    took.sort();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}
