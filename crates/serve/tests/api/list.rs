use serde_json::{Value, json};

use crate::site::Site;

async fn ids(site: &Site, query: &str) -> Vec<String> {
    let (status, page) = site.get(&format!("/api/tasks?{query}")).await;
    assert_eq!(status, 200, "{page}");
    page["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn tasks_are_found_by_status_job_queue_and_label() {
    let (site, worker) = Site::with_worker().await;
    let done = site.submit(&json!({ "name": "Invoice 17" })).await;
    let failed = site.submit_work("fail").await;
    let running = site.submit_work("gate").await;
    let scheduled = site.submit(&json!({ "delay": "1h" })).await;
    let retrying = site.submit(&json!({ "job": "demo.work", "payload": { "act": "fail_twice" } })).await;
    site.reaches(&retrying, "Completed").await;
    worker.one_started().await;
    for (id, status) in [(&done, "Completed"), (&failed, "Failed"), (&running, "Processing"), (&scheduled, "Scheduled")]
    {
        site.reaches(id, status).await;
        assert!(ids(&site, &format!("status={status}")).await.contains(id), "{status}");
    }
    assert_eq!(ids(&site, "status=Scheduled").await, [scheduled.as_str()]);
    assert!(ids(&site, "status=Pending").await.is_empty());
    assert_eq!(ids(&site, "job=demo.work&status=Failed").await, [failed]);
    assert_eq!(ids(&site, "label=invoice").await, [done]);
    assert_eq!((ids(&site, "queue=demo").await.len(), ids(&site, "queue=other").await.len()), (5, 0));
}

#[tokio::test]
async fn pages_follow_each_other_while_tasks_come_and_show_each_once() {
    let (site, _worker) = Site::with_worker().await;
    let batch = Value::Array(vec![json!({}); 25]);
    let (_, before) = site.post("/api/tasks/batch", &batch).await;
    let (mut seen, mut next) = (Vec::new(), String::new());
    loop {
        let (_, page) = site.get(&format!("/api/tasks?limit=10{next}")).await;
        seen.extend(page["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()));
        site.submit(&json!({})).await;
        let Some(cursor) = page["next"].as_str() else { break };
        next = format!("&after={cursor}");
    }
    let sorted = |ids: &[Value]| {
        let mut ids: Vec<_> = ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    assert_eq!(sorted(&seen), sorted(before.as_array().unwrap()));
}

#[tokio::test]
async fn a_query_with_unknown_or_unusable_parameters_is_refused() {
    let site = Site::in_memory().await;
    for query in ["status=Done", "limit=0", "limit=1001", "after=%00", "after=nonsense", "stauts=Failed", "job=a&job=b"]
    {
        let (status, problem) = site.get(&format!("/api/tasks?{query}")).await;
        assert_eq!(status, 422, "{query}: {problem}");
    }
    let (_, problem) = site.get("/api/tasks?stauts=Failed").await;
    assert!(problem["detail"].as_str().unwrap().contains("\"status\""), "{problem}");
}
