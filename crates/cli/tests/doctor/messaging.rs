//! The findings about requests and events.

use std::time::Duration;

use lapin::types::FieldTable;
use leveret::{Context, Event, JobResult, Subscription, Worker, catalogue::Catalogue, testing};
use leveret_harness::{Permissions, eventually, lapin, unique};
use serde::{Deserialize, Serialize};

use crate::clinic::{Clinic, Visit, assert_says, visit};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
struct Placed;

async fn reserve(_: Placed, _: Context<()>) -> JobResult {
    Ok(())
}

/// Lets a worker of the subscription `warehouse` declare everything, announce its topic, and stop.
async fn subscribed(clinic: &Clinic) {
    let (broker, worker) = (clinic.broker(), Worker::new(()).subscribe(Subscription::new("warehouse"), reserve));
    let running = testing::start(worker, &broker).await.unwrap();
    let catalogue = Catalogue::follow(&broker);
    let is_announced = async || catalogue.is_subscription("warehouse");
    eventually("the topic is announced", Duration::from_secs(60), is_announced).await;
    running.stop().await.unwrap();
}

const WORKER: &str = r"leveret\.v1\.(jobs|dead|delay\..*|events|catalogue)";
const REPLIES: &str = r"leveret\.v1\.reply\..*";

#[tokio::test]
async fn the_rights_for_requests_are_checked_on_request_or_once_a_process_waits_for_replies() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    let visited = async |configure: &str, write: &str, arguments: &[&str]| -> (Visit, String) {
        let user = unique("user");
        let read = format!(r"^(email(\.suspect|\.dead)?|{configure}|leveret\.v1\.catalogue)$");
        let (configure, write) = (format!("^({configure})$"), format!("^({write})$"));
        let permissions = Permissions { configure: &configure, write: &write, read: &read };
        clinic.node.add_user(&user, "secret", &clinic.vhost, permissions).await.unwrap();
        let arguments = [&["--queue", "email", "--topology", "verify"], arguments].concat();
        (visit(&clinic.url_for(&user, "secret"), &arguments).await, format!("user {user}"))
    };
    let says = |(visit, user): &(Visit, String), level| {
        let findings = visit.findings(level);
        let of_requests = |finding: &&(String, String, String)| finding.1 == *user && finding.2.contains("requests");
        findings.iter().find(of_requests).map(|finding| finding.2.clone())
    };
    let worker = visited("x", WORKER, &["--requests"]).await;
    let said = says(&worker, "problem").unwrap();
    assert_says(&said, &["write right on amq.default", "leveret.v1.reply.*", "topology export --users --requests"]);
    let replying = format!(r"{WORKER}|amq\.default");
    let said = says(&visited("x", &replying, &["--requests"]).await, "note").unwrap();
    assert!(said.contains("leveret.v1.reply.*") && !said.contains("amq.default"), "{said}");
    let said = says(&visited(REPLIES, WORKER, &["--requests"]).await, "note").unwrap();
    assert!(said.contains("amq.default") && !said.contains("leveret.v1.reply.*"), "{said}");
    let both = visited(REPLIES, &replying, &["--requests"]).await;
    assert_eq!((says(&both, "note"), says(&both, "problem")), (None, None), "{both:?}");

    let unasked = visited("x", WORKER, &[]).await;
    assert_eq!(says(&unasked, "problem"), None);
    let raw = clinic.raw().await;
    let exclusive = lapin::options::QueueDeclareOptions { exclusive: true, ..<_>::default() };
    raw.channel().queue_declare("leveret.v1.reply.a".into(), exclusive, FieldTable::default()).await.unwrap();
    let management = format!("http://guest:guest@127.0.0.1:{}", clinic.node.http_port());
    let found = visited("x", WORKER, &["--management-url", &management]).await;
    assert!(says(&found, "problem").is_some(), "{found:?}");
}

#[tokio::test]
async fn a_missing_exchange_of_events_is_named() {
    let clinic = Clinic::open().await;
    subscribed(&clinic).await;
    clinic.raw().await.delete_exchange("leveret.v1.topics").await.unwrap();
    let visit = clinic.visit(&["--queue", "warehouse"]).await;
    let said = visit.problems(&[("topology", "leveret.v1")]);
    assert_says(&said[0], &["1 of 96 parts missing: exchange leveret.v1.topics", "LEVERET_TOPOLOGY=declare"]);
}

#[tokio::test]
async fn a_subscription_without_a_worker_and_one_without_its_bindings_are_warnings() {
    let clinic = Clinic::open().await;
    subscribed(&clinic).await;
    let visit = clinic.thorough_visit(&[]).await;
    visit.problems(&[]);
    let said = visit.says("warning", "consumers", "queue warehouse");
    assert_says(&said, &["has no consumer", "order.placed", "leveret events unsubscribe warehouse"]);
    clinic.broker().publisher().emit(&Placed).await.unwrap();
    let said = clinic.thorough_visit(&[]).await.problems(&[("consumers", "queue warehouse")]);
    assert_says(&said[0], &["jobs waiting: 1"]);

    let (raw, none) = (clinic.raw().await, FieldTable::default());
    let channel = raw.channel();
    channel.queue_unbind("warehouse".into(), "leveret.v1.topics".into(), "order.placed".into(), none).await.unwrap();
    let visit = clinic.thorough_visit(&[]).await;
    assert_says(
        &visit.says("warning", "bindings", "queue warehouse"),
        &["1 topic of its handlers not bound", "order.placed", "LEVERET_TOPOLOGY=declare"],
    );
}
