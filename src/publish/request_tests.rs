//! Requests on the in-memory broker.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{
    Broker, Config, Context, ErrorKind, Job, JobError, JobOutput, JobResult, PublishError, Queue, RequestError,
    RetryPolicy, Worker,
    message::Message,
    testing::{Running, dead_letters, idle, start},
    topology::Target,
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Quote {
    cents: u64,
}

#[derive(Serialize, Deserialize, Job)]
#[job(crate = crate, name = "quote", queue = "quotes", output = Quote)]
struct GetQuote(Ask);

#[derive(Serialize, Deserialize)]
enum Ask {
    Cents(u64),
    Never,
    Busy,
    SecondTime,
    Slow(u64),
    Snooze,
    Done,
    Much,
}

async fn quote(job: GetQuote, ctx: Context<()>) -> JobResult<Quote> {
    match job.0 {
        Ask::Cents(cents) => Ok(Quote { cents }),
        Ask::Never => Err(JobError::permanent("not for sale")),
        Ask::Busy => Err("busy".into()),
        Ask::SecondTime if ctx.attempt() == 1 => Err("not yet".into()),
        Ask::SecondTime => Ok(Quote { cents: 2 }),
        Ask::Slow(seconds) => {
            sleep(Duration::from_secs(seconds)).await;
            Ok(Quote { cents: seconds })
        }
        Ask::Snooze => Err(JobError::snooze(60 * SECOND)),
        Ask::Done => Err(JobError::duplicate()),
        Ask::Much => Ok(Quote { cents: u64::MAX }),
    }
}

async fn quoting(broker: &Broker) -> Running {
    let retry = RetryPolicy::fixed(SECOND).max_attempts(3);
    let queue = Queue::of::<GetQuote>().concurrency(1).retry(retry);
    start(Worker::new(()).queue(queue).handle(quote), broker).await.unwrap()
}

async fn ask(broker: &Broker, ask: Ask, timeout: u64) -> Result<Quote, RequestError> {
    broker.publisher().request(&GetQuote(ask)).timeout(Duration::from_secs(timeout)).await
}

