//! The options of `leveret simulate`: load, workers and queue.

use std::{ops::RangeInclusive, time::Duration};

use clap::Args;
use leveret_simulate::{Arrivals, Autoscaler, Load, Peak, RetryDelays, Service, System, Workers};

use crate::output::Format;

/// Predicts the number of workers that a load requires, and the wait of its jobs
///
/// The command simulates the queue, its workers and their autoscaler. Without --workers it finds the smallest number of
/// workers with which 95 of 100 attempts start within --target-wait. The metrics `leveret_job_duration_seconds` and
/// `leveret_job_errors_total` show the durations and failures of your jobs.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Arrival rate of jobs: `200` or `200/s` per second, `3000/m` per minute, `100000/h` per hour
    #[arg(long, value_parser = rate, value_name = "RATE")]
    rate: f64,

    /// Median duration of an attempt, such as 80ms; a number alone is seconds
    #[arg(long, value_parser = leveret::duration, value_name = "DURATION")]
    p50: Duration,

    /// 95th percentile of the duration of an attempt; without it all attempts take --p50
    #[arg(long, value_parser = leveret::duration, value_name = "DURATION")]
    p95: Option<Duration>,

    /// Share of attempts that fail and are retried
    #[arg(long, value_parser = share, default_value = "0%", value_name = "PERCENT")]
    failures: f64,

    /// Maximum attempts of a job (`RetryPolicy::max_attempts`)
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    attempts: u32,

    /// First retry delay (`RetryPolicy::base`)
    #[arg(long, value_parser = leveret::duration, default_value = "3200ms", value_name = "DURATION")]
    retry_base: Duration,

    /// Longest retry delay (`RetryPolicy::cap`)
    #[arg(long, value_parser = leveret::duration, default_value = "3276800ms", value_name = "DURATION")]
    retry_cap: Duration,

    /// Waiting jobs at the start
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    backlog: u64,

    /// Arrival rate during a peak, in the units of --rate
    #[arg(long, value_parser = rate, value_name = "RATE")]
    peak: Option<f64>,

    /// Start of the peak
    #[arg(long, value_parser = leveret::duration, default_value = "15m", value_name = "DURATION")]
    peak_from: Duration,

    /// Duration of the peak
    #[arg(long, value_parser = leveret::duration, default_value = "10m", value_name = "DURATION")]
    peak_for: Duration,

    /// Duration of the load
    #[arg(long = "for", value_parser = leveret::duration, default_value = "1h", value_name = "DURATION")]
    lasts: Duration,

    /// Numbers of workers to simulate, such as `1,2,4,8`
    #[arg(long, value_parser = leveret::comma_list(workers), value_name = "NUMBER")]
    workers: Vec<Box<[u32]>>,

    /// Concurrent attempts per worker (`Queue::concurrency`)
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u32).range(1..=2000), value_name = "NUMBER")]
    concurrency: u32,

    /// Unacknowledged jobs per worker (`Queue::prefetch`); twice the concurrency by default
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=2000), value_name = "NUMBER")]
    prefetch: Option<u32>,

    /// Maximum wait of 95 of 100 attempts
    #[arg(long, value_parser = leveret::duration, default_value = "1s", value_name = "DURATION")]
    target_wait: Duration,

    /// Simulate an autoscaler with this range of workers (KEDA, as `leveret topology export --format keda` configures it)
    #[arg(long, value_parser = range, conflicts_with = "workers", value_name = "MIN..MAX")]
    autoscale: Option<RangeInclusive<u32>>,

    /// Waiting jobs per worker above which the autoscaler adds workers
    #[arg(long, default_value = "500", value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    scale_at_jobs: u32,

    /// Predicted wait above which the autoscaler adds workers
    #[arg(long, value_parser = leveret::duration, default_value = "60s", value_name = "DURATION")]
    scale_at_wait: Duration,

    /// Time from the autoscaler's decision to the first job of a new worker
    #[arg(long, value_parser = leveret::duration, default_value = "20s", value_name = "DURATION")]
    start_up: Duration,

    /// Jobs per second that the queue's leader can accept and deliver; `make bench ARGS=model` in Leveret's repository measures it
    #[arg(long, value_parser = rate, default_value = "10000", value_name = "RATE")]
    queue_rate: f64,

    /// Time from a publish to the handler in an empty queue
    #[arg(long, value_parser = leveret::duration, default_value = "1ms", value_name = "DURATION")]
    latency: Duration,

    /// Seed of the random jobs
    #[arg(long, default_value = "1", value_name = "NUMBER")]
    seed: u64,

    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    pub(super) output: Format,
}

const AFTER_HELP: &str = "\
Arrivals are a Poisson process; the durations of attempts are log-normal. The wait of a job lasts from its publish, or from \
the end of its delay, until its attempt starts. The model ignores handlers that slow each other down, because they share \
cores or a database, and failures of the broker.

Exit codes:
  0  done
  1  no number of workers is sufficient
  2  wrong usage

Examples:
  leveret simulate --rate 200 --p50 80ms --p95 400ms
  leveret simulate --rate 200 --p50 80ms --p95 400ms --failures 5% --workers 1,2,3,4,8
  leveret simulate --rate 20 --p50 2s --p95 9s --concurrency 8 --peak 100 --autoscale 8..60 --for 2h";

