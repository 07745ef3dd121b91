//! Jobs that cannot be published, and an unreachable broker.

use std::{collections::BTreeSet, time::Duration};

use leveret::{Broker, Config, NewJob};
use leveret_harness::{Proxy, eventually, eventually_eq, unique};
use leveret_sql::{Relay, SetAsideSelection};

use super::stage::{LONG, Stage, run};
use leveret_harness::Database;

leveret_harness::on_both_databases! {
    what_can_never_be_published_is_set_aside_at_once_with_its_reason,
    a_job_that_no_queue_takes_is_set_aside_after_its_tries_and_holds_up_no_other,
    while_the_broker_is_away_nothing_is_counted_and_then_all_is_published,
    a_relay_that_is_too_slow_for_its_lease_publishes_twice_under_one_id_and_counts_it,
    memory_is_bounded_whatever_the_payloads,
}

async fn aside(stage: &Stage, count: u64) {
    let set_aside = async || stage.outbox.status().await.unwrap().set_aside;
    eventually_eq("they are set aside", LONG, count, set_aside).await;
}

async fn what_can_never_be_published_is_set_aside_at_once_with_its_reason(database: Database) {
    let stage = Stage::new(database).await;
    let large = NewJob::raw("test.job", stage.queue.clone(), vec![b'x'; 1024 * 1024 + 1]);
    for entry in [stage.entry(0), stage.entry(1), large, stage.entry(3)] {
        stage.pool.enqueue(entry).await;
    }
    stage.pool.run("UPDATE leveret_outbox SET options = 'nonsense' WHERE seq = 1").await;
    stage.pool.run(r#"UPDATE leveret_outbox SET options = '{"colour": "red"}' WHERE seq = 2"#).await;
    let relay = run(stage.relay());
    assert_eq!(stage.take(1).await[0].1, "3");
    aside(&stage, 3).await;
    relay.stop().await.unwrap();
    let aside = stage.outbox.set_aside(0, 10).await.unwrap();
    for (row, word) in aside.iter().zip(["decode", "colour", "1048577"]) {
        assert!(row.tries == 1 && row.reason.contains(word), "{row:?}");
    }
    assert_eq!(stage.outbox.discard(&SetAsideSelection::Numbers(vec![1, 4])).await.unwrap(), 1);
    assert_eq!(stage.outbox.discard(&SetAsideSelection::All).await.unwrap(), 2);
    assert_eq!(stage.outbox.status().await.unwrap(), Default::default());
}

async fn a_job_that_no_queue_takes_is_set_aside_after_its_tries_and_holds_up_no_other(database: Database) {
    let mut stage = Stage::new(database).await;
    let missing = unique("missing");
    let lost = (0..700).map(|_| NewJob::raw("test.job", missing.clone(), "{}"));
    stage.pool.enqueue_all(lost.collect()).await;
    stage.pool.enqueue_all((0..300).map(|number| stage.entry(number)).collect()).await;
    let relay = run(stage.relay().tries(3, Duration::from_millis(100)));
    assert_eq!(stage.take(300).await.len(), 300);
    aside(&stage, 700).await;
    let rows = stage.outbox.set_aside(0, 1_000).await.unwrap();
    assert!(rows.iter().all(|row| row.tries == 3 && row.reason.contains(&missing)));
    assert_eq!(stage.pending().await, 0);
    stage.declare(&missing).await;
    stage.queue = missing;
    assert_eq!(stage.outbox.retry(&SetAsideSelection::All).await.unwrap(), 700);
    assert_eq!(stage.take(700).await.len(), 700);
    stage.drained().await;
    relay.stop().await.unwrap();
}

async fn while_the_broker_is_away_nothing_is_counted_and_then_all_is_published(database: Database) {
    let stage = Stage::new(database).await;
    let proxy = Proxy::start(&stage.amqp).await;
    proxy.refuse();
    let ids = stage.pool.enqueue_all((0..100).map(|number| stage.entry(number)).collect()).await;
    let ordered = (0..10).map(|number| (Some("k".to_owned()), stage.entry(number))).collect();
    stage.pool.enqueue_all_ordered(ordered).await;
    let broker = super::stage::broker(proxy.url());
    let relay = run(Relay::new(&stage.outbox, &broker).tries(1, Duration::from_secs(1)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = stage.outbox.status().await.unwrap();
    assert_eq!((status.pending, status.set_aside), (110, 0));
    proxy.accept();
    let taken: BTreeSet<_> = stage.take(110).await.into_iter().map(|(id, _)| id).collect();
    assert!(ids.iter().all(|id| taken.contains(id.as_str())));
    // A job whose confirm is lost is published again.
    stage.drained().await;
    proxy.refuse();
    proxy.cut();
    stage.pool.enqueue(stage.entry("again")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    proxy.accept();
    assert_eq!(stage.take(1).await[0].1, "again");
    stage.drained().await;
    relay.stop().await.unwrap();
}

async fn a_relay_that_is_too_slow_for_its_lease_publishes_twice_under_one_id_and_counts_it(database: Database) {
    let stage = Stage::new(database).await;
    let proxy = Proxy::start(&stage.amqp).await;
    let broker = super::stage::broker(proxy.url());
    let (health, slow) = (broker.serve_health().unwrap(), Relay::new(&stage.outbox, &broker));
    let slow = run(slow.parallelism(1).lease(Duration::from_millis(800)));
    stage.pool.enqueue(stage.entry("first")).await;
    stage.take(1).await;
    stage.drained().await;
    proxy.delay(Duration::from_millis(1_500));
    let id = stage.pool.enqueue(stage.entry("slow")).await.to_string();
    eventually("the slow one has it", LONG, async || stage.outbox.status().await.unwrap().leased == 1).await;
    let fast = run(stage.relay());
    let taken = stage.take(2).await;
    assert!(taken.iter().all(|(taken, _)| *taken == id), "{taken:?} are not {id}");
    slow.stop().await.unwrap();
    fast.stop().await.unwrap();
    assert_eq!(stage.pending().await, 0);
    let text = String::from_utf8(prometheus_text(&broker)).unwrap();
    assert!(text.contains("leveret_outbox_lease_conflicts_total 1"), "{text}");
    drop(health);
}

fn prometheus_text(broker: &Broker) -> Vec<u8> {
    use prometheus::Encoder;
    let mut text = Vec::new();
    prometheus::TextEncoder::new().encode(&broker.registry().gather(), &mut text).unwrap();
    text
}

async fn memory_is_bounded_whatever_the_payloads(database: Database) {
    const JOBS: usize = 120;
    let stage = Stage::new(database).await;
    let payload = vec![b'7'; 1024 * 1000];
    let entries = (0..JOBS).map(|_| NewJob::raw("test.job", stage.queue.clone(), payload.clone()));
    stage.pool.enqueue_all(entries.collect()).await;
    // A broker that accepts nothing: claimed jobs stay claimed.
    let proxy = Proxy::start(&stage.amqp).await;
    proxy.freeze();
    let config = Config { amqp_url: vec![proxy.url().to_owned()], ..Config::default() };
    let relay = run(Relay::new(&stage.outbox, &Broker::amqp(config).unwrap()).parallelism(1));
    eventually("a batch is leased", LONG, async || stage.outbox.status().await.unwrap().leased > 0).await;
    let leased = stage.outbox.status().await.unwrap().leased;
    assert!((8..10).contains(&leased), "{leased} MB are leased, not 8");
    proxy.thaw();
    stage.take(JOBS).await;
    stage.drained().await;
    relay.stop().await.unwrap();
}