fn finished(broker: &Broker, outcome: &str) -> String {
    let series = format!("leveret_jobs_finished_total{{job=\"quote\",outcome=\"{outcome}\",queue=\"quotes\"}} ");
    let text = broker.metrics_text();
    text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_request_returns_what_the_handler_returned_also_at_a_later_attempt() {
    let broker = Broker::memory();
    let running = quoting(&broker).await;
    assert_eq!(ask(&broker, Ask::Cents(7), 5).await.unwrap(), Quote { cents: 7 });
    assert_eq!(ask(&broker, Ask::SecondTime, 5).await.unwrap(), Quote { cents: 2 });
    let (first, second) = tokio::join!(ask(&broker, Ask::Cents(1), 5), ask(&broker, Ask::Cents(2), 5));
    assert_eq!((first.unwrap(), second.unwrap()), (Quote { cents: 1 }, Quote { cents: 2 }));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_for_good_answers_with_kind_and_text() {
    let broker = Broker::memory();
    let running = quoting(&broker).await;
    let never = ask(&broker, Ask::Never, 5).await.unwrap_err();
    assert_eq!(never.to_string(), "the job failed (permanent): not for sale");
    assert!(matches!(never, RequestError::Failed { kind: ErrorKind::Permanent, .. }));
    let busy = ask(&broker, Ask::Busy, 60).await.unwrap_err();
    assert_eq!(busy.to_string(), "the job failed (error): busy");
    assert!(matches!(ask(&broker, Ask::Done, 5).await.unwrap_err(), RequestError::Duplicate));
    assert_eq!(dead_letters(&broker, "quotes").await.unwrap().len(), 2);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_retry_goes_beyond_the_timeout_and_the_caller_learns_why_at_once() {
    let broker = Broker::memory();
    let running = quoting(&broker).await;
    let began = Instant::now();
    let busy = ask(&broker, Ask::Busy, 1).await.unwrap_err();
    assert_eq!(busy.to_string(), "the job failed (error): busy");
    assert!(began.elapsed() < SECOND / 2);
    assert!(matches!(ask(&broker, Ask::Snooze, 5).await.unwrap_err(), RequestError::TimedOut { .. }));
    idle(&broker).await;
    assert_eq!(finished(&broker, "expired"), "2");
    assert!(dead_letters(&broker, "quotes").await.unwrap().is_empty());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_longer_than_its_timeout_does_not_run_and_is_no_dead_letter() {
    let broker = Broker::memory();
    let running = quoting(&broker).await;
    let caller = broker.clone();
    let slow = tokio::spawn(async move { ask(&caller, Ask::Slow(10), 60).await });
    sleep(SECOND).await;
    let late = ask(&broker, Ask::Cents(1), 2).await;
    assert_eq!(slow.await.unwrap().unwrap(), Quote { cents: 10 });
    let text = "no reply within 2s: the job may have run, or no worker consumes its queue";
    assert_eq!(late.unwrap_err().to_string(), text);
    idle(&broker).await;
    assert_eq!((finished(&broker, "expired"), finished(&broker, "succeeded")), ("1".into(), "1".into()));
    assert!(dead_letters(&broker, "quotes").await.unwrap().is_empty());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_is_dropped_and_counted_and_the_next_request_gets_its_own() {
    let broker = Broker::memory();
    let running = quoting(&broker).await;
    let slow = ask(&broker, Ask::Slow(10), 2);
    assert!(matches!(slow.await.unwrap_err(), RequestError::TimedOut { .. }));
    assert_eq!(ask(&broker, Ask::Cents(3), 60).await.unwrap(), Quote { cents: 3 });
    assert!(broker.metrics_text().contains("leveret_replies_dropped_total 1"));
    assert!(broker.metrics_text().contains("leveret_requests_waiting 0"));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_queue_or_with_an_impossible_timeout_is_refused() {
    let broker = Broker::memory();
    let unroutable = ask(&broker, Ask::Cents(1), 5).await.unwrap_err();
    assert_eq!(unroutable.to_string(), "no queue \"quotes\": start its worker once, or check the name");
    for timeout in [Duration::ZERO, Duration::from_micros(999), Duration::from_secs(24 * 3600 + 1), Duration::MAX] {
        let error = broker.publisher().request(&GetQuote(Ask::Never)).timeout(timeout).await.unwrap_err();
        let RequestError::Publish(PublishError::Invalid { what: "timeout", .. }) = &error else { panic!("{error}") };
        assert!(error.to_string().contains("1 ms to 24 hours"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_too_large_or_of_another_type_is_an_error_and_the_job_is_done() {
    #[derive(Serialize, Deserialize)]
    struct Misread(Ask);

    impl Job for Misread {
        const NAME: &'static str = "quote";
        const QUEUE: &'static str = "quotes";
    }

    impl JobOutput for Misread {
        type Output = String;
    }

    let broker = Broker::memory_with(Config { payload_limit: 20, ..Config::default() });
    let running = quoting(&broker).await;
    let much = ask(&broker, Ask::Much, 5).await.unwrap_err();
    assert_eq!(much.to_string(), "the job failed (too_large): a result of 30 bytes, and the limit is 20");
    let misread = broker.publisher().request(&Misread(Ask::Cents(4711))).await.unwrap_err();
    assert!(matches!(misread, RequestError::Undecodable { .. }) && !misread.to_string().contains("4711"), "{misread}");
    assert_eq!(finished(&broker, "succeeded"), "2");
    running.stop().await.unwrap();
}

/// Publishes a job that asks for its reply in this queue.
async fn with_reply_to(broker: &Broker, reply_to: &str) {
    let body = serde_json::to_vec(&GetQuote(Ask::Cents(1))).unwrap();
    let mut message = Message::new("quote", &reply_to.into(), body, broker.now_ms());
    message.properties = std::mem::take(&mut message.properties).with_reply_to(reply_to.into());
    broker.send(&Target::Queue("quotes".into()), Box::new(message), false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reply_to_that_is_somebodys_job_queue_is_not_answered_unless_the_queue_allows_it() {
    for (queue, received) in [(Queue::of::<GetQuote>(), 0), (Queue::of::<GetQuote>().reply_anywhere(), 1)] {
        let broker = Broker::memory();
        let running = start(Worker::new(()).queue(queue).handle(quote), &broker).await.unwrap();
        let mut victim = broker.transport().open_replies("emails", 10).await.unwrap();
        with_reply_to(&broker, "emails").await;
        while finished(&broker, "succeeded") == "0" {
            sleep(SECOND / 100).await;
        }
        assert_eq!(std::iter::from_fn(|| victim.try_next()).count(), received);
        running.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_cannot_be_delivered_is_counted_and_the_job_is_done() {
    let broker = Broker::memory();
    let running = quoting(&broker).await;
    for gone in ["leveret.v1.reply.gone", "amq.rabbitmq.reply-to.gone"] {
        with_reply_to(&broker, gone).await;
    }
    idle(&broker).await;
    assert_eq!(finished(&broker, "succeeded"), "2");
    for outcome in ["lost", "sent"] {
        assert!(
            broker.metrics_text().contains(&format!("leveret_replies_total{{outcome=\"{outcome}\"}} 1")),
            "{outcome}"
        );
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_answers_each_of_its_requests() {
    async fn quote_all(batch: crate::Batch<GetQuote, ()>) -> JobResult {
        for job in &batch {
            match job.payload().0 {
                Ask::Cents(cents) => job.keep_result(&Quote { cents }),
                _ => job.fail(JobError::permanent("not for sale")),
            }
        }
        Ok(())
    }
    let broker = Broker::memory();
    let worker = Worker::new(()).handle_batch(crate::Batching::up_to(10), quote_all);
    let running = start(worker, &broker).await.unwrap();
    let (first, second, third) =
        tokio::join!(ask(&broker, Ask::Cents(1), 5), ask(&broker, Ask::Never, 5), ask(&broker, Ask::Cents(3), 5));
    assert_eq!((first.unwrap(), third.unwrap()), (Quote { cents: 1 }, Quote { cents: 3 }));
    assert_eq!(second.unwrap_err().to_string(), "the job failed (permanent): not for sale");
    running.stop().await.unwrap();
}
