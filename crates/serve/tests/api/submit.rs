use leveret_harness::eventually;
use reqwest::Method;
use serde_json::json;

use crate::site::{SOON, Site, read};

#[tokio::test]
async fn the_original_task_api_works_verbatim() {
    let (site, _worker) = Site::with_worker().await;
    let (status, answer) = site.post("/api/tasks", &json!({ "name": "Important Task", "priority": 1 })).await;
    let id = answer["task_id"].as_str().unwrap();
    assert_eq!((status.as_u16(), answer.as_object().unwrap().len()), (202, 1));
    uuid::Uuid::parse_str(id).unwrap();
    site.reaches(id, "Completed").await;
    let text = site.send(Method::GET, &format!("/api/tasks/{id}"), None).await.text().await.unwrap();
    let first = format!(r#"{{"id":"{id}","name":"Important Task","priority":1,"status":"Completed","#);
    assert!(text.starts_with(&first), "{text}");
}

#[tokio::test]
async fn a_task_is_where_its_answer_says() {
    let (site, _worker) = Site::with_worker().await;
    let response = site.send(Method::POST, "/api/tasks", Some(&json!({}))).await;
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let (_, answer) = read(response).await;
    assert_eq!(site.get(&location).await.1["id"], answer["task_id"]);
}

#[tokio::test]
async fn a_task_without_a_name_has_that_of_its_job() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit(&json!({ "name": null })).await;
    let task = site.task(&id).await;
    assert_eq!(
        (&task["name"], &task["job"], &task["priority"]),
        (&json!("demo.nap"), &json!("demo.nap"), &json!(null))
    );
}

#[tokio::test]
async fn without_a_default_job_a_task_must_name_one() {
    let site = Site::with_options(leveret_serve::Options { default_job: None, ..crate::site::options() }).await;
    let _worker = site.work().await;
    let (status, problem) = site.post("/api/tasks", &json!({ "name": "which?" })).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["pointer"]), (422, &json!("/job")));
}

