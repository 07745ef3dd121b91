use leveret::feed::{Feed, Source};
use leveret_store::{DeadSource, NewDead};
use serde_json::json;

use crate::site::Site;

/// Takes the next dead letter into the store, as the desk does.
async fn take_in(site: &Site) {
    let mut feed = Feed::new(&site.broker, Source::DeadLetters("demo".into()), 1);
    let batch = feed.next(1).await;
    let message = batch.messages()[0].message();
    let letter = message.dead_letter();
    let taken = NewDead {
        source: DeadSource::Dead,
        queue: "demo".into(),
        job_id: letter.id,
        job: letter.job.unwrap_or_default(),
        kind: letter.kind.map(|kind| kind.to_string()).unwrap_or_default(),
        error: letter.reason,
        attempt: letter.attempt,
        hop: message.hop(),
        failed_at: message.failed_at(),
        properties: message.properties(),
        payload: message.payload().to_vec(),
        redelivered: false,
    };
    site.services.store.take_in(&[taken], 1_800_000_000_000).await.unwrap();
    feed.ack(batch);
    feed.close().await;
}

#[tokio::test]
async fn a_failed_task_runs_again_when_it_is_retried() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("fail_once").await;
    site.reaches(&id, "Failed").await;
    take_in(&site).await;
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
    let (status, problem) = site.post(&format!("/api/tasks/{id}/retry"), &json!({})).await;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:leveret:problem:no-dead-letter")));
}
