use reqwest::{Method, Response};
use serde_json::Value;

use crate::site::Site;

async fn send(site: &Site, method: Method, path: &str, kind: &str, body: &str) -> Response {
    let request = site.client.request(method, format!("{}{path}", site.base));
    let request = if kind.is_empty() { request } else { request.header("content-type", kind) };
    request.body(body.to_owned()).send().await.unwrap()
}

#[tokio::test]
async fn every_error_is_a_problem_with_a_request_id() {
    let (site, _worker) = Site::with_worker().await;
    let json = "application/json";
    let large = format!(r#"{{"payload": "{}"}}"#, "x".repeat(100 * 1024));
    let (post, get) = (Method::POST, Method::GET);
    for (method, path, kind, body, status) in [
        (get.clone(), "/", "", "", 404),
        (get.clone(), "/api/nothing", "", "", 404),
        (get.clone(), "/api/tasks/", "", "", 404),
        (get.clone(), "/api/tasks/unknown", "", "", 404),
        (get.clone(), "/api/tasks/%ff", "", "", 404),
        (get.clone(), "/api/tasks/%00", "", "", 404),
        (get.clone(), "/api/tasks?limit=x", "", "", 422),
        (get, "/api/tasks/batch/retry", "", "", 405),
        (Method::PUT, "/api/tasks", json, "{}", 405),
        (Method::DELETE, "/api/jobs", "", "", 405),
        (post.clone(), "/api/tasks", "", "{}", 415),
        (post.clone(), "/api/tasks", "text/plain", "{}", 415),
        (post.clone(), "/api/tasks", json, "", 400),
        (post.clone(), "/api/tasks", json, "{\"name\": ", 400),
        (post.clone(), "/api/tasks", json, "\"\u{1}\"", 400),
        (post.clone(), "/api/tasks", json, "7", 422),
        (post.clone(), "/api/tasks?x=1", json, "{}", 422),
        (post.clone(), "/api/tasks", json, &large, 413),
        (post, "/api/tasks/batch", json, &format!("[{}]", [large.as_str(); 4].join(",")), 413),
    ] {
        let response = send(&site, method.clone(), path, kind, body).await;
        let headers = response.headers().clone();
        let what = format!("{method} {path} {kind}");
        assert_eq!(response.status(), status, "{what}");
        assert_eq!(headers["content-type"], "application/problem+json", "{what}");
        assert!(!headers["x-request-id"].is_empty(), "{what}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["status"], status, "{what}");
        assert!(problem["type"].as_str().unwrap().starts_with("urn:leveret:problem:"), "{what}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{what}");
    }
}

#[tokio::test]
async fn the_405_of_a_path_lists_its_methods() {
    let site = Site::in_memory().await;
    for (path, allowed) in [("/api/tasks", ["GET", "POST"]), ("/api/tasks/x", ["GET", "DELETE"])] {
        let response = send(&site, Method::PATCH, path, "", "").await;
        let allow = response.headers()["allow"].to_str().unwrap();
        assert!(allowed.iter().all(|method| allow.contains(method)), "{path}: {allow}");
    }
}

#[tokio::test]
async fn a_request_keeps_its_id_and_one_without_gets_one() {
    let site = Site::in_memory().await;
    let ask = async |id: &str| {
        let request = site.client.get(format!("{}/livez", site.base)).header("x-request-id", id);
        request.send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("frontend-17").await, "frontend-17");
    for unusable in ["", "two words", "<script>", &"x".repeat(129)] {
        let minted = ask(unusable).await;
        assert!(uuid::Uuid::parse_str(&minted).is_ok(), "{unusable:?}: {minted}");
    }
}

#[tokio::test]
async fn the_413_of_a_payload_over_the_limit_of_the_broker_has_the_limit() {
    let (site, _worker) = Site::with_worker().await;
    let body = format!(r#"{{"payload": "{}"}}"#, "x".repeat(65 * 1024));
    let response = send(&site, Method::POST, "/api/tasks", "application/json", &body).await;
    assert_eq!(response.status(), 413);
    assert_eq!(response.json::<Value>().await.unwrap()["limit"], 64 * 1024);
}
