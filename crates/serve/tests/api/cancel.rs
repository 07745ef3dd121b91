use std::time::{Duration, SystemTime};

use leveret::{
    JobId,
    unique::{Claim, Claimed},
};
use serde_json::json;

use crate::site::Site;

#[tokio::test]
async fn a_queued_task_that_is_cancelled_does_not_start() {
    let site = Site::in_memory().await;
    site.work().await.stop().await;
    let id = site.submit_work("gate").await;
    let (status, answer) = site.delete(&format!("/api/tasks/{id}")).await;
    assert_eq!((status.as_u16(), answer), (202, json!({ "task_id": id, "was": "queued" })));
    let task = site.task(&id).await;
    assert!(task["status"] == "Cancelled" && task["cancel_requested_at"].is_string(), "{task}");
    let worker = site.work().await;
    let last = site.submit_work("echo").await;
    site.reaches(&last, "Completed").await;
    let ended = |task: serde_json::Value| task["finished_at"].is_string();
    leveret_harness::eventually("it ends", crate::site::SOON, async || ended(site.task(&id).await)).await;
    assert_eq!(worker.gate.started.available_permits(), 0, "it never ran");
}

#[tokio::test]
async fn the_handler_of_a_running_task_is_notified_of_its_cancellation() {
    let (site, worker) = Site::with_worker().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    site.reaches(&id, "Processing").await;
    let (status, answer) = site.delete(&format!("/api/tasks/{id}")).await;
    assert_eq!((status.as_u16(), answer), (202, json!({ "task_id": id, "was": "running" })));
    site.reaches(&id, "Cancelled").await;
    // A second cancellation is too late.
    let (status, problem) = site.delete(&format!("/api/tasks/{id}")).await;
    assert_eq!((status.as_u16(), &problem["task_status"]), (409, &json!("Cancelled")));
}

#[tokio::test]
async fn a_delayed_task_that_is_cancelled_does_not_start() {
    let (site, worker) = Site::with_worker().await;
    let id = site.submit(&json!({ "job": "demo.work", "payload": { "act": "gate" }, "delay": "1s" })).await;
    assert_eq!(site.delete(&format!("/api/tasks/{id}")).await.1["was"], "queued");
    let (_, task) = site.get(&format!("/api/tasks/{id}?wait=60s")).await;
    assert_eq!(
        (&task["status"], &task["finished_at"]),
        (&json!("Cancelled"), &json!(null)),
        "the test does not wait for its time"
    );
    let ended = |task: serde_json::Value| task["finished_at"].is_string();
    leveret_harness::eventually("it ends", crate::site::SOON, async || ended(site.task(&id).await)).await;
    assert_eq!(worker.gate.started.available_permits(), 0, "it never ran");
}

#[tokio::test]
async fn the_unique_key_of_a_cancelled_task_is_free_with_the_answer() {
    let site = Site::in_memory().await;
    site.work().await.stop().await;
    let keys: std::sync::Arc<dyn leveret::unique::UniqueKeys> = std::sync::Arc::new(site.services.store.clone());
    let id = site.submit(&json!({ "job": "demo.work", "payload": { "act": "gate" }, "delay": "1h" })).await;
    let origin = site.services.store.job(&id).await.unwrap().unwrap().origin.unwrap();
    let (now, own, next) = (SystemTime::now(), JobId::from(&id), JobId::from("next"));
    let until = now + Duration::from_secs(24 * 3600);
    let claim = |job_id, origin| Claim { key: "demo.work/7", job_id, origin, now, until, instead_of: None };
    keys.take(claim(&own, &origin)).await.unwrap();
    assert_eq!(keys.take(claim(&next, "other")).await.unwrap(), Claimed::By(own.clone()));
    assert_eq!(site.delete(&format!("/api/tasks/{id}")).await.0, 202);
    assert_eq!(keys.take(claim(&next, "other")).await.unwrap(), Claimed::Taken);
}

#[tokio::test]
async fn what_has_ended_or_never_was_cannot_be_cancelled() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("echo").await;
    site.reaches(&id, "Completed").await;
    let (status, problem) = site.delete(&format!("/api/tasks/{id}")).await;
    assert_eq!((status.as_u16(), &problem["task_status"]), (409, &json!("Completed")));
    assert_eq!(site.delete("/api/tasks/unknown").await.0, 404);
}
