//! Writers and relays are killed at random, and every job is accounted for.
//!
//! Each transaction notes its jobs in a table of the test, so a note exists exactly if the transaction was committed.
//! `LEVERET_OUTBOX_KILLS=5000` sets the number of kills. `LEVERET_OUTBOX_SEED=7` repeats their random choices.

mod child;

use std::{
    collections::{BTreeMap, HashMap},
    process::Command,
    time::Duration,
};

use futures_util::StreamExt;
use leveret_harness::{
    Process, RawClient,
    lapin::{options::BasicConsumeOptions, types::FieldTable},
};
use sqlx::Row;
use tokio::{sync::mpsc, time::sleep};

use self::child::{CHILD, Orders, Role};
use super::stage::{LONG, Pool, Stage, id_and_payload};
use leveret_harness::Database;

leveret_harness::on_both_databases! {
    writers_and_relays_that_are_killed_lose_nothing_and_publish_nothing_uncommitted,
}

const WRITERS: usize = 2;
const RELAYS: usize = 2;
const KILLS: usize = 120;
const NOTES: &str = "CREATE TABLE notes (number BIGINT PRIMARY KEY, id TEXT NOT NULL, order_key TEXT)";

/// The job numbers and message ids that a consumer received, in order.
type Seen = Vec<(i64, String)>;

fn setting(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

async fn writers_and_relays_that_are_killed_lose_nothing_and_publish_nothing_uncommitted(database: Database) {
    let stage = Stage::new(database).await;
    stage.pool.run(NOTES).await;
    let seed = setting("LEVERET_OUTBOX_SEED").map_or_else(|| fastrand::u64(..), |seed| seed as u64);
    eprintln!("LEVERET_OUTBOX_SEED={seed}");
    let consumer = Consumer::start(&stage).await;
    let rolled_back = kill(&stage, seed, setting("LEVERET_OUTBOX_KILLS").unwrap_or(KILLS)).await;
    let last = spawn(&stage, Role::Relay, 0, 0);
    stage.drained().await;
    let notes = notes(&stage.pool).await;
    let seen = consumer.until(&notes).await;
    last.sigterm();
    audit(&notes, &seen, rolled_back);
}

/// Kills writers and relays at random moments, until there was a load. Returns how many transactions were rolled back.
async fn kill(stage: &Stage, seed: u64, kills: usize) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rolled_back = 0;
    let roles = [(Role::Writer, WRITERS), (Role::Relay, RELAYS)];
    let slots = roles.iter().flat_map(|(role, count)| (0..*count).map(move |slot| (*role, slot)));
    let mut living: Vec<_> = slots.map(|(role, slot)| (role, slot, spawn(stage, role, slot, random.u64(..)))).collect();
    for killed in 0.. {
        if killed >= kills && is_load(notes(&stage.pool).await.len(), rolled_back) {
            break;
        }
        assert!(killed < 20 * kills, "the writers are not getting anywhere");
        sleep(Duration::from_millis(random.u64(10..140))).await;
        let victim = random.usize(..living.len());
        let (role, slot, process) = living.swap_remove(victim);
        process.sigkill();
        process.wait_exit(LONG).await;
        assert_eq!(process.count("panicked"), 0, "{:#?}", process.lines());
        rolled_back += process.count("rolled back");
        living.push((role, slot, spawn(stage, role, slot, random.u64(..))));
    }
    for (_, _, process) in living {
        process.sigkill();
        process.wait_exit(LONG).await;
        rolled_back += process.count("rolled back");
    }
    rolled_back
}

fn spawn(stage: &Stage, role: Role, slot: usize, seed: u64) -> Process {
    let (url, amqp, queue) = (stage.database.url.clone(), stage.amqp.clone(), stage.queue.clone());
    let orders = Orders { role, slot, seed, url, amqp, queue };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "outbox::crash::child::child_that_is_killed", "--nocapture"]);
    Process::spawn(command.env(CHILD, serde_json::to_string(&orders).unwrap()))
}

/// Receives all messages of the queue.
struct Consumer {
    received: mpsc::UnboundedReceiver<(i64, String)>,
}

impl Consumer {
    async fn start(stage: &Stage) -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        let (amqp, queue) = (stage.amqp.clone(), stage.queue.clone());
        tokio::spawn(async move {
            let client = RawClient::connect(&amqp).await.unwrap();
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let consuming = client.channel().basic_consume(queue.into(), "".into(), options, FieldTable::default());
            let mut consumer = consuming.await.unwrap();
            while let Some(Ok(delivery)) = consumer.next().await {
                let (id, payload) = id_and_payload(&delivery);
                if sender.send((payload.parse().unwrap(), id)).is_err() {
                    return;
                }
            }
        });
        Self { received }
    }

    /// Returns all received messages, once every noted job was received, or no more come.
    async fn until(mut self, notes: &BTreeMap<i64, Note>) -> Seen {
        let (mut seen, mut missing) = (Vec::new(), notes.clone());
        let mut patience = Duration::from_secs(20);
        while let Ok(Some((number, id))) = tokio::time::timeout(patience, self.received.recv()).await {
            missing.remove(&number);
            seen.push((number, id));
            if missing.is_empty() {
                // Whatever comes now was not committed, or is a duplicate.
                patience = Duration::from_secs(1);
            }
        }
        seen
    }
}

#[derive(Clone)]
struct Note {
    id: String,
    order_key: Option<String>,
}

async fn notes(pool: &Pool) -> BTreeMap<i64, Note> {
    let text = "SELECT number, id, order_key FROM notes";
    match pool {
        Pool::Postgres(pool) => {
            let rows = sqlx::query(text).fetch_all(pool).await.unwrap();
            rows.iter().map(|row| (row.get(0), Note { id: row.get(1), order_key: row.get(2) })).collect()
        }
        Pool::Sqlite(pool) => {
            let rows = sqlx::query(text).fetch_all(pool).await.unwrap();
            rows.iter().map(|row| (row.get(0), Note { id: row.get(1), order_key: row.get(2) })).collect()
        }
    }
}

fn audit(notes: &BTreeMap<i64, Note>, seen: &Seen, rolled_back: usize) {
    let mut copies: HashMap<i64, usize> = HashMap::new();
    let mut last_of: HashMap<&str, i64> = HashMap::new();
    let (mut uncommitted, mut renamed, mut disordered) = (0, 0, 0);
    for (number, id) in seen {
        let Some(note) = notes.get(number) else {
            uncommitted += 1;
            continue;
        };
        renamed += usize::from(note.id != *id);
        let copies = copies.entry(*number).or_default();
        *copies += 1;
        if let (1, Some(key)) = (*copies, note.order_key.as_deref()) {
            let last = last_of.insert(key, *number);
            disordered += usize::from(last.is_some_and(|last| last > *number));
        }
    }
    let lost = notes.keys().filter(|number| !copies.contains_key(number)).count();
    let doubled = copies.values().filter(|copies| **copies > 1).count();
    eprintln!(
        "{} jobs committed, {rolled_back} transactions rolled back; {lost} lost, {uncommitted} uncommitted, \
         {renamed} of another id, {disordered} out of order; {doubled} came more than once",
        notes.len()
    );
    assert_eq!((lost, uncommitted, renamed, disordered), (0, 0, 0, 0));
    assert!(is_load(notes.len(), rolled_back), "it was no load");
}

fn is_load(notes: usize, rolled_back: usize) -> bool {
    notes > 1_000 && rolled_back > 20
}
