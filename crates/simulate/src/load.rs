//! The load: arrivals of jobs, durations of attempts, and failures.

use fastrand::Rng;

/// One job. Times are in seconds from the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The time of the publish.
    pub at: f64,
    /// The duration of each attempt.
    pub service: f64,
    /// The delay after each failure. The attempt after the last delay succeeds, unless the job [dies](Self::dies).
    pub delays: Vec<f64>,
    /// True if the last attempt fails as well.
    pub dies: bool,
}

/// Arrivals and properties of jobs. By default no jobs arrive.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Load {
    /// The arrivals of jobs.
    pub arrivals: Arrivals,
    /// The duration of an attempt.
    pub service: Service,
    /// The share of attempts that fail, 0 to 1.
    pub failures: f64,
    /// The delays of retries.
    pub retry: RetryDelays,
}

/// Random, independent arrivals (a Poisson process), with a backlog at the start and a peak.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Arrivals {
    /// Jobs per second.
    pub rate: f64,
    /// Waiting jobs at the start.
    pub backlog: u64,
    /// A time with a higher rate.
    pub peak: Option<Peak>,
}

/// A time with a higher rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Jobs per second during the peak.
    pub rate: f64,
    /// The start of the peak, in seconds from the start of the run.
    pub from: f64,
    /// The duration of the peak, in seconds.
    pub lasts: f64,
}

impl Arrivals {
    /// A steady rate of jobs per second, with an empty queue at the start.
    #[must_use]
    pub fn steady(rate: f64) -> Self {
        Self { rate, ..Self::default() }
    }

    /// The rate at this time, and the time of its next change.
    fn rate_at(&self, now: f64) -> (f64, f64) {
        match self.peak {
            Some(peak) if now < peak.from => (self.rate, peak.from),
            Some(peak) if now < peak.from + peak.lasts => (peak.rate, peak.from + peak.lasts),
            _ => (self.rate, f64::INFINITY),
        }
    }
}

/// The durations of attempts. They are log-normal, like most durations that depend on other systems.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Service {
    median: f64,
    sigma: f64,
}

/// The 95th percentile of the standard normal distribution.
const Z95: f64 = 1.644_853_626_951_472_7;

impl Service {
    /// The same duration for all attempts, in seconds.
    #[must_use]
    pub fn fixed(seconds: f64) -> Self {
        Self { median: seconds, sigma: 0.0 }
    }

    /// A distribution with these percentiles, in seconds.
    #[must_use]
    pub fn from_quantiles(p50: f64, p95: f64) -> Self {
        Self { median: p50, sigma: (p95 / p50).ln().max(0.0) / Z95 }
    }

    /// The mean, in seconds.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.median * (self.sigma * self.sigma / 2.0).exp()
    }

    fn draw(&self, rng: &mut Rng) -> f64 {
        if self.sigma == 0.0 { self.median } else { self.median * (self.sigma * normal(rng)).exp() }
    }
}

/// Exponential delays with full jitter, like `RetryPolicy::exponential`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryDelays {
    /// The upper limit of the first delay, in seconds.
    pub base: f64,
    /// The longest delay, in seconds.
    pub cap: f64,
    /// The maximum number of attempts.
    pub attempts: u32,
}

impl Default for RetryDelays {
    fn default() -> Self {
        Self { base: 3.2, cap: 3_276.8, attempts: 20 }
    }
}

impl RetryDelays {
    fn delay(&self, attempt: u32, rng: &mut Rng) -> f64 {
        (self.base * 2_f64.powi(attempt.saturating_sub(1).min(1_000).cast_signed())).min(self.cap) * rng.f64()
    }
}

impl Load {
    /// The jobs that arrive within `seconds`. The same seed gives the same jobs.
    pub fn jobs(&self, seconds: f64, seed: u64) -> impl Iterator<Item = Job> + use<> {
        let (load, mut rng) = (*self, Rng::with_seed(seed));
        let (mut now, mut backlog) = (0.0, load.arrivals.backlog);
        std::iter::from_fn(move || {
            if backlog > 0 {
                backlog -= 1;
            } else {
                now = next_arrival(&load.arrivals, now, &mut rng);
            }
            (now < seconds).then(|| load.job(now, &mut rng))
        })
    }

