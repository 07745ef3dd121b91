//! The writers and relays that the test kills.

use std::time::{Duration, SystemTime};

use leveret::NewJob;
use leveret_sql::{Outbox, Relay};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::outbox::stage::{Pool, broker};

/// The variable with the orders of this test binary as a child process.
pub(super) const CHILD: &str = "LEVERET_OUTBOX_CHILD";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Writer,
    Relay,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) role: Role,
    pub(super) slot: usize,
    pub(super) seed: u64,
    pub(super) url: String,
    pub(super) amqp: String,
    pub(super) queue: String,
}

/// Runs only in the child processes, until they are killed.
#[tokio::test]
async fn child_that_is_killed() {
    let Ok(orders) = std::env::var(CHILD) else {
        return;
    };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let pool = Pool::open(&orders.url).await;
    match orders.role {
        Role::Writer => write(&orders, &pool).await,
        Role::Relay => {
            let relay = Relay::new(pool.outbox(), &broker(&orders.amqp));
            // Short, so that the other relays claim the rows of a killed one while they still run.
            relay.lease(Duration::from_secs(1)).batch(50).run(std::future::pending()).await.unwrap();
        }
    }
}

/// Runs transactions of a few jobs each, and rolls one in four back.
async fn write(orders: &Orders, pool: &Pool) {
    let mut random = fastrand::Rng::with_seed(orders.seed);
    let mut number = 0;
    loop {
        let mut jobs = Vec::new();
        for _ in 0..random.usize(1..40) {
            number = next(number, orders.slot);
            let key = random.bool().then(|| format!("{} {}", orders.slot, random.u8(..5)));
            jobs.push((number, key));
        }
        let commits = random.u8(..4) > 0;
        match pool {
            Pool::Postgres(pool) => {
                let mut tx = pool.begin().await.unwrap();
                let notes = enqueue(&mut tx, orders, &jobs).await;
                sqlx::raw_sql(sqlx::AssertSqlSafe(notes)).execute(&mut *tx).await.unwrap();
                if commits { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
            }
            Pool::Sqlite(pool) => {
                let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
                let notes = enqueue(&mut tx, orders, &jobs).await;
                sqlx::raw_sql(sqlx::AssertSqlSafe(notes)).execute(&mut *tx).await.unwrap();
                if commits { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
            }
        }
        if !commits {
            eprintln!("rolled back");
        }
        sleep(Duration::from_millis(random.u64(..8))).await;
    }
}

/// Returns a number that no other job has, larger than all earlier ones of this slot.
fn next(last: i64, slot: usize) -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let number = since.as_micros() as i64 * 10 + slot as i64;
    if number > last { number } else { last + 10 }
}

/// Enqueues the jobs, and returns the statement that notes them.
async fn enqueue(on: &mut impl leveret_sql::Connection, orders: &Orders, jobs: &[(i64, Option<String>)]) -> String {
    let entry = |(number, key): &(i64, Option<String>)| {
        (key.clone(), NewJob::raw("test.job", orders.queue.clone(), number.to_string()))
    };
    let ids = Outbox::enqueue_all_ordered(on, jobs.iter().map(entry)).await.unwrap();
    let note = |(id, (number, key)): (&leveret::JobId, &(i64, Option<String>))| {
        let key = key.as_ref().map_or("NULL".to_owned(), |key| format!("'{key}'"));
        format!("({number}, '{id}', {key})")
    };
    let notes: Vec<_> = ids.iter().zip(jobs).map(note).collect();
    format!("INSERT INTO notes (number, id, order_key) VALUES {}", notes.join(", "))
}
