//! `leveret events`.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::StreamExt;
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, QueueBindOptions},
    types::FieldTable,
};
use leveret::{Context, JobResult, RawEvent, Subscription, Worker, testing::start};
use leveret_harness::{Permissions, Process, RawClient, eventually, eventually_eq, unique};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::post::{LONG, Post, QUEUE};

async fn note(event: RawEvent, ctx: Context<mpsc::UnboundedSender<String>>) -> JobResult {
    let source = event.cloud_event().map(|attributes| format!(" from {}", attributes.source())).unwrap_or_default();
    ctx.state().send(format!("{} {} {}{source}", ctx.job_id(), event.topic(), event.json()?)).unwrap();
    Ok(())
}

fn audit() -> (Worker<mpsc::UnboundedSender<String>>, mpsc::UnboundedReceiver<String>) {
    let (sender, seen) = mpsc::unbounded_channel();
    (Worker::new(sender).subscribe(Subscription::new("audit").pattern("order.*"), note), seen)
}

/// Waits until the catalogue has the subscription of [`audit`].
async fn announced(post: &Post) {
    eventually("the subscription is announced", LONG, async || {
        let list = post.run(&["events", "list", "--output", "json"]).await.ends(0).json();
        list.as_array().is_some_and(|rows| !rows.is_empty())
    })
    .await;
}

/// A management API with these bindings of queues to topics. Returns its address.
fn api(bindings: &[(&str, &str)]) -> String {
    let binding = |(queue, topic): &(&str, &str)| {
        json!({ "source": "leveret.v1.topics", "vhost": "v", "destination": queue, "destination_type": "queue",
            "routing_key": topic, "arguments": {}, "properties_key": topic })
    };
    let bindings = Value::from_iter(bindings.iter().map(binding)).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = BufReader::new(connection.try_clone().unwrap()).lines();
            let first = request.next().unwrap().unwrap();
            // An empty line ends the request.
            while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let answer = if first.contains("/api/bindings/") { bindings.as_str() } else { "[]" };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
            connection.write_all(format!("{head}{answer}").as_bytes()).unwrap();
        }
    });
    address
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
    let lines: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line["id"].as_str().unwrap(), &line["payload"]["number"])).collect();
    assert_eq!(seen, [("order.placed-1", &json!(1)), ("order.placed-2", &json!(2)), ("order.placed-3", &json!(3))]);
    let offset = lines[1]["offset"].as_u64().unwrap();

    // The subscription begins after the events.
    let (worker, mut seen) = audit();
    let running = start(worker, &post.broker()).await.unwrap();
    announced(&post).await;
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
    let counted: Value = serde_json::from_str(&counted).unwrap();
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
    // It is done, also when there are more events.
    post.run(&["events", "emit", "order.placed", "--id", "later", "--payload", "4"]).await.ends(0);
    assert_eq!(seen.recv().await.unwrap(), "later order.placed 4");
    let nothing = run(&[rest.as_slice(), &["--output", "json"]].concat()).await;
    let nothing: Value = serde_json::from_str(&nothing).unwrap();
    assert_eq!(nothing, json!({ "events": 0, "topics": {}, "dry_run": false }));
    let other = replay(&[rest.as_slice(), &["--again"]].concat());
    let refused = post.run(&other.iter().map(String::as_str).collect::<Vec<_>>()).await.ends(2);
    let difference = "no --again, and this one has --again: name another --position file";
    assert!(refused.stderr.contains(difference), "{refused:?}");
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

/// Waits for the confirms of events.
async fn emitted(emits: impl Iterator<Item = impl Future<Output = Result<leveret::JobId, leveret::PublishError>>>) {
    for emitted in futures_util::future::join_all(emits).await {
        emitted.unwrap();
    }
}

