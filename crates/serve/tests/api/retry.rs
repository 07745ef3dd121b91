use std::sync::atomic::{AtomicBool, Ordering};

use leveret::{Context, Event, JobError, JobResult, Subscription, Worker, testing};
use leveret_harness::{eventually, eventually_eq};
use leveret_store::{AuditStamp, DeadFilter, ReplayLease, Selection};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::site::{SOON, Site};

/// Waits until the server has ingested the dead letter.
async fn ingest(site: &Site) {
    let taken = async || site.services.store.count_dead(&DeadFilter::default()).await.unwrap();
    eventually_eq("the dead letter is ingested", SOON, 1, taken).await;
}

#[tokio::test]
async fn a_failed_task_runs_again_when_it_is_retried() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("fail_once").await;
    site.reaches(&id, "Failed").await;
    ingest(&site).await;
    let (status, answer) = site.post(&format!("/api/tasks/{id}/retry"), &json!({})).await;
    assert_eq!((status.as_u16(), answer), (202, json!({ "task_id": id })));
    let task = site.reaches(&id, "Completed").await;
    assert_eq!((&task["error"], &task["attempt"]), (&json!(null), &json!(1)));
    let steps: Vec<_> =
        task["timeline"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["queued", "received", "started", "dead", "queued", "received", "started", "succeeded"]);
}

#[tokio::test]
async fn only_a_failed_task_can_be_retried() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("echo").await;
    site.reaches(&id, "Completed").await;
    let (status, problem) = site.post(&format!("/api/tasks/{id}/retry"), &json!({})).await;
    assert_eq!((status.as_u16(), &problem["task_status"]), (409, &json!("Completed")));
    assert_eq!(site.post("/api/tasks/unknown/retry", &json!({})).await.0, 404);
}

#[tokio::test]
async fn a_failed_task_whose_dead_letter_is_gone_says_so() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("fail").await;
    site.reaches(&id, "Failed").await;
    ingest(&site).await;
    let by = AuditStamp { actor: "anna", at: 1_800_000_000_000 };
    site.services.store.purge(&Selection::Filter(DeadFilter::default()), by).await.unwrap();
    let (status, problem) = site.post(&format!("/api/tasks/{id}/retry"), &json!({})).await;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:leveret:problem:no-dead-letter")));
}

#[tokio::test]
async fn a_retry_that_was_killed_halfway_resumes_by_itself() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("fail_once").await;
    site.reaches(&id, "Failed").await;
    ingest(&site).await;
    let store = &site.services.store;
    let (by, options) = (AuditStamp { actor: "anna", at: 1 }, json!({ "track": true }));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let lease = ReplayLease { owner: "killed", until: u64::try_from(now).unwrap() + 3_000 };
    let all = Selection::Filter(DeadFilter::default());
    store.start_replay(&all, &options, by, lease).await.unwrap();
    let (status, problem) = site.post(&format!("/api/tasks/{id}/retry"), &json!({})).await;
    assert_eq!((status.as_u16(), &problem["task_status"]), (409, &json!("Failed")));
    assert!(problem.to_string().contains("is being replayed"), "{problem}");
    site.reaches(&id, "Completed").await;
}

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
struct Placed {}

/// Fails once.
async fn reserve(_: Placed, ctx: Context<AtomicBool>) -> JobResult {
    if ctx.state().swap(true, Ordering::SeqCst) { Ok(()) } else { Err(JobError::permanent("no stock")) }
}

#[tokio::test]
async fn a_failed_event_runs_again_in_its_subscription_when_it_is_retried() {
    let site = Site::in_memory().await;
    let worker = Worker::new(AtomicBool::new(false)).subscribe(Subscription::new("warehouse"), reserve);
    let running = testing::start(worker, &site.broker).await.unwrap();
    site.broker.publisher().emit(&Placed {}).id("e1").track().await.unwrap();
    let failed =
        async || site.services.store.job("e1@warehouse").await.unwrap().is_some_and(|job| job.state.is_terminal());
    eventually("it has failed", SOON, failed).await;
    site.reaches("e1@warehouse", "Failed").await;
    ingest(&site).await;
    let (status, answer) = site.post("/api/tasks/e1@warehouse/retry", &json!({})).await;
    assert_eq!((status.as_u16(), answer), (202, json!({ "task_id": "e1@warehouse" })));
    let task = site.reaches("e1@warehouse", "Completed").await;
    assert_eq!(task["error"], json!(null), "{task}");
    running.stop().await.unwrap();
}
