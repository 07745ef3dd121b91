//! Requests on both brokers, with callers and responders in Python, and while the broker is killed.

mod replies;

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use leveret::{
    Broker, Config, Context, ErrorKind, Job, JobError, JobResult, Queue, RequestError, RetryPolicy, TopologyMode,
    Worker,
    testing::{self, dead_letters},
};
use leveret_harness::{Node, NodeOptions, Permissions, Process, eventually, python, shared_node, unique};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    contract::Place,
    on_both_brokers,
    support::{self, LONG, broker},
};

const REQUESTS: &str = include_str!("../../docs/src/requests.md");
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Quote {
    cents: u64,
}

#[derive(Serialize, Deserialize, Job)]
#[job(name = "quote", queue = "quotes", output = Quote)]
struct GetQuote {
    item: String,
}

/// The items: `tea`, `gold`, `rare` (at the second attempt), `slow`, or a number of cents, which takes a moment.
async fn quote(job: GetQuote, ctx: Context<Arc<AtomicU32>>) -> JobResult<Quote> {
    ctx.state().fetch_add(1, Ordering::SeqCst);
    match job.item.as_str() {
        "tea" => Ok(Quote { cents: 350 }),
        "gold" => Err(JobError::permanent("no gold")),
        "rare" if ctx.attempt() < 2 => Err("not yet".into()),
        "rare" => Ok(Quote { cents: 2 }),
        "slow" => {
            tokio::time::sleep(3 * SECOND).await;
            Ok(Quote { cents: 3 })
        }
        cents => {
            tokio::time::sleep(SECOND / 20).await;
            Ok(Quote { cents: cents.parse()? })
        }
    }
}

fn worker(queue: &str, set: impl FnOnce(Queue) -> Queue) -> (Worker<Arc<AtomicU32>>, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let retry = RetryPolicy::fixed(SECOND / 5).max_attempts(3);
    let set = set(Queue::new(queue).retry(retry));
    (Worker::new(Arc::clone(&runs)).queue(set).handle_with(quote, |h| h.queue(queue)), runs)
}

async fn ask(broker: &Broker, queue: &str, item: &str, timeout: Duration) -> Result<Quote, RequestError> {
    broker.publisher().request(&GetQuote { item: item.to_owned() }).queue(queue).timeout(timeout).await
}

on_both_brokers!(
    a_request_returns_the_typed_result_or_the_error_with_its_kind,
    a_request_without_an_answer_in_time_times_out_and_leaves_nothing,
);

async fn a_request_returns_the_typed_result_or_the_error_with_its_kind(place: Place) {
    let unroutable = ask(&place.broker, &place.queue, "tea", LONG).await.unwrap_err();
    assert!(matches!(&unroutable, RequestError::Unroutable { queue } if *queue == place.queue), "{unroutable}");
    let (worker, _) = worker(&place.queue, |queue| queue);
    let running = testing::start(worker, &place.broker).await.unwrap();
    place.until_declared().await;
    let asked = async |item| ask(&place.broker, &place.queue, item, LONG).await;
    assert_eq!(asked("tea").await.unwrap(), Quote { cents: 350 });
    assert_eq!(asked("rare").await.unwrap(), Quote { cents: 2 }, "a retry does not answer");
    assert_eq!(asked("gold").await.unwrap_err().to_string(), "the job failed (permanent): no gold");
    let failed = asked("a gift").await.unwrap_err();
    assert!(matches!(&failed, RequestError::Failed { kind: ErrorKind::Error, .. }), "{failed}");
    let many = (0..500).map(async |n: u64| (n, ask(&place.broker, &place.queue, &n.to_string(), LONG).await.unwrap()));
    for (n, quote) in futures_util::future::join_all(many).await {
        assert_eq!(quote, Quote { cents: n }, "each caller gets its own");
    }
    running.stop().await.unwrap();
}

async fn a_request_without_an_answer_in_time_times_out_and_leaves_nothing(place: Place) {
    let (worker, runs) = worker(&place.queue, |queue| queue.concurrency(1));
    let running = testing::start(worker, &place.broker).await.unwrap();
    place.until_declared().await;
    let (caller, queue) = (place.broker.clone(), place.queue.clone());
    let slow = tokio::spawn(async move { ask(&caller, &queue, "slow", LONG).await });
    eventually("it runs", LONG, async || runs.load(Ordering::SeqCst) == 1).await;
    let late = ask(&place.broker, &place.queue, "tea", SECOND).await.unwrap_err();
    assert!(matches!(late, RequestError::TimedOut { timeout: SECOND }), "{late}");
    assert_eq!(slow.await.unwrap().unwrap(), Quote { cents: 3 });
    let expired = format!(r#"outcome="expired",queue="{}"}} 1"#, place.queue);
    eventually("it has expired", LONG, async || place.broker.metrics_text().contains(&expired)).await;
    running.stop().await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 1, "it did not run");
    // The probe has another name.
    let letters = dead_letters(&place.broker, &place.queue).await.unwrap();
    assert!(letters.iter().all(|letter| letter.kind == Some(ErrorKind::UnknownJob)), "{letters:?}");
}