#[tokio::test]
async fn a_replay_that_is_killed_goes_on_to_its_first_end_and_repeats_only_what_it_names() {
    const EVENTS: u64 = 1_500;
    const KILLS: u64 = 4;
    /// Events that are emitted in each run.
    const LIVE: u64 = 20;
    let post = Post::sqlite().await;
    post.run(&["events", "log"]).await.ends(0);
    let broker = post.broker();
    let numbers = 0..EVENTS;
    let emits = numbers.map(|number| broker.publisher().emit_raw("order.placed", number.to_string()).into_future());
    emitted(emits).await;
    // The subscription begins after the events.
    let (worker, mut seen) = audit();
    let running = start(worker, &post.broker()).await.unwrap();
    announced(&post).await;
    let position = post.path("position");
    let arguments = ["events", "replay", "--to", "audit", "--from", "first", "--again", "--position", &position];
    let received = AtomicU64::new(0);
    let (mut ids, mut sent_again) = (HashMap::<String, u64>::new(), Vec::new());
    let mut take = |line: String| {
        let id = line.split(' ').next().unwrap().to_owned();
        received.fetch_add(u64::from(!id.starts_with("live-")), Ordering::SeqCst);
        *ids.entry(id).or_default() += 1;
    };
    for kill in 1..=KILLS {
        let replay = Process::spawn(&post.command(&[&arguments[..], &["--rate", "500"]].concat()));
        let until = kill * EVENTS / 6;
        while received.load(Ordering::SeqCst) < until {
            take(tokio::time::timeout(LONG, seen.recv()).await.expect("the replay publishes").unwrap());
        }
        // The subscription gets these while the replay runs. They are not of the replay.
        let live = (0..LIVE).map(|number| format!("live-{kill}-{number}"));
        let emits = live.map(|id| broker.publisher().emit_raw("order.placed", "1").id(id).into_future());
        emitted(emits).await;
        replay.sigkill();
        replay.wait_exit(LONG).await;
        sent_again.extend(named_as_repeated(&replay.lines().join("\n")));
    }
    let last = post.run(&arguments).await.ends(0);
    sent_again.extend(named_as_repeated(&last.stderr));
    let nothing = post.run(&arguments).await.ends(0);
    assert!(nothing.stderr.contains("This replay is done"), "{nothing:?}");
    let missing = async || {
        let raw = RawClient::connect(&post.vhost.url()).await.unwrap();
        raw.depth("audit").await.unwrap() != Some(0)
    };
    eventually("the subscription is empty", LONG, async || !missing().await).await;
    running.stop().await.unwrap();
    while let Ok(line) = seen.try_recv() {
        take(line);
    }
    let (live, replayed): (Vec<_>, Vec<_>) = ids.into_iter().partition(|(id, _)| id.starts_with("live-"));
    let is_complete = live.len() as u64 == KILLS * LIVE && live.iter().all(|(_, times)| *times == 1);
    assert!(is_complete, "each event came once when it was emitted: {live:?}");
    assert_eq!(replayed.len() as u64, EVENTS, "each event before the replay has one id, and no later one is replayed");
    for (id, times) in replayed.iter().filter(|(_, times)| *times > 1) {
        let offset: u64 = id.rsplit('-').next().unwrap().parse().unwrap();
        let named = sent_again.iter().filter(|number| **number == offset).count() as u64;
        assert!(named >= times - 1, "event {offset} came {times} times, and {named} of them were named");
    }
    assert!(sent_again.len() as u64 <= KILLS * 64, "{sent_again:?}");
}

