//! `/api/dead`.

use std::time::Duration;

use leveret_harness::eventually;
use leveret_serve::{
    Options, Server, Services, Tokens,
    dead::{self, redact::RedactionRules},
};
use leveret_store::{DeadSource, NewDead};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::stage::Stage;

const LONG: Duration = Duration::from_secs(20);

struct Site {
    base: String,
    client: Client,
    services: Services,
    token: Option<&'static str>,
}

impl Site {
    async fn new(stage: &Stage, tokens: Tokens) -> Self {
        Self::with(stage, Options { tokens, ..here() }).await
    }

    async fn with(stage: &Stage, options: Options) -> Self {
        let services = Services::new(&stage.broker, stage.store.clone());
        let server = Server::bind(services.clone(), options).await.unwrap();
        let base = format!("http://{}/api/dead", server.address());
        tokio::spawn(server.run(std::future::pending()));
        Self { base, client: Client::new(), services, token: None }
    }

    async fn send(&self, method: Method, path: &str, body: Option<(&str, String)>) -> (StatusCode, String) {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        if let Some((kind, body)) = body {
            request = request.header("content-type", kind).body(body);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        read(self.send(Method::GET, path, None).await)
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        read(self.send(Method::POST, path, Some(("application/json", body.to_string()))).await)
    }
}

fn here() -> Options {
    Options { listen: ([127, 0, 0, 1], 0).into(), ..Options::default() }
}

fn read((status, body): (StatusCode, String)) -> (u16, Value) {
    (status.as_u16(), serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

#[tokio::test]
async fn dead_letters_are_listed_gathered_shown_edited_and_replayed() {
    let stage = Stage::new().await;
    let site = Site::new(&stage, Tokens::default()).await;
    stage.kill(1..=3).await;
    stage.until_dead(3).await;
    let (_, page) = site.get("?limit=2&queue=money").await;
    assert_eq!(page["dead_letters"].as_array().unwrap().len(), 2);
    let next = page["next"].as_str().unwrap();
    let (_, page) = site.get(&format!("?limit=2&after={next}")).await;
    assert_eq!((&page["dead_letters"][0]["job_id"], &page["next"]), (&json!("c1"), &json!(null)));
    let (_, groups) = site.get("/groups").await;
    assert_eq!(
        (&groups["groups"][0]["count"], &groups["groups"][0]["error"]),
        (&json!(3), &json!("account <n> is closed"))
    );
    let id = page["dead_letters"][0]["id"].as_i64().unwrap();
    let (_, shown) = site.get(&format!("/{id}")).await;
    assert!(shown["payload"].as_str().unwrap().contains("\"cents\":1"), "{shown}");
    assert!(shown["headers"].as_array().unwrap().iter().any(|header| header["name"] == "leveret-error"), "{shown}");

    let edit = async |payload: &str| {
        let body = Some(("application/json", payload.to_owned()));
        read(site.send(Method::PUT, &format!("/{id}/payload"), body).await)
    };
    let (status, problem) = edit(r#"{"cents": "ten"}"#).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/payload/cents")));
    assert_eq!(edit(r#"{"cents": 10}"#).await, (200, json!({ "id": id, "checked": "schema" })));

    stage.fix();
    let (status, replay) = site.post("/replay", &json!({ "all": true, "rate": 1000 })).await;
    assert_eq!((status, &replay["total"]), (202, &json!(3)));
    let replay = format!("/replays/{}", replay["id"]);
    eventually("it is finished", LONG, async || site.get(&replay).await.1["outcome"] == "done").await;
    assert_eq!(stage.charged().await, [2, 3, 10]);
    assert_eq!(site.post(&format!("{replay}/resume"), &json!(null)).await.0, 409);
    let log = site.services.store.audit_log(None, 10).await.unwrap().items;
    assert!(log.iter().any(|entry| entry.action == "replay" && entry.actor == "api:local"), "{log:?}");
}

#[tokio::test]
async fn a_payload_is_shown_edited_taken_back_and_published_byte_for_byte() {
    const PAYLOAD: &str = r#" {"n": 123456789012345678901234567890, "x": 0.10000000000000000555, "token":"hunter2", "e": 1E400, "n": 1.0} "#;
    let stage = Stage::new().await;
    let id = stage.store.ingest(&[letter("other", PAYLOAD)], 1).await.unwrap()[0];
    let tokens = "viewer:an-unguessable-word,operator:another-unguessable-word".parse().unwrap();
    let mut site = Site::new(&stage, tokens).await;
    let own = format!("/{id}/payload");
    for token in ["an-unguessable-word", "another-unguessable-word"] {
        site.token = Some(token);
        let shown = site.get(&format!("/{id}")).await.1;
        assert_eq!(shown["payload"], PAYLOAD.trim().replace("hunter2", "***"));
    }
    let get = async |path: &str| site.send(Method::GET, &format!("{own}{path}"), None).await;
    assert_eq!(get("").await, (StatusCode::OK, PAYLOAD.to_owned()));
    let put = async |payload: String| read(site.send(Method::PUT, &own, Some(("application/json", payload))).await);
    // A masked payload is not the payload to publish.
    let (status, problem) = put(PAYLOAD.replace("hunter2", "***")).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/payload/token")), "{problem}");
    let edited = PAYLOAD.replace("1.0}", "2.0}");
    assert_eq!(put(edited.clone()).await, (200, json!({ "id": id, "checked": "nothing" })));
    assert_eq!(get("").await.1, edited);
    assert_eq!(get("?original=true").await.1, PAYLOAD);
    assert!(site.get(&format!("/{id}")).await.1["original"].as_str().unwrap().contains("1.0}"));
    for payload in ["not json", "", "\u{feff}{}"] {
        assert_eq!(put(payload.to_owned()).await.0, 400, "{payload:?}");
        assert!(matches!(stage.dead().edit(id, payload.as_bytes(), "anna").await, Err(dead::Error::Payload { .. })));
    }
    let revert = async || site.send(Method::DELETE, &own, None).await.0;
    assert_eq!((revert().await, revert().await), (StatusCode::OK, StatusCode::CONFLICT));
    assert_eq!(get("").await.1, PAYLOAD);
    // No worker has a job of that name, so the letter dies again with the published payload.
    assert_eq!(site.post("/replay", &json!({ "ids": [id] })).await.0, 202);
    stage.until_dead(2).await;
    let again = stage.letters().await.into_iter().find(|letter| letter.kind == "unknown_job").unwrap();
    assert_eq!(stage.store.letter(again.id).await.unwrap().unwrap().payload, PAYLOAD.as_bytes());
    site.token = Some("an-unguessable-word");
    assert_eq!(site.get(&own).await.0, 403);
}

#[tokio::test]
async fn a_replay_is_stopped() {
    let stage = Stage::new().await;
    stage.bury(1..=3).await;
    stage.fix();
    let site = Site::new(&stage, Tokens::default()).await;
    let (_, replay) = site.post("/replay", &json!({ "all": true, "rate": 0.001 })).await;
    let path = format!("/replays/{}", replay["id"]);
    let replayed = async || site.get(&path).await.1["replayed"].clone();
    eventually("the first is published", LONG, async || replayed().await == 1).await;
    assert_eq!(site.post(&format!("{path}/stop"), &json!(null)).await.0, 202);
    eventually("it has ended", LONG, async || site.get(&path).await.1["outcome"] == "stopped by api:local").await;
    assert_eq!(stage.letters().await.len(), 2);
    assert_eq!(site.post(&format!("{path}/stop"), &json!(null)).await.0, 409);
}

#[tokio::test]
async fn a_payload_may_say_what_stands_for_a_hidden_one_where_it_did() {
    let stage = Stage::new().await;
    let id = stage.store.ingest(&[letter("other", r#"{"stars": "***", "n": 1}"#)], 1).await.unwrap()[0];
    assert!(stage.dead().edit(id, br#"{"stars": "***", "n": 2}"#, "anna").await.is_ok());
    assert!(stage.dead().edit(id, br#"{"stars": "***", "n": "***"}"#, "anna").await.is_err());
}

fn letter(job: &str, payload: &str) -> NewDead {
    NewDead {
        source: DeadSource::Dead,
        queue: "money".into(),
        job_id: Some("c1".into()),
        job: job.into(),
        kind: "permanent".into(),
        error: "account closed".into(),
        attempt: 1,
        hop: 0,
        failed_at: None,
        // The property `type`.
        properties: [&[0, 32], [u8::try_from(job.len()).unwrap()].as_slice(), job.as_bytes()].concat(),
        payload: payload.into(),
    }
}

#[tokio::test]
async fn a_purge_takes_a_yes_and_can_be_taken_back() {
    let stage = Stage::new().await;
    let id = stage.bury([1, 2]).await[0].id;
    let site = Site::new(&stage, Tokens::default()).await;
    let all = json!({ "all": true });
    assert_eq!(site.post("/purge", &all).await.0, 422);
    assert_eq!(stage.letters().await.len(), 2);
    assert_eq!(site.post("/purge?yes=true", &json!({})).await.0, 422, "nothing is chosen");
    assert_eq!(site.post("/purge?yes=true", &json!({ "filter": {} })).await.0, 422, "nor is it so");
    assert_eq!(site.post("/purge?yes=true", &all).await, (200, json!({ "purged": 2 })));
    assert_eq!(site.get("?state=purged").await.1["dead_letters"].as_array().unwrap().len(), 2);
    let edit = Some(("application/json", r#"{"cents": 3}"#.to_owned()));
    let (status, problem) = read(site.send(Method::PUT, &format!("/{id}/payload"), edit).await);
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("was purged at 2"), "{problem}");
    assert_eq!(
        site.post("/restore", &json!({ "filter": { "queue": "money" } })).await,
        (200, json!({ "restored": 2 }))
    );
}

#[tokio::test]
async fn an_export_can_be_imported() {
    let (stage, other) = (Stage::new().await, Stage::new().await);
    stage.bury(1..=40).await;
    let (site, to) = (Site::new(&stage, Tokens::default()).await, Site::new(&other, Tokens::default()).await);
    let (_, lines) = site.send(Method::GET, "/export?queue=money", None).await;
    assert_eq!(lines.lines().count(), 40);
    let body = Some(("application/x-ndjson", format!("{lines}oops\n")));
    let (status, imported) = read(to.send(Method::POST, "/import", body).await);
    assert_eq!((status, &imported["imported"], &imported["bad_lines"][0]["line"]), (200, &json!(40), &json!(41)));
    assert_eq!(other.letters().await.len(), 40);
    assert_eq!(to.send(Method::POST, "/import", Some(("text/plain", lines))).await.0, 415);
}

#[tokio::test]
async fn a_viewer_reads_dead_letters_and_an_operator_replays_them() {
    let stage = Stage::new().await;
    stage.bury([1]).await;
    let tokens = "viewer:an-unguessable-word,operator:another-unguessable-word".parse().unwrap();
    let mut site = Site::new(&stage, tokens).await;
    assert_eq!(site.get("").await.0, 401);
    site.token = Some("an-unguessable-word");
    assert_eq!((site.get("").await.0, site.get("/groups").await.0), (200, 200));
    assert_eq!(site.get("/export").await.0, 403, "it shows secrets");
    assert_eq!(site.post("/replay", &json!({ "all": true })).await.0, 403);
    site.token = Some("another-unguessable-word");
    assert_eq!(site.send(Method::GET, "/export", None).await.0, 200);
    assert_eq!(site.post("/replay", &json!({ "all": true })).await.0, 202);
}

#[tokio::test]
async fn a_viewer_neither_sees_secrets_nor_finds_them_letter_by_letter() {
    let stage = Stage::new().await;
    let letter = |number: i64, payload: &str| NewDead {
        source: DeadSource::Dead,
        queue: "money".into(),
        job_id: Some(format!("c{number}")),
        job: "charge".into(),
        kind: "decode".into(),
        error: "account closed".into(),
        attempt: 1,
        hop: 0,
        failed_at: None,
        properties: vec![0, 0],
        payload: payload.into(),
    };
    let payloads = [r#"{"access_token": "hunter2", "ssn": "hunter3", "n": 1}"#, r#"{"access_token": "hunter2""#];
    let ids = stage.store.ingest(&[letter(1, payloads[0]), letter(2, payloads[1])], 1).await.unwrap();
    let tokens = "viewer:an-unguessable-word,operator:another-unguessable-word".parse().unwrap();
    let mut site =
        Site::with(&stage, Options { tokens, redact: RedactionRules::new(["ssn".to_owned()]), ..here() }).await;
    for (token, found, seen) in [("an-unguessable-word", 0, false), ("another-unguessable-word", 2, true)] {
        site.token = Some(token);
        let count = async |path: &str, of: &str| site.get(path).await.1[of].as_array().unwrap().len();
        assert_eq!(count("?text=hunter2", "dead_letters").await, found);
        assert_eq!(count("/groups?text=hunter2", "groups").await, found.min(1));
        assert_eq!(count("?text=ACCOUNT", "dead_letters").await, 2);
        let whole = site.get(&format!("/{}", ids[0])).await.1.to_string();
        assert!(whole.contains("n\\\": 1") && !whole.contains("hunter"), "{whole}");
        let broken = site.get(&format!("/{}", ids[1])).await.1.to_string();
        assert_eq!(broken.contains("hunter2"), seen, "{broken}");
    }
}

#[tokio::test]
async fn requests_that_select_nothing_known_are_refused() {
    let stage = Stage::new().await;
    let site = Site::new(&stage, Tokens::default()).await;
    for (path, status) in [("/17", 404), ("/x", 404), ("?state=gone", 422), ("?queu=a", 422), ("/replays/9", 404)] {
        assert_eq!(site.get(path).await.0, status, "{path}");
    }
    for body in [json!([]), json!({ "ids": [1], "all": true }), json!({ "idz": [1] }), json!({ "filter": [] })] {
        assert_eq!(site.post("/restore", &body).await.0, 422, "{body}");
    }
    for rate in [0.0, -1.0, 1e-19, 1e300] {
        assert_eq!(site.post("/replay", &json!({ "all": true, "rate": rate })).await.0, 422, "{rate}");
    }
    assert_eq!(site.post("/replay", &json!({ "all": true, "payload": {} })).await.0, 422);
}
