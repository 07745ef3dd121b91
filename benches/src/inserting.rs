//! The scenario of batches: jobs that become rows of PostgreSQL, in batches and one by one.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use leveret::{Batch, Batching, Broker, Config, Context, JobResult, Queue, Worker};
use leveret_harness::shared_postgres;
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{
    assignment::{Assignment, Insert, Mail},
    bench::Bench,
    broker::Kind,
    contest::{contest, measure},
    measures::Table,
    meter::Meter,
};

pub(crate) const SCENARIO: &str = "batches: 100,000 rows of 200 B into PostgreSQL, 4 connections";
pub(crate) const IN_BATCHES: &str = "leveret, batches of 100";
pub(crate) const ONE_BY_ONE: &str = "leveret, one by one";
/// Connections, and so the statements at once.
const CONNECTIONS: u16 = 4;

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Table>> {
    let contestants = [(IN_BATCHES, Some(100)), (ONE_BY_ONE, None)];
    let table = contest(bench, SCENARIO, &contestants, async |batch| {
        let broker = bench.broker()?;
        let (queue, jobs) = (broker.queue(Kind::Quorum).await?, bench.jobs(100_000));
        broker.fill(&queue, jobs, 200).await?;
        let database = shared_postgres().await.database().await;
        let insert = Insert { url: broker.url().to_owned(), database, queue: queue.clone(), jobs, batch };
        let sample = measure(&Assignment::Insert(insert), Some(broker)).await;
        broker.delete(&queue, sample.is_ok()).await?;
        sample
    });
    Ok(vec![table.await?])
}

/// The state of the worker.
struct Rows {
    rows: PgPool,
    meter: Arc<Meter>,
}

/// Inserts a row for each job, until all jobs are done.
pub(crate) async fn insert(assignment: Insert, meter: Arc<Meter>) -> Result<()> {
    let rows = PgPoolOptions::new().max_connections(CONNECTIONS.into()).connect(&assignment.database).await?;
    sqlx::query("CREATE TABLE mails (number BIGINT PRIMARY KEY, recipient TEXT NOT NULL, body TEXT NOT NULL)")
        .execute(&rows)
        .await?;
    let broker = Broker::amqp(Config { amqp_url: vec![assignment.url], ..Config::default() })?;
    let worker = Worker::new(Rows { rows: rows.clone(), meter: Arc::clone(&meter) })
        .queue(Queue::new(assignment.queue.as_str()).concurrency(CONNECTIONS));
    let worker = match assignment.batch {
        Some(size) => {
            let batching = Batching::up_to(size).within(Duration::from_millis(50));
            worker.handle_batch_with(batching, insert_batch, |h| h.queue(&assignment.queue))
        }
        None => worker.handle_with(insert_one, |h| h.queue(&assignment.queue)),
    };
    worker.run(&broker, async move { meter.finished().await }).await?;
    broker.close().await;
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM mails").fetch_one(&rows).await?;
    anyhow::ensure!(stored == i64::try_from(assignment.jobs)?, "{stored} of {} rows were stored", assignment.jobs);
    Ok(())
}

const INSERT_ONE: &str = "INSERT INTO mails VALUES ($1, $2, $3) ON CONFLICT (number) DO NOTHING";
const INSERT_MANY: &str = "INSERT INTO mails SELECT * FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::TEXT[]) \
                           ON CONFLICT (number) DO NOTHING";

async fn insert_one(mail: Mail, ctx: Context<Rows>) -> JobResult {
    let number = i64::try_from(mail.number)?;
    sqlx::query(INSERT_ONE).bind(number).bind(mail.to).bind(mail.body).execute(&ctx.state().rows).await?;
    ctx.state().meter.count(mail.sent_us);
    Ok(())
}

async fn insert_batch(batch: Batch<Mail, Rows>) -> JobResult {
    let (mut numbers, mut recipients, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    for job in &batch {
        numbers.push(i64::try_from(job.payload().number)?);
        recipients.push(job.payload().to.as_str());
        bodies.push(job.payload().body.as_str());
    }
    let insert = sqlx::query(INSERT_MANY).bind(numbers).bind(recipients).bind(bodies);
    insert.execute(&batch.state().rows).await?;
    batch.iter().for_each(|job| batch.state().meter.count(job.payload().sent_us));
    Ok(())
}
