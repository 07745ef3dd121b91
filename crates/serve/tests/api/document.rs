use std::{process::Stdio, time::Duration};

use leveret_harness::{eventually_eq, schemathesis};
use leveret_store::{JobFilter, JobState};
use reqwest::Method;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::site::{SOON, Site};

#[tokio::test]
async fn the_catalogue_lists_the_jobs_that_workers_announced() {
    let (site, _worker) = Site::with_worker().await;
    let (_, answer) = site.get("/api/jobs").await;
    let jobs = answer["jobs"].as_array().unwrap();
    assert_eq!(jobs.iter().map(|job| &job["job"]).collect::<Vec<_>>(), ["demo.nap", "demo.work"]);
    assert_eq!((&jobs[1]["queue"], &jobs[1]["schema"]["required"]), (&json!("demo"), &json!(["act"])));
}

#[tokio::test]
async fn a_server_is_ready_when_jobs_can_be_submitted() {
    let site = Site::in_memory().await;
    eventually_eq("ready", SOON, 200, async || site.get("/readyz").await.0.as_u16()).await;
    assert_eq!(site.get("/livez").await, (reqwest::StatusCode::OK, json!("ok\n")));
    site.services.store.close().await;
    let response = site.send(Method::GET, "/readyz", None).await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"2".parse().unwrap()));
    assert_eq!(site.get("/livez").await.0, 200);
}

#[tokio::test]
async fn the_metrics_are_those_of_the_broker_and_of_requests() {
    let (site, _worker) = Site::with_worker().await;
    site.submit(&json!({})).await;
    let (_, metrics) = site.get("/metrics").await;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("leveret_jobs_published_total"), "{metrics}");
    let requests = r#"leveret_http_requests_total{method="POST",route="/api/tasks",status="202"} 1"#;
    assert!(metrics.contains(requests), "{metrics}");
}

#[tokio::test]
async fn what_clients_make_up_makes_no_new_metrics() {
    let (site, _worker) = Site::with_worker().await;
    site.post("/api/tasks", &json!({ "job": "fabricated.job" })).await;
    site.post("/api/tasks", &json!({ "queue": "fabricated.job" })).await;
    site.get("/fabricated").await;
    site.send(Method::from_bytes(b"FABRICATED").unwrap(), "/api", None).await;
    let (_, metrics) = site.get("/metrics").await;
    assert!(!metrics.as_str().unwrap().to_lowercase().contains("fabricated"));
}

#[tokio::test]
async fn the_page_for_people_needs_nothing_from_elsewhere_and_runs_no_inline_script() {
    let site = Site::in_memory().await;
    let response = site.send(Method::GET, "/api", None).await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; "), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("//"), "{policy}");
    let page = response.text().await.unwrap();
    for foreign in ["<style", "<img", "style=", "url(", "@import", "//"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let scripts: Vec<_> = page.split("<script").skip(1).collect();
    assert!(!scripts.is_empty());
    assert!(scripts.iter().all(|script| script.starts_with(" src=\"/") && script.contains("\"></script>")), "{page}");
    let quoted = page.split('"').filter(|text| text.starts_with("/api/"));
    for path in quoted {
        let response = site.send(Method::GET, path, None).await;
        assert_eq!(response.status(), 200, "{path}");
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert!(path.ends_with(".js") == kind.contains("javascript"), "{path}: {kind}");
    }
    let (_, start) = site.get("/api/ui/swagger-initializer.js").await;
    assert!(start.as_str().unwrap().contains("/api/openapi.json"), "{start}");
    assert_eq!(site.get("/api/ui/no-such-file.js").await.0, 404);
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "most of them are the list of operations")]
async fn the_document_has_every_operation_with_its_errors_and_headers() {
    let site = Site::in_memory().await;
    let (_, document) = site.get("/api/openapi.json").await;
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push(format!("{method} {path}"));
            for (status, response) in operation["responses"].as_object().unwrap() {
                let what = format!("{method} {path} {status}");
                assert!(response["headers"]["x-request-id"].is_object(), "{what}");
                assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{what}");
                let is_error = status.as_str() >= "400";
                assert_eq!(response["content"]["application/problem+json"].is_object(), is_error, "{what}");
                let can_be_repeated = ["429", "503"].contains(&status.as_str());
                assert_eq!(response["headers"]["Retry-After"].is_object(), can_be_repeated, "{what}");
            }
        }
    }
    operations.sort();
    assert_eq!(
        operations,
        [
            "delete /api/dead/{id}/payload",
            "delete /api/tasks/{id}",
            "get /api/audit",
            "get /api/dead",
            "get /api/dead/export",
            "get /api/dead/groups",
            "get /api/dead/replays",
            "get /api/dead/replays/{id}",
            "get /api/dead/{id}",
            "get /api/dead/{id}/payload",
            "get /api/jobs",
            "get /api/tasks",
            "get /api/tasks/{id}",
            "get /api/tasks/{id}/events",
            "get /api/workflows",
            "get /api/workflows/{id}",
            "get /api/workflows/{id}/events",
            "get /api/workflows/{id}/steps/{step}/results",
            "post /api/dead/import",
            "post /api/dead/purge",
            "post /api/dead/replay",
            "post /api/dead/replays/{id}/resume",
            "post /api/dead/replays/{id}/stop",
            "post /api/dead/restore",
            "post /api/events",
            "post /api/tasks",
            "post /api/tasks/batch",
            "post /api/tasks/{id}/retry",
            "post /api/workflows",
            "post /api/workflows/{id}/cancel",
            "post /api/workflows/{id}/pause",
            "post /api/workflows/{id}/resume",
            "post /api/workflows/{id}/retry",
            "post /api/workflows/{id}/skip",
            "put /api/dead/{id}/payload",
        ]
    );
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["Submission"]["additionalProperties"], json!(false));
    assert_eq!(schemas["Submission"]["properties"]["priority"]["maximum"], 31);
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[tokio::test]
async fn schemathesis_finds_no_server_error_and_no_undocumented_answer() {
    let (site, _worker) = Site::with_worker().await;
    site.submit_work("fail").await;
    // Schemathesis follows tasks that it has delayed for years itself; cancelling them ends its requests.
    let services = site.services.clone();
    let _impatience = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let waiting = JobFilter { states: vec![JobState::Queued], ..JobFilter::default() };
            for job in services.store.jobs(&waiting, None, 1000).await.unwrap().items {
                drop(services.cancel(&job.id, "test").await);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }));
    let document = format!("{}/api/openapi.json", site.base);
    let mut command = schemathesis().await;
    // The catalogue, not the document, has the schemas of payloads, so the server may refuse a valid body. And a DELETE
    // cancels: the task still exists.
    let excluded = "positive_data_acceptance,use_after_free";
    command.args(["run", &document, "--exclude-checks", excluded, "--max-examples", "50"]);
    command.args(["--request-timeout", "5", "--no-color", "--seed", "17", "--workers", "1"]);
    let running = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    let output = tokio::time::timeout(Duration::from_secs(600), running).await.unwrap().unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
