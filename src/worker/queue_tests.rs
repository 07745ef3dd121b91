use super::*;

#[test]
fn as_many_wait_as_run_but_none_behind_a_single_one() {
    let in_hand = |concurrency| Queue::new("q").concurrency(concurrency).prefetch_count();
    assert_eq!([1, 2, 16, 1_500, 2_000].map(in_hand), [1, 4, 32, 2_000, 2_000]);
}

#[test]
fn the_queue_of_a_job_has_its_name_and_has_lanes_if_the_job_has() {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Of<const LANES: bool>;

    impl<const LANES: bool> Job for Of<LANES> {
        const NAME: &'static str = "of";
        const QUEUE: &'static str = "queue-of";
        const LANES: bool = LANES;
    }

    let (plain, lanes) = (Queue::of::<Of<false>>(), Queue::of::<Of<true>>());
    assert_eq!((plain.name(), plain.weights()), ("queue-of", None));
    assert_eq!((lanes.name(), lanes.weights()), ("queue-of", Some(USUAL_WEIGHTS)));
    assert!(lanes.declaration().has_lanes() && !plain.declaration().has_lanes());
}

#[test]
fn a_prefetch_that_the_concurrency_cannot_be_reached_with_is_refused_with_both() {
    let error = Queue::new("q").prefetch(4).check().unwrap_err().to_string();
    assert!(error.contains("Queue::prefetch") && error.contains(" 4,") && error.contains(" 16 "), "{error}");
    for right in [Queue::new("q").prefetch(4).concurrency(4), Queue::new("q").concurrency(2_000)] {
        right.check().unwrap();
    }
}

#[test]
fn a_value_out_of_its_bounds_is_refused_with_the_setting_the_value_and_the_bound() {
    let queue = || Queue::new("q");
    let wrong = [
        (queue().concurrency(0), r#"Queue::concurrency: queue "q" has 0, which is out of range: set 1 to 2000"#),
        (queue().concurrency(2_001), r#"Queue::concurrency: queue "q" has 2001, which is out of range: set 1 to 2000"#),
        (
            queue().prefetch(0),
            r#"Queue::prefetch: queue "q" has 0, which is out of range: set 16 (its concurrency) to 2000"#,
        ),
        (
            queue().prefetch(u16::MAX),
            r#"Queue::prefetch: queue "q" has 65535, which is out of range: set 16 (its concurrency) to 2000"#,
        ),
        (
            queue().lanes([6, 0, 1]),
            r#"Queue::lanes: queue "q" has [6, 0, 1], which is out of range: set weights of at least 1"#,
        ),
        (
            queue().retry(RetryPolicy::exponential().max_attempts(0)),
            r#"RetryPolicy::max_attempts: queue "q" has 0, which is out of range: set at least 1"#,
        ),
        (
            queue().retry(RetryPolicy::fixed(Duration::ZERO).cap(Duration::from_secs(1))),
            r#"RetryPolicy::cap: queue "q" has a retry policy that is not exponential, so it has no such setting"#,
        ),
    ];
    for (queue, expected) in wrong {
        assert_eq!(queue.check().unwrap_err().to_string(), expected);
    }
}
