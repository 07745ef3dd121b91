//! Events: each subscription has its own copy, and its faults are its own.

use std::{collections::HashSet, time::Duration};

use anyhow::ensure;
use leveret::{
    Broker, Config,
    event_log::{self, EventLog, Start},
};
use leveret_tests::load::now_us;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    fault::Fault,
    prober::connect,
    scenarios::cluster,
    stage::{Cast, LONG, POLL, PREFETCH, Stage, words},
};

/// Events whose publish was confirmed this shortly before a deletion may have been in the queue.
const IN_QUEUE_US: u64 = 5_000_000;
/// Fewer than an emitter makes until too many are in flight, whose confirms wait for a queue without a quorum.
const SLOWLY: u64 = 300;
/// The events that an emitter has in flight at most.
const IN_FLIGHT: usize = 200;
/// After a node was killed, its queues have confirmed what they had.
const AFTER_KILL_US: u64 = 20_000;

fn two_subscriptions() -> Cast {
    // A subscription whose consumers are gone for a while must not make the emitter wait.
    Cast { workers: 2, subscriptions: 2, publish: words("--publish-timeout 2s"), ..Cast::default() }
}

pub(crate) async fn events_whose_subscriber_is_killed(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(two_subscriptions()).await?;
    for _ in 0..stage.size.rounds * 2 {
        stage.play().await;
        let mut struck = stage.strike(Fault::WorkerKilled).await?;
        stage.recovered(&mut struck).await?;
    }
    stage.finish().await
}

/// The other subscription loses nothing. The broker nacks events that it was passing to the deleted queue: the publisher
/// repeats those, and no others.
pub(crate) async fn events_whose_subscription_is_deleted(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(two_subscriptions()).await?;
    let (deleted, of) = stage.queues().swap_remove(0);
    let mut deletions = Vec::new();
    for _ in 0..stage.size.rounds {
        stage.play().await;
        // An event reaches the subscription that is bound while it is published, and no other.
        let mut struck = stage.struck_without_probes();
        connect(&stage.raw_urls).await?.delete_queue(&deleted).await?;
        let gone = now_us();
        bound_again(stage, &deleted).await?;
        deletions.push((gone, now_us()));
        stage.probe(&mut struck);
        stage.recovered(&mut struck).await?;
    }
    let may_be_lost = |id: &str, at: u64| {
        let is_in = |(gone, back): &(u64, u64)| (gone - IN_QUEUE_US..*back).contains(&at);
        id.ends_with(&of) && deletions.iter().any(is_in)
    };
    stage.finish_except(may_be_lost).await?;
    // Each counts in both subscriptions.
    let (repeated, most) = (stage.books.audit.repeated(), deletions.len() * 2 * IN_FLIGHT);
    ensure!(
        repeated <= most,
        "{repeated} publishes were uncertain, and {most} at most were on their way at the deletions"
    );
    // Those that waited or were unacknowledged, and those that were emitted before the subscription was bound again.
    let unbound: u64 = deletions.iter().map(|(gone, back)| back - gone).sum();
    let waiting = deletions.len() * 2 * 2 * PREFETCH;
    let most = waiting as u64 + unbound * stage.size.rate / 1_000_000;
    let gone = stage.figures().deleted as u64;
    ensure!(gone <= most, "{gone} copies are gone, and {most} at most may be");
    Ok(())
}

/// Waits until the workers of a deleted subscription have declared and bound it again.
async fn bound_again(stage: &Stage<'_>, name: &str) -> anyhow::Result<()> {
    let queue = format!("rabbit_misc:r(<<\"/\">>, queue, <<\"{name}\">>)");
    let bindings = format!("rabbit_binding:list_for_destination({queue}).");
    let deadline = Instant::now() + LONG;
    while !stage.node.eval(&bindings).await?.contains("leveret.v1.topics") {
        ensure!(Instant::now() < deadline, "{name} is not bound again after {LONG:?}");
        sleep(POLL).await;
    }
    Ok(())
}

