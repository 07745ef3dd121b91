use std::sync::{Arc, Mutex};

use super::*;
use crate::{
    job::JobId,
    limits::{Answer, LeaseRequest, LimitStore, Rate, Slots, rate_limiter::opens},
    message::header,
};

const BEGAN: u64 = 1_800_000_000_000;
const SECOND: Duration = Duration::from_secs(1);

/// A store of limits that outlives the workers.
#[derive(Default)]
struct Store(Mutex<Option<Instant>>);

impl LimitStore for Store {
    fn slots<'a>(&'a self, _: &'a str, rate: Rate, slots: u32) -> Answer<'a, Slots> {
        let (now, mut free) = (Instant::now(), self.0.lock().unwrap());
        let first = free.map_or(now, |free| free.max(now));
        *free = Some(first + rate.interval() * slots);
        Box::pin(async move { Ok(Slots { first: (first - now).as_nanos() as i64, secret: [7; 16] }) })
    }

    fn lease<'a>(&'a self, _: &'a str, request: LeaseRequest<'a>) -> Answer<'a, u32> {
        Box::pin(async move { Ok(request.wanted) })
    }
}

fn counter() -> IntCounter {
    IntCounter::new("held", "held").unwrap()
}

fn limiter(rate: Rate, store: Option<&Arc<Store>>) -> Arc<Limiter> {
    let shared = store.map(|store| SharedRate::new("api".into(), rate, Arc::clone(store) as _));
    Arc::new(Limiter {
        needs: Vec::new(),
        key: None,
        rate: shared.is_none().then(|| RateLimiter::new(rate, opens(rate))),
        starts: vec![Starts::new(rate, if shared.is_none() { opens(rate) } else { Instant::now() })],
        shared_rate: shared,
        shared_concurrency: None,
        in_place: in_place(16, false),
        held: Deferred { circuit: counter(), key: counter(), concurrency: counter(), rate: counter() },
    })
}

fn now_ms(began: Instant) -> u64 {
    BEGAN + millis(began.elapsed())
}

/// Returns a job as its worker reads it.
fn job(id: &str, slot: Option<RateSlot>) -> Message {
    let mut message = Message::new("j", &JobId::from(id), Vec::new(), BEGAN);
    if let Some(slot) = slot {
        message.set_header(header::SLOT, slot.to_header());
    }
    message
}

/// The starts and waits of jobs until all had started.
#[derive(Default)]
struct Seen {
    starts: Vec<Duration>,
    hops: usize,
}

impl Seen {
    fn most_within(&mut self, window: Duration) -> usize {
        self.starts.sort_unstable();
        let within = |n: usize| self.starts[n..].partition_point(|at| *at < self.starts[n] + window);
        (0..self.starts.len()).map(within).max().unwrap_or_default()
    }
}

/// Simulates worker and ladder: a job that must wait returns up to 0.12 s late, to the worker of that time.
async fn run(
    jobs: usize,
    worker: impl Fn() -> Arc<Limiter> + Clone + 'static,
    slot: impl Fn() -> Option<RateSlot>,
) -> Seen {
    let (began, seen) = (Instant::now(), Arc::new(Mutex::new(Seen::default())));
    let local = tokio::task::LocalSet::new();
    for n in 0..jobs {
        let (seen, worker, mut slot) = (Arc::clone(&seen), worker.clone(), slot());
        local.spawn_local(async move {
            loop {
                let now = now_ms(began);
                let Err(wait) = worker().enter(&job(&n.to_string(), slot), false, now).await else { break };
                seen.lock().unwrap().hops += 1;
                slot = wait.slot;
                sleep(wait.delay.max(UNIT) + Duration::from_millis(fastrand::u64(0..120))).await;
            }
            seen.lock().unwrap().starts.push(began.elapsed());
        });
    }
    local.await;
    std::mem::take(&mut *seen.lock().unwrap())
}

/// Returns the current worker: a new one after each of `times` deploys.
fn deployed_every(
    time: Duration,
    times: u32,
    rate: Rate,
    store: Option<Arc<Store>>,
) -> impl Fn() -> Arc<Limiter> + Clone + 'static {
    let (began, present) = (Instant::now(), Arc::new(Mutex::new((0, limiter(rate, store.as_ref())))));
    move || {
        let number = ((began.elapsed().as_millis() / time.as_millis()) as u32).min(times);
        let mut present = present.lock().unwrap();
        if present.0 != number {
            *present = (number, limiter(rate, store.as_ref()));
        }
        Arc::clone(&present.1)
    }
}

#[tokio::test(start_paused = true)]
async fn successive_workers_start_no_more_than_the_rate_in_any_second_and_no_job_waits_indefinitely() {
    for shared in [false, true] {
        for per_second in [2, 10, 50] {
            let (rate, store) = (Rate::per_second(per_second), Arc::new(Store::default()));
            let store = shared.then_some(&store);
            let worker = deployed_every(Duration::from_secs(7), 3, rate, store.cloned());
            let jobs = 40 * per_second as usize;
            let mut seen = run(jobs, worker, || None).await;
            let shown = format!("{per_second}/s, shared: {shared}");
            assert_eq!(seen.starts.len(), jobs);
            // Late deliveries of one worker's slots add to the punctual ones at the next.
            let late = if shared { per_second as usize / 4 + 1 } else { 0 };
            let most = per_second as usize + late;
            assert!(seen.most_within(SECOND) <= most, "{shown}: {} in a second", seen.most_within(SECOND));
            let last = *seen.starts.last().unwrap();
            // A new worker opens after a second. The few jobs that reach a new worker late lose their slots.
            let lost = Duration::from_secs(4) + rate.interval() * 12;
            assert!(last < Duration::from_secs(40) + lost, "{shown}: it goes on at the rate, and took {last:?}");
            assert!(seen.hops <= jobs * 4, "{shown}: {} waits of {jobs} jobs", seen.hops);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_forged_slots_makes_no_more_start_than_the_rate() {
    for shared in [false, true] {
        let (rate, store) = (Rate::per_second(10), Arc::new(Store::default()));
        let limiter = limiter(rate, shared.then_some(&store));
        for forged in [RateSlot { at: BEGAN, proof: None }, RateSlot { at: BEGAN, proof: Some(0) }] {
            let worker = Arc::clone(&limiter);
            let mut seen = run(200, move || Arc::clone(&worker), || Some(forged)).await;
            assert!(seen.most_within(SECOND) <= 10, "shared: {shared}, {} in a second", seen.most_within(SECOND));
            sleep(Duration::from_secs(10)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_of_a_shared_limit_is_accepted_only_from_that_limit_and_for_its_own_job() {
    let (rate, store) = (Rate::per_minute(6), Arc::new(Store::default()));
    let (first, next) = (limiter(rate, Some(&store)), limiter(rate, Some(&store)));
    assert!(first.enter(&job("a", None), false, BEGAN).await.is_ok());
    let wait = first.enter(&job("b", None), false, BEGAN).await.unwrap_err();
    let slot = wait.slot.unwrap();
    tokio::time::advance(wait.delay).await;
    let now = BEGAN + millis(wait.delay);
    for (id, slot) in
        [("x", slot), ("b", RateSlot { proof: None, ..slot }), ("b", RateSlot { at: slot.at - 1, ..slot })]
    {
        assert!(next.enter(&job(id, Some(slot)), false, now).await.is_err(), "{id} {slot:?}");
    }
    assert!(next.enter(&job("b", Some(slot)), false, now).await.is_ok(), "its own, at another worker");
}
