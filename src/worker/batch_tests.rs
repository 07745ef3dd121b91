//! Batches on the in-memory broker.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{
    Batch, Batching, Broker, CircuitBreaker, Context, ErrorKind, Job, JobError, JobResult, Outcome, Queue, RetryPolicy,
    Worker,
    testing::{dead_letters, idle, perform, start},
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
struct Row(u32);

impl Job for Row {
    const NAME: &'static str = "row";
    const QUEUE: &'static str = "rows";
}

#[derive(Serialize, Deserialize)]
struct Other;

impl Job for Other {
    const NAME: &'static str = "other";
    const QUEUE: &'static str = "rows";
}

async fn other(_: Other, _: Context<Table>) -> JobResult {
    Ok(())
}

/// The jobs that the handler got, and the rows that it inserted.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<Inserted>>);

#[derive(Default)]
struct Inserted {
    rows: Vec<u32>,
    /// For each batch its size, the number of others that ran at its start, and the time.
    batches: Vec<(usize, usize, Instant)>,
    running: usize,
}

impl Table {
    fn rows(&self) -> Vec<u32> {
        let mut rows = self.0.lock().unwrap().rows.clone();
        rows.sort_unstable();
        rows
    }

    fn sizes(&self) -> Vec<usize> {
        self.0.lock().unwrap().batches.iter().map(|(size, ..)| *size).collect()
    }
}

/// Rows from 10,000 on are bad in their own way. Row 13 fails its whole batch.
async fn insert(batch: Batch<Row, Table>) -> JobResult {
    let table = batch.state().clone();
    {
        let mut inserted = table.0.lock().unwrap();
        let entry = (batch.len(), inserted.running, Instant::now());
        inserted.batches.push(entry);
        inserted.running += 1;
    }
    sleep(Duration::from_millis(10)).await;
    table.0.lock().unwrap().running -= 1;
    let mut rows = Vec::new();
    for job in &batch {
        match job.payload().0 {
            13 => return Err("row 13".into()),
            666 => return Err(JobError::permanent("row 666")),
            777 => panic!("row 777"),
            888 => std::future::pending().await,
            row @ 10_000.. => job.fail(JobError::permanent(format!("row {row}"))),
            row => rows.push(row),
        }
    }
    table.0.lock().unwrap().rows.extend(rows);
    Ok(())
}

fn hundred() -> Batching {
    Batching::up_to(100).within(SECOND)
}

fn queue() -> Queue {
    Queue::new("rows").concurrency(2).timeout(10 * SECOND).retry(RetryPolicy::fixed(SECOND).max_attempts(6))
}

fn worker(table: &Table) -> Worker<Table> {
    Worker::new(table.clone()).queue(queue()).handle_batch(hundred(), insert)
}

async fn publish(broker: &Broker, rows: impl IntoIterator<Item = u32>) {
    let rows: Vec<_> = rows.into_iter().map(Row).collect();
    for published in broker.publisher().publish_all(&rows).await {
        published.unwrap();
    }
}

