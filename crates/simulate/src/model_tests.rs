//! Compares the model with exact results of queueing theory.

use super::*;
use crate::load::{Arrivals, Load, Peak, RetryDelays, Service};

/// One job at a time, without latency of the broker.
fn ideal(workers: u32, concurrency: u32) -> System {
    let workers = Workers { count: workers, concurrency, prefetch: concurrency };
    System { workers, queue_rate: 1e12, latency: 0.0, ..System::default() }
}

fn near(seen: f64, wanted: f64, within: f64) {
    assert!((seen / wanted - 1.0).abs() < within, "{seen} instead of {wanted}");
}

/// The mean wait in M/M/c (Erlang C): random arrivals and durations, `c` slots.
fn erlang(rate: f64, service: f64, places: u32) -> f64 {
    let load = rate * service;
    let blocked = (1..=places).fold(1.0, |blocked, place| load * blocked / (f64::from(place) + load * blocked));
    let share = load / f64::from(places);
    let waits = blocked / (1.0 - share * (1.0 - blocked));
    waits * service / (f64::from(places) - load)
}

#[test]
fn jobs_of_one_length_wait_as_in_m_d_1() {
    let load = Load { arrivals: Arrivals::steady(8.0), service: Service::fixed(0.1), ..Load::default() };
    let outcome = run(&ideal(1, 1), load.jobs(100_000.0, 1));
    // Pollaczek and Khinchine.
    near(outcome.waits.mean(), 0.8 / (2.0 * 0.2) * 0.1, 0.03);
    near(outcome.busy, 0.8, 0.01);
    assert_eq!((outcome.dead, outcome.retried), (0, 0));
    assert_eq!(outcome.succeeded, outcome.waits.count());
}

#[test]
fn jobs_of_many_lengths_wait_as_in_m_g_1() {
    let service = Service::from_quantiles(0.05, 0.2);
    let rate = 0.7 / service.mean();
    let load = Load { arrivals: Arrivals::steady(rate), service, ..Load::default() };
    let outcome = run(&ideal(1, 1), load.jobs(400_000.0, 2));
    // Pollaczek and Khinchine: of a log-normal distribution the squared deviation is exp(s²) - 1 of the squared mean.
    let sigma = (0.2_f64 / 0.05).ln() / 1.644_853_6;
    let wanted = rate * service.mean().powi(2) * (sigma * sigma).exp() / (2.0 * 0.3);
    near(outcome.waits.mean(), wanted, 0.05);
}

#[test]
fn the_slots_of_a_worker_give_the_wait_of_m_m_c() {
    // The model has no exponential durations, so each job gets its own.
    let mut rng = fastrand::Rng::with_seed(5);
    let load = Load { arrivals: Arrivals::steady(40.0), service: Service::fixed(1.0), ..Load::default() };
    let jobs = load.jobs(50_000.0, 3).map(|job| Job { service: -(1.0 - rng.f64()).ln() * 0.1, ..job });
    let outcome = run(&ideal(1, 5), jobs);
    near(outcome.waits.mean(), erlang(40.0, 0.1, 5), 0.03);
}

#[test]
fn jobs_that_wait_in_a_worker_wait_longer_than_jobs_in_the_queue() {
    let load =
        Load { arrivals: Arrivals::steady(60.0), service: Service::from_quantiles(0.05, 0.3), ..Load::default() };
    let with = |prefetch| {
        let mut system = ideal(4, 2);
        system.workers.prefetch = prefetch;
        run(&system, load.jobs(20_000.0, 4)).waits.mean()
    };
    assert!(with(8) > with(2) * 1.2, "{} and {}", with(8), with(2));
}

#[test]
fn a_failed_job_returns_and_one_that_always_fails_dies() {
    let retry = RetryDelays { attempts: 3, ..RetryDelays::default() };
    let load = Load { arrivals: Arrivals::steady(10.0), service: Service::fixed(0.01), failures: 0.5, retry };
    let outcome = run(&ideal(1, 4), load.jobs(10_000.0, 1));
    let jobs = (outcome.succeeded + outcome.dead) as f64;
    near(jobs, 100_000.0, 0.02);
    near(outcome.dead as f64, jobs / 8.0, 0.05);
    near(outcome.retried as f64, jobs * 0.75, 0.02);
}

#[test]
fn no_number_of_workers_handles_a_load_above_the_capacity_of_the_leader() {
    let load = Load { arrivals: Arrivals::steady(2_000.0), service: Service::fixed(0.01), ..Load::default() };
    let workers = Workers { count: 1_000, ..Workers::default() };
    let system = System { workers, queue_rate: 1_000.0, ..System::default() };
    let outcome = run(&system, load.jobs(60.0, 1));
    near(outcome.ended, 120.0, 0.02);
    near(outcome.waits.quantile(0.5), 30.0, 0.05);
    assert!(outcome.busy < 0.01 && outcome.leader_busy > 0.99);
}

#[test]
fn an_autoscaler_follows_a_peak_and_removed_workers_lose_no_job() {
    let peak = Peak { rate: 400.0, from: 600.0, lasts: 900.0 };
    let arrivals = Arrivals { peak: Some(peak), ..Arrivals::steady(50.0) };
    let load = Load { arrivals, service: Service::from_quantiles(0.3, 0.9), ..Load::default() };
    let few = System { workers: Workers { count: 2, ..Workers::default() }, ..System::default() };
    let scaled = System { autoscaler: Some(Autoscaler::default()), ..few };
    let jobs = load.jobs(3_600.0, 1).count() as u64;
    let (without, with) = (run(&few, load.jobs(3_600.0, 1)), run(&scaled, load.jobs(3_600.0, 1)));
    assert_eq!((without.succeeded, with.succeeded), (jobs, jobs));
    assert!(with.waits.quantile(0.95) < without.waits.quantile(0.95) / 5.0);
    assert!(with.workers.0 > 6 && with.workers.1 < f64::from(with.workers.0) * 0.7, "{:?}", with.workers);
}
