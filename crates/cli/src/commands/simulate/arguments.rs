//! What is simulated: the load, the workers, the queue.

use std::{ops::RangeInclusive, time::Duration};

use clap::Args;
use leveret_simulate::{Arrivals, Autoscaler, Load, Peak, Retry, Service, System, Workers};

use crate::output::Format;

/// Says how many workers a load needs and how long its jobs wait, by a model of queue, workers and autoscaler
///
/// Without --workers it finds the fewest with which 95 of 100 attempts start within --target-wait. How long jobs take and
/// how many fail stands in the metrics: `leveret_job_duration_seconds`, `leveret_job_errors_total`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Jobs that come: `200`, or `200/s`, in a second, `3000/m` in a minute, `100000/h` in an hour
    #[arg(long, value_parser = rate, value_name = "RATE")]
    rate: f64,

    /// How long half of the attempts take at most, such as 80ms; a number alone is seconds
    #[arg(long, value_parser = leveret::duration, value_name = "DURATION")]
    p50: Duration,

    /// How long 95 of 100 attempts take at most; without it all take as long
    #[arg(long, value_parser = leveret::duration, value_name = "DURATION")]
    p95: Option<Duration>,

    /// How many of the attempts fail, and are tried again
    #[arg(long, value_parser = share, default_value = "0%", value_name = "PERCENT")]
    failures: f64,

    /// How many attempts a job has (`RetryPolicy::max_attempts`)
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    attempts: u32,

    /// The first delay of a job that failed (`RetryPolicy::base`)
    #[arg(long, value_parser = leveret::duration, default_value = "3200ms", value_name = "DURATION")]
    retry_base: Duration,

    /// The longest delay of a job that failed (`RetryPolicy::cap`)
    #[arg(long, value_parser = leveret::duration, default_value = "3276800ms", value_name = "DURATION")]
    retry_cap: Duration,

    /// Jobs that wait in the queue at the start
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    backlog: u64,

    /// Jobs that come during a peak, as --rate
    #[arg(long, value_parser = rate, value_name = "RATE")]
    peak: Option<f64>,

    /// When the peak begins
    #[arg(long, value_parser = leveret::duration, default_value = "15m", value_name = "DURATION")]
    peak_from: Duration,

    /// How long the peak lasts
    #[arg(long, value_parser = leveret::duration, default_value = "10m", value_name = "DURATION")]
    peak_for: Duration,

    /// How long jobs come
    #[arg(long = "for", value_parser = leveret::duration, default_value = "1h", value_name = "DURATION")]
    lasts: Duration,

    /// Numbers of workers to look at, such as `1,2,4,8`
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "NUMBER")]
    pub(super) workers: Vec<u32>,

    /// Attempts that run at once in each worker (`Queue::concurrency`)
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u32).range(1..=2000), value_name = "NUMBER")]
    concurrency: u32,

    /// Jobs that each worker has in hand (`Queue::prefetch`); without it twice the concurrency, as there
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=2000), value_name = "NUMBER")]
    prefetch: Option<u32>,

    /// How soon 95 of 100 attempts are to start
    #[arg(long, value_parser = leveret::duration, default_value = "1s", value_name = "DURATION")]
    target_wait: Duration,

    /// Let an autoscaler (KEDA's, as `leveret topology export --format keda` sets it up) have so many workers
    #[arg(long, value_parser = range, conflicts_with = "workers", value_name = "MIN..MAX")]
    autoscale: Option<RangeInclusive<u32>>,

    /// The autoscaler's jobs that may wait for each worker
    #[arg(long, default_value = "500", value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    scale_at_jobs: u32,

    /// The autoscaler's time that a job may have to wait
    #[arg(long, value_parser = leveret::duration, default_value = "60s", value_name = "DURATION")]
    scale_at_wait: Duration,

    /// From the autoscaler's decision to the first job of a new worker
    #[arg(long, value_parser = leveret::duration, default_value = "20s", value_name = "DURATION")]
    start_up: Duration,

    /// Jobs per second that the queue's leader, one core of the broker, can accept and deliver; `make bench ARGS=model` in Leveret's repository measures it
    #[arg(long, value_parser = rate, default_value = "10000", value_name = "RATE")]
    queue_rate: f64,

    /// From a publish to the handler where nothing waits
    #[arg(long, value_parser = leveret::duration, default_value = "1ms", value_name = "DURATION")]
    latency: Duration,

    /// Other jobs at random
    #[arg(long, default_value = "1", value_name = "NUMBER")]
    seed: u64,

    /// How to print the figures
    #[arg(long, value_enum, default_value = "table")]
    pub(super) output: Format,
}

