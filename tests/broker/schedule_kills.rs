//! Leaders that are killed at random, over thousands of times of schedules under a fast clock.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fastrand::Rng;
use leveret::schedule::{Token, tokens};
use leveret_harness::{Process, eventually, shared_node};
use tokio::time::{Instant, sleep};

use crate::{schedules::Stage, support::LONG};

const SCHEDULES: usize = 4;
const WORKERS: usize = 3;
/// The speed of the schedules' time.
const TIMES: u32 = 20;
const KILLING: Duration = Duration::from_secs(25);
/// A busy machine takes longer for them.
const KILLS: u32 = 20;

async fn of(stage: &Stage) -> BTreeMap<String, Token> {
    // A busy broker may not answer in time.
    let all = loop {
        if let Ok(all) = tokens(&stage.broker).await {
            break all.into_iter();
        }
    };
    all.filter(|token| token.schedule.starts_with(&stage.name)).map(|token| (token.schedule.clone(), token)).collect()
}

/// Returns the worker that leads a schedule, according to its token.
fn leader(workers: &[Process], token: &Token) -> Option<usize> {
    let process = token.leader.rsplit(':').next()?;
    workers.iter().position(|worker| worker.id().to_string() == process)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_killed_at_random_lose_no_time_and_a_doubled_one_has_the_same_id() {
    let vhost = shared_node().await.vhost().await;
    let stage = Stage::at(&vhost.url()).await;
    let names: Vec<_> = (0..SCHEDULES).map(|n| format!("{}-{n}", stage.name)).collect();
    let from = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().to_string();
    let times = TIMES.to_string();
    let mut arguments = vec!["--from-ms", &from, "--times", &times];
    arguments.extend(names.iter().flat_map(|name| ["--schedule", name]));
    let mut workers: Vec<_> = (0..WORKERS).map(|_| stage.process(&arguments)).collect();
    let all_lead = async || of(&stage).await.values().filter(|token| token.last_fire().is_some()).count() == SCHEDULES;
    eventually("all schedules are led", LONG, all_lead).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut random, mut kills, began) = (Rng::with_seed(seed), 0, Instant::now());
    while began.elapsed() < KILLING || kills < KILLS {
        sleep(Duration::from_millis(random.u64(50..800))).await;
        let tokens = of(&stage).await;
        let token = tokens.get(&names[random.usize(..SCHEDULES)]);
        let Some(victim) = token.and_then(|token| leader(&workers, token)) else { continue };
        workers[victim].sigkill();
        kills += 1;
        workers[victim] = stage.process(&arguments);
    }
    // The last leaders run until every schedule has passed the current time.
    let settled: BTreeMap<_, _> =
        of(&stage).await.into_iter().map(|(name, token)| (name, token.settled_until())).collect();
    let past = async || {
        of(&stage).await.iter().all(|(name, token)| token.settled_until() > settled[name] + Duration::from_secs(60))
    };
    eventually("all schedules go on", LONG, past).await;
    for worker in &workers {
        worker.sigterm();
        worker.wait_exit(LONG).await;
    }
    let last = of(&stage).await;
    let (mut fires, mut doubled, mut leaders) = (0, 0, 0);
    for (name, token) in &last {
        let last = token.last_fire().unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let has_run = async || stage.fires.all().iter().any(|fired| fired.schedule == *name && fired.at >= last);
        eventually("all has run", LONG, has_run).await;
        let account = stage.fires.every_second(name);
        (fires, doubled, leaders) = (fires + account.times, doubled + account.doubled, leaders + token.epoch);
    }
    println!("{kills} kills, {leaders} leaders, {fires} times, 0 lost, {doubled} doubled under the same id");
    assert!(fires >= 2_000, "{fires} times");
}