/// The rows that were inserted and the dead letters, after these rows were published to a worker.
async fn after(rows: impl IntoIterator<Item = u32>) -> (Table, Vec<(Option<ErrorKind>, String, u32)>) {
    let (broker, table) = (Broker::memory(), Table::default());
    let running = start(worker(&table), &broker).await.unwrap();
    publish(&broker, rows).await;
    idle(&broker).await;
    running.stop().await.unwrap();
    let letters = dead_letters(&broker, "rows").await.unwrap();
    let letters = letters.iter().map(|letter| (letter.kind, letter.reason.clone(), letter.attempt)).collect();
    (table, letters)
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_jobs_the_one_that_fails_its_batches_is_the_only_dead_letter() {
    const BAD: [(u32, ErrorKind, u32); 4] = [
        (13, ErrorKind::Error, 6),
        (666, ErrorKind::Permanent, 4),
        (777, ErrorKind::Panic, 6),
        (888, ErrorKind::Timeout, 6),
    ];
    let good: Vec<_> = (0..1_003).filter(|row| BAD.iter().all(|(bad, ..)| bad != row)).collect();
    assert_eq!(good.len(), 999);
    for (bad, kind, attempts) in BAD {
        let (table, letters) = after(good.iter().copied().chain([bad])).await;
        assert_eq!(table.rows(), good, "each once");
        assert_eq!((letters.len(), letters[0].0), (1, Some(kind)), "{letters:?}");
        // A batch of up to 6 may be of one already.
        let earliest = if kind == ErrorKind::Permanent { attempts - 1 } else { attempts };
        assert!((earliest..=attempts).contains(&letters[0].2), "{letters:?}");
        let sizes = table.sizes();
        assert!([100, 25, 6, 1].iter().all(|size| sizes.contains(size)), "{sizes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_handler_says_of_a_job_concerns_this_job_alone() {
    let (table, letters) = after([1, 2, 10_001, 3]).await;
    assert_eq!((table.rows(), table.sizes()), (vec![1, 2, 3], vec![4]));
    assert_eq!(letters, [(Some(ErrorKind::Permanent), "row 10001".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_full_runs_when_its_time_is_over_and_a_full_one_at_once() {
    let (broker, table) = (Broker::memory(), Table::default());
    let running = start(worker(&table), &broker).await.unwrap();
    let began = Instant::now();
    publish(&broker, 100..203).await;
    idle(&broker).await;
    running.stop().await.unwrap();
    let batches = table.0.lock().unwrap().batches.clone();
    let took: Vec<_> =
        batches.iter().map(|(size, _, at)| (*size, at.duration_since(began).as_millis() / 100)).collect();
    assert_eq!(took, [(100, 0), (3, 10)]);
}

#[tokio::test(start_paused = true)]
async fn so_many_batches_run_at_once_as_the_queue_has_concurrency() {
    let rows: Vec<_> = (0..600).filter(|row| *row != 13).collect();
    let (table, letters) = after(rows.clone()).await;
    let batches = table.0.lock().unwrap().batches.clone();
    assert!(batches.iter().all(|(size, others, _)| *size <= 100 && *others < 2), "{batches:?}");
    assert!(batches.iter().any(|(_, others, _)| *others == 1), "{batches:?}");
    assert_eq!((table.rows(), letters.len()), (rows, 0));
}

#[tokio::test(start_paused = true)]
async fn jobs_of_the_suspect_queue_run_alone() {
    let (broker, table) = (Broker::memory(), Table::default());
    let running = start(worker(&table), &broker).await.unwrap();
    for row in 0..3 {
        broker.publisher().publish(&Row(row)).queue("rows.suspect").await.unwrap();
    }
    idle(&broker).await;
    running.stop().await.unwrap();
    assert_eq!((table.rows(), table.sizes()), (vec![0, 1, 2], vec![1, 1, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_stop_runs_the_batch_that_is_gathered_at_once() {
    let (broker, table) = (Broker::memory(), Table::default());
    let hour = Batching::up_to(100).within(9 * SECOND);
    let worker = Worker::new(table.clone()).queue(queue()).handle_batch(hour, insert);
    let running = start(worker, &broker).await.unwrap();
    publish(&broker, 0..3).await;
    sleep(SECOND).await;
    assert_eq!(table.sizes(), Vec::<usize>::new());
    let began = Instant::now();
    running.stop().await.unwrap();
    assert_eq!(table.rows(), [0, 1, 2]);
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert!(dead_letters(&broker, "rows").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_is_in_no_batch() {
    let (broker, table) = (Broker::memory(), Table::default());
    let running = start(worker(&table), &broker).await.unwrap();
    let publisher = broker.publisher();
    publisher.publish(&Row(1)).track().id("cancelled").delay(5 * SECOND).await.unwrap();
    publisher.publish(&Row(2)).track().delay(5 * SECOND).await.unwrap();
    publisher.cancel("cancelled").await.unwrap();
    idle(&broker).await;
    running.stop().await.unwrap();
    assert_eq!((table.rows(), table.sizes()), (vec![2], vec![1]));
}

#[tokio::test(start_paused = true)]
async fn the_failures_of_a_batch_count_against_its_circuit_and_charge_no_attempt_while_it_is_open() {
    async fn fail_at_first(batch: Batch<Row, Table>) -> JobResult {
        let table = batch.state().clone();
        let mut inserted = table.0.lock().unwrap();
        let entry = (batch.len(), 0, Instant::now());
        inserted.batches.push(entry);
        if inserted.batches.len() == 1 {
            return Err("the database is unreachable".into());
        }
        inserted.rows.extend(batch.iter().map(|job| job.payload().0));
        Ok(())
    }
    let (broker, table) = (Broker::memory(), Table::default());
    let worker = Worker::new(table.clone())
        .queue(queue())
        .circuit_breaker(CircuitBreaker::new("db").failures(5).open_for(60 * SECOND))
        .handle_batch_with(hundred(), fail_at_first, |h| h.circuit("db"));
    let running = start(worker, &broker).await.unwrap();
    publish(&broker, 0..100).await;
    idle(&broker).await;
    running.stop().await.unwrap();
    assert_eq!(table.rows(), (0..100).collect::<Vec<_>>());
    let at: Vec<_> = table.0.lock().unwrap().batches.iter().map(|(_, _, at)| *at).collect();
    assert!(at[1].duration_since(at[0]) > 50 * SECOND, "nothing runs while the circuit is open");
    assert!(dead_letters(&broker, "rows").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_the_service_refused_for_one_bad_job_does_not_count_against_its_circuit() {
    async fn refuse(batch: Batch<Row, Table>) -> JobResult {
        let bad = batch.iter().any(|job| job.payload().0 == 666);
        if bad { Err(JobError::permanent("column out of range")) } else { Ok(()) }
    }
    let (broker, began) = (Broker::memory(), Instant::now());
    let worker = Worker::new(Table::default())
        .queue(queue())
        .circuit_breaker(CircuitBreaker::new("db").failures(5).open_for(3600 * SECOND))
        .handle_batch_with(hundred(), refuse, |h| h.circuit("db"));
    let running = start(worker, &broker).await.unwrap();
    publish(&broker, 600..700).await;
    idle(&broker).await;
    running.stop().await.unwrap();
    assert_eq!(dead_letters(&broker, "rows").await.unwrap().len(), 1);
    assert!(began.elapsed() < 1800 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_in_a_test_is_a_batch_of_one() {
    let table = Table::default();
    assert_eq!(perform(worker(&table), &Row(1)).await.unwrap(), Outcome::Done);
    let bad = perform(worker(&table), &Row(666)).await.unwrap();
    assert!(matches!(bad, Outcome::DeadLetter { kind: ErrorKind::Permanent, .. }), "{bad:?}");
    assert_eq!(table.sizes(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_with_impossible_batches_does_not_start_and_says_the_numbers() {
    let with = |queue: Queue| Worker::new(Table::default()).queue(queue).handle_batch(hundred(), insert);
    for (worker, said) in [
        (with(queue().concurrency(21)), "batches of 100, 21 at once: 2100 jobs"),
        (
            with(queue().prefetch(199)),
            "has 199, which is out of range: set 200 (its concurrency of 2, times batches of 100)",
        ),
        (with(queue().retry(RetryPolicy::none())), "batches of 100 and 1 attempts: set at least 4"),
        (with(queue().timeout(SECOND)), "has 1s: set more than 0 and less than its timeout, 1s"),
        (with(queue().timeout(900 * SECOND)), "twice the timeout and the wait for a batch of row is 1802s"),
        (with(queue()).handle(other), "queue \"rows\" has 2 handlers, and one that takes batches must be the only one"),
    ] {
        let error = perform(worker, &Row(1)).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
