//! A halted database: connections stay open, and no statement is answered.

use std::time::Duration;

use leveret::{Broker, Context, Job, JobResult, Worker, testing};
use leveret_harness::{Postgres, Proxy, eventually, shared_postgres};
use leveret_sql::{Error, Inbox, Outbox, SetAsideSelection};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Row};
use tokio::time::timeout;

use super::stage::{LONG, Stage, broker, run};
use leveret_harness::Database;

#[tokio::test]
async fn a_halted_database_is_reported_in_time_and_the_relay_continues_when_it_is_back() {
    let postgres = Postgres::start().await;
    let mut stage = Stage::new(Database::at(postgres.database().await)).await;
    stage.outbox = stage.outbox.statement_timeout(Duration::from_secs(1));
    let relay = run(stage.relay());
    stage.pool.enqueue(stage.entry("before")).await;
    assert_eq!(stage.take(1).await[0].1, "before");
    stage.drained().await;
    let inbox = Inbox::migrate(&stage.pool.inbox()).await.unwrap().statement_timeout(Duration::from_secs(1));

    let halted = postgres.halt();
    let (all, hour) = (SetAsideSelection::All, Duration::from_secs(3600));
    let outbox = async { tokio::join!(stage.outbox.status(), stage.outbox.retry(&all), stage.outbox.prune(hour)) };
    let inbox = async { tokio::join!(inbox.status(), inbox.prune(hour), Inbox::migrate(&inbox)) };
    let opened = Outbox::open(&stage.database.url);
    let each = timeout(LONG, Box::pin(async { tokio::join!(outbox, inbox, opened) }));
    let (outbox, inbox, opened) = each.await.expect("each is reported in time");
    let errors = [outbox.0.unwrap_err(), outbox.1.unwrap_err(), outbox.2.unwrap_err(), inbox.0.unwrap_err()];
    let rest = [inbox.1.unwrap_err(), inbox.2.unwrap_err(), opened.unwrap_err()];
    for error in errors.into_iter().chain(rest) {
        assert!(error.is_unavailable(), "{error:?}");
    }
    drop(halted);

    eventually("the database is back", LONG, async || stage.outbox.status().await.is_ok()).await;
    stage.pool.enqueue(stage.entry("after")).await;
    assert_eq!(stage.take(1).await[0].1, "after");
    stage.drained().await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_relay_whose_statement_is_never_answered_goes_on_with_another_connection() {
    let url = shared_postgres().await.database().await;
    let stage = Stage::new(Database::at(url.clone())).await;
    let (proxy, direct) = (Proxy::start(&url).await, PgPool::connect(&url).await.unwrap());
    let through = PgPool::connect(proxy.url()).await.unwrap();
    let outbox = Outbox::new(&through).statement_timeout(Duration::from_secs(1));
    let relay = run(leveret_sql::Relay::new(&outbox, &broker(&stage.amqp)));
    stage.pool.enqueue(stage.entry("before")).await;
    assert_eq!(stage.take(1).await[0].1, "before");
    stage.drained().await;

    let mut holding = direct.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE leveret_outbox IN ACCESS EXCLUSIVE MODE").execute(&mut *holding).await.unwrap();
    eventually("the relay waits for an answer", LONG, async || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        let waiting: i64 = sqlx::query(sql).fetch_one(&mut *holding).await.unwrap().get(0);
        waiting > 0
    })
    .await;
    proxy.strand();
    holding.commit().await.unwrap();
    stage.pool.enqueue(stage.entry("after")).await;
    assert_eq!(stage.take(1).await[0].1, "after");
    stage.drained().await;
    relay.stop().await.unwrap();
}

#[derive(Serialize, Deserialize)]
struct Note;

impl Job for Note {
    const NAME: &'static str = "halted.note";
    const QUEUE: &'static str = "halted";
}

#[tokio::test]
async fn what_is_asked_in_a_transaction_of_a_halted_database_ends_in_time_and_is_rolled_back() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    let (outbox, inbox) = (Outbox::migrate(&pool).await.unwrap(), Inbox::migrate(&pool).await.unwrap());
    let (mut plain, mut ordered) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    // A transaction has begun when its first statement is answered.
    Outbox::enqueue(&mut plain, &Note).await.unwrap();
    let halted = postgres.halt();
    // The test awaits nothing else, so the paused clock advances to the limit at once.
    tokio::time::pause();
    let again = timeout(10 * LONG, Outbox::enqueue(&mut plain, &Note)).await.expect("there is a limit").unwrap_err();
    let keyed = Outbox::enqueue_ordered(&mut ordered, "k", &Note);
    let keyed = timeout(10 * LONG, keyed).await.expect("there is a limit").unwrap_err();
    tokio::time::resume();
    assert!(matches!((&again, &keyed), (Error::Silent, Error::Silent)), "{again:?} {keyed:?}");
    drop((plain, ordered, halted));
    eventually("all was rolled back", LONG, async || outbox.status().await.is_ok_and(|status| status.pending == 0))
        .await;
    assert_eq!(inbox.status().await.unwrap().jobs, 0);
}

async fn note(_: Note, ctx: Context<(PgPool, Postgres)>) -> JobResult {
    let (pool, postgres) = ctx.state();
    let mut tx = pool.begin().await?;
    let halted = (ctx.attempt() == 1).then(|| postgres.halt());
    tokio::time::pause();
    let noted = timeout(10 * LONG, Inbox::once(&mut tx, &ctx)).await;
    tokio::time::resume();
    drop(halted);
    noted.map_err(|_| "there is no limit")??;
    Ok(tx.commit().await?)
}

#[tokio::test]
async fn a_job_whose_note_gets_no_answer_is_tried_again_and_done_once() {
    let postgres = Postgres::start().await;
    let pool = PgPool::connect(&postgres.database().await).await.unwrap();
    let inbox = Inbox::migrate(&pool).await.unwrap();
    let broker = Broker::memory();
    let retry = leveret::RetryPolicy::fixed(Duration::from_millis(10)).max_attempts(3);
    let queue = leveret::Queue::new("halted").retry(retry);
    let running = testing::start(Worker::new((pool, postgres)).queue(queue).handle(note), &broker).await.unwrap();
    broker.publisher().publish(&Note).await.unwrap();
    let ended = |outcome: &str| {
        let line = format!(r#"leveret_jobs_finished_total{{job="halted.note",outcome="{outcome}",queue="halted"}} 1"#);
        broker.metrics_text().lines().any(|text| text == line)
    };
    eventually("it was retried and is done", LONG, async || ended("retried") && ended("succeeded")).await;
    assert_eq!(inbox.status().await.unwrap().jobs, 1);
    running.stop().await.unwrap();
}
