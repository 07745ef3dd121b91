use std::{future::poll_fn, pin::Pin, task::Poll, time::Duration};

use leveret::time::now_ms;
use leveret_harness::{eventually, eventually_eq};
use leveret_serve::jobs::Idempotency;
use leveret_store::{IdempotencyRequest, Retention};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::site::{SOON, Site, read};

async fn post(site: &Site, path: &str, key: &str, body: &Value) -> (StatusCode, Value) {
    let url = format!("{}{path}", site.base);
    read(site.client.post(url).header("idempotency-key", key).json(body).send().await.unwrap()).await
}

#[tokio::test]
async fn the_same_key_and_body_get_the_same_answer_and_the_job_runs_once() {
    let (site, _worker) = Site::with_worker().await;
    let first = post(&site, "/api/tasks", "order-17", &json!({ "name": "once" })).await;
    let second = post(&site, "/api/tasks", "order-17", &json!({ "name": "once" })).await;
    assert_eq!((first.0.as_u16(), &first), (202, &second));
    assert_eq!(site.get("/api/tasks").await.1["tasks"].as_array().unwrap().len(), 1);
    let other = post(&site, "/api/tasks", "order-18", &json!({ "name": "once" })).await;
    assert_ne!(other.1, first.1);
}

#[tokio::test]
async fn the_same_key_with_another_body_is_a_conflict() {
    let (site, _worker) = Site::with_worker().await;
    post(&site, "/api/tasks", "order-17", &json!({ "name": "once" })).await;
    for (path, body) in [("/api/tasks", json!({ "name": "twice" })), ("/api/tasks/batch", json!([{ "name": "once" }]))]
    {
        let (status, problem) = post(&site, path, "order-17", &body).await;
        assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:leveret:problem:idempotency-key-reused")));
    }
}

