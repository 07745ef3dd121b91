//! Events of clients in other languages, and of users with few rights.

use std::{process::Command, time::Duration};

use leveret::{
    Broker, Config, Context, Event, JobError, JobResult, PublishError, Subscription, TopologyMode, Worker,
    testing::{dead_letters, start},
};
use leveret_harness::{Permissions, eventually, golang, javascript, python, shared_node, unique};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::support::{LONG, broker};

const PAGE: &str = include_str!("../../docs/src/events.md");

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
struct OrderPlaced {
    order: String,
    customer: u64,
}

const PLACED: &str = "order-17-placed";

type Seen = mpsc::UnboundedSender<(String, String)>;

async fn note(event: OrderPlaced, ctx: Context<Seen>) -> JobResult {
    if event.customer == 0 {
        return Err(JobError::permanent("no customer"));
    }
    ctx.state().send((ctx.job_id().to_string(), event.order)).unwrap();
    Ok(())
}

/// The first snippet in the page that begins so.
fn block(beginning: &str) -> &'static str {
    let (_, from) = PAGE.split_once(&format!("```{beginning}\n")).unwrap();
    from.split_once("```").unwrap().0
}

/// The event of the program reaches a subscription, with this id.
async fn is_handled(mut program: Command, id: &str) {
    let vhost = shared_node().await.vhost().await;
    let (sender, mut seen) = mpsc::unbounded_channel();
    let broker = broker(&vhost.url());
    let worker = Worker::new(sender).subscribe(Subscription::new("warehouse"), note);
    let running = start(worker, &broker).await.unwrap();
    program.env("AMQP_URL", vhost.url());
    // The queue may be electing its leader.
    eventually("the event is confirmed", LONG, async || {
        let program = &mut program;
        tokio::task::block_in_place(|| program.output()).unwrap().status.success()
    })
    .await;
    assert_eq!(seen.recv().await.unwrap(), (id.to_owned(), "17".to_owned()));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_of_a_python_client_is_handled() {
    let mut program = python().await;
    program.args(["-c", block("python")]);
    is_handled(program, PLACED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_of_a_node_client_is_handled() {
    let mut program = javascript().await;
    program.args(["-e", block("javascript")]);
    is_handled(program, PLACED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_of_a_go_client_is_handled() {
    is_handled(Command::new(golang(block("go")).await), PLACED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cloud_event_of_a_python_client_is_handled_under_its_source_and_id() {
    let mut program = python().await;
    program.args(["-c", block("python\n# a CloudEvent")]);
    is_handled(program, "/shop 17").await;
}

fn order(order: &str, customer: u64) -> OrderPlaced {
    OrderPlaced { order: order.to_owned(), customer }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_privileges_of_the_book_are_enough_to_emit_and_to_subscribe() {
    const LISTED: [&str; 3] =
        [r"`leveret\.v1\.topics`", r"`leveret\.v1\.each\..*`", "subscription has the rights of a job queue"];
    let page = crate::readme::ON_THE_BROKER.replace('\n', " ");
    assert!(LISTED.iter().all(|part| page.contains(part)), "the page names the rights that are tried here");
    let vhost = shared_node().await.vhost().await;
    let verifying = async |role: &str, configure: &str, write: &str, read: &str| {
        let name = unique(role);
        vhost.node().add_user(&name, "secret", vhost.name(), Permissions { configure, write, read }).await.unwrap();
        let amqp_url = vec![vhost.url_for(&name, "secret")];
        Broker::amqp(Config { amqp_url, topology: TopologyMode::Verify, ..Config::default() }).unwrap()
    };
    let subscribed = |sender: &Seen| Worker::new(sender.clone()).subscribe(Subscription::new("warehouse"), note);
    let (sender, mut seen) = mpsc::unbounded_channel();
    let guest = broker(&vhost.url());
    start(subscribed(&sender), &guest).await.unwrap().stop().await.unwrap();

    let emitter = verifying("emitter", "^$", r"^leveret\.v1\.topics$", "^$").await;
    let worker = verifying(
        "worker",
        "^$",
        r"^leveret\.v1\.(jobs|dead|delay\..*|events|catalogue)$",
        r"^(warehouse(\.suspect)?|leveret\.v1\.(cancelled|catalogue))$",
    )
    .await;
    let cache = verifying(
        "cache",
        r"^leveret\.v1\.each\..*$",
        r"^leveret\.v1\.(each\..*|events|catalogue)$",
        r"^leveret\.v1\.(each\..*|topics|cancelled|catalogue)$",
    )
    .await;
    let warehouse = start(subscribed(&sender), &worker).await.unwrap();
    let each = Worker::new(sender.clone()).subscribe(Subscription::each_process(), note);
    let each = start(each, &cache).await.unwrap();
    emitter.publisher().emit(&order("1", 4)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(seen.recv().await.unwrap().1, "1");
    }
    emitter.publisher().emit(&order("2", 0)).await.unwrap();
    let dead = async || dead_letters(&guest, "warehouse").await.map_or(0, |letters| letters.len());
    eventually("the dead letter is kept", LONG, async || dead().await == 1).await;
    let job = emitter.publisher().publish_raw("order.placed", "warehouse", "{}").await;
    assert!(matches!(job, Err(PublishError::Refused { .. })), "{job:?}");
    warehouse.stop().await.unwrap();
    each.stop().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), emitter.close()).await.unwrap();
}
