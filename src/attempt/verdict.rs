//! The verdict on an attempt: a pure function from the handler's result to the job's outcome.

use std::time::Duration;

use crate::{
    attempt::retry_policy::RetryPolicy,
    error::{Class, JobError, JobResult},
    outcome::{ErrorKind, Outcome},
    topology::delay::{UNIT, Wait},
};

/// The facts for the verdict, beside the result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// The attempt that has ended, from 1.
    pub(crate) attempt: u32,
    /// Time since the job became due, if it is known.
    pub(crate) overdue: Option<Duration>,
    /// Time since then after which a snoozing job is dead-lettered.
    pub(crate) snooze_limit: Duration,
    pub(crate) policy: &'a RetryPolicy,
    /// Random numbers for the policy's jitter, uniform in 0..1.
    pub(crate) draws: (f64, f64),
}

/// Decides the outcome of a job whose attempt ended in `result`.
pub(crate) fn decide(result: JobResult, facts: Facts<'_>) -> Outcome {
    let Err(error) = result else { return Outcome::Done };
    let kind = kind_of(error.class);
    match error.class {
        Class::Permanent | Class::Decode => Outcome::DeadLetter { kind, reason: error.chain() },
        Class::Snooze(delay) => snooze(delay, facts),
        Class::Yield => Outcome::Yield,
        Class::Duplicate => Outcome::Duplicate,
        Class::RetryAfter(delay) => retry(kind, &error, Wait::exact(delay), facts),
        Class::Retry | Class::Timeout | Class::Panic => {
            retry(kind, &error, facts.policy.delay(facts.attempt, facts.draws), facts)
        }
    }
}

fn kind_of(class: Class) -> ErrorKind {
    match class {
        Class::Permanent => ErrorKind::Permanent,
        Class::Decode => ErrorKind::Decode,
        Class::Timeout => ErrorKind::Timeout,
        Class::Panic => ErrorKind::Panic,
        Class::Retry | Class::RetryAfter(_) | Class::Snooze(_) | Class::Yield | Class::Duplicate => ErrorKind::Error,
    }
}

fn retry(kind: ErrorKind, error: &JobError, delay: Duration, facts: Facts<'_>) -> Outcome {
    let reason = error.chain();
    if facts.attempt >= facts.policy.attempts() {
        return Outcome::DeadLetter { kind, reason };
    }
    Outcome::Retry { delay, kind, reason }
}

fn snooze(delay: Duration, facts: Facts<'_>) -> Outcome {
    match facts.overdue {
        Some(overdue) if overdue >= facts.snooze_limit => Outcome::DeadLetter {
            kind: ErrorKind::Error,
            reason: format!(
                "still snoozing {} s after it became due; the snooze limit of its queue is {} s",
                overdue.as_secs(),
                facts.snooze_limit.as_secs()
            ),
        },
        // A snooze of zero would be a hot loop through the broker.
        _ => Outcome::Snooze { delay: Wait::exact(delay.max(UNIT)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn facts(attempt: u32, policy: &RetryPolicy) -> Facts<'_> {
        Facts { attempt, overdue: Some(Duration::from_secs(60)), snooze_limit: DAY, policy, draws: (0.5, 0.5) }
    }

    #[test]
    fn every_result_and_attempt_has_its_outcome() {
        let policy = RetryPolicy::fixed(Duration::from_secs(2)).max_attempts(3);
        let retry =
            |ms, kind, reason: &str| Outcome::Retry { delay: Duration::from_millis(ms), kind, reason: reason.into() };
        let dead = |kind, reason: &str| Outcome::DeadLetter { kind, reason: reason.into() };
        let after = Duration::from_millis(250);
        let table: Vec<(JobResult, u32, Outcome)> = vec![
            (Ok(()), 1, Outcome::Done),
            (Ok(()), 9, Outcome::Done),
            (Err("down".into()), 1, retry(2_000, ErrorKind::Error, "down")),
            (Err("down".into()), 3, dead(ErrorKind::Error, "down")),
            (Err("down".into()), u32::MAX, dead(ErrorKind::Error, "down")),
            (Err(JobError::permanent("gone")), 1, dead(ErrorKind::Permanent, "gone")),
            (Err(JobError::retry_after(after, "busy")), 1, retry(300, ErrorKind::Error, "busy")),
            (Err(JobError::retry_after(after, "busy")), 3, dead(ErrorKind::Error, "busy")),
            (Err(JobError::snooze(after)), 3, Outcome::Snooze { delay: Duration::from_millis(300) }),
            (Err(JobError::new(Class::Yield, "")), 3, Outcome::Yield),
            (Err(JobError::duplicate()), 3, Outcome::Duplicate),
            (Err(JobError::new(Class::Panic, "boom")), 2, retry(2_000, ErrorKind::Panic, "boom")),
            (Err(JobError::new(Class::Timeout, "slow")), 3, dead(ErrorKind::Timeout, "slow")),
            (Err(JobError::new(Class::Decode, "not JSON")), 1, dead(ErrorKind::Decode, "not JSON")),
        ];
        for (result, attempt, wanted) in table {
            let shown = format!("{result:?} at attempt {attempt}");
            assert_eq!(decide(result, facts(attempt, &policy)), wanted, "{shown}");
        }
    }

    #[test]
    fn a_job_that_snoozes_beyond_the_limit_is_dead_lettered_with_both_values() {
        let policy = RetryPolicy::default();
        let old = Facts { overdue: Some(DAY), ..facts(1, &policy) };
        let Outcome::DeadLetter { reason, .. } = decide(Err(JobError::snooze(Duration::from_secs(1))), old) else {
            panic!("it is not dead-lettered")
        };
        assert_eq!(reason, "still snoozing 86400 s after it became due; the snooze limit of its queue is 86400 s");
        let patient = Facts { snooze_limit: DAY * 2, ..old };
        assert!(matches!(decide(Err(JobError::snooze(Duration::from_secs(1))), patient), Outcome::Snooze { .. }));
        let unknown = Facts { overdue: None, ..facts(1, &policy) };
        assert!(matches!(decide(Err(JobError::snooze(Duration::from_secs(1))), unknown), Outcome::Snooze { .. }));
    }

    #[test]
    fn a_reason_names_the_error_and_its_sources() {
        let source = std::io::Error::other("connection refused");
        let error = JobError::from(anyhow::Error::new(source).context("sending mail"));
        assert_eq!(error.chain(), "sending mail: connection refused");
    }
}
