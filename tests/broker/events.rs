//! Publish and subscribe, on both brokers and with several processes.

mod one_broker;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use leveret::{
    Broker, Config, Context, ErrorKind, Event, JobResult, NewEvent, RawEvent, RetryPolicy, Subscription, Worker,
    testing::{DeadLetter, Running, dead_letters, start},
};
use leveret_harness::{Proxy, RawClient, eventually, shared_node, unique};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::{
    contract::Place,
    on_both_brokers,
    support::{LONG, broker},
};

on_both_brokers!(
    an_event_reaches_each_subscription_once_and_processes_of_one_service_share_its_copy,
    each_subscription_retries_and_dead_letters_on_its_own,
    patterns_and_several_types_in_one_subscription_find_their_handlers,
    a_process_of_its_own_queue_gets_nothing_while_it_is_down,
    a_subscription_that_keeps_the_last_events_drops_the_oldest_without_dead_lettering_it,
    an_old_process_that_meets_a_new_event_type_leaves_it_for_the_new_one,
    a_service_subscribes_and_another_leaves_while_the_publisher_goes_on,
    a_cloud_event_is_handled_by_its_data_and_an_invalid_one_is_a_dead_letter_that_says_why,
);

macro_rules! event {
    ($name:ident, $topic:literal) => {
        #[derive(Serialize, Deserialize, Event)]
        #[event(topic = $topic)]
        struct $name {
            run: String,
            text: String,
        }
    };
}

event!(Placed, "events-test.order.placed");
event!(Sent, "events-test.order.sent");

/// The lines that handlers wrote, of this test's own run.
#[derive(Clone, Default)]
struct Seen {
    run: String,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Seen {
    /// Waits until so many lines are there, and returns them in order.
    async fn until(&self, lines: usize) -> Vec<String> {
        eventually(&format!("{lines} lines"), LONG, async || self.lines.lock().unwrap().len() >= lines).await;
        let mut all = self.lines.lock().unwrap().clone();
        all.sort();
        all
    }

    fn add(&self, run: &str, line: String) {
        if run == self.run {
            self.lines.lock().unwrap().push(line);
        }
    }
}

struct Test {
    place: Place,
    seen: Seen,
}

impl Test {
    /// On RabbitMQ in a vhost of its own: the events of one test would reach the queues of all.
    async fn new(mut place: Place) -> Self {
        if !is_memory(&place.broker) {
            place.broker = broker(&shared_node().await.vhost().await.url());
        }
        Self { place, seen: Seen { run: unique("run"), lines: Arc::default() } }
    }

    fn url(&self) -> &str {
        &self.place.broker.config().amqp_url[0]
    }

    fn name(&self, subscription: &str) -> String {
        format!("{}-{subscription}", self.place.queue)
    }

    fn subscription(&self, name: &str) -> Subscription {
        Subscription::new(self.name(name))
    }

    fn worker(&self, process: &str) -> Worker<(String, Seen)> {
        Worker::new((process.to_owned(), self.seen.clone()))
    }

    /// Starts a worker on a handle of its own, as another process would.
    async fn start(&self, worker: Worker<(String, Seen)>) -> Running {
        let shared = &self.place.broker;
        let broker = if is_memory(shared) { shared.clone() } else { Broker::amqp(shared.config().clone()).unwrap() };
        let before = consumers(&broker);
        let running = start(worker, &broker).await.unwrap();
        eventually("it consumes", LONG, async || consumers(&broker) > before).await;
        running
    }

    async fn place(&self, text: &str) {
        let event = Placed { run: self.seen.run.clone(), text: text.to_owned() };
        emit(&self.place.broker, &event).await;
    }

    async fn send(&self, text: &str) {
        let event = Sent { run: self.seen.run.clone(), text: text.to_owned() };
        emit(&self.place.broker, &event).await;
    }

