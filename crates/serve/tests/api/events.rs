//! Events over HTTP.

use leveret::{Config, Context, JobResult, RawEvent, Subscription, Worker, testing::start};
use leveret_harness::{eventually, shared_node};
use serde_json::json;
use tokio::sync::mpsc;

use crate::site::{SOON, Site, options, sqlite};

async fn note(event: RawEvent, ctx: Context<mpsc::UnboundedSender<(String, String)>>) -> JobResult {
    let json = event.json()?.to_string();
    ctx.state().send((ctx.job_id().to_string(), format!("{} {json}", event.topic()))).unwrap();
    Ok(())
}

#[tokio::test]
async fn an_event_is_confirmed_and_reaches_its_subscription_with_its_id() {
    let vhost = shared_node().await.vhost().await;
    let config = Config { amqp_url: vec![vhost.url()], ..Config::default() };
    let broker = leveret::Broker::amqp(config).unwrap();
    let (sender, mut seen) = mpsc::unbounded_channel();
    let worker = Worker::new(sender).subscribe(Subscription::new("audit").pattern("order.#"), note);
    let worker = start(worker, &broker).await.unwrap();
    let (_folder, store) = sqlite();
    let site = Site::start(&broker, &store, options()).await;

    let event = json!({ "topic": "order.placed", "payload": { "order": "17" }, "id": "e-1" });
    let emitted = async || site.post("/api/events", &event).await;
    // A quorum queue that is still electing its leader makes an emit uncertain.
    eventually("the event is accepted", SOON, async || emitted().await.0 == 202).await;
    let (id, event) = seen.recv().await.unwrap();
    assert_eq!((id.as_str(), event.as_str()), ("e-1", r#"order.placed {"order":"17"}"#));

    let cloud_event = json!({
        "specversion": "1.0", "id": "17", "source": "/shop", "type": "order.placed", "data": { "order": "18" }
    });
    let (status, answer) = emit_cloud_event(&site, cloud_event.to_string()).await;
    assert_eq!((status, &answer["event_id"]), (202, &json!("/shop 17")), "{answer}");
    let (id, event) = seen.recv().await.unwrap();
    assert_eq!((id.as_str(), event.as_str()), ("/shop 17", r#"order.placed {"order":"18"}"#));

    let (status, answer) = site.post("/api/events", &json!({ "topic": "without.subscription", "payload": null })).await;
    assert_eq!(status, 202, "{answer}");
    uuid::Uuid::parse_str(answer["event_id"].as_str().unwrap()).unwrap();
    worker.stop().await.unwrap();
    site.stop().await;
}

async fn emit_cloud_event(site: &Site, body: String) -> (u16, serde_json::Value) {
    let request = site.client.post(format!("{}/api/events", site.base));
    let response =
        request.header("content-type", "application/cloudevents+json; charset=utf-8").body(body).send().await;
    let response = response.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_cloud_event_that_is_not_valid_is_refused_with_its_attribute() {
    let site = Site::with_options(options()).await;
    let valid = json!({ "specversion": "1.0", "id": "17", "source": "/shop", "type": "order.placed" });
    for (attribute, value, part) in [
        ("specversion", json!("0.3"), "is not understood"),
        ("specversion", json!(null), "is missing"),
        ("id", json!(""), "is empty"),
        ("source", json!(7), "not a text"),
        ("type", json!("order/placed"), "single dots"),
        ("data_base64", json!("?"), "not Base64"),
    ] {
        let mut event = valid.clone();
        event[attribute] = value;
        let (status, problem) = emit_cloud_event(&site, event.to_string()).await;
        let error = &problem["errors"][0];
        assert_eq!((status, &error["pointer"]), (422, &json!(format!("/{attribute}"))), "{problem}");
        assert!(error["detail"].as_str().unwrap().contains(part), "{problem}");
    }
    assert_eq!(emit_cloud_event(&site, "[]".to_owned()).await.0, 422);
    assert_eq!(emit_cloud_event(&site, "{".to_owned()).await.0, 400);
}

#[tokio::test]
async fn an_event_that_is_not_valid_is_refused_with_the_rule() {
    let site = Site::with_options(options()).await;
    for (event, pointer, part) in [
        (json!({ "topic": "order.*", "payload": {} }), "/topic", "single dots"),
        (json!({ "topic": "leveret.order", "payload": {} }), "/topic", "not start with leveret."),
        (json!({ "topic": "order.placed", "payload": {}, "id": "" }), "/id", "1 to 128 bytes"),
    ] {
        let (status, problem) = site.post("/api/events", &event).await;
        let error = &problem["errors"][0];
        assert_eq!((status.as_u16(), &error["pointer"]), (422, &json!(pointer)), "{problem}");
        assert!(error["detail"].as_str().unwrap().contains(part), "{problem}");
    }
    for event in [json!({ "topic": "order.placed" }), json!({ "topic": "a", "payload": 1, "delay": "1s" }), json!([])] {
        let (status, problem) = site.post("/api/events", &event).await;
        assert_eq!(status.as_u16(), 422, "{problem}");
    }
}