#[tokio::test]
async fn a_batch_has_a_key_too() {
    let (site, _worker) = Site::with_worker().await;
    let batch = json!([{ "name": "a" }, { "name": "b" }]);
    let first = post(&site, "/api/tasks/batch", "batch-1", &batch).await;
    assert_eq!((first.0.as_u16(), &first), (202, &post(&site, "/api/tasks/batch", "batch-1", &batch).await));
    assert_eq!(site.get("/api/tasks").await.1["tasks"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn equal_requests_at_the_same_time_run_one_job() {
    let (site, _worker) = Site::with_worker().await;
    let body = json!({ "name": "once" });
    let answers = futures_util::future::join_all((0..10).map(|_| post(&site, "/api/tasks", "rush", &body))).await;
    let ids: std::collections::HashSet<_> = answers.iter().filter_map(|answer| answer.1["task_id"].as_str()).collect();
    assert!(answers.iter().all(|(status, _)| [202, 409].contains(&status.as_u16())), "{answers:?}");
    assert_eq!((ids.len(), site.get("/api/tasks").await.1["tasks"].as_array().unwrap().len()), (1, 1));
}

#[tokio::test]
async fn a_request_whose_server_died_is_repeated_under_the_same_ids_without_what_was_published() {
    let (site, _worker) = Site::with_worker().await;
    let batch = json!([{ "name": "a" }, { "name": "b" }]);
    // The state after a server was killed between two publishes: the key is claimed, and a worker has the first job.
    let hash = {
        use sha2::{Digest, Sha256};
        let hash = Sha256::new().chain_update("batch\0").chain_update(batch.to_string()).finalize();
        leveret::text::hex(&hash)
    };
    let ids = ["job-a".to_owned(), "job-b".to_owned()];
    let claiming = IdempotencyRequest { key: "k", body_hash: &hash, task_ids: &ids };
    site.services.store.claim(&claiming, now_ms(), Duration::ZERO).await.unwrap();
    let publisher = site.broker.publisher();
    publisher.publish_raw("demo.nap", "demo", "{}").track().id("job-a").await.unwrap();
    eventually("its steps are seen", SOON, async || site.services.store.job("job-a").await.unwrap().is_some()).await;

    let (status, answer) = post(&site, "/api/tasks/batch", "k", &batch).await;
    assert_eq!((status.as_u16(), answer), (202, json!(ids)));
    site.reaches("job-b", "Completed").await;
    let received = site.broker.metrics_text();
    let line =
        received.lines().find(|line| line.contains("jobs_published_total") && line.contains("demo.nap")).unwrap();
    assert!(line.ends_with(" 2"), "each was published once: {line}");
}

#[tokio::test]
async fn a_key_that_no_header_should_have_is_refused() {
    let (site, _worker) = Site::with_worker().await;
    for key in ["", "two words", &"k".repeat(256)] {
        assert_eq!(post(&site, "/api/tasks", key, &json!({})).await.0, 422);
    }
}

/// A workflow of one step that ends as `act` does.
fn workflow(act: &str) -> Value {
    json!({ "name": "order", "steps": { "a": { "job": "demo.work", "payload": { "act": act } } } })
}

#[tokio::test]
async fn a_workflow_with_a_key_starts_once_and_a_repeated_request_gets_its_id() {
    let (site, _worker) = Site::with_worker().await;
    let first = post(&site, "/api/workflows", "order-17", &workflow("echo")).await;
    let second = post(&site, "/api/workflows", "order-17", &workflow("echo")).await;
    assert_eq!((first.0.as_u16(), &first), (202, &second));
    assert_eq!(site.get("/api/workflows").await.1["workflows"].as_array().unwrap().len(), 1);
    let (status, problem) = post(&site, "/api/workflows", "order-17", &workflow("progress")).await;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:leveret:problem:idempotency-key-reused")));
}

#[tokio::test]
async fn after_a_refused_definition_the_same_key_works_at_once() {
    let (site, _worker) = Site::with_worker().await;
    let definition = |act: &str| {
        let mut definition = workflow(act);
        definition["id"] = json!("order-17");
        definition
    };
    let started = (StatusCode::ACCEPTED, json!({ "workflow_id": "order-17" }));
    assert_eq!(post(&site, "/api/workflows", "first", &definition("echo")).await, started);
    for _ in 0..2 {
        let (status, problem) = post(&site, "/api/workflows", "second", &definition("progress")).await;
        assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:leveret:problem:workflow-differs")));
    }
    // The id is free once the other workflow is deleted.
    eventually_eq("the first workflow ends", SOON, json!("Completed"), async || {
        site.get("/api/workflows/order-17").await.1["status"].clone()
    })
    .await;
    let retention = Retention { workflows: Duration::ZERO, ..Retention::default() };
    eventually("the first workflow is deleted", SOON, async || {
        site.services.store.prune(now_ms(), &retention).await.unwrap().workflows == 1
    })
    .await;
    assert_eq!(post(&site, "/api/workflows", "second", &definition("progress")).await, started);
}

/// Polls a request this often, and drops it then if it is not over: its client has disconnected.
async fn until_disconnected<F: Future>(mut polls: usize, mut request: Pin<Box<F>>) -> Option<F::Output> {
    poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        request.as_mut().poll(context).map(Some)
    })
    .await
}

#[tokio::test]
async fn a_client_that_disconnects_at_any_moment_can_repeat_its_start_of_a_workflow() {
    let (site, _worker) = Site::with_worker().await;
    let start = |polls: usize| {
        let idempotency = Idempotency { key: format!("k{polls}"), body_hash: "h".to_owned() };
        site.services.start_workflow(workflow("echo").to_string(), Some(idempotency))
    };
    let mut polls = 0;
    loop {
        polls += 1;
        let first = until_disconnected(polls, Box::pin(start(polls))).await;
        let mut id = None;
        let is_answered = async || {
            id = start(polls).await.ok();
            id.is_some()
        };
        eventually("a repeated request is answered", SOON, is_answered).await;
        assert_eq!(start(polls).await.ok(), id, "after {polls} polls");
        if let Some(first) = first {
            assert_eq!(first.ok(), id);
            break;
        }
    }
    let started = site.get("/api/workflows").await.1["workflows"].as_array().unwrap().len();
    assert_eq!(started, polls, "one for each key");
}