    async fn letters(&self, subscription: &str, count: usize) -> Vec<DeadLetter> {
        let (name, mut letters) = (self.name(subscription), Vec::new());
        eventually("the dead letters", LONG, async || {
            letters = dead_letters(&self.place.broker, &name).await.unwrap();
            letters.len() >= count
        })
        .await;
        letters
    }
}

fn is_memory(broker: &Broker) -> bool {
    broker.config().namespace != Config::default().namespace
}

/// The connected consumers of a handle, of which all workers in memory share one.
fn consumers(broker: &Broker) -> u64 {
    let text = broker.metrics_text();
    let gauges = text.lines().filter(|line| line.starts_with("leveret_consumers_up{"));
    gauges.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// A quorum queue that is still electing its leader makes an emit uncertain.
async fn emit<E: Event>(broker: &Broker, event: &E) {
    eventually("the event is confirmed", LONG, async || broker.publisher().emit(event).await.is_ok()).await;
}

async fn placed(event: Placed, ctx: Context<(String, Seen)>) -> JobResult {
    let (process, seen) = ctx.state();
    seen.add(&event.run, format!("{process} placed {} {}", event.text, ctx.attempt()));
    if event.text.starts_with("bad") { Err("no stock".into()) } else { Ok(()) }
}

async fn sent(event: Sent, ctx: Context<(String, Seen)>) -> JobResult {
    let (process, seen) = ctx.state();
    seen.add(&event.run, format!("{process} sent {} {}", event.text, ctx.attempt()));
    Ok(())
}

async fn raw(event: RawEvent, ctx: Context<(String, Seen)>) -> JobResult {
    let (process, seen) = ctx.state();
    let json = event.json()?;
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    seen.add(&text("run"), format!("{process} raw {} {}", event.topic(), text("text")));
    Ok(())
}

async fn sources(event: RawEvent, ctx: Context<(String, Seen)>) -> JobResult {
    let (process, seen) = ctx.state();
    let (json, source) = (event.json()?, event.cloud_event().map_or("none", |attributes| attributes.source()));
    let text = |name: &str| json[name].as_str().unwrap_or_default();
    seen.add(text("run"), format!("{process} of {source} {}", text("text")));
    Ok(())
}

async fn an_event_reaches_each_subscription_once_and_processes_of_one_service_share_its_copy(place: Place) {
    let test = Test::new(place).await;
    let warehouse = |process: &str| test.worker(process).subscribe(test.subscription("warehouse"), placed);
    let one = test.start(warehouse("warehouse")).await;
    let two = test.start(warehouse("warehouse")).await;
    let mail = test.start(test.worker("mail").subscribe(test.subscription("mail"), placed)).await;
    for number in 0..10 {
        test.place(&number.to_string()).await;
    }
    let lines = test.seen.until(20).await;
    for running in [one, two, mail] {
        running.stop().await.unwrap();
    }
    for process in ["warehouse", "mail"] {
        let own: Vec<_> = lines.iter().filter(|line| line.starts_with(process)).cloned().collect();
        let wanted: Vec<_> = (0..10).map(|number| format!("{process} placed {number} 1")).collect();
        assert_eq!(own, wanted);
    }
    assert_eq!(test.seen.until(20).await.len(), 20);
}

async fn each_subscription_retries_and_dead_letters_on_its_own(place: Place) {
    let test = Test::new(place).await;
    let twice = RetryPolicy::fixed(Duration::from_millis(200)).max_attempts(2);
    let worker = test
        .worker("one")
        .subscribe(test.subscription("warehouse").retry(twice), placed)
        .subscribe(test.subscription("audit").pattern("events-test.order.*"), raw);
    let running = test.start(worker).await;
    test.place("bad").await;
    let letters = test.letters("warehouse", 1).await;
    let lines = test.seen.until(3).await;
    assert_eq!(lines, ["one placed bad 1", "one placed bad 2", "one raw events-test.order.placed bad"]);
    let letter = &letters[0];
    assert_eq!((letters.len(), letter.reason.as_str(), letter.attempt), (1, "no stock", 2));
    assert_eq!(letter.job.as_deref(), Some(Placed::TOPIC));
    assert!(dead_letters(&test.place.broker, &test.name("audit")).await.unwrap().is_empty());
    running.stop().await.unwrap();
}

async fn patterns_and_several_types_in_one_subscription_find_their_handlers(place: Place) {
    let test = Test::new(place).await;
    let worker = test
        .worker("one")
        .subscribe(test.subscription("orders"), placed)
        .subscribe(test.subscription("orders"), sent)
        .subscribe(test.subscription("orders").pattern("events-test.#"), raw);
    let running = test.start(worker).await;
    test.place("a").await;
    test.send("b").await;
    let json = format!(r#"{{"run": "{}", "text": "c"}}"#, test.seen.run);
    test.place.broker.publisher().emit_raw("events-test.order.paid.late", json).await.unwrap();
    let lines = test.seen.until(3).await;
    running.stop().await.unwrap();
    assert_eq!(lines, ["one placed a 1", "one raw events-test.order.paid.late c", "one sent b 1"]);
}

async fn a_process_of_its_own_queue_gets_nothing_while_it_is_down(place: Place) {
    let test = Test::new(place).await;
    let cache = |process: &str| test.worker(process).subscribe(Subscription::each_process(), placed);
    let one = test.start(cache("one")).await;
    let two = test.start(cache("two")).await;
    test.place("both").await;
    test.seen.until(2).await;
    two.stop().await.unwrap();
    test.place("bad").await;
    test.seen.until(3).await;
    let again = test.start(cache("again")).await;
    test.place("later").await;
    let lines = test.seen.until(5).await;
    for running in [one, again] {
        running.stop().await.unwrap();
    }
    let wanted =
        ["again placed later 1", "one placed bad 1", "one placed both 1", "one placed later 1", "two placed both 1"];
    assert_eq!(lines, wanted, "a failed event of one process is not retried");
}

async fn a_subscription_that_keeps_the_last_events_drops_the_oldest_without_dead_lettering_it(place: Place) {
    let test = Test::new(place).await;
    let prices = || test.worker("one").subscribe(test.subscription("prices").keep_last(3), placed);
    test.start(prices()).await.stop().await.unwrap();
    for number in 0..10 {
        test.place(&number.to_string()).await;
    }
    let running = test.start(prices()).await;
    test.place("last").await;
    eventually("the last", LONG, async || {
        test.seen.lines.lock().unwrap().iter().any(|line| line == "one placed last 1")
    })
    .await;
    running.stop().await.unwrap();
    let lines = test.seen.until(3).await;
    assert!(lines.contains(&"one placed 9 1".to_owned()) && !lines.contains(&"one placed 6 1".to_owned()), "{lines:?}");
    assert!((3..=4).contains(&lines.len()), "{lines:?}");
    assert!(dead_letters(&test.place.broker, &test.name("prices")).await.unwrap().is_empty());
}

async fn an_old_process_that_meets_a_new_event_type_leaves_it_for_the_new_one(place: Place) {
    let test = Test::new(place).await;
    let quick = || test.subscription("warehouse").retry(RetryPolicy::fixed(Duration::from_millis(300)));
    let old = || test.worker("old").subscribe(quick(), placed);
    let new = || test.worker("new").subscribe(quick(), placed).subscribe(test.subscription("warehouse"), sent);
    // The new processes come first and bind their topic, and stop: the event meets old processes alone.
    test.start(new()).await.stop().await.unwrap();
    let olds = [test.start(old()).await, test.start(old()).await];
    test.send("late").await;
    test.place("now").await;
    test.seen.until(1).await;
    let new = test.start(new()).await;
    for running in olds {
        running.stop().await.unwrap();
    }
    let lines = test.seen.until(2).await;
    new.stop().await.unwrap();
    assert!(lines.iter().any(|line| line.starts_with("new sent late")), "{lines:?}");
    assert!(dead_letters(&test.place.broker, &test.name("warehouse")).await.unwrap().is_empty());
}

async fn a_service_subscribes_and_another_leaves_while_the_publisher_goes_on(place: Place) {
    let test = Test::new(place).await;
    let service = |name: &'static str| test.worker(name).subscribe(test.subscription(name), placed);
    let one = test.start(service("one")).await;
    test.place("1").await;
    test.seen.until(1).await;
    let two = test.start(service("two")).await;
    test.place("2").await;
    test.seen.until(3).await;
    one.stop().await.unwrap();
    test.place("3").await;
    let lines = test.seen.until(4).await;
    assert_eq!(lines, ["one placed 1 1", "one placed 2 1", "two placed 2 1", "two placed 3 1"]);
    // What the service missed while it was down has waited for it.
    let one = test.start(service("one")).await;
    assert_eq!(test.seen.until(5).await[2], "one placed 3 1");
    for running in [one, two] {
        running.stop().await.unwrap();
    }
}

async fn a_cloud_event_is_handled_by_its_data_and_an_invalid_one_is_a_dead_letter_that_says_why(place: Place) {
    let test = Test::new(place).await;
    let twice = RetryPolicy::fixed(Duration::from_millis(100)).max_attempts(2);
    let worker = test
        .worker("one")
        .subscribe(test.subscription("warehouse").retry(twice), placed)
        .subscribe(test.subscription("audit").pattern("events-test.order.*"), sources);
    let running = test.start(worker).await;
    let publisher = test.place.broker.publisher();
    let event = NewEvent::of(&Placed { run: test.seen.run.clone(), text: "bad".to_owned() }).cloud_event("/shop");
    eventually("the event is confirmed", LONG, async || publisher.emit(event.clone()).await.is_ok()).await;
    // The copy for the second attempt is a CloudEvent too.
    let expected = ["one of /shop bad", "one placed bad 1", "one placed bad 2"];
    assert_eq!(test.seen.until(3).await, expected);
    publisher.emit(NewEvent::raw(Placed::TOPIC, "{}").content_type("application/cloudevents+json")).await.unwrap();
    let letters = test.letters("warehouse", 2).await;
    running.stop().await.unwrap();
    let invalid = letters.iter().find(|letter| letter.kind == Some(ErrorKind::Decode)).unwrap();
    assert_eq!(invalid.reason, "invalid CloudEvent: specversion: it is missing");
}
