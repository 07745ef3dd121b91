use serde_json::json;

use crate::site::Site;

#[tokio::test]
async fn a_task_goes_from_pending_through_processing_to_completed_with_its_result() {
    let site = Site::in_memory().await;
    site.work().await.stop().await;
    let id = site.submit_work("gate").await;
    assert_eq!(site.task(&id).await["status"], "Pending");
    let worker = site.work().await;
    worker.one_started().await;
    let task = site.reaches(&id, "Processing").await;
    assert!(task["started_at"].is_string() && task["worker"].is_string() && task["finished_at"].is_null(), "{task}");
    worker.gate.open.add_permits(1);
    let task = site.reaches(&id, "Completed").await;
    assert_eq!(task["result"], "through the gate");
    let steps: Vec<_> =
        task["timeline"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["queued", "received", "started", "succeeded"]);
}

#[tokio::test]
async fn a_failed_task_says_why() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("fail").await;
    let task = site.reaches(&id, "Failed").await;
    assert_eq!((&task["error"], &task["error_kind"]), (&json!("the printer is on fire"), &json!("permanent")));
}

#[tokio::test]
async fn a_task_that_is_tried_again_shows_each_attempt() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("fail_twice").await;
    let retrying = site.reaches(&id, "Retrying").await;
    assert_eq!(retrying["error"], "out of paper");
    assert!(retrying["due_at"].is_string(), "{retrying}");
    let task = site.reaches(&id, "Completed").await;
    assert_eq!(
        (&task["attempt"], &task["result"], &task["error"]),
        (&json!(3), &json!({ "attempt": 3 }), &json!(null))
    );
    let timeline = task["timeline"].as_array().unwrap();
    let failures = timeline.iter().filter(|step| step["step"] == "retrying" && step["error"] == "out of paper");
    assert_eq!(failures.count(), 2, "{timeline:?}");
}

#[tokio::test]
async fn progress_is_shown_while_a_task_runs() {
    let (site, worker) = Site::with_worker().await;
    let id = site.submit_work("progress").await;
    worker.one_started().await;
    let shown = json!({ "fraction": 0.5, "note": "half the pages" });
    leveret_harness::eventually_eq("progress", crate::site::SOON, shown, async || {
        site.task(&id).await["progress"].clone()
    })
    .await;
    worker.gate.open.add_permits(1);
    assert_eq!(site.reaches(&id, "Completed").await["progress"], json!(null));
}

#[tokio::test]
async fn a_result_over_64_kib_is_left_out_and_its_size_reported() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("large").await;
    let task = site.reaches(&id, "Completed").await;
    assert_eq!((&task["result"], &task["result_too_large"]), (&json!(null), &json!(70_002)));
}

#[tokio::test]
async fn an_unknown_task_is_not_found() {
    let site = Site::in_memory().await;
    let (status, problem) = site.get("/api/tasks/0192-no-such").await;
    assert_eq!((status.as_u16(), &problem["type"]), (404, &json!("urn:leveret:problem:not-found")));
}
