//! Workflows while the server is killed: every step runs in its order, and every workflow ends.

use std::sync::atomic::Ordering;

use leveret::{Broker, Config, NewJob, TopologyMode, workflow::Workflow};
use leveret_harness::{Node, NodeOptions, Postgres, eventually};
use serde_json::{Value, json};

use crate::{
    client::Client,
    stage::{LONG, QUEUE, ServerSetup, work},
};

/// The workflows of a test, and the jobs of each.
const WORKFLOWS: usize = 24;
const JOBS: usize = 8;

fn definition(id: &str) -> Value {
    let step = |after: &[&str]| json!({ "job": "test.moment", "payload": {}, "after": after });
    json!({ "name": "order", "id": id, "steps": {
        "a": step(&[]),
        "b": step(&["a"]),
        "c": { "job": "test.moment", "after": ["a"], "each": [{}, {}, {}, {}] },
        "d": step(&["b", "c"]),
        "e": step(&["d"]),
    } })
}

async fn get(client: &Client, path: String) -> Option<(u16, Value)> {
    let client = client.clone();
    tokio::task::spawn_blocking(move || client.get(&path)).await.unwrap()
}

async fn completed(client: &Client) -> usize {
    let found = get(client, "/api/workflows?status=Completed&limit=1000".to_owned()).await;
    let list = found.filter(|(status, _)| *status == 200).map(|(_, page)| page["workflows"].clone());
    list.and_then(|list| list.as_array().map(Vec::len)).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_workflow_completes_in_order_though_the_server_is_killed_in_the_middle() {
    let (node, postgres) = tokio::join!(Node::start(NodeOptions::default()), Postgres::start());
    let (running, done) = work(&node.url(), TopologyMode::Declare).await;
    let place = ServerSetup::new(node.url(), postgres.database().await);
    let (server, client) = (place.serve().await, place.client());
    for number in 0..WORKFLOWS / 2 {
        let (client, definition) = (client.clone(), definition(&format!("http-{number}")));
        let answer = tokio::task::spawn_blocking(move || client.post("/api/workflows", &definition)).await.unwrap();
        assert_eq!(answer.map(|(status, _)| status), Some(202));
    }
    server.sigkill();
    // With the server gone, workflows are started with the broker alone.
    let broker = Broker::amqp(Config { amqp_url: vec![node.url()], ..Config::default() }).unwrap();
    for number in WORKFLOWS / 2..WORKFLOWS {
        let job = || NewJob::raw("test.moment", QUEUE, "{}");
        let workflow = Workflow::new("order")
            .id(format!("amqp-{number}"))
            .step("a", job())
            .step("b", job())
            .after("a")
            .steps("c", (0..4).map(|_| job()))
            .after("a")
            .step("d", job())
            .after(["b", "c"])
            .step("e", job())
            .after("d");
        broker.publisher().start(&workflow).await.unwrap();
    }
    let mut server = place.serve().await;
    for part in 1..=3 {
        let some = async || completed(&client).await >= WORKFLOWS * part / 5;
        eventually("some workflows have completed", LONG, some).await;
        server.sigkill();
        server = place.serve().await;
    }
    eventually("all workflows complete", LONG, async || completed(&client).await == WORKFLOWS).await;
    for number in 0..WORKFLOWS {
        let id = if number < WORKFLOWS / 2 { format!("http-{number}") } else { format!("amqp-{number}") };
        let (_, workflow) = get(&client, format!("/api/workflows/{id}")).await.unwrap();
        assert_eq!(workflow["progress"]["done"], JOBS, "{workflow}");
        let time = |step: &str, which: &str| -> jiff::Timestamp {
            workflow["steps"][step][which].as_str().unwrap().parse().unwrap()
        };
        for (first, then) in [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "e")] {
            assert!(time(first, "finished_at") <= time(then, "published_at"), "{first} before {then}: {workflow}");
        }
    }
    assert!(done.load(Ordering::SeqCst) >= WORKFLOWS * JOBS);
    eprintln!("{} jobs, {} runs", WORKFLOWS * JOBS, done.load(Ordering::SeqCst));
    drop(server);
    broker.close().await;
    running.stop().await.unwrap();
}
