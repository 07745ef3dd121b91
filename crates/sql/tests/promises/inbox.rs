//! A job has its effect once, however often it is delivered.

mod crash;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use leveret::{Broker, Config, Context, Job, JobOutput, JobResult, Queue, RetryPolicy, Worker, testing};
use leveret_harness::{Database, eventually, eventually_eq};
use leveret_sql::{Error, Inbox};
use serde::{Deserialize, Serialize};
use sqlx::Row;

use crate::outbox::stage::{LONG, Pool};

leveret_harness::on_both_databases! {
    a_job_that_comes_again_is_a_duplicate_without_effect,
    what_is_rolled_back_is_done_when_it_is_tried_again,
    of_copies_that_run_at_once_one_has_its_effect,
    ids_are_noted_byte_for_byte_and_by_queue,
    what_was_done_long_ago_is_forgotten,
    a_database_without_an_inbox_says_how_to_make_one,
    a_request_that_comes_again_gets_the_result_of_the_run_that_had_the_effect,
}

/// Adds a line to the ledger.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    number: i64,
    /// Fails in the first attempt, after its effect.
    fails: bool,
}

impl Job for Line {
    const NAME: &'static str = "ledger.line";
    const QUEUE: &'static str = "ledger";
}

impl JobOutput for Line {
    type Output = i64;
}

async fn line(job: Line, ctx: Context<Pool>) -> JobResult {
    enter(ctx.state(), &job, &ctx).await
}

/// Has the effect, in a transaction with the record.
async fn enter<S>(pool: &Pool, job: &Line, ctx: &Context<S>) -> JobResult {
    const EFFECT: &str = "INSERT INTO ledger (number) VALUES ($1)";
    macro_rules! once {
        ($tx:expr) => {{
            let mut tx = $tx;
            Inbox::once(&mut tx, ctx).await?;
            sqlx::query(EFFECT).bind(job.number).persistent(false).execute(&mut *tx).await?;
            if job.fails && ctx.attempt() == 1 {
                return Err("out of ink".into());
            }
            Ok(tx.commit().await?)
        }};
    }
    match pool {
        Pool::Postgres(pool) => once!(pool.begin().await?),
        Pool::Sqlite(pool) => once!(pool.begin_with("BEGIN IMMEDIATE").await?),
    }
}

/// Makes a ledger and an inbox in a database.
async fn ledger(database: &Database) -> (Pool, Inbox) {
    let pool = Pool::open(&database.url).await;
    pool.run("CREATE TABLE ledger (number BIGINT NOT NULL)").await;
    let inbox = match &pool {
        Pool::Postgres(pool) => Inbox::migrate(pool).await,
        Pool::Sqlite(pool) => Inbox::migrate(pool).await,
    };
    (pool, inbox.unwrap())
}

/// Counts each number in the ledger.
async fn lines(pool: &Pool) -> BTreeMap<i64, i64> {
    let text = "SELECT number, count(*) FROM ledger GROUP BY number";
    match pool {
        Pool::Postgres(pool) => {
            let mut tx = pool.begin().await.unwrap();
            let lines = sqlx::query(text).persistent(false);
            lines.fetch_all(&mut *tx).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
        }
        Pool::Sqlite(pool) => {
            sqlx::query(text).fetch_all(pool).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
        }
    }
}

fn worker(pool: &Pool) -> Worker<Pool> {
    let retry = RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(3);
    Worker::new(pool.clone()).queue(Queue::new("ledger").concurrency(4).retry(retry)).handle(line)
}

