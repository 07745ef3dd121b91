//! Promises that depend on RabbitMQ.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use leveret::{Broker, Config, PublishError};
use leveret_harness::{Node, NodeOptions, Proxy, TestVhost, eventually, eventually_eq, shared_node, shared_postgres};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    site::{SOON, Site, options, sqlite},
    work::Running,
};

fn broker(url: &str) -> Broker {
    Broker::amqp(Config { amqp_url: vec![url.to_owned()], ..Config::default() }).unwrap()
}

async fn vhost() -> TestVhost {
    shared_node().await.vhost().await
}

async fn lives(store: &str) {
    let site = Site::start(&broker(&vhost().await.url()), store, options()).await;
    let worker = site.work().await;
    let batch = json!([
        { "name": "one" },
        { "job": "demo.work", "payload": { "act": "fail_twice" } },
        { "job": "demo.work", "payload": { "act": "fail" } },
        { "job": "demo.work", "payload": { "act": "echo" }, "delay": "1s" },
    ]);
    let (status, ids) = site.post("/api/tasks/batch", &batch).await;
    assert_eq!(status, 202, "{ids}");
    for (id, end) in ids.as_array().unwrap().iter().zip(["Completed", "Completed", "Failed", "Completed"]) {
        site.reaches(id.as_str().unwrap(), end).await;
    }
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn tasks_come_to_their_ends_on_rabbitmq_and_sqlite() {
    let (_folder, url) = sqlite();
    lives(&url).await;
}

#[tokio::test]
async fn tasks_come_to_their_ends_on_rabbitmq_and_postgresql() {
    lives(&shared_postgres().await.database().await).await;
}

#[tokio::test]
async fn while_the_broker_is_unreachable_tasks_are_refused_at_once_and_accepted_afterwards() {
    let proxy = Proxy::start(&vhost().await.url()).await;
    let (_folder, url) = sqlite();
    let site = Site::start(&broker(proxy.url()), &url, options()).await;
    let _worker = site.work().await;
    site.submit(&json!({})).await;

    proxy.refuse();
    proxy.cut();
    let refused = async || submit(&site).await == refusal();
    eventually("submissions are refused", SOON, refused).await;
    let (status, problem) = site.post("/api/tasks/batch", &json!([{}, {}])).await;
    assert_eq!(status, 503, "{problem}");
    assert_eq!(site.get("/readyz").await.0, 503);
    assert_eq!(site.get("/api/tasks").await.0, 200, "what is known can be read");

    proxy.accept();
    eventually_eq("accepted again", SOON, (StatusCode::ACCEPTED, None), async || submit(&site).await).await;
}

async fn submit(site: &Site) -> (StatusCode, Option<String>) {
    let response = site.send(Method::POST, "/api/tasks", Some(&json!({}))).await;
    let after = response.headers().get("retry-after").map(|after| after.to_str().unwrap().to_owned());
    (response.status(), after)
}

fn refusal() -> (StatusCode, Option<String>) {
    (StatusCode::SERVICE_UNAVAILABLE, Some("2".to_owned()))
}

#[tokio::test]
async fn while_the_broker_is_blocked_tasks_are_refused() {
    let node = Node::start(NodeOptions::default()).await;
    let (_folder, url) = sqlite();
    let config = Config { amqp_url: vec![node.url()], publish_timeout: Duration::from_secs(3), ..Config::default() };
    let site = Site::start(&Broker::amqp(config).unwrap(), &url, options()).await;
    let _worker = site.work().await;
    site.submit(&json!({})).await;

    node.ctl(&["set_vm_memory_high_watermark", "0.0000001"]).await.unwrap();
    eventually("submissions are refused", SOON, async || submit(&site).await == refusal()).await;
    let (_, problem) = site.post("/api/tasks", &json!({})).await;
    assert_eq!(problem["type"], "urn:leveret:problem:broker-blocked");

    node.ctl(&["set_vm_memory_high_watermark", "0.8"]).await.unwrap();
    eventually_eq("accepted again", SOON, (StatusCode::ACCEPTED, None), async || submit(&site).await).await;
}

#[tokio::test]
async fn cancelled_tasks_stay_cancelled_when_worker_and_server_are_started_anew() {
    let vhost = vhost().await;
    let (_folder, url) = sqlite();
    let site = Site::start(&broker(&vhost.url()), &url, options()).await;
    site.work().await.stop().await;
    let gate = json!({ "job": "demo.work", "payload": { "act": "gate" } });
    let queued = site.submit(&gate).await;
    let delayed = site.submit(&json!({ "job": "demo.work", "payload": { "act": "gate" }, "delay": "2s" })).await;
    for id in [&queued, &delayed] {
        let (status, answer) = site.delete(&format!("/api/tasks/{id}")).await;
        assert_eq!((status.as_u16(), &answer["was"]), (202, &json!("queued")));
    }
    let broker_before = site.broker.clone();
    site.stop().await;
    broker_before.close().await;

    let site = Site::start(&broker(&vhost.url()), &url, options()).await;
    let worker = Running::start(&broker(&vhost.url())).await;
    site.knows_jobs().await;
    for id in [&queued, &delayed] {
        assert_eq!(site.task(id).await["status"], "Cancelled");
        let ended = |task: Value| task["finished_at"].is_string();
        eventually("it ends", SOON, async || ended(site.task(id).await)).await;
    }
    assert_eq!(worker.gate.started.available_permits(), 0, "neither ran");
}

#[tokio::test]
async fn a_running_task_is_cancelled_in_another_process() {
    let vhost = vhost().await;
    let (_folder, url) = sqlite();
    let site = Site::start(&broker(&vhost.url()), &url, options()).await;
    // Another process has its own broker handle.
    let worker = Running::start(&broker(&vhost.url())).await;
    site.knows_jobs().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    site.reaches(&id, "Processing").await;
    assert_eq!(site.delete(&format!("/api/tasks/{id}")).await.1["was"], "running");
    let task = site.reaches(&id, "Cancelled").await;
    assert!(task["finished_at"].is_string() || task["cancel_requested_at"].is_string(), "{task}");
}

#[tokio::test]
async fn status_updates_published_while_no_server_ran_are_ingested_by_the_next() {
    let vhost = vhost().await;
    let (_folder, url) = sqlite();
    let site = Site::start(&broker(&vhost.url()), &url, options()).await;
    let worker = Running::start(&broker(&vhost.url())).await;
    site.knows_jobs().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    site.stop().await;
    worker.gate.open.add_permits(1);
    // The worker drains, so the job ends before the next server starts.
    worker.stop().await;
    let site = Site::start(&broker(&vhost.url()), &url, options()).await;
    site.reaches(&id, "Completed").await;
}

#[tokio::test]
async fn a_batch_that_the_broker_accepts_in_part_reports_for_each_item_whether_it_was_published() {
    let vhost = vhost().await;
    let (_folder, url) = sqlite();
    let site = Site::start(&broker(&vhost.url()), &url, options()).await;
    site.work().await.stop().await;
    let full = r#"{"max-length": 20, "overflow": "reject-publish"}"#;
    vhost.node().set_policy(vhost.name(), "full", "^demo$", full).await.unwrap();
    // The broker may accept some messages over its limit.
    let batch = Value::Array(vec![json!({}); 1000]);
    let (status, fates) = site.post("/api/tasks/batch", &batch).await;
    assert_eq!(status, 207, "{fates}");
    let (fates, mut taken) = (fates.as_array().unwrap().clone(), 0);
    assert_eq!(fates.len(), 1000);
    for fate in fates {
        let Some(id) = fate["task_id"].as_str() else {
            assert_eq!((&fate["error"]["status"], fate["error"]["detail"].is_string()), (&json!(503), true), "{fate}");
            continue;
        };
        assert_eq!(site.task(id).await["status"], "Pending");
        taken += 1;
    }
    assert!((20..1000).contains(&taken), "{taken}");
}

async fn unique(store: &str) {
    let site = Site::start(&broker(&vhost().await.url()), store, options()).await;
    let worker = site.work().await;
    let publisher = site.broker.publisher().unique_in(Arc::new(site.services.store.clone()));
    let publish = || {
        let hour = Duration::from_secs(3600);
        publisher.publish_raw("demo.work", "demo", r#"{"act": "gate"}"#).unique("account-7", hour).into_future()
    };
    let first = publish().await.unwrap();
    worker.one_started().await;
    let refused = publish().await;
    assert!(matches!(&refused, Err(PublishError::NotUnique { id, .. }) if *id == first), "{refused:?}");
    worker.gate.open.add_permits(2);
    eventually("its end frees the key", SOON, async || publish().await.is_ok()).await;
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_unique_job_frees_its_key_when_its_end_is_recorded_on_sqlite() {
    let (_folder, url) = sqlite();
    unique(&url).await;
}

#[tokio::test]
async fn a_unique_job_frees_its_key_when_its_end_is_recorded_on_postgresql() {
    unique(&shared_postgres().await.database().await).await;
}
