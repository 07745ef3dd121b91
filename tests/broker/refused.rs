//! Copies and publishes that the broker nacks.

use std::time::Duration;

use leveret::{PublishError, testing::dead_letters};
use leveret_harness::{TestVhost, eventually, shared_node};
use leveret_tests::jobs::{Act, publish, script};

use crate::{
    metrics::{get, health_of},
    support::{LONG, Place, RunFile},
};

const FULL: &str = r#"{"max-length": 0, "overflow": "reject-publish"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_is_nacked_waits_for_as_long_as_that_lasts_and_the_worker_is_not_ready() {
    let vhost = shared_node().await.vhost().await;
    let (place, file) = (Place::at(&vhost.url(), "refused"), RunFile::new());
    // One level of the ladder, and longer than this test takes.
    let process = place.process(&file, &["--retry-ms", "204800"]);
    let address = health_of(&process).await;
    place.declared().await;
    eventually("it is ready", LONG, async || get(&address, "/readyz").await.0 == 200).await;
    vhost.node().set_policy(vhost.name(), "full", r"^leveret\.v1\.delay\.", FULL).await.unwrap();
    let filler = script("filler", [Act::Succeed]);
    eventually("the level of the ladder is full", LONG, async || {
        publish(&place.broker, &place.queue, &filler).delay(Duration::from_millis(204_800)).await.is_err()
    })
    .await;
    place.publish(&script("flaky", [Act::Fail("down".into())])).await;
    eventually("it reports that it waits", LONG, async || {
        let (ready, reason) = get(&address, "/readyz").await;
        let metrics = get(&address, "/metrics").await.1;
        ready == 503 && reason.contains("does not confirm") && metrics.contains("\nleveret_copies_unconfirmed 1\n")
    })
    .await;
    vhost.node().ctl(&["clear_policy", "--vhost", vhost.name(), "full"]).await.unwrap();
    eventually("the retry is confirmed", LONG, async || get(&address, "/readyz").await.0 == 200).await;
    assert_eq!(dead_letters(&place.broker, &place.queue).await.unwrap(), []);
    assert_eq!(process.count("a copy is not confirmed"), 1, "{:#?}", process.lines());
}

/// Returns the publishing channels of that vhost.
async fn publishing_channels(vhost: &TestVhost) -> String {
    let channels = format!(
        "[Pid || [{{pid, Pid}}, {{vhost, <<\"{}\">>}}, {{confirm, true}}] <- rabbit_channel:info_all([pid, vhost, confirm])].",
        vhost.name()
    );
    vhost.node().eval(&channels).await.unwrap()
}

/// RabbitMQ 3.10 nacks all publishes to a queue on one channel while the node is down that led the queue when the
/// channel was new. Publishes on a newer channel are confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_whose_publishes_are_nacked_is_replaced() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "nacked");
    place.declare().await;
    let before = publishing_channels(&vhost).await;
    assert!(before.contains('<'), "{before}");
    vhost.node().set_policy(vhost.name(), "full", &format!("^{}$", place.queue), FULL).await.unwrap();
    let job = script("x", [Act::Succeed]);
    eventually("another channel publishes", LONG, async || {
        let nacked = publish(&place.broker, &place.queue, &job).await;
        matches!(nacked, Err(PublishError::Nacked { .. })) && publishing_channels(&vhost).await != before
    })
    .await;
    vhost.node().ctl(&["clear_policy", "--vhost", vhost.name(), "full"]).await.unwrap();
    publish(&place.broker, &place.queue, &job).await.unwrap();
}