impl Arguments {
    /// The numbers of workers to simulate.
    pub(super) fn workers(&self) -> impl Iterator<Item = u32> + '_ {
        self.workers.iter().flatten().copied()
    }

    /// True if the command searches the smallest sufficient number of workers.
    pub(super) fn is_search(&self) -> bool {
        self.workers().next().is_none() && self.autoscale.is_none()
    }

    /// The error in `--p50` and `--p95`, if there is one.
    pub(super) fn times_problem(&self) -> Option<&'static str> {
        if self.p50.is_zero() {
            return Some("--p50 is zero: expected a duration above zero");
        }
        let crossed = self.p95.is_some_and(|p95| p95 < self.p50);
        crossed.then_some("--p95 is less than --p50: a 95th percentile is never below the median")
    }

    /// True if the load is higher for a time, by a backlog or a peak.
    pub(super) fn has_rush(&self) -> bool {
        self.backlog > 0 || self.peak.is_some()
    }

    pub(super) fn expected_jobs(&self) -> f64 {
        let more = self.peak.map_or(0.0, |peak| (peak - self.rate).max(0.0) * self.peak_for.as_secs_f64());
        self.rate * self.lasts.as_secs_f64() + more + self.backlog as f64
    }

    pub(super) fn load(&self) -> Load {
        let p50 = self.p50.as_secs_f64();
        let service = self.p95.map_or(Service::fixed(p50), |p95| Service::from_quantiles(p50, p95.as_secs_f64()));
        let peak = |rate| Peak { rate, from: self.peak_from.as_secs_f64(), lasts: self.peak_for.as_secs_f64() };
        let retry = RetryDelays {
            base: self.retry_base.as_secs_f64(),
            cap: self.retry_cap.as_secs_f64(),
            attempts: self.attempts,
        };
        let arrivals = Arrivals { rate: self.rate, backlog: self.backlog, peak: self.peak.map(peak) };
        Load { arrivals, service, failures: self.failures, retry }
    }

    /// The system with this number of workers. An autoscaler uses its own range.
    pub(super) fn system(&self, workers: u32) -> System {
        let concurrency = self.concurrency;
        let doubled = if concurrency == 1 { 1 } else { concurrency * 2 };
        let prefetch = self.prefetch.unwrap_or(doubled);
        let autoscaler = self.autoscale.as_ref().map(|range| Autoscaler {
            min: *range.start(),
            max: *range.end(),
            jobs_per_worker: self.scale_at_jobs.into(),
            target_wait: self.scale_at_wait.as_secs_f64(),
            start_up: self.start_up.as_secs_f64(),
            ..Autoscaler::default()
        });
        let workers = Workers { count: workers, concurrency, prefetch };
        System { workers, autoscaler, queue_rate: self.queue_rate, latency: self.latency.as_secs_f64() }
    }

    /// The duration of the load in seconds, the seed, and the target wait in seconds.
    pub(super) fn terms(&self) -> (f64, u64, f64) {
        (self.lasts.as_secs_f64(), self.seed, self.target_wait.as_secs_f64())
    }
}

fn workers(text: &str) -> Result<u32, String> {
    let workers: Option<u32> = text.parse().ok();
    workers.filter(|workers| (1..=100_000).contains(workers)).ok_or_else(|| "expected 1 to 100000 workers".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let (number, per) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match per {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("expected a rate per second, minute or hour: 200/s, 3000/m, 100000/h".to_owned()),
    };
    let rate: f64 = number.trim().parse().map_err(|_| format!("{number:?} is not a number"))?;
    if rate > 0.0 && rate.is_finite() { Ok(rate / seconds) } else { Err("expected a rate above zero".to_owned()) }
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').ok_or("expected a percentage such as 2%")?;
    let percent: f64 = number.trim().parse().map_err(|_| format!("{number:?} is not a number"))?;
    if (0.0..=100.0).contains(&percent) { Ok(percent / 100.0) } else { Err("expected 0% to 100%".to_owned()) }
}

fn range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (min, max) = text.split_once("..").ok_or("expected MIN..MAX, such as 2..20")?;
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| format!("{text:?} is not a number"));
    let (min, max) = (number(min)?, number(max)?);
    if (1..=max).contains(&min) { Ok(min..=max) } else { Err("MIN must be at least 1 and at most MAX".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_shares_and_ranges_have_units_and_invalid_ones_are_refused() {
        assert_eq!((rate("200"), rate("3000/m"), rate("7200/h")), (Ok(200.0), Ok(50.0), Ok(2.0)));
        assert_eq!((share("2%"), range("2..20"), workers("100000")), (Ok(0.02), Ok(2..=20), Ok(100_000)));
        for bad in ["200/d", "x", "-1", "0", "inf"] {
            rate(bad).unwrap_err();
        }
        for bad in ["2", "101%", "-1%"] {
            share(bad).unwrap_err();
        }
        for bad in ["2", "0..3", "5..4"] {
            range(bad).unwrap_err();
        }
        for bad in ["0", "100001", "-1", "x"] {
            workers(bad).unwrap_err();
        }
    }
}