/// A worker of quotes on a queue of its own on the shared broker.
async fn quoting(name: &str, set: impl FnOnce(Queue) -> Queue) -> (support::Place, testing::Running, Arc<AtomicU32>) {
    let place = support::Place::shared(name).await;
    let (worker, runs) = worker(&place.queue, set);
    let running = testing::start(worker, &place.broker).await.unwrap();
    place.declared().await;
    (place, running, runs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_too_large_for_its_worker_fails_at_once_and_is_a_dead_letter() {
    let place = support::Place::shared("large").await;
    let config = Config { amqp_url: vec![place.url.clone()], payload_limit: 1_000, ..Config::default() };
    let (worker, runs) = worker(&place.queue, |queue| queue);
    let running = testing::start(worker, &Broker::amqp(config).unwrap()).await.unwrap();
    place.declared().await;
    let large = ask(&place.broker, &place.queue, &"x".repeat(2_000), LONG).await.unwrap_err();
    assert!(matches!(&large, RequestError::Failed { kind: ErrorKind::TooLarge, .. }), "{large}");
    assert!(large.to_string().contains("the limit is 1000"), "{large}");
    let letters = async || dead_letters(&place.broker, &place.queue).await.unwrap();
    let is_large = async || letters().await.iter().any(|letter| letter.kind == Some(ErrorKind::TooLarge));
    eventually("it is a dead letter", LONG, is_large).await;
    running.stop().await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_in_python_gets_its_reply_by_direct_reply_to() {
    let vhost = shared_node().await.vhost().await;
    let owner = broker(&vhost.url());
    let (worker, _) = worker("quotes", |queue| queue);
    let running = testing::start(worker, &owner).await.unwrap();
    let (_, snippet) = REQUESTS.split_once("```python\n").unwrap();
    let (snippet, _) = snippet.split_once("```").unwrap();
    for (item, expected) in
        [("tea", "None {'cents': 350}\n"), ("gold", "permanent None\n"), ("rare", "None {'cents': 2}\n")]
    {
        let snippet = snippet.replace("\"tea\"", &format!("{item:?}"));
        let mut caller = python().await;
        caller.args(["-c", &snippet]).env("AMQP_URL", vhost.url());
        let answered = tokio::task::spawn_blocking(move || caller.output());
        let output = tokio::time::timeout(LONG, answered).await.expect("a reply comes").unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
    running.stop().await.unwrap();
}

const RESPONDER: &str = r#"
import json, os, pika
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
queue = os.environ["QUEUE"]
channel.queue_declare(queue, durable=True)
channel.queue_bind(queue, "leveret.v1.jobs", queue)

def answer(channel, method, properties, body):
    item, headers = json.loads(body)["item"], {}
    if item == "gold":
        headers = {"leveret-error-kind": "permanent", "leveret-error": "no gold here"}
    if item == "silver":
        headers = {"leveret-error-kind": "SoldOut", "leveret-error": "come back tomorrow"}
    result = {"cents": 7} if item != "nonsense" else "not a quote"
    reply = pika.BasicProperties(correlation_id=properties.correlation_id, headers=headers)
    channel.basic_publish("", properties.reply_to, json.dumps(result), reply)
    channel.basic_ack(method.delivery_tag)

channel.basic_consume(queue, answer)
print("ready", flush=True)
channel.start_consuming()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_responder_in_python_answers_requests_and_reports_errors() {
    let place = support::Place::shared("python").await;
    // The exchange of jobs is declared with the first publish.
    let early = ask(&place.broker, &place.queue, "tea", LONG).await.unwrap_err();
    assert!(matches!(early, RequestError::Unroutable { .. }), "{early}");
    let mut command: Command = python().await;
    command.args(["-c", RESPONDER]).env("AMQP_URL", &place.url).env("QUEUE", &place.queue);
    let responder = Process::spawn(&command);
    responder.wait_line("ready", LONG).await;
    let asked = async |item| ask(&place.broker, &place.queue, item, LONG).await;
    assert_eq!(asked("tea").await.unwrap(), Quote { cents: 7 });
    assert_eq!(asked("gold").await.unwrap_err().to_string(), "the job failed (permanent): no gold here");
    assert_eq!(asked("silver").await.unwrap_err().to_string(), "the job failed (error): SoldOut: come back tomorrow");
    assert!(matches!(asked("nonsense").await.unwrap_err(), RequestError::Undecodable { .. }));
    place.raw().await.delete_queue(&place.queue).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_privileges_of_the_book_are_enough_for_requests_and_without_them_jobs_go_on() {
    let vhost = shared_node().await.vhost().await;
    let (setting_up, _) = worker("quotes", |queue| queue);
    testing::start(setting_up, &broker(&vhost.url())).await.unwrap().stop().await.unwrap();
    let verifying = async |permissions: Permissions<'_>| {
        let user = unique("user");
        vhost.node().add_user(&user, "secret", vhost.name(), permissions).await.unwrap();
        let amqp_url = vec![vhost.url_for(&user, "secret")];
        Broker::amqp(Config { amqp_url, topology: TopologyMode::Verify, ..Config::default() }).unwrap()
    };
    let (write, read) = (
        r"^leveret\.v1\.(jobs|dead|delay\..*|events|catalogue)$",
        r"^(quotes(\.suspect)?|leveret\.v1\.(cancelled|catalogue))$",
    );
    let replying = r"^(leveret\.v1\.(jobs|dead|delay\..*|events|catalogue)|amq\.default)$";
    let reply = r"^leveret\.v1\.reply\..*$";
    let caller = Permissions { configure: reply, write: r"^leveret\.v1\.jobs$", read: reply };
    let caller = verifying(caller).await;

    let mute = verifying(Permissions { configure: "^$", write, read }).await;
    let (quoting, runs) = worker("quotes", |queue| queue);
    let running = testing::start(quoting, &mute).await.unwrap();
    for n in 1..=3 {
        let error = ask(&caller, "quotes", "tea", 2 * SECOND).await.unwrap_err();
        assert!(matches!(error, RequestError::TimedOut { .. }), "{error}");
        assert_eq!(runs.load(Ordering::SeqCst), n, "each ran once");
    }
    running.stop().await.unwrap();
    assert!(mute.metrics_text().contains(r#"leveret_replies_total{outcome="lost"} 3"#), "{}", mute.metrics_text());

    let able = verifying(Permissions { configure: "^$", write: replying, read }).await;
    let (quoting, _) = worker("quotes", |queue| queue);
    let running = testing::start(quoting, &able).await.unwrap();
    assert_eq!(ask(&caller, "quotes", "tea", LONG).await.unwrap(), Quote { cents: 350 });
    running.stop().await.unwrap();
}

/// Asks for the quote of caller `n`, counts the answer, and returns whether it is one.
async fn ask_for_own(calling: &Broker, n: u64, answers: &[AtomicU32; 3]) -> bool {
    let answer = ask(calling, "quotes", &n.to_string(), LONG).await;
    if let Ok(quote) = &answer {
        assert_eq!(*quote, Quote { cents: n }, "the answer to another caller");
    }
    let index = match answer {
        Ok(_) => 0,
        Err(RequestError::Lost) => 1,
        Err(RequestError::TimedOut { .. } | RequestError::Publish(_)) => 2,
        Err(other) => panic!("{other}"),
    };
    answers[index].fetch_add(1, Ordering::SeqCst);
    index == 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_callers_get_their_own_answer_or_an_error_while_the_broker_is_killed_twice() {
    let node = Node::start(NodeOptions::default()).await;
    let (calling, working) = (broker(&node.url()), broker(&node.url()));
    let (quoting, runs) = worker("quotes", |queue| queue.concurrency(100));
    let running = testing::start(quoting, &working).await.unwrap();
    let again = CancellationToken::new();
    let answers = Arc::new([const { AtomicU32::new(0) }; 3]);
    let callers: Vec<_> = (0..10_000_u64)
        .map(|n| {
            let (calling, answers, again) = (calling.clone(), Arc::clone(&answers), again.clone());
            tokio::spawn(async move {
                // A caller whose request is lost asks again, so that the second kill meets requests too.
                if !ask_for_own(&calling, n, &answers).await {
                    again.cancelled().await;
                    ask_for_own(&calling, n, &answers).await;
                }
            })
        })
        .collect();
    let count = |index: usize| answers[index].load(Ordering::SeqCst);
    eventually("some are answered", LONG, async || count(0) >= 500).await;
    node.kill9().await;
    eventually("requests are lost", LONG, async || count(1) > 0).await;
    assert!(count(0) < 9_000, "the kill came too late");
    node.restart().await;
    let before = count(0);
    again.cancel();
    eventually("some are answered again", 2 * LONG, async || count(0) >= before + 500).await;
    node.kill9().await;
    node.restart().await;
    for caller in callers {
        tokio::time::timeout(5 * LONG, caller).await.expect("every caller hears something").unwrap();
    }
    assert!(calling.metrics_text().contains("leveret_requests_waiting 0"));
    assert!(runs.load(Ordering::SeqCst) >= count(0));
    running.stop().await.unwrap();
}
