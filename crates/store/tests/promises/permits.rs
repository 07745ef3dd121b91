//! Limits that workers share.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use leveret::{
    Broker, Context, JobResult, Queue, Rate, Worker,
    limits::{LeaseRequest, LimitStore},
    testing::{idle, start},
};
use leveret_store::Store;

use crate::database::{Database, OpenStore};

leveret_harness::on_both_databases! {
    of_many_workers_no_two_get_the_same_slot,
    a_burst_is_had_once_and_slots_are_not_saved_up,
    places_are_never_more_than_there_are_and_are_shared_justly,
    the_places_of_a_worker_that_died_are_free_when_its_lease_is_over,
    workers_that_share_limits_keep_them_together,
}

async fn of_many_workers_no_two_get_the_same_slot(database: Database) {
    let store = database.open().await;
    let started = Instant::now();
    // So slow that late clocks do not matter.
    let rate = Rate::per_minute(6);
    let takes = (0..20u32).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let slots = 1 + n % 5;
            let first = store.slots("api", rate, slots).await.unwrap().first;
            (0..slots)
                .map(|slot| started.elapsed().as_millis() as i64 + first / 1_000_000 + i64::from(slot) * 10_000)
                .collect()
        })
    });
    let mut slots: Vec<i64> = Vec::new();
    for answer in takes.collect::<Vec<_>>() {
        slots.extend::<Vec<i64>>(answer.await.unwrap());
    }
    slots.sort_unstable();
    assert_eq!(slots.len(), 60);
    assert!(slots.windows(2).all(|pair| (5_000..15_000).contains(&(pair[1] - pair[0]))), "{slots:?}");
}

async fn a_burst_is_had_once_and_slots_are_not_saved_up(database: Database) {
    let store = database.open().await;
    let rate = Rate::per_minute(6).burst(3);
    let mut waits = Vec::new();
    for _ in 0..4 {
        waits.push(store.slots("api", rate, 1).await.unwrap().first.max(0) / 1_000_000_000);
    }
    assert_eq!(waits[..3], [0, 0, 0]);
    assert!((1..10).contains(&waits[3]), "the fourth waits ten seconds, less what has passed: {}", waits[3]);
    assert_eq!(store.slots("other", rate, 1).await.unwrap().first, -20_000_000_000, "each limit has a line of its own");
}

async fn ask(store: &Store, holder: &str, used: u32, wanted: u32, lease: Duration) -> u32 {
    store.lease("db", LeaseRequest { holder, used, wanted, most: 10, lease }).await.unwrap()
}

const LEASE: Duration = Duration::from_secs(30);

async fn places_are_never_more_than_there_are_and_are_shared_justly(database: Database) {
    let store = database.open().await;
    assert_eq!(ask(&store, "a", 0, 10, LEASE).await, 10);
    assert_eq!(ask(&store, "b", 0, 10, LEASE).await, 0, "none is free yet");
    assert_eq!(ask(&store, "a", 4, 10, LEASE).await, 5, "but the other gets its share");
    assert_eq!(ask(&store, "b", 0, 10, LEASE).await, 5);
    assert_eq!(ask(&store, "a", 0, 0, LEASE).await, 0);
    assert_eq!(ask(&store, "b", 5, 10, LEASE).await, 10);
    let asks = (0..16).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { ask(&store, &n.to_string(), 0, 3, LEASE).await })
    });
    assert_eq!(ask(&store, "b", 0, 0, LEASE).await, 0);
    let mut granted = 0;
    for asked in asks.collect::<Vec<_>>() {
        granted += asked.await.unwrap();
    }
    assert!((1..=10).contains(&granted), "{granted} of 10");
}

async fn the_places_of_a_worker_that_died_are_free_when_its_lease_is_over(database: Database) {
    let store = database.open().await;
    let lease = Duration::from_millis(700);
    assert_eq!(ask(&store, "dies", 0, 10, lease).await, 10);
    let died = Instant::now();
    while ask(&store, "lives", 0, 10, LEASE).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(died.elapsed() >= Duration::from_millis(650), "{:?}", died.elapsed());
    assert!(died.elapsed() < Duration::from_secs(5));
}

/// The number of running jobs, and the start of each.
#[derive(Default)]
struct Runs {
    now: u32,
    most: u32,
    starts: Vec<Instant>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Call;

impl leveret::Job for Call {
    const NAME: &'static str = "call";
    const QUEUE: &'static str = "calls";
}

async fn call(_: Call, ctx: Context<Arc<Mutex<Runs>>>) -> JobResult {
    let change = |by: i32| {
        let mut runs = ctx.state().lock().unwrap();
        runs.now = runs.now.strict_add_signed(by);
        runs.most = runs.most.max(runs.now);
    };
    assert_eq!(ctx.attempt(), 1);
    ctx.state().lock().unwrap().starts.push(Instant::now());
    change(1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    change(-1);
    Ok(())
}

async fn workers_that_share_limits_keep_them_together(database: Database) {
    const EACH: usize = 40;
    let runs = Arc::new(Mutex::new(Runs::default()));
    let mut workers = Vec::new();
    for _ in 0..2 {
        let broker = Broker::memory();
        let worker = Worker::new(Arc::clone(&runs))
            .limit_store(database.open().await)
            .queue(Queue::new("calls").concurrency(20))
            .handle_with(call, |h| h.shared_rate("api", Rate::per_second(20)).shared_concurrency("api", 3));
        workers.push((start(worker, &broker).await.unwrap(), broker));
    }
    for (_, broker) in &workers {
        for published in
            broker.publisher().publish_all(&std::iter::repeat_with(|| Call).take(EACH).collect::<Vec<_>>()).await
        {
            published.unwrap();
        }
    }
    for (running, broker) in workers {
        idle(&broker).await;
        running.stop().await.unwrap();
    }
    let runs = runs.lock().unwrap();
    assert_eq!((runs.starts.len(), runs.now), (2 * EACH, 0));
    assert!(runs.most <= 3, "{} at once", runs.most);
    let mut starts = runs.starts.clone();
    starts.sort_unstable();
    let took = starts[2 * EACH - 1] - starts[0];
    assert!(took >= Duration::from_millis(3_700), "{took:?} for 80 at 20 a second");
    // The delay ladder has steps of a tenth of a second.
    let crowded = starts.windows(6).filter(|six| six[5] - six[0] < Duration::from_millis(90)).count();
    assert_eq!(crowded, 0, "no more than the rate at any time");
}