/// Counts the jobs with this outcome.
fn ended(broker: &Broker, outcome: &str) -> u64 {
    let name = format!(r#"leveret_jobs_finished_total{{job="ledger.line",outcome="{outcome}",queue="ledger"}} "#);
    let text = broker.metrics_text();
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

async fn a_job_that_comes_again_is_a_duplicate_without_effect(database: Database) {
    let (pool, inbox) = ledger(&database).await;
    let broker = Broker::memory();
    let running = testing::start(worker(&pool), &broker).await.unwrap();
    for number in [1, 1, 2, 1] {
        let publish = broker.publisher().publish(&Line { number, fails: false }).id(format!("line-{number}"));
        publish.await.unwrap();
    }
    eventually_eq("all have ended", LONG, (2, 2), async || (ended(&broker, "succeeded"), ended(&broker, "duplicate")))
        .await;
    running.stop().await.unwrap();
    assert_eq!(lines(&pool).await, BTreeMap::from([(1, 1), (2, 1)]));
    assert_eq!(inbox.status().await.unwrap().jobs, 2);
}

/// The first promise again, for a database behind a pooler.
pub(crate) async fn is_done_once_through(url: &str) {
    a_job_that_comes_again_is_a_duplicate_without_effect(Database::at(url.to_owned())).await;
}

async fn a_request_that_comes_again_gets_the_result_of_the_run_that_had_the_effect(database: Database) {
    async fn count(job: Line, ctx: Context<Pool>) -> JobResult<i64> {
        const EFFECT: &str = "INSERT INTO ledger (number) VALUES ($1)";
        const COUNT: &str = "SELECT count(*) FROM ledger";
        macro_rules! once {
            ($tx:expr) => {{
                let mut tx = $tx;
                Inbox::once(&mut tx, &ctx).await?;
                sqlx::query(EFFECT).bind(job.number).persistent(false).execute(&mut *tx).await?;
                let lines: i64 = sqlx::query_scalar(COUNT).persistent(false).fetch_one(&mut *tx).await?;
                Inbox::finish(&mut tx, &ctx, &lines).await?;
                tx.commit().await?;
                Ok(lines)
            }};
        }
        match ctx.state() {
            Pool::Postgres(pool) => once!(pool.begin().await?),
            Pool::Sqlite(pool) => once!(pool.begin_with("BEGIN IMMEDIATE").await?),
        }
    }
    let (pool, _) = ledger(&database).await;
    let broker = Broker::memory();
    let running = testing::start(Worker::new(pool.clone()).handle(count), &broker).await.unwrap();
    for (id, lines_then) in [("a", 1), ("b", 2), ("a", 1), ("b", 2)] {
        let lines = broker.publisher().request(&Line { number: 7, fails: false }).id(id).await.unwrap();
        assert_eq!(lines, lines_then, "{id}");
    }
    running.stop().await.unwrap();
    assert_eq!(lines(&pool).await, BTreeMap::from([(7, 2)]));
}

async fn what_is_rolled_back_is_done_when_it_is_tried_again(database: Database) {
    let (pool, _) = ledger(&database).await;
    let broker = Broker::memory();
    let running = testing::start(worker(&pool), &broker).await.unwrap();
    broker.publisher().publish(&Line { number: 1, fails: true }).await.unwrap();
    eventually_eq("it is done", LONG, (1, 1), async || (ended(&broker, "retried"), ended(&broker, "succeeded"))).await;
    running.stop().await.unwrap();
    assert_eq!(lines(&pool).await, BTreeMap::from([(1, 1)]));
}

async fn of_copies_that_run_at_once_one_has_its_effect(database: Database) {
    let (pool, _) = ledger(&database).await;
    let broker = Broker::memory();
    let running = testing::start(worker(&pool), &broker).await.unwrap();
    let lines_of = |number| (0..8).map(move |_| Line { number, fails: false });
    for job in (0..20).flat_map(lines_of) {
        broker.publisher().publish(&job).id(job.number.to_string()).await.unwrap();
    }
    eventually_eq("all have ended", LONG, (20, 140), async || {
        (ended(&broker, "succeeded"), ended(&broker, "duplicate"))
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(lines(&pool).await, (0..20).map(|number| (number, 1)).collect());
}

async fn ids_are_noted_byte_for_byte_and_by_queue(database: Database) {
    let (pool, inbox) = ledger(&database).await;
    let broker = Broker::memory();
    let worker = Worker::new(pool.clone()).handle(line).handle_with(line, |h| h.queue("elsewhere"));
    let running = testing::start(worker, &broker).await.unwrap();
    for id in ["a\0", "a\u{fffd}", "a", "A"] {
        for queue in ["ledger", "elsewhere"] {
            broker.publisher().publish(&Line { number: 1, fails: false }).id(id).queue(queue).await.unwrap();
        }
    }
    eventually("all are recorded", LONG, async || inbox.status().await.unwrap().jobs == 8).await;
    running.stop().await.unwrap();
    assert_eq!(lines(&pool).await, BTreeMap::from([(1, 8)]));
}

async fn what_was_done_long_ago_is_forgotten(database: Database) {
    let (pool, inbox) = ledger(&database).await;
    let old = "INSERT INTO leveret_inbox (queue, job_id, done_at) VALUES";
    let rows: Vec<_> = (0..2500).map(|number| format!("('q', '{number}', 1000)")).collect();
    pool.run(&format!("{old} {}", rows.join(", "))).await;
    let broker = Broker::memory_with(Config::default());
    let running = testing::start(worker(&pool), &broker).await.unwrap();
    broker.publisher().publish(&Line { number: 1, fails: false }).await.unwrap();
    eventually_eq("it is recorded", LONG, 2501, async || inbox.status().await.unwrap().jobs).await;
    running.stop().await.unwrap();
    assert_eq!(inbox.status().await.unwrap().oldest_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
    assert_eq!(inbox.prune(Duration::from_secs(3600)).await.unwrap(), 2500);
    assert_eq!(inbox.status().await.unwrap().jobs, 1);
}

async fn a_database_without_an_inbox_says_how_to_make_one(database: Database) {
    let inbox = match Pool::open(&database.url).await {
        Pool::Postgres(pool) => Inbox::new(&pool),
        Pool::Sqlite(pool) => Inbox::new(&pool),
    };
    let error = inbox.status().await.unwrap_err();
    assert!(matches!(error, Error::NoTables { part: "inbox" }), "{error:?}");
    assert!(error.to_string().contains("leveret inbox migrate"));
}
