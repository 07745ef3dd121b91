//! Retry policies: the delay of a failed job until its next attempt, as a pure function of the attempt's number.

use std::{fmt, sync::Arc, time::Duration};

use crate::{error::Error, topology::delay::Wait};

/// The delays between the attempts of a failed job, and their number.
///
/// The default is [`exponential`](Self::exponential). Attempts are counted from 1. A delay without jitter is rounded up
/// to a multiple of 100 ms, and is at most ten years less a day. A delay with jitter is at most 155 days.
///
/// ```
/// use std::time::Duration;
/// use leveret::RetryPolicy;
///
/// let patient = RetryPolicy::exponential().max_attempts(30);
/// let steady = RetryPolicy::fixed(Duration::from_secs(10)).max_attempts(6);
/// let own = RetryPolicy::custom(|attempt| Duration::from_secs(u64::from(attempt) * 5));
/// let exact = RetryPolicy::exponential().base(Duration::from_secs(1)).cap(Duration::from_secs(60)).without_jitter();
/// let never = RetryPolicy::none();
/// # let _ = (patient, steady, own, exact, never);
/// ```
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    curve: Curve,
    max_attempts: u32,
    /// A setting that this kind of policy does not have.
    misfit: Option<&'static str>,
}

#[derive(Clone)]
enum Curve {
    Exponential { base: Duration, cap: Duration, jitter: bool },
    Fixed(Duration),
    Custom(Arc<dyn Fn(u32) -> Duration + Send + Sync>),
}

impl RetryPolicy {
    /// Doubles the delay with each attempt, with full jitter: base 3.2 s, cap 54.6 minutes (100 ms × 2¹⁵), 20 attempts.
    ///
    /// The delay after attempt *n* is drawn evenly from 0 to base × 2ⁿ⁻¹ (or the cap), so a job is retried for about
    /// five hours on average. Full jitter spreads simultaneous retries best: Marc Brooker, "Exponential Backoff And
    /// Jitter", AWS Architecture Blog, 2015. The delay is then rounded at random to one of the two neighbouring powers
    /// of two × 100 ms, so that the average is kept. A single delay may therefore reach twice a cap that is not such a
    /// power.
    #[must_use]
    pub fn exponential() -> Self {
        let curve = Curve::Exponential {
            base: Duration::from_millis(3_200),
            cap: Duration::from_millis(100 << 15),
            jitter: true,
        };
        Self { curve, max_attempts: 20, misfit: None }
    }

    /// Waits the same time after each attempt; 20 attempts.
    #[must_use]
    pub fn fixed(delay: Duration) -> Self {
        Self { curve: Curve::Fixed(delay), max_attempts: 20, misfit: None }
    }

    /// Waits the time that `delay` returns for the failed attempt (from 1); 20 attempts. If it panics, the job is
    /// dead-lettered with the kind `panic`.
    #[must_use]
    pub fn custom(delay: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        Self { curve: Curve::Custom(Arc::new(delay)), max_attempts: 20, misfit: None }
    }

    /// Does not retry: one attempt.
    #[must_use]
    pub fn none() -> Self {
        Self::fixed(Duration::ZERO).max_attempts(1)
    }

    /// Sets the total number of attempts, the first included: at least 1. A worker does not start with 0.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the exponential policy's first delay. A worker does not start with another policy that sets one.
    #[must_use]
    pub fn base(mut self, delay: Duration) -> Self {
        match &mut self.curve {
            Curve::Exponential { base, .. } => *base = delay,
            Curve::Fixed(_) | Curve::Custom(_) => self.misfit = Some("RetryPolicy::base"),
        }
        self
    }

    /// Sets the exponential policy's longest delay. A worker does not start with another policy that sets one.
    #[must_use]
    pub fn cap(mut self, delay: Duration) -> Self {
        match &mut self.curve {
            Curve::Exponential { cap, .. } => *cap = delay,
            Curve::Fixed(_) | Curve::Custom(_) => self.misfit = Some("RetryPolicy::cap"),
        }
        self
    }

    /// Removes the jitter of the exponential policy. Jobs that failed together are then retried together. Other
    /// policies have no jitter.
    #[must_use]
    pub fn without_jitter(mut self) -> Self {
        if let Curve::Exponential { jitter, .. } = &mut self.curve {
            *jitter = false;
        }
        self
    }

    /// Refuses an invalid policy. `of` names its queue or its job.
    pub(crate) fn check(&self, of: &str) -> Result<(), Error> {
        if let Some(setting) = self.misfit {
            let reason = format!("{of} has a retry policy that is not exponential, so it has no such setting");
            return Err(Error::Setting { setting, reason });
        }
        if self.max_attempts == 0 {
            return Err(Error::bounds("RetryPolicy::max_attempts", of, self.max_attempts, "at least 1"));
        }
        Ok(())
    }

    /// Returns the total number of attempts.
    pub(crate) fn attempts(&self) -> u32 {
        self.max_attempts
    }

    /// Returns the delay after `attempt`. `draws` are two independent numbers, uniform in 0..1.
    pub(crate) fn delay(&self, attempt: u32, draws: (f64, f64)) -> Duration {
        match &self.curve {
            Curve::Fixed(delay) => Wait::exact(*delay),
            Curve::Custom(delay) => Wait::exact(delay(attempt)),
            Curve::Exponential { base, cap, jitter } => {
                let doubled = 2_u32.checked_pow(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
                let ceiling = base.saturating_mul(doubled).min(*cap);
                if *jitter { Wait::one_hop(ceiling.mul_f64(draws.0), draws.1).duration() } else { Wait::exact(ceiling) }
            }
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::exponential()
    }
}

impl fmt::Debug for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exponential { base, cap, jitter } => {
                f.debug_struct("Exponential").field("base", base).field("cap", cap).field("jitter", jitter).finish()
            }
            Self::Fixed(delay) => f.debug_tuple("Fixed").field(delay).finish(),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exponential_delay_doubles_up_to_its_cap() {
        let policy = RetryPolicy::exponential().without_jitter();
        for (attempt, ms) in
            [(1, 3_200), (2, 6_400), (3, 12_800), (11, 3_276_800), (12, 3_276_800), (u32::MAX, 3_276_800)]
        {
            assert_eq!(policy.delay(attempt, (0.5, 0.5)), Duration::from_millis(ms), "attempt {attempt}");
        }
    }

    #[test]
    fn full_jitter_has_half_the_ceiling_as_its_mean() {
        let policy = RetryPolicy::exponential();
        let mean = |attempt| {
            (0..20_000).map(|_| policy.delay(attempt, crate::backoff::draws()).as_secs_f64()).sum::<f64>() / 20_000.0
        };
        for (attempt, wanted) in [(1, 1.6), (4, 12.8), (15, 1_638.4)] {
            let mean = mean(attempt);
            assert!((mean - wanted).abs() < 0.05 * wanted, "attempt {attempt}: {mean} for {wanted}");
        }
    }

    #[test]
    fn fixed_and_custom_delays_are_exact() {
        let fixed = RetryPolicy::fixed(Duration::from_secs(10));
        assert_eq!(fixed.delay(7, (0.1, 0.9)), Duration::from_secs(10));
        let custom = RetryPolicy::custom(|attempt| Duration::from_secs(u64::from(attempt) * 5));
        assert_eq!(custom.delay(3, (0.1, 0.9)), Duration::from_secs(15));
    }
}
