//! `leveret dead … --direct`, without a store.

use leveret_harness::eventually;

use crate::post::{LONG, Post, QUEUE};

const DIRECT: [&str; 3] = ["--direct", "--queue", QUEUE];

fn with<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &DIRECT].concat()
}

#[tokio::test]
async fn the_dead_letters_of_a_queue_in_the_broker_are_listed_exported_replayed_and_purged() {
    let post = Post::sqlite().await;
    post.kill((0..30).map(|number| format!("no mailbox {number}"))).await;
    post.dead_in_broker(30).await;
    let list = post.run(&with(&["dead", "list", "--limit", "5", "--output", "json"])).await.ends(0);
    assert_eq!(list.json().as_array().unwrap().len(), 5);
    assert!(list.stderr.contains("order is not kept"), "{list:?}");
    post.dead_in_broker(30).await;

    let file = post.path("letters.jsonl");
    post.run(&with(&["dead", "export", "--file", &file])).await.ends(0);
    post.dead_in_broker(30).await;
    let lines = std::fs::read_to_string(&file).unwrap();
    let ids: std::collections::HashSet<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["job_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 30);

    let refused = post.run(&with(&["dead", "purge"])).await.ends(2);
    assert!(refused.stderr.contains("30 dead letters"), "{refused:?}");
    post.run(&with(&["dead", "replay"])).await.ends(0);
    eventually("all run again", LONG, async || post.done().len() == 30).await;
    post.dead_in_broker(0).await;

    // The export can be imported, and the new dead letters can be purged.
    post.run(&["dead", "import", &file]).await.ends(0);
    post.dead_in_store(30).await;
    let broker = post.broker();
    let job = leveret_tests::jobs::script("again", [leveret_tests::jobs::Act::GiveUp("gone".into())]);
    leveret_tests::jobs::publish(&broker, QUEUE, &job).await.unwrap();
    post.dead_in_broker(1).await;
    post.run(&with(&["dead", "purge", "--yes"])).await.ends(0);
    post.dead_in_broker(0).await;
}

#[tokio::test]
async fn more_than_one_reader_may_hold_are_exported_and_all_stay() {
    let post = Post::sqlite().await;
    const MANY: u32 = 4_500;
    let raw = leveret_harness::RawClient::connect(&post.vhost.url()).await.unwrap();
    let properties = |number: u32| {
        let properties = lapin::BasicProperties::default().with_delivery_mode(2).with_type("test.script".into());
        properties.with_message_id(number.to_string().into())
    };
    futures_util::future::join_all((0..MANY).map(async |number| {
        raw.publish("leveret.v1.dead", QUEUE, properties(number), b"{}").await.unwrap();
    }))
    .await;
    post.dead_in_broker(MANY).await;
    let file = post.path("letters.jsonl");
    post.run(&with(&["dead", "export", "--file", &file])).await.ends(0);
    post.dead_in_broker(MANY).await;
    let lines = std::fs::read_to_string(&file).unwrap();
    let ids: std::collections::HashSet<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["job_id"].to_string())
        .collect();
    assert_eq!((ids.len(), lines.lines().count()), (MANY as usize, MANY as usize));
}
