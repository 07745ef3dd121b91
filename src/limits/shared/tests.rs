use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use tokio::time::sleep;

use super::*;

/// A store in memory that counts requests.
#[derive(Default)]
struct Store {
    free: Mutex<Option<Instant>>,
    asked: Mutex<u32>,
    granted: Mutex<u32>,
}

impl LimitStore for Store {
    fn slots<'a>(&'a self, _: &'a str, rate: Rate, slots: u32) -> Answer<'a, Slots> {
        Box::pin(async move {
            *self.asked.lock().unwrap() += 1;
            let (now, mut free) = (Instant::now(), self.free.lock().unwrap());
            let first = free.map_or(now, |free| free.max(now));
            *free = Some(first + rate.interval() * slots);
            Ok(Slots { first: (first - now).as_nanos() as i64, secret: [7; 16] })
        })
    }

    fn lease<'a>(&'a self, _: &'a str, request: LeaseRequest<'a>) -> Answer<'a, u32> {
        Box::pin(async move {
            *self.asked.lock().unwrap() += 1;
            *self.granted.lock().unwrap() = request.wanted.min(request.most);
            Ok(request.wanted.min(request.most))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn slots_are_leased_many_at_a_time_and_none_is_used_twice() {
    let store = Arc::new(Store::default());
    let worker = || SharedRate::new("api".into(), Rate::per_second(1_000), Arc::clone(&store) as _);
    let (one, other, started) = (worker(), worker(), Instant::now());
    let mut slots = Vec::new();
    for _ in 0..2_000 {
        for worker in [&one, &other] {
            slots.push((Instant::now() + worker.reserve().await.unwrap() - started).as_micros());
        }
    }
    slots.sort_unstable();
    assert!(slots.windows(2).all(|pair| pair[1] - pair[0] >= 999), "a slot is given twice");
    assert!(slots[3_999] < 6_000_000, "the slots that one worker leases ahead are bounded: {}", slots[3_999]);
    let asked = *store.asked.lock().unwrap();
    assert!(asked <= 20, "{asked} times for 4,000 slots");
}

/// A store that never answers; it counts requests.
#[derive(Default)]
struct Silent(AtomicU32);

impl LimitStore for Silent {
    fn slots<'a>(&'a self, _: &'a str, _: Rate, _: u32) -> Answer<'a, Slots> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }

    fn lease<'a>(&'a self, _: &'a str, _: LeaseRequest<'a>) -> Answer<'a, u32> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_delays_no_job_for_longer_than_one_request() {
    let (store, started) = (Arc::new(Silent::default()), Instant::now());
    let rate = SharedRate::new("api".into(), Rate::per_second(10), Arc::clone(&store) as _);
    let slots = futures_util::future::join_all((0..100).map(|_| rate.reserve())).await;
    assert!(slots.iter().all(Option::is_none) && started.elapsed() <= ANSWERED_WITHIN);
    assert_eq!(store.0.swap(0, Ordering::Relaxed), 1, "the others do not ask again");
    let (shared, started) = (SharedConcurrency::new("db".into(), 5, 16, Arc::clone(&store) as _), Instant::now());
    let places = futures_util::future::join_all((0..100).map(|_| shared.enter(false, Duration::ZERO))).await;
    assert!(places.iter().all(Result::is_err) && started.elapsed() <= ANSWERED_WITHIN);
    assert_eq!(store.0.load(Ordering::Relaxed), 1);
    sleep(ASK_AGAIN_AFTER).await;
    assert!(shared.enter(false, Duration::ZERO).await.is_err());
    assert_eq!(store.0.load(Ordering::Relaxed), 2, "it is asked again");
}

#[tokio::test(start_paused = true)]
async fn unused_slots_do_not_accumulate() {
    let store = Arc::new(Store::default());
    let worker = SharedRate::new("api".into(), Rate::per_second(100), Arc::clone(&store) as _);
    worker.reserve().await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let mut at_once = 0;
    while worker.reserve().await.unwrap().is_zero() {
        at_once += 1;
    }
    assert!(at_once <= 11, "{at_once} at once");
}

#[tokio::test(start_paused = true)]
async fn slots_are_leased_when_needed_and_released_when_idle_and_at_the_end() {
    let store = Arc::new(Store::default());
    let shared = SharedConcurrency::new("db".into(), 5, 16, Arc::clone(&store) as _);
    let slots: Vec<_> = futures_util::future::join_all((0..8).map(|_| shared.enter(false, Duration::ZERO))).await;
    let got = slots.iter().filter(|slot| slot.is_ok()).count();
    assert!((1..=5).contains(&got), "{got}");
    drop(slots);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(*store.granted.lock().unwrap(), 0, "an idle worker keeps none");
    let slot = shared.enter(false, Duration::from_millis(100)).await.unwrap();
    drop((slot, shared));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(*store.granted.lock().unwrap(), 0);
}
