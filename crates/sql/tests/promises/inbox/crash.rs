//! Workers are killed between effect and ack.
//!
//! When a worker is killed, the effects of all its jobs are committed and none of them is acked. So the next worker
//! gets all of them again. `LEVERET_INBOX_KILLS=200` sets the number of kills.

use std::process::Command;

use leveret::{Broker, Config, Context, JobResult, Queue, Worker};
use leveret_harness::{Database, Process, RawClient, eventually, eventually_eq, shared_node, unique};
use serde::{Deserialize, Serialize};

use super::{Line, enter, ledger, lines};
use crate::outbox::stage::{LONG, Pool};

leveret_harness::on_both_databases! {
    every_effect_happens_once_though_workers_are_killed_between_it_and_the_ack,
}

/// The variable with the orders of this test binary as a worker.
const CHILD: &str = "LEVERET_INBOX_CHILD";
const KILLS: i64 = 20;
/// The unacknowledged jobs of a worker when it is killed.
const HAND: i64 = 64;

#[derive(Clone, Serialize, Deserialize)]
struct Orders {
    url: String,
    amqp: String,
    queue: String,
    /// True if it never ends a job.
    halts: bool,
}

impl Orders {
    fn spawn(&self) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "inbox::crash::worker_that_is_killed", "--nocapture"]);
        Process::spawn(command.env(CHILD, serde_json::to_string(self).unwrap()))
    }

    fn broker(&self) -> Broker {
        let (amqp_url, http_addr) = (vec![self.amqp.clone()], ([127, 0, 0, 1], 0).into());
        Broker::amqp(Config { amqp_url, http_addr, ..Config::default() }).unwrap()
    }
}

/// Runs only in the child processes, until they are killed.
#[tokio::test]
async fn worker_that_is_killed() {
    let Ok(orders) = std::env::var(CHILD) else {
        return;
    };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let pool = Pool::open(&orders.url).await;
    let concurrency = u16::try_from(HAND).unwrap();
    let queue = Queue::new(&orders.queue).concurrency(concurrency).prefetch(concurrency);
    let worker = Worker::new((pool, orders.halts)).queue(queue).handle_with(line, |h| h.queue(&orders.queue));
    worker.run(&orders.broker(), std::future::pending()).await.unwrap();
}

async fn line(job: Line, ctx: Context<(Pool, bool)>) -> JobResult {
    let (pool, halts) = ctx.state();
    let entered = enter(pool, &job, &ctx).await;
    eprintln!("{}", if entered.is_ok() { "committed" } else { "done before" });
    if *halts && entered.is_ok() {
        std::future::pending::<()>().await;
    }
    entered
}

async fn every_effect_happens_once_though_workers_are_killed_between_it_and_the_ack(database: Database) {
    let (pool, inbox) = ledger(&database).await;
    let (amqp, queue) = (shared_node().await.url(), unique("inbox"));
    let orders = Orders { url: database.url.clone(), amqp, queue, halts: true };
    let publisher = orders.broker().publisher();
    let kills = std::env::var("LEVERET_INBOX_KILLS").ok().map_or(KILLS, |kills| kills.parse().unwrap());
    for round in 0..kills {
        let worker = orders.spawn();
        for number in round * HAND..(round + 1) * HAND {
            let job = Line { number, fails: false };
            let is_published =
                async || publisher.publish(&job).id(number.to_string()).queue(&orders.queue).await.is_ok();
            eventually("the queue is there", LONG, is_published).await;
        }
        let hand = usize::try_from(HAND).unwrap();
        eventually_eq("all have their effect", LONG, hand, async || worker.count("committed")).await;
        worker.sigkill();
        worker.wait_exit(LONG).await;
    }
    let last = Orders { halts: false, ..orders.clone() }.spawn();
    let hand = usize::try_from(HAND).unwrap();
    eventually("the unacknowledged jobs come again", LONG, async || last.count("done before") >= hand).await;
    last.sigterm();
    last.wait_exit(LONG).await;
    let raw = RawClient::connect(&orders.amqp).await.unwrap();
    let dead = raw.depth(&format!("{}.dead", orders.queue)).await.unwrap();
    let jobs = kills * HAND;
    eprintln!("{kills} workers killed, {jobs} jobs between effect and ack");
    assert_eq!((dead, inbox.status().await.unwrap().jobs), (Some(0), jobs.unsigned_abs()));
    assert_eq!(lines(&pool).await, (0..jobs).map(|number| (number, 1)).collect());
}
