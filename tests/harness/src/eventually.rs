//! Waits for a condition instead of sleeping.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Returns as soon as `condition` holds: `eventually("the queue is empty", secs(5), async || ..).await`.
///
/// # Panics
///
/// With `what` when the condition has not held `within` the time.
pub async fn eventually<C>(what: &str, within: Duration, mut condition: C)
where
    C: AsyncFnMut() -> bool,
{
    let last = poll(within, async || condition().await, |held| *held).await;
    assert!(last, "not within {within:?}: {what}");
}

/// Returns as soon as `value` gives `expected`.
///
/// # Panics
///
/// With `what` and the last value when that has not happened `within` the time.
pub async fn eventually_eq<V, F>(what: &str, within: Duration, expected: V, value: F)
where
    V: PartialEq + Debug,
    F: AsyncFnMut() -> V,
{
    let last = poll(within, value, |last| *last == expected).await;
    assert!(last == expected, "not within {within:?}: {what}: expected {expected:?}, last saw {last:?}");
}

/// Asks until `good` or out of time; the last answer either way, and never fewer than two.
async fn poll<V, F>(within: Duration, mut value: F, good: impl Fn(&V) -> bool) -> V
where
    F: AsyncFnMut() -> V,
{
    let deadline = Instant::now() + within;
    let mut pause = FIRST_PAUSE;
    loop {
        let late = Instant::now() >= deadline;
        let last = value().await;
        if late || good(&last) {
            return last;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
