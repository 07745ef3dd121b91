//! The arithmetic of the delay ladder: the level and the routing key of each delay.
//!
//! The ladder has [`LEVELS`] wait queues. Level *n* holds a message for [`UNIT`] × 2ⁿ and dead-letters it downwards. A
//! delay is a sum of such powers, so a message is written once for each set bit of its length in units. A delay that
//! *is* a power of two takes the fast path: it enters that level and leaves the ladder after it.
//!
//! The scheme is that of NServiceBus for RabbitMQ (version 2 of its delay infrastructure), with a tenth of its unit and
//! the fast path added.

use std::time::Duration;

/// The shortest delay that the broker can hold, and the granularity of all others.
pub(crate) const UNIT: Duration = Duration::from_millis(100);
/// Number of wait queues in the ladder.
pub(crate) const LEVELS: u8 = 28;
const LONGEST: u32 = (1 << LEVELS) - 1;
/// The longest delay: one day less than the time that counts as a mistake.
const FURTHEST: Duration = Duration::from_secs((3650 - 1) * 24 * 60 * 60);

/// The time that a copy waits in the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// No wait: the copy goes straight to its queue.
    None,
    /// A number of units, at least 1 and at most [`LONGEST`].
    Units(u32),
}

impl Wait {
    /// Returns the shortest wait that is at least `delay`. A longer delay is cut at the ladder's 310 days, and the
    /// worker that receives the job delays it again for the rest.
    pub(crate) fn at_least(delay: Duration) -> Self {
        match delay.as_nanos().div_ceil(UNIT.as_nanos()) {
            0 => Self::None,
            units => Self::Units(u32::try_from(units).unwrap_or(LONGEST).min(LONGEST)),
        }
    }

    /// Returns the time that a job with this `delay` really waits: in the ladder's granularity, with as many passes as
    /// it needs.
    pub(crate) fn exact(delay: Duration) -> Duration {
        Self::at_least(delay).duration().max(delay.min(FURTHEST))
    }

    /// Returns one of the two powers of two around `delay`, chosen by `draw` (uniform in 0..1) so that the average is
    /// `delay`.
    ///
    /// It needs one hop instead of one for each set bit, and jobs that failed together are retried at different times.
    pub(crate) fn one_hop(delay: Duration, draw: f64) -> Self {
        let units = (delay.as_secs_f64() / UNIT.as_secs_f64()).min(f64::from(1 << (LEVELS - 1)));
        let below = if units < 1.0 { 0.0 } else { units.log2().floor().exp2() };
        let above = if units < 1.0 { 1.0 } else { below * 2.0 };
        let chosen = if draw < (units - below) / (above - below) { above } else { below };
        match chosen.min(f64::from(1 << (LEVELS - 1))) as u32 {
            0 => Self::None,
            units => Self::Units(units),
        }
    }

    /// Returns the duration of this wait.
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Units(units) => UNIT * units,
        }
    }
}

/// The entry of a message into the ladder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DelayEntry {
    /// Passes one level and leaves the ladder: published to the level's `.in` exchange.
    Fast { level: u8, key: String },
    /// Descends from the highest set bit: published to the level's exchange.
    Chain { level: u8, key: String },
}

/// Returns the entry into the ladder for a wait of `units` that ends at `queue`.
pub(crate) fn entry(units: u32, queue: &str) -> DelayEntry {
    let units = units.clamp(1, LONGEST);
    let level = u8::try_from(units.ilog2()).unwrap_or(LEVELS - 1);
    if units.is_power_of_two() {
        let mut key = String::with_capacity("due.".len() + queue.len());
        key.push_str("due.");
        push_topic_word(&mut key, queue);
        return DelayEntry::Fast { level, key };
    }
    let mut key = String::with_capacity(usize::from(LEVELS) * 2 + queue.len());
    for bit in (0..LEVELS).rev() {
        key.push(if units >> bit & 1 == 1 { '1' } else { '0' });
        key.push('.');
    }
    push_topic_word(&mut key, queue);
    DelayEntry::Chain { level, key }
}

/// Returns `queue` as a single word of a topic routing key, so that dots and wildcards in a queue's name have no
/// effect.
///
/// `0` and `1` are the ladder's own words and are encoded too.
pub(crate) fn topic_word(queue: &str) -> String {
    let mut word = String::with_capacity(queue.len());
    push_topic_word(&mut word, queue);
    word
}

fn push_topic_word(key: &mut String, queue: &str) {
    for byte in queue.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if plain && queue != "0" && queue != "1" {
            key.push(char::from(byte));
        } else {
            key.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wait_is_at_least_as_long_as_asked_and_less_than_a_unit_longer() {
        for (ms, units) in [(1, 1), (100, 1), (101, 2), (200, 2), (3_000, 30), (90_000, 900)] {
            assert_eq!(Wait::at_least(Duration::from_millis(ms)), Wait::Units(units), "{ms} ms");
        }
        assert_eq!(Wait::at_least(Duration::ZERO), Wait::None);
        assert_eq!(Wait::at_least(Duration::MAX), Wait::Units(LONGEST));
    }

    #[test]
    fn a_power_of_two_takes_the_fast_path_and_the_rest_the_chain() {
        assert_eq!(entry(8, "email"), DelayEntry::Fast { level: 3, key: "due.email".into() });
        let zeros = "0.".repeat(25);
        assert_eq!(entry(5, "a.b"), DelayEntry::Chain { level: 2, key: format!("{zeros}1.0.1.a%2Eb") });
    }

    #[test]
    fn a_queue_name_is_one_word_and_never_a_word_of_the_ladder() {
        for (queue, word) in
            [("email", "email"), ("a.b", "a%2Eb"), ("#", "%23"), ("*", "%2A"), ("0", "%30"), ("1", "%31")]
        {
            assert_eq!(topic_word(queue), word);
        }
    }

    proptest! {
        /// A worker that receives a job too early delays it again for the rest.
        #[test]
        fn delays_of_up_to_ten_years_add_up_to_the_time_asked_for(ms in 1_u64..315_360_000_000) {
            let (asked, mut waited, mut arrivals) = (Duration::from_millis(ms), Duration::ZERO, 0);
            while waited < asked {
                waited += Wait::at_least(asked - waited).duration();
                arrivals += 1;
            }
            prop_assert!(waited - asked < UNIT, "{waited:?} for {asked:?}");
            prop_assert!(arrivals <= 12, "{arrivals} arrivals in {asked:?}");
        }

        #[test]
        fn one_hop_is_always_one_hop(ms in 0_u64..40_000_000_000, draw in 0.0..1.0_f64) {
            match Wait::one_hop(Duration::from_millis(ms), draw) {
                Wait::None => prop_assert!(ms < 100),
                Wait::Units(units) => prop_assert!(units.is_power_of_two()),
            }
        }

        #[test]
        fn one_hop_keeps_the_average(ms in 1_u64..10_000_000) {
            let delay = Duration::from_millis(ms);
            let draws = 1_000_u32;
            let sum: f64 = (0..draws).map(|i| Wait::one_hop(delay, (f64::from(i) + 0.5) / f64::from(draws)).duration().as_secs_f64()).sum();
            let (mean, wanted) = (sum / f64::from(draws), delay.as_secs_f64());
            prop_assert!((mean - wanted).abs() <= 0.002 * wanted.max(0.1), "{mean} for {wanted}");
        }

        #[test]
        fn topic_words_are_distinct(a in ".{0,20}", b in ".{0,20}") {
            prop_assume!(a != b);
            prop_assert_ne!(topic_word(&a), topic_word(&b));
        }
    }
}
