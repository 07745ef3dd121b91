//! `leveret events`.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use leveret::{Context, JobResult, RawEvent, Subscription, Worker, testing::start};
use leveret_harness::{Process, RawClient, eventually};
use serde_json::json;
use tokio::sync::mpsc;

use crate::post::{LONG, Post};

async fn note(event: RawEvent, ctx: Context<mpsc::UnboundedSender<String>>) -> JobResult {
    let source = event.cloud_event().map(|attributes| format!(" from {}", attributes.source())).unwrap_or_default();
    ctx.state().send(format!("{} {} {}{source}", ctx.job_id(), event.topic(), event.json()?)).unwrap();
    Ok(())
}

fn audit() -> (Worker<mpsc::UnboundedSender<String>>, mpsc::UnboundedReceiver<String>) {
    let (sender, seen) = mpsc::unbounded_channel();
    (Worker::new(sender).subscribe(Subscription::new("audit").pattern("order.*"), note), seen)
}

#[tokio::test]
async fn an_event_is_emitted_and_subscriptions_are_listed_unbound_and_deleted() {
    let post = Post::sqlite().await;
    let (worker, mut seen) = audit();
    let running = start(worker, &post.broker()).await.unwrap();

    // A quorum queue that is still electing its leader makes an emit uncertain.
    eventually("the event is confirmed", LONG, async || {
        post.run(&["events", "emit", "order.placed", "--payload", r#"{"order": "17"}"#, "--id", "e-1"]).await.code == 0
    })
    .await;
    assert_eq!(seen.recv().await.unwrap(), r#"e-1 order.placed {"order":"17"}"#);
    let cloud_event = ["--id", "e-2", "--payload", "1", "--cloud-event", "/shop"];
    post.run(&[["events", "emit", "order.placed"].as_slice(), &cloud_event].concat()).await.ends(0);
    assert_eq!(seen.recv().await.unwrap(), "e-2 order.placed 1 from /shop");
    post.run(&["events", "emit", "order.placed", "--cloud-event", "the shop"]).await.ends(2);
    let refused = post.run(&["events", "emit", "order.*"]).await.ends(2);
    assert!(refused.stderr.contains("single dots"), "{refused:?}");
    post.run(&["events", "emit", "order.placed", "--payload", "no json"]).await.ends(2);

    let list = async || post.run(&["events", "list", "--output", "json"]).await.ends(0).json();
    eventually("it is announced", LONG, async || list().await.as_array().is_some_and(|rows| !rows.is_empty())).await;
    let row = &list().await[0];
    assert_eq!((&row["subscription"], &row["topics"]), (&json!("audit"), &json!(["order.*"])));
    assert_eq!((&row["consumers"], &row["ready"], &row["dead"]), (&json!(1), &json!(0), &json!(0)));

    let used = post.run(&["events", "unsubscribe", "audit"]).await.ends(2);
    assert!(used.stderr.contains("stop its workers first"), "{used:?}");
    running.stop().await.unwrap();
    post.run(&["events", "emit", "order.placed"]).await.ends(0);
    let waiting = post.run(&["events", "unsubscribe", "audit"]).await.ends(2);
    assert!(waiting.stderr.contains("--discard"), "{waiting:?}");

    post.run(&["events", "unbind", "audit", "order.*"]).await.ends(0);
    post.run(&["events", "emit", "order.placed"]).await.ends(0);
    assert_eq!(list().await[0]["ready"], 1, "the second one does not reach it");

    post.run(&["events", "unsubscribe", "audit", "--discard"]).await.ends(0);
    for missing in [["events", "unsubscribe", "audit"].as_slice(), &["events", "unbind", "audit", "order.*"]] {
        post.run(missing).await.ends(5);
    }
}

#[tokio::test]
async fn the_log_is_shown_and_replayed_to_one_subscription_up_to_its_newest_event() {
    let post = Post::sqlite().await;
    let missing = post.run(&["events", "tail", "--no-follow"]).await.ends(5);
    assert!(missing.stderr.contains("leveret events log"), "{missing:?}");
    post.run(&["events", "log"]).await.ends(0);
    for number in 1..=3 {
        for topic in ["order.placed", "mail.sent"] {
            let (id, payload) = (format!("{topic}-{number}"), format!(r#"{{"number": {number}}}"#));
            post.run(&["events", "emit", topic, "--payload", &payload, "--id", &id]).await.ends(0);
        }
    }
    let tail =
        ["events", "tail", "--from", "first", "--no-follow", "--topic", "order.*", "--payloads", "--output", "json"];
    let shown = post.run(&tail).await.ends(0).stdout;
    let lines: Vec<serde_json::Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line["id"].as_str().unwrap(), &line["payload"]["number"])).collect();
    assert_eq!(seen, [("order.placed-1", &json!(1)), ("order.placed-2", &json!(2)), ("order.placed-3", &json!(3))]);
    let offset = lines[1]["offset"].as_u64().unwrap();

    // The subscription begins after the events.
    let (worker, mut seen) = audit();
    let running = start(worker, &post.broker()).await.unwrap();
    let replay = |more: &[&str]| {
        let mut arguments = vec!["events", "replay", "--to", "audit", "--topic", "order.*"];
        arguments.extend(more);
        arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>()
    };
    let run = async |more: &[&str]| {
        let arguments = replay(more);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        post.run(&arguments).await.ends(0).stdout
    };
    let counted = run(&["--from", "first", "--dry-run", "--output", "json"]).await;
    let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
    assert_eq!(counted, json!({ "events": 3, "topics": { "order.placed": 3 }, "dry_run": true }));
    let from = format!("offset:{offset}");
    let position = post.path("position");
    let rest = ["--from", &from, "--position", &position, "--rate", "50"];
    eventually("the replay is confirmed", LONG, async || {
        let arguments = replay(&rest);
        post.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await.code == 0
    })
    .await;
    assert_eq!(seen.recv().await.unwrap(), r#"order.placed-2 order.placed {"number":2}"#);
    assert_eq!(seen.recv().await.unwrap(), r#"order.placed-3 order.placed {"number":3}"#);
    let nothing = run(&[rest.as_slice(), &["--output", "json"]].concat()).await;
    assert!(nothing.contains(r#""events": 0"#) || nothing.contains(r#""events":0"#), "{nothing}");
    run(&["--from", "first", "--again"]).await;
    let again = seen.recv().await.unwrap();
    assert!(again.ends_with(r#"order.placed {"number":1}"#) && !again.starts_with("order.placed-1"), "{again}");
    running.stop().await.unwrap();
}

/// The numbers of events that a replay says it sends again.
fn named_as_repeated(stderr: &str) -> Vec<u64> {
    let line = stderr.lines().find(|line| line.contains("are sent again")).unwrap_or_default();
    let numbers = line.rsplit_once("): ").map_or("", |(_, numbers)| numbers);
    numbers.split(", ").filter(|number| !number.is_empty()).map(|number| number.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_replay_that_is_killed_goes_on_and_repeats_only_what_it_names() {
    const EVENTS: u64 = 1_500;
    let post = Post::sqlite().await;
    post.run(&["events", "log"]).await.ends(0);
    let broker = post.broker();
    let numbers = 0..EVENTS;
    let emits = numbers.map(|number| broker.publisher().emit_raw("order.placed", number.to_string()).into_future());
    for emitted in futures_util::future::join_all(emits).await {
        emitted.unwrap();
    }
    // The subscription begins after the events.
    let (worker, mut seen) = audit();
    let running = start(worker, &post.broker()).await.unwrap();
    let position = post.path("position");
    let arguments = ["events", "replay", "--to", "audit", "--from", "first", "--again", "--position", &position];
    let received = AtomicU64::new(0);
    let (mut ids, mut sent_again) = (HashMap::<String, u64>::new(), Vec::new());
    let mut take = |line: String| {
        received.fetch_add(1, Ordering::SeqCst);
        *ids.entry(line.split(' ').next().unwrap().to_owned()).or_default() += 1;
    };
    for kill in 1..=4 {
        let replay = Process::spawn(&post.command(&[&arguments[..], &["--rate", "500"]].concat()));
        let until = kill * EVENTS / 6;
        while received.load(Ordering::SeqCst) < until {
            take(tokio::time::timeout(LONG, seen.recv()).await.expect("the replay publishes").unwrap());
        }
        replay.sigkill();
        replay.wait_exit(LONG).await;
        sent_again.extend(named_as_repeated(&replay.lines().join("\n")));
    }
    let last = post.run(&arguments).await.ends(0);
    sent_again.extend(named_as_repeated(&last.stderr));
    let nothing = post.run(&arguments).await.ends(0);
    assert!(nothing.stderr.contains("It repeats none"), "{nothing:?}");
    let missing = async || {
        let raw = RawClient::connect(&post.vhost.url()).await.unwrap();
        raw.depth("audit").await.unwrap() != Some(0)
    };
    eventually("the subscription is empty", LONG, async || !missing().await).await;
    running.stop().await.unwrap();
    while let Ok(line) = seen.try_recv() {
        take(line);
    }
    assert_eq!(ids.len() as u64, EVENTS, "each event has one id, also where it was sent again");
    for (id, times) in ids.iter().filter(|(_, times)| **times > 1) {
        let offset: u64 = id.rsplit('-').next().unwrap().parse().unwrap();
        let named = sent_again.iter().filter(|number| **number == offset).count() as u64;
        assert!(named >= times - 1, "event {offset} came {times} times, and {named} of them were named");
    }
    assert!(sent_again.len() <= 4 * 64, "{sent_again:?}");
}
