//! Steps of workflows on RabbitMQ: the end of a step is safe before its job leaves the queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use leveret::{
    Context, Job, JobResult, NewJob, PublishError, Queue, Worker,
    testing::start,
    workflow::{END, JobSpec, START, StartError, StepEnd, StepOutcome, StepRef, Workflow},
};
use leveret_harness::{RawClient, eventually, python, shared_node};
use serde::{Deserialize, Serialize};

use crate::support::{LONG, Place};

const FULL: &str = r#"{"max-length": 0, "overflow": "reject-publish"}"#;
const WORKFLOWS: &str = "leveret.v1.workflows";
const PAGE: &str = include_str!("../../docs/src/workflows.md");

#[derive(Serialize, Deserialize, Job)]
#[job(name = "count", queue = "counts")]
struct Count;

async fn count(_: Count, ctx: Context<Arc<AtomicU32>>) -> JobResult<u32> {
    Ok(ctx.state().fetch_add(1, Ordering::SeqCst) + 1)
}

fn step_of(queue: &str, at: StepRef) -> NewJob {
    let spec = format!(r#"{{"job": "count", "queue": "{queue}", "payload": null}}"#);
    serde_json::from_str::<JobSpec>(&spec).unwrap().job(at, None, "secret", false)
}

/// Returns the types of the messages in the queue of workflows, and the last body.
async fn taken(raw: &RawClient) -> (Vec<String>, Vec<u8>) {
    let (mut types, mut last) = (Vec::new(), Vec::new());
    while let Some(message) = raw.take(WORKFLOWS).await.unwrap() {
        types.push(message.properties.kind().as_ref().unwrap().to_string());
        last = message.data.clone();
    }
    (types, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_end_is_not_confirmed_stays_in_its_queue_and_does_not_run_again() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "steps");
    let runs = Arc::new(AtomicU32::new(0));
    let worker =
        Worker::new(Arc::clone(&runs)).queue(Queue::new(&place.queue)).handle_with(count, |h| h.queue(&place.queue));
    let running = start(worker, &place.broker).await.unwrap();
    let publisher = place.broker.publisher();
    let filler = || Workflow::new("filler").step("a", NewJob::raw("count", &place.queue, "null"));
    publisher.start(&filler()).await.unwrap();
    vhost.node().set_policy(vhost.name(), "full", "workflows$", FULL).await.unwrap();
    eventually("the queue of workflows is full", LONG, async || {
        matches!(publisher.start(&filler()).await, Err(StartError::Publish(PublishError::Nacked { .. })))
    })
    .await;
    let at = StepRef::member("w", "count", 3);
    publisher.publish(step_of(&place.queue, at.clone())).await.unwrap();
    eventually("the end waits for its confirm", LONG, async || {
        runs.load(Ordering::SeqCst) == 1 && place.broker.metrics_text().contains("\nleveret_copies_unconfirmed 1\n")
    })
    .await;
    let columns = ["list_queues", "-p", vhost.name(), "--silent", "name", "messages_unacknowledged"];
    let unacked = format!("{}\t1", place.queue);
    eventually("the broker lists the job as unacknowledged", LONG, async || {
        vhost.node().ctl(&columns).await.unwrap().lines().any(|line| line == unacked)
    })
    .await;
    vhost.node().ctl(&["clear_policy", "--vhost", vhost.name(), "full"]).await.unwrap();
    let raw = place.raw().await;
    eventually("the job has left its queue", LONG, async || {
        place.broker.metrics_text().contains("\nleveret_copies_unconfirmed 0\n")
            && raw.depth(&place.queue).await.unwrap() == Some(0)
    })
    .await;
    running.stop().await.unwrap();
    let (types, last) = taken(&raw).await;
    assert_eq!(types.last().map(String::as_str), Some(END), "{types:?}");
    assert!(types[..types.len() - 1].iter().all(|kind| kind == START), "one end: {types:?}");
    let end: StepEnd = serde_json::from_slice(&last).unwrap();
    assert_eq!((end.of, end.origin.as_str(), end.attempt), (at, "secret", 1));
    assert!(
        matches!(&end.outcome, StepOutcome::Completed { result: Some(json), .. } if json.get() == "1"),
        "{:?}",
        end.outcome
    );
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_is_started_where_no_worker_has_declared_anything() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "start");
    let workflow = Workflow::new("order").id("order-17").step("a", NewJob::raw("count", "counts", "null"));
    let started = tokio::time::timeout(Duration::from_secs(30), place.broker.publisher().start(&workflow)).await;
    assert_eq!(started.unwrap().unwrap(), "order-17");
    let (types, last) = taken(&place.raw().await).await;
    assert_eq!(types, [START]);
    let read: Workflow = serde_json::from_slice(&last).unwrap();
    assert!(read.is_same_as(&workflow));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_is_started_by_the_python_program_of_the_book() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "python");
    place.declare().await;
    let (_, snippet) = PAGE.split_once("```python\n").unwrap();
    let (snippet, _) = snippet.split_once("```").unwrap();
    let mut program = python().await;
    program.args(["-c", snippet]).env("AMQP_URL", vhost.url());
    let started = tokio::task::block_in_place(|| program.output()).unwrap();
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let (types, last) = taken(&place.raw().await).await;
    assert_eq!(types, [START]);
    let read: Workflow = serde_json::from_slice(&last).unwrap();
    read.check().unwrap();
    assert_eq!((read.workflow_id(), read.step_list().len()), (Some("order-17"), 2));
}
