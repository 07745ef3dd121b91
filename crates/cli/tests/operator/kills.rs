//! A replay and a server that are killed in the middle.

use std::collections::HashMap;

use leveret_harness::{Process, eventually};
use leveret_store::{DeadFilter, DeadState, Store};

use crate::post::{LONG, Post, QUEUE};

/// The number of runs by job id.
fn done(post: &Post) -> HashMap<String, usize> {
    let mut done = HashMap::new();
    for id in post.done() {
        *done.entry(id).or_default() += 1;
    }
    done
}

async fn a_killed_replay_goes_on(post: Post) {
    const LETTERS: usize = 400;
    let server = post.serve().await;
    post.kill((0..LETTERS).map(|number| format!("no mailbox {number}"))).await;
    post.dead_in_store(LETTERS).await;
    server.sigterm();
    let replay = Process::spawn(&post.command(&["dead", "replay", "--all", "--rate", "200"]));
    eventually("it is in the middle", LONG, async || post.done().len() > LETTERS / 4).await;
    replay.sigkill();
    replay.wait_exit(LONG).await;
    assert!(post.done().len() < LETTERS, "it was killed before its end");
    let open = post.run(&["dead", "replays", "--output", "json"]).await.ends(0).json();
    let number = open[0]["id"].to_string();
    let resumed = post.run(&["dead", "replay", "--resume", &number, "--output", "json"]).await.ends(0).json();
    assert_eq!((&resumed["total"], &resumed["replayed"]), (&LETTERS.into(), &LETTERS.into()), "{resumed}");
    eventually("all were done", LONG, async || done(&post).len() == LETTERS).await;
    let twice = done(&post).values().filter(|count| **count > 1).count();
    assert!(twice <= 64, "only those on their way when it was killed are done twice: {twice}");
}

#[tokio::test]
async fn a_replay_that_is_killed_goes_on_and_loses_none_on_sqlite() {
    a_killed_replay_goes_on(Post::sqlite().await).await;
}

#[tokio::test]
async fn a_replay_that_is_killed_goes_on_and_loses_none_on_postgres() {
    a_killed_replay_goes_on(Post::postgres().await).await;
}

#[tokio::test]
async fn a_server_that_is_killed_while_it_ingests_loses_none_and_doubles_none() {
    const LETTERS: usize = 1_500;
    let mut post = Post::sqlite().await;
    post.kill((0..LETTERS).map(|number| format!("no mailbox {number}"))).await;
    post.dead_in_broker(u32::try_from(LETTERS).unwrap()).await;
    post.stop_worker().await;
    let mut taken = 0;
    for _ in 0..5 {
        let server = post.serve().await;
        let store = Store::open(&post.store).await.unwrap();
        let before = taken;
        eventually("it ingests some", LONG, async || {
            taken = store.count_dead(&DeadFilter::default()).await.unwrap();
            taken > before || taken == LETTERS as u64
        })
        .await;
        server.sigkill();
        server.wait_exit(LONG).await;
    }
    let server = post.serve().await;
    post.dead_in_broker(0).await;
    let store = Store::open(&post.store).await.unwrap();
    eventually("all are in", LONG, async || store.count_dead(&DeadFilter::default()).await.unwrap() >= LETTERS as u64)
        .await;
    // A batch that was committed but not acked is delivered again. Nothing must be left, ready or unacknowledged.
    let arguments = ["list_queues", "--no-table-headers", "-p", post.vhost.name(), "name", "messages"];
    eventually("all are acked", LONG, async || {
        let queues = post.vhost.node().ctl(&arguments).await.unwrap();
        queues.lines().any(|line| line == format!("{QUEUE}.dead\t0"))
    })
    .await;
    server.sigterm();
    let filter = DeadFilter { states: vec![DeadState::Dead], ..DeadFilter::default() };
    let (mut ids, mut after, mut count) = (std::collections::HashSet::new(), None, 0);
    loop {
        let page = store.dead_letters(&filter, after.as_ref(), 1000).await.unwrap();
        count += page.items.len();
        ids.extend(page.items.into_iter().filter_map(|letter| letter.job_id));
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    assert_eq!((ids.len(), count), (LETTERS, LETTERS));
}
