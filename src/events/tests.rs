//! Subscriptions on the in-memory broker.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    Broker, Context, ErrorKind, Event, Job, JobResult, NewEvent, Outcome, Queue, RawEvent, RetryPolicy, Subscription,
    Worker,
    status_update::{StatusUpdate, Transition},
    testing::{dead_letters, idle, perform_raw, start},
};

#[derive(Serialize, Deserialize, Event)]
#[event(crate = crate, topic = "order.placed")]
struct Placed {
    order: String,
}

#[derive(Serialize, Deserialize, Event)]
#[event(crate = crate, topic = "order.sent")]
struct Sent {
    order: String,
}

#[derive(Serialize, Deserialize, Job)]
#[job(crate = crate, name = "count", queue = "warehouse")]
struct Count;

type Seen = mpsc::UnboundedSender<String>;

async fn placed(event: Placed, ctx: Context<Seen>) -> JobResult {
    ctx.state().send(format!("placed {} in {} as {}", event.order, ctx.queue(), ctx.name())).unwrap();
    if event.order == "bad" { Err("no stock".into()) } else { Ok(()) }
}

async fn sent(event: Sent, ctx: Context<Seen>) -> JobResult {
    ctx.state().send(format!("sent {} in {}", event.order, ctx.queue())).unwrap();
    Ok(())
}

async fn raw(event: RawEvent, ctx: Context<Seen>) -> JobResult {
    let order = event.json()?["order"].as_str().unwrap_or_default().to_owned();
    ctx.state().send(format!("raw {} {order} in {} as {}", event.topic(), ctx.queue(), ctx.name())).unwrap();
    Ok(())
}

async fn count(_: Count, _: Context<Seen>) -> JobResult {
    Ok(())
}

fn order(order: &str) -> Placed {
    Placed { order: order.to_owned() }
}

fn worker() -> (Worker<Seen>, mpsc::UnboundedReceiver<String>) {
    let (sender, seen) = mpsc::unbounded_channel();
    (Worker::new(sender), seen)
}

fn all(seen: &mut mpsc::UnboundedReceiver<String>) -> Vec<String> {
    let mut all: Vec<_> = std::iter::from_fn(|| seen.try_recv().ok()).collect();
    all.sort();
    all
}

#[tokio::test(start_paused = true)]
async fn each_subscription_gets_its_own_copy_and_the_most_specific_handler_takes_it() {
    let broker = Broker::memory();
    let (worker, mut seen) = worker();
    let worker = worker
        .subscribe(Subscription::new("warehouse"), placed)
        .subscribe(Subscription::new("warehouse"), sent)
        .subscribe(Subscription::new("audit").pattern("order.*"), raw)
        .subscribe(Subscription::new("audit"), sent)
        .subscribe(Subscription::new("archive").pattern("#").pattern("order.*"), raw);
    let running = start(worker, &broker).await.unwrap();
    broker.publisher().emit(&order("1")).await.unwrap();
    broker.publisher().emit(&Sent { order: "2".to_owned() }).await.unwrap();
    broker.publisher().emit_raw("order.a.b", "{}").await.unwrap();
    idle(&broker).await;
    running.stop().await.unwrap();
    assert_eq!(
        all(&mut seen),
        [
            "placed 1 in warehouse as order.placed",
            "raw order.a.b  in archive as order.a.b",
            "raw order.placed 1 in archive as order.placed",
            "raw order.placed 1 in audit as order.placed",
            "raw order.sent 2 in archive as order.sent",
            "sent 2 in audit",
            "sent 2 in warehouse",
        ]
    );
}

