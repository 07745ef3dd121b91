//! Several processes write at the same time.

use std::process::Command;
use std::time::Duration;

use leveret::status_update::Transition;
use leveret_harness::Process;
use leveret_store::{DeadFilter, JobState, NewDead, Store};

use crate::database::{Database, NOW, OpenStore};
use crate::dead::letter;
use crate::status::event;

leveret_harness::on_both_databases! {
    processes_that_write_at_once_all_get_their_turn,
    events_of_one_job_that_two_servers_hear_at_once_are_all_heeded,
}

/// The variable with the orders of this test binary as a child process: its number, and the database.
const CHILD: &str = "LEVERET_STORE_CHILD";
const ROUNDS: u64 = 100;

async fn processes_that_write_at_once_all_get_their_turn(database: Database) {
    let store = database.open().await;
    let child = |number: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "writers::child_that_writes", "--nocapture"]);
        Process::spawn(command.env(CHILD, format!("{number} {}", database.url)))
    };
    let children: Vec<_> = (0..3).map(child).collect();
    for child in &children {
        child.wait_line("written", Duration::from_secs(60)).await;
    }
    assert_eq!(store.counts().await.unwrap()[&JobState::Started], 3 * ROUNDS);
    assert_eq!(store.count_dead(&DeadFilter::default()).await.unwrap(), 3 * ROUNDS);
}

/// Runs only in the child processes. Each writes in two tasks, so that its own connections compete too.
#[tokio::test]
async fn child_that_writes() {
    let Ok(child) = std::env::var(CHILD) else {
        return;
    };
    let (number, url) = child.split_once(' ').unwrap();
    let store = Store::open(url).await.unwrap();
    let (events, of_child) = (store.clone(), number.to_owned());
    let recording = tokio::spawn(async move {
        for round in 0..ROUNDS {
            events.record(&[event(&format!("{of_child}-{round}"), 0, round, Transition::Started)]).await.unwrap();
        }
    });
    for round in 0..ROUNDS {
        let own = NewDead { job_id: Some(format!("{number}-{round}")), ..letter(round) };
        store.ingest(&[own], NOW).await.unwrap();
    }
    recording.await.unwrap();
    println!("written");
}

async fn events_of_one_job_that_two_servers_hear_at_once_are_all_heeded(database: Database) {
    let stores = [database.open().await, database.open().await];
    for round in 0..20 {
        let id = format!("job-{round}");
        let recording = (0..8).map(|hop| {
            let (store, id) = (stores[hop as usize % 2].clone(), id.clone());
            tokio::spawn(async move { store.record(&[event(&id, hop, u64::from(hop), Transition::Started)]).await })
        });
        for recording in recording.collect::<Vec<_>>() {
            recording.await.unwrap().unwrap();
        }
        let job = stores[0].job(&id).await.unwrap().unwrap();
        assert_eq!((job.hop, job.created_at, job.updated_at), (7, NOW, NOW + 7));
        assert_eq!(stores[1].timeline(&id).await.unwrap().len(), 8);
    }
}