const AFTER_HELP: &str = "\
Arrivals are random and independent (Poisson), how long attempts take is log-normal. A job waits from its publish, or from \
the end of its delay, until its attempt starts. What the model leaves out: handlers that slow each other down, because they \
share cores or a database, and failures of the broker.

Exit codes:
  0  done
  1  no number of workers was enough
  2  wrong usage

Examples:
  leveret simulate --rate 200 --p50 80ms --p95 400ms
  leveret simulate --rate 200 --p50 80ms --p95 400ms --failures 5% --workers 1,2,3,4,8
  leveret simulate --rate 20 --p50 2s --p95 9s --concurrency 8 --peak 100 --autoscale 8..60 --for 2h";

impl Arguments {
    /// Whether the fewest workers that are enough are looked for.
    pub(super) fn is_search(&self) -> bool {
        self.workers.is_empty() && self.autoscale.is_none()
    }

    /// What is wrong with the times that an attempt takes.
    pub(super) fn times_problem(&self) -> Option<&'static str> {
        if self.p50.is_zero() {
            return Some("--p50 is nothing: half of the attempts take longer than it");
        }
        let crossed = self.p95.is_some_and(|p95| p95 < self.p50);
        crossed.then_some("--p95 is less than --p50: 95 of 100 attempts take longer than half of them")
    }

    /// Whether there is a time in which more comes than later.
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
        let retry =
            Retry { base: self.retry_base.as_secs_f64(), cap: self.retry_cap.as_secs_f64(), attempts: self.attempts };
        let arrivals = Arrivals { rate: self.rate, backlog: self.backlog, peak: self.peak.map(peak) };
        Load { arrivals, service, failures: self.failures, retry }
    }

    /// With so many workers; an autoscaler has its own.
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

    /// How many seconds jobs come, of which number the jobs are drawn, and how long they may wait.
    pub(super) fn terms(&self) -> (f64, u64, f64) {
        (self.lasts.as_secs_f64(), self.seed, self.target_wait.as_secs_f64())
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let (number, per) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match per {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("jobs come per second, minute or hour: 200/s, 3000/m, 100000/h".to_owned()),
    };
    let rate: f64 = number.trim().parse().map_err(|_| format!("{number:?} is no number"))?;
    if rate > 0.0 && rate.is_finite() { Ok(rate / seconds) } else { Err("a rate is more than nothing".to_owned()) }
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').ok_or("a share is written in percent: 2%")?;
    let percent: f64 = number.trim().parse().map_err(|_| format!("{number:?} is no number"))?;
    if (0.0..=100.0).contains(&percent) { Ok(percent / 100.0) } else { Err("a share is 0% to 100%".to_owned()) }
}

fn range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (min, max) = text.split_once("..").ok_or("a range is written MIN..MAX: 2..20")?;
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| format!("{text:?} is no number"));
    let (min, max) = (number(min)?, number(max)?);
    if (1..=max).contains(&min) { Ok(min..=max) } else { Err("MIN is at least 1 and at most MAX".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units_and_bad_ones_are_told_so() {
        assert_eq!((rate("200"), rate("3000/m"), rate("7200/h")), (Ok(200.0), Ok(50.0), Ok(2.0)));
        assert_eq!((share("2%"), range("2..20")), (Ok(0.02), Ok(2..=20)));
        for bad in ["200/d", "x", "-1", "0", "inf"] {
            rate(bad).unwrap_err();
        }
        for bad in ["2", "101%", "-1%"] {
            share(bad).unwrap_err();
        }
        for bad in ["2", "0..3", "5..4"] {
            range(bad).unwrap_err();
        }
    }
}
