//! Tests on the in-memory broker, whose time they advance. Tests of RabbitMQ's part are in `tests/broker/schedules.rs`.

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use super::*;
use crate::{
    CatchUp, Context, Job, JobResult, NewJob, Worker,
    message::{Message, header},
    schedule::{leader::TOKEN, token::tokens},
    testing::{Running, start},
    topology::Target,
};

#[derive(serde::Serialize, serde::Deserialize)]
struct Tick {}

impl Job for Tick {
    const NAME: &'static str = "tick";
    const QUEUE: &'static str = "ticks";
}

/// The jobs that ran: the job's id, and the fire time in seconds.
type Ran = Arc<Mutex<Vec<(String, u64)>>>;

async fn tick(_: Tick, ctx: Context<Ran>) -> JobResult {
    let at = ctx.fired_at().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    ctx.state().lock().unwrap().push((ctx.job_id().to_string(), at));
    Ok(())
}

fn hourly() -> Schedule {
    hourly_of(NewJob::of(&Tick {}))
}

fn hourly_of(job: NewJob) -> Schedule {
    Schedule::new("hourly", "0 * * * *", "UTC", job)
}

async fn with(schedule: Schedule, ran: &Ran, broker: &Broker) -> Running {
    start(Worker::new(Arc::clone(ran)).handle(tick).schedule(schedule), broker).await.unwrap()
}

/// Starts a worker, lets it lead and stops it.
async fn once(schedule: Schedule, ran: &Ran, broker: &Broker) {
    let running = with(schedule, ran, broker).await;
    pass(1).await;
    running.stop().await.unwrap();
}

fn times(ran: &Ran) -> Vec<u64> {
    ran.lock().unwrap().iter().map(|(_, at)| *at).collect()
}

fn secs(broker: &Broker) -> u64 {
    broker.now_ms() / 1000
}

/// Returns the full hours after a time, in seconds.
fn hours(after: u64, count: u64) -> Vec<u64> {
    (1..=count).map(|n| (after / 3600 + n) * 3600).collect()
}