/// A node that only one subscription needs for its quorum is gone. The other subscription gets its events meanwhile; all of
/// them come to the one without quorum later.
pub(crate) async fn events_whose_subscription_has_no_quorum(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let cluster = cluster::start(stage).await;
    stage.size.rate = stage.size.rate.min(SLOWLY);
    // Repeated events wait in the queue before newer ones.
    stage.size.recovery += Duration::from_secs(30);
    stage.begin(two_subscriptions()).await?;
    let [first, _, third] = cluster.nodes() else { unreachable!("three nodes") };
    let (alive, halted) = (stage.subscriptions[0].clone(), stage.subscriptions[1].clone());
    let without = format!("ok = rabbit_quorum_queue:delete_member(<<\"/\">>, <<\"{halted}\">>, '{}').", first.name());
    cluster.await_members(&halted).await;
    third.eval(&without).await?;
    cluster.sync().await?;
    for _ in 0..stage.size.rounds.div_ceil(2) {
        stage.play().await;
        let mut struck = stage.struck();
        third.kill9().await;
        let gone = now_us() + AFTER_KILL_US;
        let reached = |stage: &Stage<'_>| stage.books.has_newer(&alive, gone);
        stage.until("the subscription with a quorum gets newer events", reached).await?;
        ensure!(!stage.books.has_newer(&halted, gone), "{halted} must have no quorum");
        sleep(stage.size.absence).await;
        third.restart().await;
        struck.knowable = now_us();
        stage.recovered(&mut struck).await?;
    }
    stage.finish().await?;
    ensure!(stage.books.audit.repeated() > 0, "the publisher must have learned that a subscription has no copy");
    Ok(())
}

/// The log has every confirmed event, and a reader that goes on after its last event gets each once, in the same order.
pub(crate) async fn events_whose_log_loses_its_leader(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let cluster = cluster::start(stage).await;
    let config = Config { amqp_url: stage.urls.clone(), ..Config::default() };
    let broker = Broker::amqp(config)?;
    event_log::declare(&broker).await?;
    let reading = tokio::spawn(read_all(broker.clone()));
    stage.begin(two_subscriptions()).await?;
    cluster.sync().await?;
    let log = leveret::topology::Topology::new("leveret.v1").event_log();
    for _ in 0..stage.size.rounds.div_ceil(2) {
        stage.play().await;
        let leader = cluster.leader(&log).await;
        let mut struck = stage.struck();
        leader.kill9().await;
        let absence = stage.absence();
        let back = async {
            sleep(absence).await;
            leader.restart().await;
        };
        stage.recovered_but_for_retries(&mut struck, back).await?;
    }
    stage.finish().await?;
    // The last event of the test, after which the reader ends.
    while broker.publisher().emit_raw("test.over", "{}").await.is_err() {}
    let read = timeout(LONG, reading).await???;
    broker.close().await;
    let missing: Vec<_> = stage.books.audit.confirmed().filter(|id| !read.contains(event_of(id))).take(5).collect();
    ensure!(missing.is_empty(), "confirmed, and not in the log: {missing:?}");
    Ok(())
}

/// The id of the event, of which this is one subscription's copy.
fn event_of(id: &str) -> &str {
    id.split('@').next().unwrap_or_default()
}

/// Reads the log to the last event of the test, and returns the ids of all.
async fn read_all(broker: Broker) -> anyhow::Result<HashSet<String>> {
    let (mut ids, mut start, mut next) = (HashSet::new(), Start::First, 0);
    let deadline = Instant::now() + LONG * 5;
    while Instant::now() < deadline {
        // The log may have no leader for now.
        let Ok(mut log) = EventLog::open(&broker, start).await else {
            sleep(POLL).await;
            continue;
        };
        while let Ok(event) = log.next().await {
            ensure!(event.offset() >= next, "event {} came after {next}", event.offset());
            next = event.offset() + 1;
            start = Start::Offset(next);
            if event.topic() == "test.over" {
                return Ok(ids);
            }
            ids.extend(event.id().map(str::to_owned));
        }
    }
    anyhow::bail!("the log was not read to its end")
}
