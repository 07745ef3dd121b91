//! Relays: several at a time, woken, stopped, and their metrics.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use leveret_harness::{Postgres, eventually, unique};
use leveret_sql::{Error, Relay};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::stage::{LONG, Pool, Stage, broker, run};
use leveret_harness::Database;

leveret_harness::on_both_databases! {
    relays_side_by_side_publish_each_job_once,
    an_idle_relay_is_woken,
    what_a_dead_relay_had_in_hand_is_published_when_its_lease_is_over,
    what_was_published_can_be_kept_and_pruned,
    a_stop_finishes_what_is_in_hand,
    a_relay_reports_the_state_of_the_outbox,
    a_relay_without_an_outbox_says_so,
    a_relay_with_a_setting_of_zero_does_not_run_and_names_it,
}

async fn a_relay_with_a_setting_of_zero_does_not_run_and_names_it(database: Database) {
    let stage = Stage::new(database).await;
    let tries = stage.relay().tries(0, Duration::from_secs(1));
    for (relay, method) in
        [(stage.relay().batch(0), "batch"), (stage.relay().parallelism(0), "parallelism"), (tries, "tries")]
    {
        let error = relay.run(std::future::pending()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("Relay::{method}: 0 is out of range: set at least 1"));
    }
}

async fn relays_side_by_side_publish_each_job_once(database: Database) {
    const JOBS: usize = 3_000;
    let stage = Stage::new(database).await;
    let relays = [(); 4].map(|()| run(stage.relay().batch(100)));
    let mut ids = BTreeSet::new();
    for first in (0..JOBS).step_by(250) {
        let entries = (first..first + 250).map(|number| stage.entry(number)).collect();
        ids.extend(stage.pool.enqueue_all(entries).await.iter().map(ToString::to_string));
    }
    let taken: BTreeSet<_> = stage.take(JOBS).await.into_iter().map(|(id, _)| id).collect();
    stage.drained().await;
    for relay in relays {
        relay.stop().await.unwrap();
    }
    assert_eq!((taken.len(), stage.depth().await), (JOBS, 0));
    assert_eq!(taken, ids);
}

async fn an_idle_relay_is_woken(database: Database) {
    let stage = Stage::new(database).await;
    let relay = stage.relay();
    let waker = relay.waker();
    let relay = run(relay);
    stage.pool.enqueue(stage.entry("first")).await;
    stage.take(1).await;
    let mut times = Vec::new();
    for _ in 0..5 {
        // Until the pauses of the relay have grown to a second.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        stage.pool.enqueue(stage.entry("next")).await;
        // The commit may wait for the disk.
        let began = Instant::now();
        if matches!(stage.pool, Pool::Sqlite(_)) {
            waker.wake();
        }
        stage.take(1).await;
        times.push(began.elapsed());
    }
    relay.stop().await.unwrap();
    times.sort_unstable();
    assert!(times[3] < Duration::from_millis(250), "{times:?}");
}

async fn what_a_dead_relay_had_in_hand_is_published_when_its_lease_is_over(database: Database) {
    let stage = Stage::new(database).await;
    let until = super::stage::now_ms() + 1_500;
    stage.pool.enqueue_all((0..10).map(|number| stage.entry(number)).collect()).await;
    stage.pool.run(&format!("UPDATE leveret_outbox SET lease = 7, leased_until = {until}")).await;
    let relay = run(stage.relay());
    stage.pool.enqueue(stage.entry("free")).await;
    assert_eq!(stage.take(1).await[0].1, "free");
    assert_eq!(stage.take(10).await.len(), 10);
    assert!(super::stage::now_ms() >= until);
    stage.drained().await;
    relay.stop().await.unwrap();
}