#[tokio::test]
async fn an_unknown_job_is_refused_with_the_nearest_known() {
    let (site, _worker) = Site::with_worker().await;
    let (status, problem) = site.post("/api/tasks", &json!({ "job": "demo.wrok" })).await;
    let field_error = &problem["errors"][0];
    assert_eq!(
        (status.as_u16(), &field_error["pointer"], &field_error["nearest"]),
        (422, &json!("/job"), &json!("demo.work"))
    );
    assert!(problem["detail"].as_str().unwrap().contains(r#"did you mean "demo.work"?"#), "{problem}");
}

#[tokio::test]
async fn a_payload_that_fails_its_schema_is_refused_with_place_and_reason_of_each_error() {
    let (site, _worker) = Site::with_worker().await;
    let submission = json!({ "job": "demo.work", "payload": { "act": "dance", "times": 0 } });
    let (status, problem) = site.post("/api/tasks", &submission).await;
    assert_eq!((status.as_u16(), &problem["type"]), (422, &json!("urn:leveret:problem:invalid")));
    let errors = problem["errors"].as_array().unwrap();
    let of = |pointer: &str| errors.iter().find(|error| error["pointer"] == pointer).unwrap()["detail"].to_string();
    assert!(of("/payload/act").contains("echo"), "{problem}");
    assert!(of("/payload/times").contains("minimum"), "{problem}");
    // The response does not repeat the payload, which may be secret.
    assert!(!problem.to_string().contains("dance"), "{problem}");
}

#[tokio::test]
async fn an_unknown_field_is_refused_with_the_nearest_known() {
    let (site, _worker) = Site::with_worker().await;
    let (status, problem) = site.post("/api/tasks", &json!({ "priorty": 1, "nmae": "x" })).await;
    let nearest: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["nearest"]).collect();
    assert_eq!((status.as_u16(), nearest), (422, vec![&json!("name"), &json!("priority")]));
}

#[tokio::test]
async fn a_field_of_the_wrong_kind_is_refused_with_what_is_right() {
    let (site, _worker) = Site::with_worker().await;
    for (submission, pointer) in [
        (json!({ "name": 5 }), "/name"),
        (json!({ "name": "x".repeat(1025) }), "/name"),
        (json!({ "priority": 32 }), "/priority"),
        (json!({ "priority": -1 }), "/priority"),
        (json!({ "priority": "high" }), "/priority"),
        (json!({ "delay": "soon" }), "/delay"),
        (json!({ "delay": "99999999h" }), "/delay"),
        (json!({ "run_at": "tomorrow" }), "/run_at"),
        (json!({ "run_at": "9000-01-01T00:00:00Z" }), "/run_at"),
        (json!({ "delay": 1, "run_at": "2020-01-01T00:00:00Z" }), "/run_at"),
        (json!({ "expires_in": [] }), "/expires_in"),
        (json!({ "queue": "dmeo" }), "/queue"),
        (json!([]), ""),
    ] {
        let (status, problem) = site.post("/api/tasks", &submission).await;
        assert_eq!(
            (status.as_u16(), &problem["errors"][0]["pointer"]),
            (422, &json!(pointer)),
            "{submission}: {problem}"
        );
    }
}

#[tokio::test]
async fn a_delayed_task_is_scheduled_until_its_time() {
    let (site, _worker) = Site::with_worker().await;
    let delayed = site.submit(&json!({ "delay": "1500ms" })).await;
    let later = site.submit(&json!({ "run_at": "2031-01-01T01:00:00+01:00" })).await;
    let over = site.submit(&json!({ "run_at": "2001-01-01T00:00:00Z" })).await;
    let task = site.task(&later).await;
    assert_eq!((&task["status"], &task["due_at"]), (&json!("Scheduled"), &json!("2031-01-01T00:00:00Z")));
    assert_eq!(site.task(&delayed).await["status"], "Scheduled");
    site.reaches(&over, "Completed").await;
    site.reaches(&delayed, "Completed").await;
    assert_eq!(site.task(&later).await["status"], "Scheduled");
}

#[tokio::test]
async fn a_task_that_expires_before_it_starts_fails() {
    let site = Site::in_memory().await;
    site.work().await.stop().await;
    let id = site.submit(&json!({ "expires_in": "50ms" })).await;
    let due = std::time::Instant::now() + std::time::Duration::from_millis(60);
    eventually("its time is over", SOON, async || std::time::Instant::now() > due).await;
    let _worker = site.work().await;
    let task = site.reaches(&id, "Failed").await;
    assert_eq!(task["error_kind"], "expired");
    assert!(task["expires_at"].is_string());
}

#[tokio::test]
async fn a_payload_is_published_byte_for_byte() {
    let site = Site::in_memory().await;
    site.work().await.stop().await;
    // A number with more digits than a double has.
    let body = r#"{"payload": {"n" : 12345678901234567890123.10, "n2":1e2 }}"#;
    let url = format!("{}/api/tasks", site.base);
    let response = site.client.post(url).header("content-type", "application/json").body(body).send().await.unwrap();
    assert_eq!(response.status(), 202);
    // An unknown job is dead-lettered with its original payload.
    let id = read(response).await.1["task_id"].as_str().unwrap().to_owned();
    let unknowing = leveret::Worker::new(()).queue(leveret::Queue::new("demo")).handle(other);
    let _worker = leveret::testing::start(unknowing, &site.broker).await.unwrap();
    let letter = site.dead_letter(&id).await;
    assert_eq!(letter["payload"], r#"{"n" : 12345678901234567890123.10, "n2":1e2 }"#);
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Other {}

impl leveret::Job for Other {
    const NAME: &'static str = "demo.other";
    const QUEUE: &'static str = "demo";
}

async fn other(_: Other, _: leveret::Context<()>) -> leveret::JobResult {
    Ok(())
}

#[tokio::test]
async fn tasks_of_higher_priority_carry_it_to_the_broker() {
    let (site, _worker) = Site::with_worker().await;
    let id = site.submit(&json!({ "job": "demo.work", "payload": { "act": "fail" }, "priority": 31 })).await;
    site.reaches(&id, "Failed").await;
    let letter = site.dead_letter(&id).await;
    let priority = json!({ "name": "priority", "value": "31" });
    assert!(letter["headers"].as_array().unwrap().contains(&priority), "{letter}");
}
