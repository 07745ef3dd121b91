use leveret::{
    Broker,
    status_update::{StatusUpdate, Transition},
};
use leveret_serve::{Error, Options, Server, Services};
use leveret_store::Store;
use reqwest::{Method, Response};

use crate::site::{Site, options, read, sqlite};

const VIEWER: &str = "the-token-of-a-viewer";
const OPERATOR: &str = "the-token-of-an-operator";

async fn guarded() -> Site {
    let tokens = format!("viewer:{VIEWER},operator:{OPERATOR}").parse().unwrap();
    Site::with_options(Options { tokens, ..options() }).await
}

async fn ask(site: &Site, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = site.client.request(method, format!("{}{path}", site.base));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.header("content-type", "application/json").body("{}").send().await.unwrap()
}

#[tokio::test]
async fn off_loopback_it_does_not_start_without_tokens() {
    let (_folder, url) = sqlite();
    let services = Services::new(&Broker::memory(), Store::open(&url).await.unwrap());
    for listen in [([0, 0, 0, 0], 0).into(), "[::]:0".parse().unwrap()] {
        let refused = Server::bind(services.clone(), Options { listen, ..options() }).await;
        assert!(matches!(refused, Err(Error::TokensNeeded { .. })), "{listen}");
    }
    let tokens = format!("operator:{OPERATOR}").parse().unwrap();
    let options = Options { listen: ([0, 0, 0, 0], 0).into(), tokens, ..options() };
    Server::bind(services, options).await.unwrap();
}

#[tokio::test]
async fn without_a_valid_token_every_request_is_refused() {
    let site = guarded().await;
    for headers in [
        &[][..],
        &[("authorization", "Bearer the-token-of-no-client-at-all")],
        &[("authorization", "Bearer ")],
        &[("authorization", VIEWER)],
        &[("authorization", "Basic dGhlLXRva2VuLW9mLWEtdmlld2Vy")],
    ] {
        for path in ["/api/tasks", "/api/jobs", "/api/tasks/x/events", "/metrics", "/no/such/path"] {
            let response = ask(&site, Method::GET, path, headers).await;
            assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"leveret\"");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.status(), 401, "{path}");
        }
        assert_eq!(ask(&site, Method::POST, "/api/tasks", headers).await.status(), 401);
    }
}

#[tokio::test]
async fn the_audit_log_names_the_token_and_is_for_operators() {
    let tokens = format!("viewer:{VIEWER},operator:anna={OPERATOR},operator:another-unguessable-word").parse().unwrap();
    let site = Site::with_options(Options { tokens, ..options() }).await;
    let event = StatusUpdate {
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
        transition: Transition::Queued { due: None, expires: None },
    };
    site.services.store.record(&[event]).await.unwrap();
    let by = |token: &str| format!("Bearer {token}");
    let (anna, other) = (by(OPERATOR), by("another-unguessable-word"));
    for headers in [[("authorization", other.as_str())], [("authorization", anna.as_str())]] {
        assert_eq!(ask(&site, Method::DELETE, "/api/tasks/order-17", &headers).await.status(), 202);
    }
    let refused = ask(&site, Method::GET, "/api/audit", &[("authorization", &by(VIEWER))]).await;
    assert_eq!(refused.status(), 403);
    let (_, log) = read(ask(&site, Method::GET, "/api/audit?limit=1", &[("authorization", &anna)]).await).await;
    let entry = &log["entries"][0];
    assert_eq!((&entry["actor"], &entry["action"]), (&"api:anna".into(), &"cancel".into()), "{log}");
    assert_eq!(entry["detail"]["job"], "order-17");
    let path = format!("/api/audit?after={}", log["next"].as_str().unwrap());
    let (_, log) = read(ask(&site, Method::GET, &path, &[("authorization", &anna)]).await).await;
    assert_eq!((&log["entries"][0]["actor"], &log["next"]), (&"api:operator".into(), &serde_json::Value::Null));
}

#[tokio::test]
async fn a_viewer_may_read_and_an_operator_may_do_everything() {
    let site = guarded().await;
    let _worker = site.work().await;
    let (viewer, operator) = (format!("Bearer {VIEWER}"), format!("bearer {OPERATOR}"));
    for (method, path, expected) in [
        (Method::GET, "/api/tasks", (200, 200)),
        (Method::GET, "/metrics", (200, 200)),
        (Method::POST, "/api/tasks", (403, 202)),
        (Method::DELETE, "/api/tasks/unknown", (403, 404)),
        (Method::POST, "/api/tasks/unknown/retry", (403, 404)),
    ] {
        let of =
            async |token: &str| ask(&site, method.clone(), path, &[("authorization", token)]).await.status().as_u16();
        assert_eq!((of(&viewer).await, of(&operator).await), expected, "{method} {path}");
    }
}

#[tokio::test]
async fn probes_and_the_document_need_no_token() {
    let site = guarded().await;
    for path in ["/livez", "/api", "/api/ui/swagger-ui.css", "/api/openapi.json"] {
        assert_eq!(ask(&site, Method::GET, path, &[]).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn without_tokens_no_web_page_gets_in_under_another_name_or_from_another_site() {
    let site = Site::in_memory().await;
    let _worker = site.work().await;
    let own = site.base.trim_start_matches("http://").to_owned();
    let port = own.rsplit_once(':').unwrap().1.to_owned();
    for (headers, expected) in [
        (vec![("host", "localhost".to_owned())], 202),
        (vec![("host", format!("LOCALHOST:{port}"))], 202),
        (vec![("host", "[::1]:8080".to_owned())], 202),
        (vec![("host", "evil.example".to_owned())], 403),
        (vec![("host", format!("evil.example:{port}"))], 403),
        (vec![("host", "127.0.0.1.evil.example".to_owned())], 403),
        (vec![("host", "localhost@evil.example".to_owned())], 403),
        (vec![("origin", format!("http://{own}"))], 202),
        (vec![("origin", "http://evil.example".to_owned())], 403),
        (vec![("origin", "null".to_owned())], 403),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (status, answer) = read(ask(&site, Method::POST, "/api/tasks", &headers).await).await;
        assert_eq!(status, expected, "{headers:?}: {answer}");
    }
}

#[tokio::test]
async fn cross_origin_requests_are_not_allowed() {
    let site = guarded().await;
    let asked = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    let preflight = ask(&site, Method::OPTIONS, "/api/tasks", &asked).await;
    let authorization = format!("Bearer {VIEWER}");
    let simple = ask(&site, Method::GET, "/api/tasks", &[asked[0], ("authorization", &authorization)]).await;
    assert!(!preflight.status().is_success());
    for response in [preflight, simple] {
        assert!(response.headers().keys().all(|name| !name.as_str().starts_with("access-control-")));
    }
}
