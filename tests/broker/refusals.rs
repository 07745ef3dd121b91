//! Refusals of the broker: no other publish loses its confirm, and the error names the cause.

use std::time::Duration;

use futures_util::future::join_all;
use leveret::{Broker, Config, Error, PublishError, TopologyMode};
use leveret_harness::{Node, NodeOptions, Permissions, eventually, shared_node, unique};
use leveret_tests::jobs::{Act, Log, publish, script, start, worker};

use crate::support::{LONG, Place};

const NEIGHBOURS: usize = 300;

/// Publishes many good jobs at once with `bad` among them. Returns the number of confirmed good ones, and the result of
/// the bad one.
async fn among_others(
    broker: &Broker,
    queue: &str,
    bad: impl Future<Output = Result<leveret::JobId, PublishError>>,
) -> (usize, Result<leveret::JobId, PublishError>) {
    let job = script("good", [Act::Succeed]);
    let half = || join_all((0..NEIGHBOURS / 2).map(|_| publish(broker, queue, &job).into_future()));
    let (before, bad, after) = tokio::join!(half(), bad, half());
    (before.iter().chain(&after).filter(|published| published.is_ok()).count(), bad)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_the_broker_would_close_the_channel_for_is_refused_before_it_is_sent() {
    let place = Place::shared("headers").await;
    place.declare().await;
    for name in ["CC", "BCC"] {
        let bad = publish(&place.broker, &place.queue, &script("bad", [Act::Succeed])).header(name, "text");
        let (confirmed, bad) = among_others(&place.broker, &place.queue, bad.into_future()).await;
        assert_eq!(confirmed, NEIGHBOURS);
        assert!(matches!(&bad, Err(PublishError::Invalid { what: "header", value, .. }) if value == name), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_on_one_exchange_costs_publishes_to_others_their_confirms_only_once() {
    let vhost = shared_node().await.vhost().await;
    let owner = Place::at(&vhost.url(), "rights");
    owner.declare().await;
    let user = unique("sender");
    let only_jobs = Permissions { configure: "^$", write: r"^leveret\.v1\.jobs$", read: "^$" };
    vhost.node().add_user(&user, "secret", vhost.name(), only_jobs).await.unwrap();
    let amqp_url = vec![vhost.url_for(&user, "secret")];
    let sender = Broker::amqp(Config { amqp_url, topology: TopologyMode::Verify, ..Config::default() }).unwrap();
    let delayed =
        || publish(&sender, &owner.queue, &script("late", [])).delay(Duration::from_millis(300)).into_future();
    let first = delayed().await.unwrap_err();
    assert!(matches!(first, PublishError::Refused { .. }), "{first}");
    for _ in 0..3 {
        let (confirmed, refused) = among_others(&sender, &owner.queue, delayed()).await;
        assert_eq!(confirmed, NEIGHBOURS);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("leveret.v1.delay") && refused.contains("refused for user"), "{refused}");
    }
    let grant = ["set_permissions", "--vhost", vhost.name(), &user, "^$", r"^leveret\.v1\.(jobs|delay\..*)$", "^$"];
    vhost.node().ctl(&grant).await.unwrap();
    eventually("a granted permission is noticed", LONG, async || delayed().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_the_broker_forbids_costs_other_publishes_their_confirms_only_once() {
    let vhost = shared_node().await.vhost().await;
    let owner = Place::at(&vhost.url(), "topics");
    owner.declare().await;
    let user = unique("emitter");
    let publisher = Permissions { configure: "^$", write: r"^leveret\.v1\.(jobs|topics)$", read: "^$" };
    vhost.node().add_user(&user, "secret", vhost.name(), publisher).await.unwrap();
    let permitted = ["set_topic_permissions", "--vhost", vhost.name(), &user, "leveret.v1.topics", r"^order\.", ".*"];
    vhost.node().ctl(&permitted).await.unwrap();
    let amqp_url = vec![vhost.url_for(&user, "secret")];
    let emitter = Broker::amqp(Config { amqp_url, topology: TopologyMode::Verify, ..Config::default() }).unwrap();
    let forbidden = || emitter.publisher().emit_raw("billing.x", "{}").into_future();
    let first = forbidden().await.unwrap_err();
    assert!(matches!(first, PublishError::Refused { .. }), "{first}");
    emitter.publisher().emit_raw("order.placed", "{}").await.unwrap();
    for _ in 0..3 {
        let (confirmed, refused) = among_others(&emitter, &owner.queue, forbidden()).await;
        assert_eq!(confirmed, NEIGHBOURS);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("billing.x") && refused.contains("refused for user"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_over_the_brokers_own_size_limit_costs_others_their_confirms_only_once() {
    let node = Node::start(NodeOptions::default().config("max_message_size = 65536")).await;
    let place = Place::at(&node.url(), "sizes");
    place.declare().await;
    let large = || publish(&place.broker, &place.queue, &script(&"x".repeat(70_000), [])).into_future();
    let first = large().await.unwrap_err();
    assert!(matches!(first, PublishError::Refused { .. }), "{first}");
    for _ in 0..3 {
        let (confirmed, refused) = among_others(&place.broker, &place.queue, large()).await;
        assert_eq!(confirmed, NEIGHBOURS);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("larger than configured max size 65536"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_queues_is_reported_as_such_and_waited_for() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "limited");
    place.declare().await;
    let limit = |most: &str| ["set_vhost_limits", "--vhost", vhost.name(), most].map(str::to_owned);
    let set = async |most: &str| {
        let arguments = limit(most);
        vhost.node().ctl(&arguments.each_ref().map(String::as_str)).await.unwrap()
    };
    set(r#"{"max-queues": 1}"#).await;
    let other = Place::at(&vhost.url(), "one-too-many");
    let file = crate::support::RunFile::new();
    let process = other.process(&file, &[]);
    let line = process.wait_line("queue limit in vhost", LONG).await;
    assert!(line.contains("set_vhost_limits") && !line.contains("other arguments"), "{line}");
    set(r#"{"max-queues": -1}"#).await;
    other.declared().await;
    file.until("the worker works", |lines| lines.iter().any(|line| line.ended)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_streams_is_refused_once_with_the_command_that_enables_them() {
    let node = Node::start(NodeOptions::default().feature_flags(&["quorum_queue", "implicit_default_bindings"])).await;
    if node.version().await.unwrap() >= (3, 12) {
        // Streams can no longer be disabled.
        return;
    }
    let place = Place::at(&node.url(), "streamless");
    let log = Log::default();
    let error = start(worker(&place.queue, |queue| queue, &log), &place.broker).ended().await.unwrap_err();
    assert!(matches!(error, Error::Undeclarable { .. }), "{error}");
    let shown = error.to_string();
    assert!(shown.contains("rabbitmqctl enable_feature_flag") && shown.contains("stream"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_deleted_under_a_running_worker_is_declared_and_bound_again() {
    let vhost = shared_node().await.vhost().await;
    let (place, file) = (Place::at(&vhost.url(), "unbound"), crate::support::RunFile::new());
    let _worker = place.process(&file, &[]);
    place.declared().await;
    place.raw().await.delete_exchange("leveret.v1.jobs").await.unwrap();
    let published = async || {
        let job = script("after", [Act::Fail("once".to_owned()), Act::Succeed]);
        publish(&place.broker, &place.queue, &job).await.is_ok()
    };
    eventually("jobs are routed again", LONG, published).await;
    file.until("and run", |lines| lines.iter().any(|line| line.ended && line.label == "after")).await;
}
