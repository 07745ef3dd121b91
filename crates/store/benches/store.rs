//! Measures the store, on SQLite and on PostgreSQL: `cargo bench -p leveret-store`.
#![expect(clippy::print_stdout, reason = "what it measured is its output")]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use leveret::{
    status_update::{StatusUpdate, Transition},
    time::at_unix_ms,
};
use leveret_harness::Postgres;
use leveret_store::{
    AuditStamp, DeadFilter, DeadSource, JobFilter, JobState, NewDead, ReplayLease, Retention, Selection, Store,
};
use serde_json::json;

const NOW: u64 = 1_800_000_000_000;
const RUN: ReplayLease<'static> = ReplayLease { owner: "bench", until: NOW };
const BY: AuditStamp<'static> = AuditStamp { actor: "bench", at: NOW };
const JOBS: u64 = 20_000;
const LETTERS: u64 = 100_000;
const BATCH: usize = 500;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("leveret.db").display().to_string();
    let postgres = Postgres::start().await;
    for (name, url) in [("SQLite", file), ("PostgreSQL", postgres.database().await)] {
        println!("{name}");
        let store = Store::open(&url).await?;
        status(&store).await?;
        dead(&store, &Upkeep::of(&url)).await?;
    }
    Ok(())
}

/// The upkeep that PostgreSQL does by itself within a minute of a large change. SQLite needs none.
struct Upkeep(Option<String>);

impl Upkeep {
    fn of(url: &str) -> Self {
        Self(url.starts_with("postgres").then(|| url.to_owned()))
    }

    fn run(&self) {
        let Some(url) = &self.0 else { return };
        let done = Command::new("psql").args(["--quiet", "--command", "VACUUM (ANALYZE)"]).arg(url).status();
        assert!(done.is_ok_and(|status| status.success()), "psql");
    }
}

fn event(number: u64, transition: Transition) -> StatusUpdate {
    StatusUpdate {
        id: format!("0190163d-8694-739b-aea5-{number:012}").into(),
        job: "email.send".into(),
        queue: "email".into(),
        origin: None,
        label: Some("Important Task".into()),
        priority: Some(1),
        attempt: 1,
        hop: 0,
        enqueued_at: Some(at_unix_ms(NOW + number)),
        at: at_unix_ms(NOW + number + 5),
        worker: Some("worker-7f9c:4711".into()),
        transition,
    }
}

async fn status(store: &Store) -> leveret_store::Result<()> {
    let steps = [
        Transition::Queued { due: None, expires: None },
        Transition::Received,
        Transition::Started,
        Transition::Succeeded { result: Some(json!({ "pages": 3 })), too_large: None },
    ];
    // The events of a job are a little apart, as in production, so each batch has new and known jobs.
    let events: Vec<_> = (0..JOBS + 300)
        .flat_map(|time| (0..4u64).map(move |step| (time.checked_sub(step * 100), step as usize)))
        .filter_map(|(number, step)| Some((number.filter(|number| *number < JOBS)?, step)))
        .map(|(number, step)| event(number, steps[step].clone()))
        .collect();
    let began = Instant::now();
    for batch in events.chunks(BATCH) {
        store.record(batch).await?;
    }
    rate("events", events.len(), began.elapsed());
    time("counts by state", 20, async || store.counts().await.map(drop)).await?;
    time("one job", 200, async || store.job(&events[777].id).await.map(drop)).await?;
    let succeeded = JobFilter { states: vec![JobState::Succeeded], ..JobFilter::default() };
    time("a page of 100 jobs", 20, async || store.jobs(&succeeded, None, 100).await.map(drop)).await?;
    let rare = JobFilter { queue: Some("other".into()), ..JobFilter::default() };
    time("a page that finds none", 20, async || store.jobs(&rare, None, 100).await.map(drop)).await?;
    let began = Instant::now();
    let pruned = store.prune(NOW * 2, &Retention::default()).await?;
    rate("jobs pruned", pruned.jobs as usize, began.elapsed());
    Ok(())
}

fn letter(number: u64) -> NewDead {
    NewDead {
        source: DeadSource::Dead,
        queue: format!("queue-{}", number % 5),
        job_id: Some(format!("0190163d-8694-739b-aea5-{number:012}")),
        job: format!("job-{}", number % 7),
        kind: "handler".into(),
        error: format!(
            "fault {} of order {number}: connection refused (10.0.0.1:5432)",
            "abcdefghij".split_at((number % 10) as usize).0
        ),
        attempt: 5,
        hop: 4,
        failed_at: Some(NOW + number),
        properties: vec![7; 300],
        payload: format!("{{\"order\": {number}, \"text\": \"{}\"}}", "x".repeat(500)).into_bytes(),
    }
}

async fn dead(store: &Store, upkeep: &Upkeep) -> leveret_store::Result<()> {
    let letters: Vec<_> = (0..LETTERS).map(letter).collect();
    let began = Instant::now();
    for batch in letters.chunks(BATCH) {
        store.ingest(batch, NOW).await?;
    }
    rate("letters ingested", letters.len(), began.elapsed());
    let all = DeadFilter::default();
    let queue = DeadFilter { queue: Some("queue-3".into()), failed_from: Some(NOW + 1000), ..all.clone() };
    let text = DeadFilter { text: Some("order\": 77777".into()), ..all.clone() };
    time("groups, at once", 10, async || store.groups(&all, 100).await.map(drop)).await?;
    upkeep.run();
    time("groups", 10, async || store.groups(&all, 100).await.map(drop)).await?;
    time("groups of a queue since then", 10, async || store.groups(&queue, 100).await.map(drop)).await?;
    time("groups by text", 5, async || store.groups(&text, 100).await.map(drop)).await?;
    time("a page of 100 letters", 20, async || store.dead_letters(&all, None, 100).await.map(drop)).await?;
    let began = Instant::now();
    let exported = store.export(&all).try_fold(0, async |count, _| Ok(count + 1)).await?;
    rate("letters exported", exported, began.elapsed());

    let every = Selection::Filter(all.clone());
    time("purge of all", 1, async || store.purge(&every, BY).await.map(drop)).await?;
    time("restore of all", 1, async || store.restore(&every, BY).await.map(drop)).await?;
    time("groups after that, at once", 10, async || store.groups(&all, 100).await.map(drop)).await?;
    upkeep.run();
    time("groups after that", 10, async || store.groups(&all, 100).await.map(drop)).await?;
    let began = Instant::now();
    let replay = store.start_replay(&every, &json!({}), BY, RUN).await?;
    println!("  start of a replay of all: {:.0?}", began.elapsed());
    let began = Instant::now();
    let mut replayed = 0;
    while replayed < 20_000 {
        let next = store.next_of_replay(replay.id, 0, 200).await?;
        let ids: Vec<_> = next.iter().map(|letter| letter.about.id).collect();
        replayed += store.replayed(replay.id, &ids, BY).await? as usize;
    }
    rate("letters replayed", replayed, began.elapsed());
    time("end of the replay", 1, async || store.finish_replay(replay.id, RUN.owner, "done", BY).await.map(drop)).await
}

fn rate(what: &str, count: usize, took: Duration) {
    println!("  {what}: {:.0}/s", count as f64 / took.as_secs_f64());
}

/// Prints the median of some runs.
async fn time(what: &str, runs: usize, run: impl AsyncFn() -> leveret_store::Result<()>) -> leveret_store::Result<()> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let began = Instant::now();
        run().await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("  {what}: {:.2?}, at most {:.2?}", times[runs / 2], times[runs - 1]);
    Ok(())
}
