//! Processes are killed and halted at random moments while they apply events.
//!
//! Two processes run the projection. One after the other is killed, or halted for longer than its lease, so that both believe
//! to lead when it goes on. `LEVERET_PROJECTION_KILLS=500` sets the number.

use std::{process::Command, time::Duration};

use leveret_harness::{Database, Process};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::stage::{LONG, Set, Stage, connect, run};
use crate::outbox::stage::Pool;

leveret_harness::on_both_databases! {
    each_event_has_its_effect_once_though_processes_are_killed_and_halted_at_any_moment,
}

/// The variable with the orders of this test binary as a process with the projection.
const CHILD: &str = "LEVERET_PROJECTION_CHILD";
const KILLS: usize = 24;

#[derive(Clone, Serialize, Deserialize)]
struct Orders {
    url: String,
    amqp: String,
}

/// Runs only in the child processes, until they are killed.
#[tokio::test]
async fn projection_that_is_killed() {
    let Ok(orders) = std::env::var(CHILD) else {
        return;
    };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let pool = Pool::open(&orders.url).await;
    let set = Set { batch: 7, lease: Duration::from_secs(1), ..Set::default() };
    run(&pool, &connect(&orders.amqp), set).task.await.unwrap().unwrap();
}

fn spawn(orders: &Orders) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "projection::kills::projection_that_is_killed", "--nocapture"]);
    Process::spawn(command.env(CHILD, serde_json::to_string(orders).unwrap()))
}

async fn each_event_has_its_effect_once_though_processes_are_killed_and_halted_at_any_moment(database: Database) {
    let (stage, amqp) = Stage::on_rabbitmq(database).await;
    let orders = Orders { url: stage.database.url.clone(), amqp };
    let kills = std::env::var("LEVERET_PROJECTION_KILLS").ok().map_or(KILLS, |kills| kills.parse().unwrap());
    let (mut living, mut emitted, mut halts) = (vec![spawn(&orders), spawn(&orders)], 0, 0);
    for number in 0..kills {
        let busy = Duration::from_millis(fastrand::u64(50..600));
        let emit = async {
            loop {
                stage.emit_all(emitted..emitted + 10).await;
                // Repeats, as after an uncertain confirm.
                stage.emit_all([emitted, emitted + 3]).await;
                emitted += 10;
            }
        };
        tokio::select! { () = sleep(busy) => {}, () = emit => {} }
        // An emit that was dropped halfway may be in the log: it is emitted again under its id.
        stage.emit_all(emitted..emitted + 10).await;
        emitted += 10;
        let victim = living.swap_remove(fastrand::usize(..2));
        if number.is_multiple_of(3) {
            victim.sigstop();
            sleep(Duration::from_millis(1300)).await;
            victim.sigcont();
            halts += 1;
            living.push(victim);
        } else {
            victim.sigkill();
            victim.wait_exit(LONG).await;
            assert_eq!(victim.count("panicked"), 0, "{:#?}", victim.lines());
            living.push(spawn(&orders));
        }
    }
    stage.shows(0..emitted).await;
    for process in living {
        process.sigkill();
        process.wait_exit(LONG).await;
    }
    eprintln!("{emitted} events, {} processes killed, {halts} halted", kills - halts);
    assert!(emitted > 100, "it was no load");
    assert_eq!(stage.view().await, super::stage::of(0..emitted));
}