async fn attributes(event: RawEvent, ctx: Context<Seen>) -> JobResult {
    let of = event.cloud_event().map(|of| format!("{} {} {}", of.source(), of.id(), of.event_type()));
    ctx.state().send(format!("{of:?} {} {}", event.topic(), event.json()?)).unwrap();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_cloud_event_reaches_typed_handlers_with_its_data_and_raw_ones_with_its_attributes() {
    let broker = Broker::memory();
    let (worker, mut seen) = worker();
    let worker = worker
        .subscribe(Subscription::new("warehouse"), placed)
        .subscribe(Subscription::new("audit").pattern("order.*"), attributes);
    let running = start(worker, &broker).await.unwrap();
    broker.publisher().emit(&order("1")).id("e-1").cloud_event("/shop").await.unwrap();
    broker.publisher().emit(&order("2")).await.unwrap();
    let foreign =
        r#"{"specversion": "1.0", "id": "7", "source": "urn:x", "type": "order.placed", "data": {"order": "3"}}"#;
    broker.publisher().emit(NewEvent::from_cloud_event(foreign).unwrap()).await.unwrap();
    let other_version = foreign.replace("1.0", "0.3").replace("placed", "sent");
    broker
        .publisher()
        .emit_raw("order.placed", other_version)
        .content_type("application/cloudevents+json")
        .await
        .unwrap();
    idle(&broker).await;
    running.stop().await.unwrap();
    assert_eq!(
        all(&mut seen),
        [
            r#"None order.placed {"order":"2"}"#,
            r#"Some("/shop e-1 order.placed") order.placed {"order":"1"}"#,
            r#"Some("urn:x 7 order.placed") order.placed {"order":"3"}"#,
            "placed 1 in warehouse as order.placed",
            "placed 2 in warehouse as order.placed",
            "placed 3 in warehouse as order.placed",
        ]
    );
    for subscription in ["warehouse", "audit"] {
        let letters = dead_letters(&broker, subscription).await.unwrap();
        let dead: Vec<_> = letters.iter().map(|letter| (letter.kind, letter.reason.as_str())).collect();
        let reason = r#"invalid CloudEvent: specversion: "0.3" is not understood: send "1.0""#;
        assert_eq!(dead, [(Some(ErrorKind::Decode), reason)], "{subscription}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_over_an_unknown_event_dead_letters_it_and_ends_no_consumer() {
    let broker = Broker::memory();
    let (worker, mut seen) = worker();
    let panicking = RetryPolicy::custom(|_| panic!("no delay for this"));
    let running =
        start(worker.subscribe(Subscription::new("warehouse").retry(panicking), placed), &broker).await.unwrap();
    broker.publisher().publish_raw("order.unknown", "warehouse", "{}").await.unwrap();
    broker.publisher().emit(&order("1")).await.unwrap();
    idle(&broker).await;
    let letters = dead_letters(&broker, "warehouse").await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.kind).collect::<Vec<_>>(), [Some(ErrorKind::Panic)]);
    assert_eq!(all(&mut seen), ["placed 1 in warehouse as order.placed"]);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failure_concerns_its_own_subscription_alone() {
    let broker = Broker::memory();
    let (worker, mut seen) = worker();
    let twice = RetryPolicy::fixed(Duration::from_secs(1)).max_attempts(2);
    let worker = worker
        .subscribe(Subscription::new("warehouse").retry(twice), placed)
        .subscribe(Subscription::new("audit").pattern("order.*"), raw);
    let running = start(worker, &broker).await.unwrap();
    let id = broker.publisher().emit(&order("bad")).await.unwrap();
    idle(&broker).await;
    let letters = dead_letters(&broker, "warehouse").await.unwrap();
    assert_eq!(
        (letters.len(), letters[0].id.as_deref(), letters[0].reason.as_str()),
        (1, Some(id.as_str()), "no stock")
    );
    assert!(dead_letters(&broker, "audit").await.unwrap().is_empty());
    running.stop().await.unwrap();
    let runs = all(&mut seen);
    assert_eq!(runs.iter().filter(|run| run.starts_with("placed")).count(), 2, "{runs:?}");
    assert_eq!(runs.iter().filter(|run| run.starts_with("raw")).count(), 1, "{runs:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_no_handler_takes_is_retried_by_the_policy_and_then_dead_lettered() {
    let broker = Broker::memory();
    let thrice = || Subscription::new("warehouse").retry(RetryPolicy::fixed(Duration::from_secs(60)).max_attempts(3));
    // The new process binds another topic, and is gone before its event comes.
    let (new, mut seen_by_new) = worker();
    let new = start(new.subscribe(thrice(), sent), &broker).await.unwrap();
    new.stop().await.unwrap();
    let (old, mut seen) = worker();
    let old = start(old.subscribe(thrice(), placed), &broker).await.unwrap();
    broker.publisher().emit(&Sent { order: "1".to_owned() }).await.unwrap();
    idle(&broker).await;
    let letters = dead_letters(&broker, "warehouse").await.unwrap();
    assert_eq!((letters.len(), letters[0].kind, letters[0].attempt), (1, Some(ErrorKind::UnknownJob), 3));
    let reason = &letters[0].reason;
    assert!(reason.contains(r#"subscription "warehouse" has no handler for topic "order.sent""#), "{reason}");
    let text = broker.metrics_text();
    let counted = r#"leveret_job_errors_total{job="unknown",kind="unknown_job",queue="warehouse"} 3"#;
    assert!(text.contains(counted), "{text}");
    old.stop().await.unwrap();
    assert!(all(&mut seen).is_empty() && all(&mut seen_by_new).is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_an_event_of_each_process_one_attempt_is_made_and_a_failure_is_counted_as_dropped() {
    let broker = Broker::memory();
    let (worker, mut seen) = worker();
    broker.publisher().emit(&order("missed")).await.unwrap();
    let worker = worker
        .subscribe(Subscription::each_process(), placed)
        .subscribe(Subscription::each_process().pattern("order.*"), raw);
    let running = start(worker, &broker).await.unwrap();
    for order in [order("bad"), order("good")] {
        broker.publisher().emit(&order).await.unwrap();
    }
    broker.publisher().emit_raw("order.gone", "no json").await.unwrap();
    broker.publisher().emit_raw("order.kept", "{}").await.unwrap();
    idle(&broker).await;
    let text = broker.metrics_text();
    running.stop().await.unwrap();
    assert_eq!(
        all(&mut seen),
        [
            "placed bad in each-process as order.placed",
            "placed good in each-process as order.placed",
            "raw order.kept  in each-process as order.kept"
        ]
    );
    for job in ["order.placed", "order.*"] {
        let line = format!(r#"leveret_jobs_finished_total{{job="{job}",outcome="dropped",queue="each-process"}} 1"#);
        assert!(text.contains(&line), "{text}");
    }
    broker.publisher().emit(&order("after")).await.unwrap();
    assert!(
        broker.metrics_text().contains(r#"outcome="no_subscription",topic="order.placed"} 2"#),
        "its queue is gone"
    );
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_keeps_the_last_events_drops_the_oldest_without_dead_lettering_it() {
    let broker = Broker::memory();
    let (first, _) = worker();
    let last = || Subscription::new("prices").keep_last(2);
    let declaring = start(first.subscribe(last(), placed), &broker).await.unwrap();
    declaring.stop().await.unwrap();
    for number in 1..=4 {
        broker.publisher().emit(&order(&number.to_string())).await.unwrap();
    }
    let (second, mut seen) = worker();
    let running = start(second.subscribe(last(), placed), &broker).await.unwrap();
    idle(&broker).await;
    running.stop().await.unwrap();
    assert_eq!(all(&mut seen), ["placed 3 in prices as order.placed", "placed 4 in prices as order.placed"]);
    assert!(dead_letters(&broker, "prices").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_tracked_event_is_known_and_cancelled_by_its_id_and_its_subscription() {
    let broker = Broker::memory();
    crate::reader::declare_status_queue(&broker).await.unwrap();
    let (worker, mut seen) = worker();
    let slow = RetryPolicy::fixed(Duration::from_secs(60)).max_attempts(9);
    let worker = worker
        .subscribe(Subscription::new("warehouse").retry(slow), placed)
        .subscribe(Subscription::new("audit").pattern("order.*"), raw);
    let running = start(worker, &broker).await.unwrap();
    broker.publisher().emit(&order("bad")).id("e-1").track().await.unwrap();
    let first = async {
        while let Some(run) = seen.recv().await {
            if run.starts_with("placed") {
                break;
            }
        }
    };
    first.await;
    broker.publisher().cancel("e-1@warehouse").await.unwrap();
    idle(&broker).await;
    running.stop().await.unwrap();
    let mut reader = crate::reader::QueueReader::new(&broker, crate::reader::Source::StatusUpdates, 100).unwrap();
    let batch = reader.next(100).await;
    let updates: Vec<StatusUpdate> =
        batch.messages().iter().filter_map(|read| serde_json::from_slice(read.message().payload()).ok()).collect();
    let ends: std::collections::BTreeMap<_, _> = updates
        .iter()
        .filter(|update| update.transition.is_terminal())
        .map(|update| (update.id.as_str(), matches!(update.transition, Transition::Cancelled)))
        .collect();
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [("e-1@audit", false), ("e-1@warehouse", true)], "{updates:?}");
}

#[tokio::test]
async fn handlers_of_events_run_in_a_test_without_a_broker() {
    let subscribed = || {
        let (worker, seen) = worker();
        (worker.subscribe(Subscription::new("warehouse"), placed), seen)
    };
    let (worker, mut seen) = subscribed();
    let outcome = perform_raw(worker, "warehouse", "order.placed", br#"{"order": "1"}"#, 1).await.unwrap();
    assert_eq!((outcome, all(&mut seen)), (Outcome::Done, vec!["placed 1 in warehouse as order.placed".to_owned()]));
    let outcome = perform_raw(subscribed().0, "warehouse", "order.placed", b"{}", 1).await.unwrap();
    assert!(matches!(outcome, Outcome::DeadLetter { kind: ErrorKind::Decode, .. }));
}

#[tokio::test]
async fn a_set_up_that_would_lose_or_mix_events_stops_the_start_with_its_reason() {
    type SetUp = fn(Worker<Seen>) -> Worker<Seen>;
    let warehouse = || Subscription::new("warehouse");
    let table: [(SetUp, &[&str]); 11] = [
        (|w| w.handle(count).subscribe(Subscription::new("warehouse"), placed), &["name of a job queue", "warehouse"]),
        (
            |w| w.queue(Queue::new("warehouse")).subscribe(Subscription::new("warehouse"), placed),
            &["name of a job queue", "warehouse"],
        ),
        (
            |w| w.subscribe(Subscription::new("a"), placed).subscribe(Subscription::new("a"), placed),
            &["order.placed", "two handlers"],
        ),
        (
            |w| {
                w.subscribe(Subscription::new("a").pattern("order.*"), raw)
                    .subscribe(Subscription::new("a").pattern("*.placed"), raw)
            },
            &["order.*", "*.placed", "none of the two is more specific"],
        ),
        (|w| w.subscribe(Subscription::new("a").pattern("order*"), raw), &["order*", "# (any number of words)"]),
        (|w| w.subscribe(Subscription::new("a").pattern("leveret.x"), raw), &["leveret.x", "not start with leveret."]),
        (|w| w.subscribe(Subscription::new("a"), raw), &["RawEvent without a pattern", "Subscription::pattern"]),
        (|w| w.subscribe(Subscription::new("a").pattern("b.*"), placed), &["order.placed", "a handler of RawEvent"]),
        (|w| w.subscribe(Subscription::new("leveret.v1.jobs"), placed), &["leveret.v1.jobs", "1 to 126 bytes"]),
        (|w| w.subscribe(Subscription::new("a").keep_last(0), placed), &["Subscription::keep_last", "at least 1"]),
        (
            |w| {
                w.subscribe(Subscription::new("a").concurrency(1), placed)
                    .subscribe(Subscription::new("a").concurrency(2), sent)
            },
            &["settings in two calls", "\"a\""],
        ),
    ];
    for (set_up, parts) in table {
        let error = start(set_up(worker().0), &Broker::memory()).await.unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let settings_once = worker().0.subscribe(warehouse(), placed).subscribe(warehouse().concurrency(3), sent);
    let settings_first = worker().0.subscribe(warehouse().concurrency(3), placed).subscribe(warehouse(), sent);
    for worker in [settings_once, settings_first] {
        assert_eq!((worker.queues.len(), worker.queues[0].limit()), (1, 3));
        assert_eq!(worker.queues[0].declaration().topics(), ["order.placed", "order.sent"]);
    }
}
