use std::time::Duration;

use leveret_store::IdempotencyRequest;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::site::{Site, read};

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
    site.services.store.claim(&claiming, leveret::time::now_ms(), Duration::ZERO).await.unwrap();
    let publisher = site.broker.publisher();
    publisher.publish_raw("demo.nap", "demo", "{}").track().id("job-a").await.unwrap();
    leveret_harness::eventually("its steps are seen", crate::site::SOON, async || {
        site.services.store.job("job-a").await.unwrap().is_some()
    })
    .await;

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