async fn what_was_published_can_be_kept_and_pruned(database: Database) {
    let stage = Stage::new(database).await;
    let relay = run(stage.relay().keep(Duration::from_secs(3600)));
    let entry = |number| match number % 2 {
        0 => (None, stage.entry(number)),
        _ => (Some("odd".to_owned()), stage.entry(number)),
    };
    stage.pool.enqueue_all_ordered((0..2_500).map(entry).collect()).await;
    stage.take(2_500).await;
    stage.drained().await;
    relay.stop().await.unwrap();
    assert_eq!(stage.outbox.status().await.unwrap().published, 2_500);
    assert_eq!(stage.outbox.prune(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(stage.outbox.prune(Duration::ZERO).await.unwrap(), 2_500);
    assert_eq!(stage.outbox.status().await.unwrap(), Default::default());
    assert_eq!(stage.depth().await, 0);
}

async fn a_stop_finishes_what_is_in_hand(database: Database) {
    let stage = Stage::new(database).await;
    stage.pool.enqueue_all((0..2_000).map(|number| stage.entry(number)).collect()).await;
    let relay = run(stage.relay().batch(50).parallelism(1));
    stage.next().await;
    relay.stop().await.unwrap();
    let status = stage.outbox.status().await.unwrap();
    assert!(status.pending > 0, "it stopped in the middle");
    assert_eq!(status.leased, 0);
    assert_eq!(u64::from(stage.depth().await) + 1 + status.pending, 2_000);
}

async fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn a_relay_reports_the_state_of_the_outbox(database: Database) {
    let stage = Stage::new(database).await;
    stage.pool.enqueue_all((0..20).map(|number| stage.entry(number)).collect()).await;
    stage.pool.enqueue(stage.entry("far").id("far")).await;
    // Claimed by a relay that has died, for longer than the test takes.
    stage
        .pool
        .run("UPDATE leveret_outbox SET leased_until = 9000000000000000, enqueued_at = 1000 WHERE id = 'far'")
        .await;
    stage.pool.enqueue(stage.entry("bad")).await;
    stage.pool.run("UPDATE leveret_outbox SET options = 'nonsense' WHERE seq = 22").await;
    let broker = broker(&stage.amqp);
    let health = broker.serve_health().unwrap();
    let relay = run(Relay::new(&stage.outbox, &broker));
    let all = ["outbox_pending 1", "outbox_set_aside 1", "outbox_published_total 20", "outbox_lease_conflicts_total 0"];
    let address = health.address().to_string();
    eventually("all is reported", LONG, async || {
        let text = get(&address).await;
        all.iter().all(|line| text.lines().any(|reported| reported == format!("leveret_{line}")))
    })
    .await;
    let text = get(&address).await;
    let oldest = text.lines().find_map(|line| line.strip_prefix("leveret_outbox_oldest_seconds ")).unwrap();
    assert!(oldest.parse::<f64>().unwrap() > 1e9, "{oldest}");
    relay.stop().await.unwrap();
}

async fn a_relay_without_an_outbox_says_so(database: Database) {
    let stage = Stage::new(database).await;
    stage.pool.run("DELETE FROM leveret_outbox_migrations").await;
    let error = stage.relay().run(std::future::pending()).await.unwrap_err();
    assert!(matches!(error, Error::NoTables { part: "outbox" }), "{error:?}");
}

#[tokio::test]
async fn the_least_rights_of_the_docs_are_enough_to_enqueue_and_to_relay() {
    let stage = Stage::new(Database::postgres().await).await;
    let [shop, relay] = ["shop", "relay"].map(|role| unique(role).replace('-', "_"));
    let rights = format!(
        "CREATE ROLE {shop} LOGIN; GRANT INSERT ON leveret_outbox TO {shop}; CREATE ROLE {relay} LOGIN;
         GRANT SELECT, UPDATE, DELETE ON leveret_outbox TO {relay};
         GRANT SELECT ON leveret_outbox_migrations TO {relay}"
    );
    stage.pool.run(&rights).await;
    let of = |role: &str| stage.database.url.replace("postgres@", &format!("{role}@"));
    let running = run(Relay::new(Pool::open(&of(&relay)).await.outbox(), &broker(&stage.amqp)).keep(Duration::ZERO));
    let shop = Pool::open(&of(&shop)).await;
    shop.enqueue_ordered("k", stage.entry("rust")).await;
    shop.run(&format!("SELECT leveret_enqueue('test.job', '{}', '1', order_key => 'k')", stage.queue)).await;
    let payloads: Vec<_> = stage.take(2).await.into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, ["rust", "1"]);
    stage.drained().await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_relay_outlasts_a_killed_postgres() {
    let postgres = Postgres::start().await;
    let stage = Stage::new(Database::at(postgres.database().await)).await;
    let relay = run(stage.relay());
    stage.pool.enqueue(stage.entry("before")).await;
    assert_eq!(stage.take(1).await[0].1, "before");
    postgres.kill9().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    postgres.restart().await;
    let after = Pool::open(&stage.database.url).await;
    after.enqueue(stage.entry("after")).await;
    assert_eq!(stage.take(1).await[0].1, "after");
    relay.stop().await.unwrap();
}
