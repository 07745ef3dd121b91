use super::*;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn breaker() -> Arc<Breaker> {
    let metrics = Metrics::new().unwrap();
    let breakers = Breakers::new(vec![CircuitBreaker::new("smtp").failures(3)], ["db"].into_iter(), &metrics);
    assert!(breakers.get("db").is_some());
    Arc::clone(breakers.get("smtp").unwrap())
}

pub(crate) fn fail(breaker: &Breaker, times: u32) {
    (0..times).for_each(|_| breaker.report(Sign::Failed, false));
}

#[tokio::test(start_paused = true)]
async fn it_opens_after_the_set_failures_lets_one_probe_through_and_closes_after_its_success() {
    let breaker = breaker();
    fail(&breaker, 2);
    assert_eq!(breaker.admit(0.0), CircuitAdmission::Run);
    fail(&breaker, 1);
    assert_eq!((breaker.admit(0.0), breaker.gauge.get()), (CircuitAdmission::Wait(10 * SECOND), 2));
    tokio::time::advance(10 * SECOND).await;
    assert_eq!((breaker.admit(0.0), breaker.state()), (CircuitAdmission::Probe, CircuitState::HalfOpen));
    assert_eq!(breaker.admit(0.0), CircuitAdmission::Wait(10 * SECOND), "a single probe");
    breaker.report(Sign::Fine, false);
    assert_eq!(breaker.state(), CircuitState::HalfOpen, "only the probe decides");
    breaker.report(Sign::Failed, true);
    assert_eq!(breaker.admit(0.0), CircuitAdmission::Wait(10 * SECOND));
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(breaker.admit(0.0), CircuitAdmission::Probe);
    breaker.report(Sign::None, true);
    assert_eq!(breaker.admit(0.0), CircuitAdmission::Probe, "an inconclusive probe is followed at once");
    breaker.report(Sign::Fine, true);
    assert_eq!((breaker.admit(0.0), breaker.gauge.get()), (CircuitAdmission::Run, 0));
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_few_among_many_or_far_apart_do_not_open_it() {
    let breaker = breaker();
    (0..4).for_each(|_| breaker.report(Sign::Fine, false));
    fail(&breaker, 3);
    assert_eq!(breaker.state(), CircuitState::Closed);
    for _ in 0..10 {
        tokio::time::advance(31 * SECOND).await;
        fail(&breaker, 2);
        assert_eq!(breaker.state(), CircuitState::Closed);
    }
    fail(&breaker, 1);
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_longer_it_is_open_the_further_apart_its_jobs_ask() {
    let breaker = breaker();
    fail(&breaker, 3);
    assert_eq!(breaker.admit(0.5), CircuitAdmission::Wait(15 * SECOND));
    for _ in 0..6 {
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(breaker.admit(0.5), CircuitAdmission::Probe);
        breaker.report(Sign::Failed, true);
    }
    assert_eq!(breaker.admit(0.5), CircuitAdmission::Wait(40 * SECOND));
}

#[test]
fn retryable_errors_count_and_others_do_not_unless_the_handler_blames_a_circuit() {
    let of = |error: JobError| Sign::of(&Err(error), "smtp", false);
    assert_eq!(Sign::of(&Ok(()), "smtp", false), Sign::Fine);
    assert_eq!(of("refused".into()), Sign::Failed);
    assert_eq!(of(JobError::retry_after(SECOND, "busy")), Sign::Failed);
    assert_eq!(of(JobError::new(Class::Timeout, "slow")), Sign::Failed);
    assert_eq!(of(JobError::permanent("no such mailbox")), Sign::Fine);
    assert_eq!(of(JobError::new(Class::Panic, "boom")), Sign::None);
    assert_eq!(of(JobError::snooze(SECOND)), Sign::None);
    assert_eq!(of(JobError::from("locked").blame(&["db"])), Sign::Fine);
    assert_eq!(of(JobError::permanent("login refused").blame(&["smtp"])), Sign::Failed);
}

#[test]
fn an_attempt_that_skipped_the_service_shows_nothing_unless_its_error_blames_it() {
    let of = |result| Sign::of(&result, "smtp", true);
    assert_eq!(of(Ok(())), Sign::None);
    assert_eq!(of(Err("no such file".into())), Sign::None);
    assert_eq!(of(Err(JobError::permanent("no such file"))), Sign::None);
    assert_eq!(of(Err(JobError::from("locked").blame(&["db"]))), Sign::None);
    assert_eq!(of(Err(JobError::from("refused").blame(&["smtp"]))), Sign::Failed);
}

#[tokio::test]
async fn an_error_counts_against_a_circuit_that_its_job_does_not_use_if_it_blames_it() {
    let metrics = Metrics::new().unwrap();
    let breakers = Breakers::new(vec![CircuitBreaker::new("smtp").failures(3)], std::iter::empty(), &metrics);
    let smtp = Arc::clone(breakers.get("smtp").unwrap());
    let refused = |blamed| Err(JobError::from("refused").blame(blamed));
    for result in [Err("refused".into()), refused(&[]), refused(&["db"]), Ok(())] {
        (0..3).for_each(|_| breakers.blame(&result, &[]));
    }
    (0..3).for_each(|_| breakers.blame(&refused(&["smtp"]), &[Arc::clone(&smtp)]));
    assert_eq!(smtp.state(), CircuitState::Closed, "nothing blames it, or the job's own circuit counts already");
    (0..3).for_each(|_| breakers.blame(&refused(&["smtp"]), &[]));
    assert_eq!(smtp.state(), CircuitState::Open);
}
