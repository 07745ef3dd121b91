//! Limits how often a repeated failure is logged: when it is new, and then once a minute.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const AGAIN: Duration = Duration::from_secs(60);
/// Texts remembered; with more distinct texts, some are logged more often.
const REMEMBERED: usize = 256;

/// Texts logged recently, with the time of each.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Mutex<HashMap<String, Instant>>);

impl LogThrottle {
    /// Calls `log` unless it was called for `what` within the last minute.
    pub(crate) fn log(&self, what: impl Into<String>, log: impl FnOnce()) {
        if self.should_log_at(what.into(), Instant::now()) {
            log();
        }
    }

    fn should_log_at(&self, what: String, now: Instant) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.get(&what).is_some_and(|at| now.duration_since(*at) < AGAIN) {
            return false;
        }
        if logged.len() >= REMEMBERED {
            logged.retain(|_, at| now.duration_since(*at) < AGAIN);
        }
        if logged.len() >= REMEMBERED {
            logged.clear();
        }
        logged.insert(what, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_text_is_logged_once_a_minute() {
        let (log_throttle, start) = (LogThrottle::default(), Instant::now());
        let logs =
            |what: &str, seconds| log_throttle.should_log_at(what.to_owned(), start + Duration::from_secs(seconds));
        assert!(logs("a", 0) && logs("b", 1));
        assert!(!logs("a", 59) && !logs("b", 60));
        assert!(logs("a", 60) && !logs("a", 61));
    }

    #[test]
    fn memory_is_bounded() {
        let log_throttle = LogThrottle::default();
        for n in 0..10 * REMEMBERED {
            let mut is_logged = false;
            log_throttle.log(n.to_string(), || is_logged = true);
            assert!(is_logged);
        }
        assert!(log_throttle.0.lock().unwrap().len() <= REMEMBERED);
    }
}
