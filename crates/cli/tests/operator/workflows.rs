//! `leveret workflows start`.

use leveret::{Context, Job, JobResult, Worker, catalogue::Catalogue, testing::start};
use leveret_harness::Permissions;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::post::Post;

#[derive(Serialize, Deserialize)]
struct Charge {
    cents: u64,
}

impl Job for Charge {
    const NAME: &'static str = "charge";
    const QUEUE: &'static str = "money";

    fn schema() -> Option<Value> {
        Some(json!({ "required": ["cents"], "properties": { "cents": { "type": "integer" } } }))
    }
}

async fn charge(_: Charge, _: Context<()>) -> JobResult {
    Ok(())
}

/// A definition with one step.
fn definition(step: &str) -> String {
    format!(r#"{{"name": "order", "steps": {{"a": {step}}}}}"#)
}

#[tokio::test]
async fn a_workflow_that_does_not_fit_the_catalogue_is_not_started_and_its_faults_are_named_with_their_places() {
    let post = Post::sqlite().await;
    let broker = post.broker();
    let running = start(Worker::new(()).handle(charge), &broker).await.unwrap();
    Catalogue::follow(&broker).wait_for("charge").await;
    for (step, place) in [
        (r#"{"job": "charge", "payload": {"cents": "1"}}"#, "/steps/a/payload/cents: "),
        (r#"{"job": "charge", "payload": {"cents": 1, "cents": 2}}"#, "/steps/a/payload/cents: "),
        (r#"{"job": "charge", "queue": "money", "each": [{"cents": 1}, {}]}"#, "/steps/a/each/1: "),
        (r#"{"job": "wrok", "payload": {"cents": 1}}"#, r#"did you mean "charge"?"#),
        (r#"{"job": "charge", "job": "charge", "payload": {"cents": 1}}"#, "/steps/a/job: "),
        (r#"{"jod": "charge"}"#, "line 1 column "),
    ] {
        let said = post.run_with(&["workflows", "start", "-"], &definition(step)).await.ends(2);
        assert!(said.stderr.contains(place) && said.stdout.is_empty(), "{step}: {said:?}");
    }
    let good = definition(r#"{"job": "charge", "payload": {"cents": 1}}"#);
    let said = post.run_with(&["workflows", "start", "-", "--output", "json"], &good).await.ends(0);
    assert!(said.json()["workflow_id"].is_string() && said.stderr.is_empty(), "{said:?}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_user_without_the_right_to_read_the_catalogue_starts_a_workflow_whose_jobs_name_their_queues() {
    let post = Post::sqlite().await;
    // The server declares the queue of definitions.
    let _server = post.serve().await;
    let rights = Permissions { configure: "", write: "^leveret.v1.(jobs|delay.*)$", read: "^$" };
    post.vhost.node().add_user("starter", "secret", post.vhost.name(), rights).await.unwrap();
    let url = post.vhost.url_for("starter", "secret");
    let start = ["workflows", "start", "-", "--topology", "verify", "--amqp-url", &url];
    let said = post.run_with(&start, &definition(r#"{"job": "test.script"}"#)).await.ends(2);
    assert!(said.stderr.contains("the right to read it?") && said.stderr.contains("set queue"), "{said:?}");
    let named = definition(r#"{"job": "test.script", "queue": "mail", "delay": "1h"}"#);
    let said = post.run_with(&start, &named).await.ends(0);
    assert!(said.stderr.contains("Not checked: the catalogue"), "{said:?}");
}