#[tokio::test]
async fn bindings_are_listed_with_the_queues_of_other_processes_and_without_the_log() {
    let post = Post::sqlite().await;
    post.run(&["events", "log"]).await.ends(0);
    let (worker, _seen) = audit();
    let worker = worker.subscribe(Subscription::each_process().pattern("order.*"), note);
    let running = start(worker, &post.broker()).await.unwrap();
    let mut each = String::new();
    eventually("the process has its queue", LONG, async || {
        let arguments = ["list_queues", "--no-table-headers", "-p", post.vhost.name(), "name"];
        let queues = post.vhost.node().ctl(&arguments).await.unwrap();
        each = queues.lines().find(|queue| queue.starts_with("leveret.v1.each.")).unwrap_or_default().to_owned();
        !each.is_empty()
    })
    .await;
    let url = api(&[("audit", "order.*"), (each.as_str(), "order.*"), ("leveret.v1.event-log", "#")]);
    let list = ["events", "list", "--management-url", &url];
    let rows = post.run(&[&list[..], &["--output", "json"]].concat()).await.ends(0).json();
    let topics = ["order.*"];
    let expected = json!([
        { "subscription": "audit", "topics": topics, "ready": 0, "consumers": 1, "dead": 0 },
        { "subscription": each, "topics": topics, "ready": null, "consumers": null, "dead": 0 },
    ]);
    assert_eq!(rows, expected);
    let table = post.run(&list).await.ends(0).stdout;
    let row = table.lines().find(|line| line.contains(&each)).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), [each.as_str(), "order.*", "-", "-", "0"]);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_queue_is_a_subscription_only_if_the_catalogue_or_a_binding_says_so() {
    let mut post = Post::sqlite().await;
    post.stop_worker().await;
    post.run(&["events", "log"]).await.ends(0);
    let raw = RawClient::connect(&post.vhost.url()).await.unwrap();
    raw.declare_quorum("legacy", FieldTable::default()).await.unwrap();
    let (topics, options) = ("leveret.v1.topics".into(), QueueBindOptions::default());
    raw.channel().queue_bind("legacy".into(), topics, "order.*".into(), options, FieldTable::default()).await.unwrap();
    let url = api(&[("legacy", "order.*")]);
    let known = ["--management-url", &url];
    let (unsubscribe, replay) = (["events", "unsubscribe"], ["events", "replay", "--from", "first", "--to"]);
    for command in [&unsubscribe[..], &replay] {
        let refused = post.run(&[command, &[QUEUE]].concat()).await.ends(5);
        assert!(refused.stderr.contains("no worker has announced it as one; with --management-url"), "{refused:?}");
        let refused = post.run(&[command, &[QUEUE], &known].concat()).await.ends(5);
        assert!(refused.stderr.contains("no topic is bound to it"), "{refused:?}");
    }
    assert_eq!(raw.depth(QUEUE).await.unwrap(), Some(0), "the job queue is still there");

    let user = unique("operator");
    let permissions = Permissions { read: "^$", ..Permissions::ALL };
    post.vhost.node().add_user(&user, "secret", post.vhost.name(), permissions).await.unwrap();
    let blind_url = post.vhost.url_for(&user, "secret");
    let login = ["--amqp-url", &blind_url];
    let blind = post.run(&[&unsubscribe[..], &["legacy"], &login].concat()).await.ends(4);
    assert!(blind.stderr.contains("could not be read") && blind.stderr.contains("--management-url"), "{blind:?}");
    post.run(&[&unsubscribe[..], &["legacy"], &login, &known].concat()).await.ends(0);
    assert_eq!(raw.depth("legacy").await.unwrap(), None);
}

#[tokio::test]
async fn a_subscription_is_deleted_and_its_dead_letters_stay_while_a_consumer_may_have_them() {
    let post = Post::sqlite().await;
    let (worker, _seen) = audit();
    let running = start(worker, &post.broker()).await.unwrap();
    announced(&post).await;
    running.stop().await.unwrap();
    let raw = RawClient::connect(&post.vhost.url()).await.unwrap();
    raw.publish("leveret.v1.dead", "audit", BasicProperties::default(), b"{}").await.unwrap();
    let consumer = RawClient::connect(&post.vhost.url()).await.unwrap();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consuming = consumer.channel().basic_consume("audit.dead".into(), "".into(), options, none);
    let mut deliveries = consuming.await.unwrap();
    deliveries.next().await.unwrap().unwrap();
    let dead = async || raw.depth("audit.dead").await.unwrap();
    eventually_eq("the only dead letter is unacknowledged", LONG, Some(0), dead).await;

    let unsubscribe = ["events", "unsubscribe", "audit", "--output", "json"];
    let said = post.run(&unsubscribe).await.ends(0);
    assert_eq!(said.json(), json!({ "deleted": 0, "dead": 0, "stays": ["audit.dead"] }));
    let parts = ["audit.dead stays: its consumer", "leveret serve", "arrive in leveret.v1.unrouted later"];
    assert!(parts.iter().all(|part| said.stderr.contains(part)), "{said:?}");
    assert_eq!(raw.depth("audit").await.unwrap(), None);

    consumer.channel().close(200, "stopped".into()).await.unwrap();
    eventually_eq("the dead letter is ready", LONG, Some(1), dead).await;
    let said = post.run(&unsubscribe).await.ends(0);
    assert_eq!(said.json(), json!({ "deleted": 0, "dead": 1, "stays": ["audit.dead"] }));
    assert!(said.stderr.contains("audit.dead stays: it has dead letters (1)"), "{said:?}");
    raw.take("audit.dead").await.unwrap().unwrap();
    eventually_eq("it is empty", LONG, Some(0), dead).await;
    assert_eq!(post.run(&unsubscribe).await.ends(0).json(), json!({ "deleted": 0, "dead": 0, "stays": [] }));
    assert_eq!(dead().await, None);
    post.run(&unsubscribe).await.ends(5);
}
