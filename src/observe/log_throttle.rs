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
pub(crate) struct Quiet(Mutex<HashMap<String, Instant>>);

impl Quiet {
    /// Whether `what` has not been told within the last minute; it counts as told then.
    pub(crate) fn is_news(&self, what: impl Into<String>) -> bool {
        self.is_news_at(what.into(), Instant::now())
    }

    fn is_news_at(&self, what: String, now: Instant) -> bool {
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
        let (quiet, start) = (Quiet::default(), Instant::now());
        let told = |what: &str, seconds| quiet.is_news_at(what.to_owned(), start + Duration::from_secs(seconds));
        assert!(told("a", 0) && told("b", 1));
        assert!(!told("a", 59) && !told("b", 60));
        assert!(told("a", 60) && !told("a", 61));
    }

    #[test]
    fn memory_is_bounded() {
        let quiet = Quiet::default();
        for n in 0..10 * REMEMBERED {
            assert!(quiet.is_news(n.to_string()));
        }
        assert!(quiet.0.lock().unwrap().len() <= REMEMBERED);
    }
}
