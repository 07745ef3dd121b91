//! Keeps a failure that repeats from flooding the log: it is told when it is new, and then once a minute.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const AGAIN: Duration = Duration::from_secs(60);
/// Texts remembered; where there are more, some are told more often.
const REMEMBERED: usize = 256;

/// What was told of late, and when.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Mutex<HashMap<String, Instant>>);

impl LogThrottle {
    /// Whether `what` has not been told within the last minute; it counts as told then.
    pub(crate) fn should_log(&self, what: impl Into<String>) -> bool {
        self.should_log_at(what.into(), Instant::now())
    }

    fn should_log_at(&self, what: String, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&what).is_some_and(|at| now.duration_since(*at) < AGAIN) {
            return false;
        }
        if told.len() >= REMEMBERED {
            told.retain(|_, at| now.duration_since(*at) < AGAIN);
        }
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert(what, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_told_once_a_minute() {
        let (log_throttle, start) = (LogThrottle::default(), Instant::now());
        let told =
            |what: &str, seconds| log_throttle.should_log_at(what.to_owned(), start + Duration::from_secs(seconds));
        assert!(told("a", 0) && told("b", 1));
        assert!(!told("a", 59) && !told("b", 60));
        assert!(told("a", 60) && !told("a", 61));
    }

    #[test]
    fn memory_is_bounded() {
        let log_throttle = LogThrottle::default();
        for n in 0..10 * REMEMBERED {
            assert!(log_throttle.should_log(n.to_string()));
        }
        assert!(log_throttle.0.lock().unwrap().len() <= REMEMBERED);
    }
}