async fn pass(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

async fn last_token(broker: &Broker) -> Token {
    tokens(broker).await.unwrap().pop().unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_time_is_published_once_and_every_worker_gives_it_the_same_id() {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let (broker, ran) = (Broker::memory(), Ran::default());
        let running = with(hourly(), &ran, &broker).await;
        let began = secs(&broker);
        pass(3 * 24 * 3600).await;
        running.stop().await.unwrap();
        assert_eq!(times(&ran), hours(began, 72));
        ids.push(ran.lock().unwrap().clone());
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test(start_paused = true)]
async fn one_of_several_workers_publishes_and_another_takes_over_when_it_stops() {
    let (broker, ran) = (Broker::memory(), Ran::default());
    let (a, b, c) = tokio::join!(
        with(hourly(), &ran, &broker),
        with(hourly(), &ran, &broker),
        start(Worker::new(Arc::clone(&ran)).handle(tick), &broker),
    );
    let began = secs(&broker);
    for running in [a, b] {
        pass(10 * 3600).await;
        running.stop().await.unwrap();
    }
    // A worker without the schedule does not publish it.
    pass(10 * 3600).await;
    c.unwrap().stop().await.unwrap();
    assert_eq!(times(&ran), hours(began, 20));
}

#[tokio::test(start_paused = true)]
async fn times_missed_without_a_worker_are_caught_up_by_the_policy() {
    for (policy, caught_up) in [(CatchUp::None, vec![]), (CatchUp::Last, vec![5]), (CatchUp::All, vec![1, 2, 3, 4, 5])]
    {
        let (broker, ran) = (Broker::memory(), Ran::default());
        once(hourly().catch_up(policy), &ran, &broker).await;
        let began = secs(&broker);
        // Half an hour after the fifth.
        pass(hours(began, 5)[4] + 1800 - began).await;
        let running = with(hourly().catch_up(policy), &ran, &broker).await;
        pass(600).await;
        running.stop().await.unwrap();
        let wanted: Vec<_> = caught_up.into_iter().map(|n| hours(began, 5)[n - 1]).collect();
        assert_eq!(times(&ran), wanted, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn missed_times_beyond_the_catch_up_limit_are_counted() {
    let (broker, ran) = (Broker::memory(), Ran::default());
    let minutely = || Schedule::new("minutely", "* * * * *", "UTC", &Tick {}).catch_up(CatchUp::All);
    once(minutely(), &ran, &broker).await;
    let before = ran.lock().unwrap().len();
    pass(2 * 24 * 3600).await;
    let running = with(minutely(), &ran, &broker).await;
    // Half a minute, so that no further time comes.
    pass(60 - secs(&broker) % 60 + 30).await;
    running.stop().await.unwrap();
    let caught_up = ran.lock().unwrap().len() - before;
    let text = broker.metrics_text();
    let line = text.lines().find(|line| line.starts_with(r#"leveret_schedule_missed_total{schedule="minutely"}"#));
    let missed: usize = line.unwrap().split(' ').next_back().unwrap().parse().unwrap();
    assert!((1000..1005).contains(&caught_up), "{caught_up}");
    assert!((2879..2883).contains(&(caught_up + missed)), "{missed} besides {caught_up}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_token_is_recovered_from_the_stream_and_no_time_is_missed() {
    let (broker, ran) = (Broker::memory(), Ran::default());
    let running = with(hourly().catch_up(CatchUp::All), &ran, &broker).await;
    let began = secs(&broker);
    pass(2 * 3600).await;
    running.stop().await.unwrap();
    let lost = broker.transport().open_raw("leveret.v1.schedule.hourly", 200).await;
    let Ok(mut lost) = lost else { panic!("no queue") };
    while let Some(Ok(delivery)) = lost.try_next() {
        lost.ack(delivery.tag, false);
    }
    drop(lost);
    pass(3 * 3600).await;
    let running = with(hourly().catch_up(CatchUp::All), &ran, &broker).await;
    pass(3600).await;
    running.stop().await.unwrap();
    assert_eq!(times(&ran), hours(began, 6));
    assert_eq!(last_token(&broker).await.epoch, 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_expression_applies_from_its_first_leader_on_and_catches_up_no_time() {
    let (broker, ran) = (Broker::memory(), Ran::default());
    once(hourly().catch_up(CatchUp::All), &ran, &broker).await;
    pass(5 * 3600).await;
    let began = secs(&broker);
    let quarterly = Schedule::new("hourly", "*/15 * * * *", "UTC", &Tick {}).catch_up(CatchUp::All);
    let running = with(quarterly, &ran, &broker).await;
    pass(3600).await;
    running.stop().await.unwrap();
    // A time in the minute before counts as late and is published.
    let wanted: Vec<_> = (0..=5).map(|n| (began / 900 + n) * 900).filter(|at| *at + 60 >= began).take(4).collect();
    assert_eq!(times(&ran)[..4], wanted);
    assert_eq!(last_token(&broker).await.expression, "*/15 * * * *");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_far_ahead_does_not_silence_the_schedule() {
    let (broker, ran) = (Broker::memory(), Ran::default());
    once(hourly(), &ran, &broker).await;
    let token = last_token(&broker).await;
    let (began, year) = (secs(&broker), 365 * 24 * 3600 * 1000);
    let wrong = Token { epoch: token.epoch + 1, settled_until: token.settled_until + year, ..token };
    let message = Message::new(TOKEN, &JobId::mint(), serde_json::to_vec(&wrong).unwrap(), broker.now_ms());
    let target = Target::Schedule("token", "hourly".to_owned());
    broker.send(&target, Box::new(message), false).await.unwrap();
    let running = with(hourly(), &ran, &broker).await;
    pass(3 * 3600).await;
    running.stop().await.unwrap();
    assert_eq!(times(&ran), hours(began, 3));
}

#[tokio::test(start_paused = true)]
async fn a_request_publishes_once_in_addition_to_the_times() {
    let (broker, ran) = (Broker::memory(), Ran::default());
    let publisher = broker.publisher();
    publisher.run_schedule("hourly").await.unwrap_err();
    once(hourly(), &ran, &broker).await;
    // The request waits for a worker.
    let asked = publisher.run_schedule("hourly").await.unwrap();
    let running = with(hourly(), &ran, &broker).await;
    let began = secs(&broker);
    pass(2 * 3600).await;
    running.stop().await.unwrap();
    assert_eq!(ran.lock().unwrap().iter().filter(|(id, _)| id == asked.as_str()).count(), 1);
    assert_eq!(times(&ran)[1..], hours(began, 2));
}

#[tokio::test(start_paused = true)]
async fn a_unique_job_of_a_schedule_is_published_whenever_its_key_is_free() {
    let (broker, ran) = (Broker::memory(), Ran::default());
    let publisher = broker.publisher();
    // This store is not notified of the end of a job, so the key stays taken until it expires.
    let unique = hourly_of(NewJob::of(&Tick {}).unique("k", Duration::from_secs(90 * 60)));
    let worker = Worker::new(Arc::clone(&ran)).unique_in(Arc::new(crate::publish::unique::InMemory::default()));
    let running = start(worker.handle(tick).schedule(unique), &broker).await.unwrap();
    let began = secs(&broker);
    pass(6 * 3600).await;
    let every_other: Vec<_> = hours(began, 6).into_iter().step_by(2).collect();
    assert_eq!(times(&ran), every_other);
    // A request that finds the key taken is settled, too.
    pass(3600).await;
    publisher.run_schedule("hourly").await.unwrap();
    pass(3 * 3600).await;
    running.stop().await.unwrap();
    assert_eq!(times(&ran).len(), 5);
    let fires = r#"leveret_schedule_fires_total{schedule="hourly"} 5"#;
    assert!(broker.metrics_text().contains(fires), "{}", broker.metrics_text());
}

#[tokio::test(start_paused = true)]
async fn a_missing_queue_delays_jobs_and_loses_none() {
    let (broker, ran) = (Broker::memory(), Ran::default());
    let elsewhere = hourly_of(NewJob::of(&Tick {}).queue("later")).catch_up(CatchUp::All);
    let running = with(elsewhere, &ran, &broker).await;
    let began = secs(&broker);
    pass(3 * 3600).await;
    assert!(times(&ran).is_empty());
    let later = start(Worker::new(Arc::clone(&ran)).handle_with(tick, |h| h.queue("later")), &broker).await.unwrap();
    pass(60).await;
    running.stop().await.unwrap();
    later.stop().await.unwrap();
    // The last minute may have an hour's beginning too.
    assert_eq!(times(&ran)[..3], hours(began, 3));
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Laned {}

impl Job for Laned {
    const NAME: &'static str = "laned";
    const QUEUE: &'static str = "laned";
    const LANES: bool = true;
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_job_is_published_as_it_would_be_without_a_schedule() {
    type Options = fn(NewJob) -> NewJob;
    let table: [(Options, &str); 13] = [
        (|new| new, "laned"),
        (|new| new.priority(9), "laned.high"),
        (|new| new.priority(0), "laned.low"),
        (|new| new.priority(9).queue("other"), "other"),
        (|new| new.queue("other").lanes().priority(9), "other.high"),
        (|new| new.priority(9).delay(Duration::from_secs(60)), "laned.high"),
        (|new| new.at(SystemTime::UNIX_EPOCH).priority(1), "laned.low"),
        (|new| new.expires(Duration::from_secs(60)), "laned"),
        (|new| new.track(), "laned"),
        (|new| new.label("nightly"), "laned"),
        (|new| new.correlation_id("cart"), "laned"),
        (|new| new.content_type("text/json"), "laned"),
        (|new| new.header("tenant", "acme").header("copies", 2), "laned"),
    ];
    let (broker, id, at) = (Broker::memory(), JobId::from("a"), 1_800_000_000_000);
    for (number, (options, queue)) in table.into_iter().enumerate() {
        let new = options(NewJob::of(&Laned {}));
        let schedule = Schedule::new("laned", "@daily", "UTC", new.clone());
        let now = broker.now_ms();
        let (_, to, mut scheduled) = schedule.job(&id, at).into_message(1024, now).unwrap();
        let (_, target, mut message) = new.id("a").into_message(1024, now).unwrap();
        scheduled.remove_header(header::FIRED_AT);
        // Random, so it differs between publishes.
        scheduled.remove_header(header::ORIGIN);
        message.remove_header(header::ORIGIN);
        assert_eq!((&to, to.queue()), (&target, queue), "{number}");
        assert_eq!((scheduled.properties, scheduled.body), (message.properties, message.body), "{number}");
    }
}

#[tokio::test]
async fn an_invalid_schedule_prevents_the_start_and_is_named() {
    let broker = Broker::memory();
    let error_of =
        async |worker: Worker<Ran>| worker.handle(tick).run(&broker, async {}).await.unwrap_err().to_string();
    let worker = || Worker::new(Ran::default());
    let error = error_of(worker().cron("0 25 * * *", "UTC", &Tick {})).await;
    assert!(error.contains("\"tick\"") && error.contains("0 25 * * *"), "{error}");
    let error = error_of(worker().cron("@daily", "Europe/Atlantis", &Tick {})).await;
    assert!(error.contains("\"Europe/Atlantis\""), "{error}");
    let error = error_of(worker().cron("0 0 30 2 *", "UTC", &Tick {})).await;
    assert!(error.contains("never fires"), "{error}");
    let error = error_of(worker().cron("@daily", "UTC", &Tick {}).cron("@hourly", "UTC", &Tick {})).await;
    assert!(error.contains("two schedules with this name"), "{error}");
    let error = error_of(worker().schedule(Schedule::new("Big Name", "@daily", "UTC", &Tick {}))).await;
    assert!(error.contains("[a-z0-9_.-]"), "{error}");
    let unique = NewJob::of(&Tick {}).unique("k", Duration::from_secs(60));
    let error = error_of(worker().schedule(hourly_of(unique))).await;
    assert!(error.contains("\"hourly\"") && error.contains("Worker::unique_in"), "{error}");
    let error = error_of(worker().schedule(hourly_of(NewJob::of(&Tick {}).priority(99)))).await;
    assert!(error.contains("priority"), "{error}");
    let error = error_of(worker().schedule(hourly_of(NewJob::of(&Tick {}).id("always")))).await;
    assert!(error.contains("\"hourly\"") && error.contains("remove the id"), "{error}");
}
