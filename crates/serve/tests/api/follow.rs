use std::time::{Duration, Instant};

use leveret::{
    Broker,
    status_update::{StatusUpdate, Transition},
};
use leveret_store::Store;
use reqwest::Method;
use serde_json::{Value, json};

use crate::site::{Site, options, read, sqlite};

/// The data of all events until the stream ends.
async fn events(response: reqwest::Response) -> Vec<Value> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[tokio::test]
async fn a_long_poll_is_answered_when_the_task_ends() {
    let (site, worker) = Site::with_worker().await;
    let id = site.submit_work("gate").await;
    let path = format!("/api/tasks/{id}?wait=30s");
    let opened = async {
        worker.one_started().await;
        worker.gate.open.add_permits(1);
    };
    let started = Instant::now();
    let ((status, task), ()) = tokio::join!(site.get(&path), opened);
    assert_eq!((status.as_u16(), &task["status"]), (200, &json!("Completed")));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_long_poll_ends_after_its_time_with_the_state_of_the_task() {
    let (site, worker) = Site::with_worker().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    site.reaches(&id, "Processing").await;
    let started = Instant::now();
    let (status, task) = site.get(&format!("/api/tasks/{id}?wait=300ms")).await;
    assert_eq!((status.as_u16(), &task["status"]), (200, &json!("Processing")));
    assert!(started.elapsed() >= Duration::from_millis(300));
    for wait in ["61s", "long", "-1s"] {
        assert_eq!(site.get(&format!("/api/tasks/{id}?wait={wait}")).await.0, 422, "{wait}");
    }
    assert_eq!(site.get("/api/tasks/unknown?wait=1s").await.0, 404);
}

#[tokio::test]
async fn events_report_the_state_of_a_task_until_it_ends_and_then_end() {
    let (site, worker) = Site::with_worker().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    site.reaches(&id, "Processing").await;
    let response = site.send(Method::GET, &format!("/api/tasks/{id}/events"), None).await;
    worker.gate.open.add_permits(1);
    let reported = events(response).await;
    let statuses: Vec<_> = reported.iter().map(|task| task["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["Processing", "Completed"]);
    assert_eq!((&reported[1]["id"], &reported[1]["result"]), (&json!(id), &json!("through the gate")));
}

#[tokio::test]
async fn a_client_that_reconnects_receives_the_current_state() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit_work("echo").await;
    site.reaches(&id, "Completed").await;
    let url = format!("{}/api/tasks/{id}/events", site.base);
    let response = site.client.get(url).header("last-event-id", "whatever").send().await.unwrap();
    assert_eq!(events(response).await[0]["status"], "Completed");
    let (status, problem) = read(site.send(Method::GET, "/api/tasks/unknown/events", None).await).await;
    assert_eq!(status, 404, "{problem}");
}

#[tokio::test]
async fn a_status_update_that_another_server_records_is_streamed_too() {
    let (_folder, url) = sqlite();
    let here = Site::start(&Broker::memory(), &url, options()).await;
    // The first server's broker has no message of it.
    let there = Store::open(&url).await.unwrap();
    let started = StatusUpdate {
        id: "order-17".into(),
        job: "demo.work".into(),
        queue: "demo".into(),
        origin: None,
        label: None,
        priority: None,
        attempt: 1,
        hop: 0,
        enqueued_at: None,
        at: leveret::time::at_unix_ms(1_800_000_000_000),
        worker: None,
        transition: Transition::Started,
    };
    there.record(std::slice::from_ref(&started)).await.unwrap();
    let response = here.send(Method::GET, "/api/tasks/order-17/events", None).await;
    let succeeded = Transition::Succeeded { result: None, too_large: None };
    there.record(&[StatusUpdate { transition: succeeded, ..started }]).await.unwrap();
    assert_eq!(events(response).await.last().unwrap()["status"], "Completed");
}

#[tokio::test]
async fn a_server_that_stops_ends_the_streams_of_waiting_clients() {
    let (site, worker) = Site::with_worker().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    site.reaches(&id, "Processing").await;
    let response = site.send(Method::GET, &format!("/api/tasks/{id}/events"), None).await;
    let stopped = Instant::now();
    let (reported, ()) = tokio::join!(events(response), site.stop());
    assert_eq!(reported.last().unwrap()["status"], "Processing");
    assert!(stopped.elapsed() < Duration::from_secs(4), "{:?}", stopped.elapsed());
}

/// The status of the response to a client that reconnects after the event with this id, and the ids of its events.
async fn after(site: &Site, task: &str, last: &str) -> (u16, Vec<String>) {
    let url = format!("{}/api/tasks/{task}/events", site.base);
    let response = site.client.get(url).header("last-event-id", last).send().await.unwrap();
    let status = response.status().as_u16();
    (status, ids(&response.text().await.unwrap()))
}

fn ids(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| Some(line.strip_prefix("id: ")?.to_owned())).collect()
}

#[tokio::test]
async fn a_client_that_reconnects_after_the_last_event_gets_204() {
    let (site, worker) = Site::with_worker().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    site.reaches(&id, "Processing").await;
    let url = format!("{}/api/tasks/{id}/events", site.base);
    let (mut response, mut text) = (site.client.get(url).send().await.unwrap(), String::new());
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        // The job ends after the event before its end has arrived.
        if ids(&text).len() == 1 && worker.gate.open.available_permits() == 0 {
            worker.gate.open.add_permits(1);
        }
    }
    let ids = ids(&text);
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert_ne!(ids[0], ids[1]);
    // A client that has the first event receives the last only. An EventSource that gets 204 does not reconnect.
    assert_eq!(after(&site, &id, &ids[0]).await, (200, vec![ids[1].clone()]));
    assert_eq!(after(&site, &id, &ids[1]).await, (204, Vec::new()));
    assert_eq!(after(&site, &id, "an id of another").await, (200, vec![ids[1].clone()]));
}

#[tokio::test]
async fn the_404_of_an_unknown_task_explains_when_a_task_is_known() {
    let site = Site::in_memory().await;
    for path in ["/api/tasks/unknown", "/api/tasks/unknown/events"] {
        let (status, problem) = read(site.send(Method::GET, path, None).await).await;
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!(status, 404);
        assert!(detail.contains("submitted through this API") && detail.contains("once a worker"), "{detail}");
    }
}

#[tokio::test]
async fn more_than_four_hundred_waiting_clients_get_429() {
    let (site, worker) = Site::with_worker().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    let mut waiting = Vec::new();
    for _ in 0..400 {
        waiting.push(site.services.follow(&id, None).await.unwrap());
    }
    for path in [format!("/api/tasks/{id}?wait=1s"), format!("/api/tasks/{id}/events")] {
        let response = site.send(Method::GET, &path, None).await;
        assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"5".parse().unwrap()));
    }
    waiting.pop();
    assert_eq!(site.get(&format!("/api/tasks/{id}?wait=10ms")).await.0, 200);
}
