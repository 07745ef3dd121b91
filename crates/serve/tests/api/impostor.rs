//! A publisher that knows the id of another client's task.

use leveret::{Broker, Config};
use leveret_harness::{
    RawClient, TestVhost, eventually, eventually_eq,
    lapin::{
        BasicProperties,
        types::{AMQPValue, FieldTable},
    },
    shared_node,
};
use leveret_store::DeadFilter;
use reqwest::StatusCode;
use serde_json::json;

use crate::site::{SOON, Site, options, sqlite};

/// A server with a worker, and a client that may publish.
struct Stage {
    site: Site,
    raw: RawClient,
    _vhost: TestVhost,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let vhost = shared_node().await.vhost().await;
        let broker = Broker::amqp(Config { amqp_url: vec![vhost.url()], ..Config::default() }).unwrap();
        let (folder, url) = sqlite();
        let raw = RawClient::connect(&vhost.url()).await.unwrap();
        Self { site: Site::start(&broker, &url, options()).await, raw, _vhost: vhost, _folder: folder }
    }

    /// Publishes two invalid messages under a task's id with the highest hop: one with the task's own job name, one with
    /// another.
    async fn impersonate(&self, id: &str) {
        let before = self.letters().await;
        for job in ["demo.work", "evil.job"] {
            let mut headers = FieldTable::default();
            headers.insert("leveret-track".into(), AMQPValue::Boolean(true));
            headers.insert("leveret-hop".into(), AMQPValue::LongLongInt(4_294_967_295));
            let properties = BasicProperties::default().with_message_id(id.into()).with_type(job.into());
            let confirm = self.raw.publish("leveret.v1.jobs", "demo", properties.with_headers(headers), b"evil").await;
            assert!(confirm.unwrap().is_ack());
        }
        eventually_eq("the letters are ingested", SOON, before + 2, async || self.letters().await).await;
        // Its row shows that the status updates of both are ingested.
        let row = format!("/api/tasks/{id}@demo:evil.job");
        eventually("it has a row of its own", SOON, async || self.site.get(&row).await.0 == StatusCode::OK).await;
    }

    async fn letters(&self) -> u64 {
        self.site.services.store.count_dead(&DeadFilter::default()).await.unwrap()
    }
}

#[tokio::test]
async fn a_publisher_that_knows_the_id_of_a_task_can_neither_move_nor_hold_it() {
    let stage = Stage::new().await;
    let site = &stage.site;
    let worker = site.work().await;
    let running = site.submit_work("gate").await;
    worker.one_started().await;
    let delayed = json!({ "job": "demo.work", "payload": { "act": "echo" }, "delay": "1h" });
    let delayed = site.submit(&delayed).await;
    for id in [&running, &delayed] {
        stage.impersonate(id).await;
    }
    assert_eq!(site.task(&running).await["status"], "Processing");
    let task = site.task(&delayed).await;
    assert_eq!((&task["status"], &task["error"]), (&json!("Scheduled"), &json!(null)));
    let (status, answer) = site.delete(&format!("/api/tasks/{delayed}")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    assert_eq!(site.task(&delayed).await["status"], "Cancelled");
    worker.gate.open.add_permits(1);
    let done = site.reaches(&running, "Completed").await;
    assert_eq!(done["result"], "through the gate");
    stage.impersonate(&running).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_retry_replays_the_task_and_not_another_message_with_its_id() {
    let stage = Stage::new().await;
    let site = &stage.site;
    let worker = site.work().await;
    let id = site.submit_work("fail_once").await;
    site.reaches(&id, "Failed").await;
    eventually_eq("its letter is ingested", SOON, 1, async || stage.letters().await).await;
    stage.impersonate(&id).await;
    let task = site.task(&id).await;
    assert!(task["error"].as_str().unwrap().contains("the first time is hard"), "{task}");
    let (status, answer) = site.post(&format!("/api/tasks/{id}/retry"), &json!({})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    site.reaches(&id, "Completed").await;
    worker.stop().await;
}