    fn job(&self, at: f64, rng: &mut Rng) -> Job {
        let service = self.service.draw(rng);
        let mut delays = Vec::new();
        while rng.f64() < self.failures {
            let attempt = u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1);
            if attempt >= self.retry.attempts {
                return Job { at, service, delays, dies: true };
            }
            delays.push(self.retry.delay(attempt, rng));
        }
        Job { at, service, delays, dies: false }
    }
}

/// The time of the next arrival after `now`. At a change of the rate the wait starts anew, which is correct because a
/// Poisson process has no memory.
fn next_arrival(arrivals: &Arrivals, mut now: f64, rng: &mut Rng) -> f64 {
    loop {
        let (rate, until) = arrivals.rate_at(now);
        let next = if rate > 0.0 { now - (1.0 - rng.f64()).ln() / rate } else { f64::INFINITY };
        if next < until || until.is_infinite() {
            return next;
        }
        now = until;
    }
}

/// The Box-Muller transform.
fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(seen: f64, wanted: f64) {
        assert!((seen / wanted - 1.0).abs() < 0.02, "{seen} instead of {wanted}");
    }

    #[test]
    fn jobs_arrive_at_their_rate_and_take_their_duration() {
        let service = Service::from_quantiles(0.080, 0.400);
        let peak = Peak { rate: 500.0, from: 500.0, lasts: 250.0 };
        let arrivals = Arrivals { peak: Some(peak), ..Arrivals::steady(100.0) };
        let jobs: Vec<_> = Load { arrivals, service, ..Load::default() }.jobs(1_000.0, 7).collect();
        near(jobs.len() as f64, 100.0 * 750.0 + 500.0 * 250.0);
        let within = jobs.iter().filter(|job| (500.0..750.0).contains(&job.at)).count();
        near(within as f64, 125_000.0);
        assert!(jobs.is_sorted_by(|one, next| one.at <= next.at));
        let mut times: Vec<_> = jobs.iter().map(|job| job.service).collect();
        times.sort_by(f64::total_cmp);
        near(times[times.len() / 2], 0.080);
        near(times[times.len() * 95 / 100], 0.400);
        near(times.iter().sum::<f64>() / times.len() as f64, service.mean());
    }

    #[test]
    fn a_share_of_the_attempts_fails_and_a_job_that_always_fails_dies_after_its_last() {
        let load = Load { arrivals: Arrivals::steady(100.0), failures: 0.2, ..Load::default() };
        let attempts: usize = load.jobs(1_000.0, 1).map(|job| job.delays.len() + 1).sum();
        near(attempts as f64, 100_000.0 / 0.8);
        let never = Load { failures: 1.0, retry: RetryDelays { attempts: 5, ..RetryDelays::default() }, ..load };
        assert!(never.jobs(10.0, 1).all(|job| job.dies && job.delays.len() == 4));
        let longest = never.jobs(1_000.0, 1).map(|job| job.delays[3]).fold(0.0, f64::max);
        assert!(longest > 3.2 * 7.9 && longest <= 3.2 * 8.0, "{longest}");
    }

    #[test]
    fn the_same_seed_gives_the_same_jobs_and_a_backlog_is_there_from_the_start() {
        let arrivals = Arrivals { backlog: 30, ..Arrivals::steady(10.0) };
        let load = Load { arrivals, service: Service::fixed(1.0), ..Load::default() };
        let jobs: Vec<_> = load.jobs(60.0, 3).collect();
        assert_eq!(jobs, load.jobs(60.0, 3).collect::<Vec<_>>());
        assert_eq!(jobs.iter().filter(|job| job.at == 0.0).count(), 30);
        assert_eq!(Load::default().jobs(60.0, 3).count(), 0);
    }
}
