//! The result of a published job, awaited by its publisher: on both brokers.

use futures_util::future::join_all;
use leveret::{Context, IfTaken, JobResult, NewJob, PublishError, ResultError};
use leveret_harness::Proxy;

use super::{
    Act, Arc, Broker, Config, Deserialize, Duration, Job, LONG, Permissions, Place, Serialize, Task, TopologyMode,
    Value, Worker, broker, eventually, json, shared_node, testing, timeout, worker,
};

on_both_brokers!(
    the_result_of_a_job_reaches_its_publisher,
    a_job_that_does_not_succeed_ends_the_wait_with_its_reason,
    many_publishers_get_each_their_own_result,
    a_wait_that_is_dropped_half_way_goes_on_with_the_next_call,
    another_publisher_that_knows_the_id_cannot_answer,
    the_result_of_another_job_cannot_be_awaited,
);

async fn the_result_of_a_job_reaches_its_publisher(place: Place) {
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let publisher = place.another_process().publisher();
    let mut job = publisher.publish(&Task { act: Act::Succeed }).with_result().await.unwrap();
    let result: Value = timeout(LONG, job.result()).await.unwrap().unwrap();
    assert_eq!(result, json!({"pages": 3}));
    assert_eq!(job.result::<Value>().await.unwrap(), result, "a later call returns the same");
    let wrong = job.result::<u32>().await.unwrap_err();
    assert!(matches!(&wrong, ResultError::Decode { id, .. } if id == job.id()), "{wrong:?}");
    let retried = NewJob::of(&Task { act: Act::FailOnce }).delay(Duration::from_millis(100));
    let mut job = publisher.publish(retried).with_result().await.unwrap();
    timeout(LONG, job.result::<()>()).await.unwrap().unwrap();
    running.stop().await.unwrap();
}

async fn a_job_that_does_not_succeed_ends_the_wait_with_its_reason(place: Place) {
    let running = testing::start(worker(&Arc::default()), &place.broker).await.unwrap();
    let publisher = place.another_process().publisher();
    let publish = async |act| publisher.publish(&Task { act }).with_result().await.unwrap();
    let mut refused = publish(Act::Refuse).await;
    let error = timeout(LONG, refused.result::<Value>()).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), format!("job {} was dead-lettered (permanent): no such printer", refused.id()));
    let mut grown = publish(Act::Grow).await;
    let error = timeout(LONG, grown.result::<Value>()).await.unwrap().unwrap_err();
    assert!(matches!(error, ResultError::TooLarge { bytes, .. } if bytes > 64 * 1024), "{error:?}");
    let mut known = publish(Act::Known).await;
    timeout(LONG, known.result::<()>()).await.unwrap().unwrap();
    let error = known.result::<u32>().await.unwrap_err();
    assert!(matches!(error, ResultError::Duplicate { .. }), "{error:?}");
    let mut cancelled = publish(Act::UntilCancelled).await;
    publisher.cancel(cancelled.id().as_str()).await.unwrap();
    let error = timeout(LONG, cancelled.result::<Value>()).await.unwrap().unwrap_err();
    assert!(matches!(error, ResultError::Cancelled { .. }), "{error:?}");
    let missing = publisher.publish_raw("task", "nowhere", "{}").with_result().await.unwrap_err();
    assert!(matches!(missing, PublishError::Unroutable { .. }), "{missing:?}");
    running.stop().await.unwrap();
}

#[derive(Serialize, Deserialize)]
struct Double(u64);

impl Job for Double {
    const NAME: &'static str = "double";
    const QUEUE: &'static str = "doubles";
}

async fn double(job: Double, _: Context<()>) -> JobResult<u64> {
    Ok(job.0 * 2)
}

async fn many_publishers_get_each_their_own_result(place: Place) {
    let running = testing::start(Worker::new(()).handle(double), &place.broker).await.unwrap();
    let other = place.another_process();
    let publishes = (0..200_u64).map(async |number| {
        let publisher = other.publisher();
        let mut job = publisher.publish(&Double(number)).with_result().await.unwrap();
        timeout(LONG, job.result::<u64>()).await.unwrap().unwrap()
    });
    let doubled = join_all(publishes).await;
    assert_eq!(doubled, (0..200).map(|number| number * 2).collect::<Vec<_>>());
    running.stop().await.unwrap();
}

async fn a_wait_that_is_dropped_half_way_goes_on_with_the_next_call(place: Place) {
    testing::start(Worker::new(()).handle(double), &place.broker).await.unwrap().stop().await.unwrap();
    let mut job = place.broker.publisher().publish(&Double(21)).with_result().await.unwrap();
    let early = timeout(Duration::from_millis(50), job.result::<u64>()).await;
    assert!(early.is_err(), "no worker runs");
    let running = testing::start(Worker::new(()).handle(double), &place.broker).await.unwrap();
    assert_eq!(timeout(LONG, job.result::<u64>()).await.unwrap().unwrap(), 42);
    running.stop().await.unwrap();
}

async fn another_publisher_that_knows_the_id_cannot_answer(place: Place) {
    testing::start(Worker::new(()).handle(double), &place.broker).await.unwrap().stop().await.unwrap();
    let publisher = place.broker.publisher();
    let publish = |number| publisher.publish(&Double(number)).id("order-17");
    // The impostor's job is first in the queue.
    let mut impostor = publish(1).with_result().await.unwrap();
    let mut own = publish(2).with_result().await.unwrap();
    let running = testing::start(Worker::new(()).handle(double), &place.broker).await.unwrap();
    assert_eq!(timeout(LONG, own.result::<u64>()).await.unwrap().unwrap(), 4);
    assert_eq!(timeout(LONG, impostor.result::<u64>()).await.unwrap().unwrap(), 2);
    running.stop().await.unwrap();
}

async fn the_result_of_another_job_cannot_be_awaited(place: Place) {
    let publisher = place.broker.publisher().unique_in(Arc::new(leveret::unique::InMemory::default()));
    let publish = publisher.publish(&Double(1)).if_taken(IfTaken::Existing).unique("k", LONG);
    let error = publish.with_result().await.unwrap_err();
    assert!(matches!(error, PublishError::Invalid { what: "if_taken", .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_ends_the_wait_as_unknown_and_the_next_publish_subscribes_again() {
    let vhost = shared_node().await.vhost().await;
    let owner = broker(&vhost.url());
    testing::start(Worker::new(()).handle(double), &owner).await.unwrap().stop().await.unwrap();
    let proxy = Proxy::start(&vhost.url()).await;
    let publisher = broker(proxy.url()).publisher();
    let mut lost = publisher.publish(&Double(1)).with_result().await.unwrap();
    proxy.cut();
    let error = timeout(LONG, lost.result::<u64>()).await.unwrap().unwrap_err();
    assert!(matches!(error, ResultError::Unknown { .. }), "{error:?}");
    let again = lost.result::<u64>().await.unwrap_err();
    assert!(matches!(again, ResultError::Unknown { .. }), "{again:?}");
    let running = testing::start(Worker::new(()).handle(double), &owner).await.unwrap();
    let mut job = publisher.publish(&Double(2)).with_result().await.unwrap();
    assert_eq!(timeout(LONG, job.result::<u64>()).await.unwrap().unwrap(), 4);
    running.stop().await.unwrap();
}

/// The rights of the user `caller` in docs/src/broker.md.
const CALLER: Permissions<'static> = Permissions {
    configure: r"^leveret\.v1\.results\..*$",
    write: r"^leveret\.v1\.(jobs|delay\..*|results\..*)$",
    read: r"^leveret\.v1\.(events|results\..*)$",
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_suffice_and_a_publisher_without_them_publishes_nothing() {
    let vhost = shared_node().await.vhost().await;
    let owner = broker(&vhost.url());
    let running = testing::start(Worker::new(()).handle(double), &owner).await.unwrap();
    let publisher_rights = Permissions { configure: "^$", write: r"^leveret\.v1\.(jobs|delay\..*)$", read: "^$" };
    for (user, rights) in [("caller", CALLER), ("publisher", publisher_rights)] {
        vhost.node().add_user(user, "secret", vhost.name(), rights).await.unwrap();
    }
    let of = |user: &str| {
        let amqp_url = vec![vhost.url_for(user, "secret")];
        Broker::amqp(Config { amqp_url, topology: TopologyMode::Verify, ..Config::default() }).unwrap()
    };
    let caller = of("caller");
    let mut job = caller.publisher().publish(&Double(4)).with_result().await.unwrap();
    assert_eq!(timeout(LONG, job.result::<u64>()).await.unwrap().unwrap(), 8);
    let refused = of("publisher").publisher().publish(&Double(4)).with_result().await.unwrap_err();
    assert!(matches!(&refused, PublishError::Results { reason } if reason.contains("results")), "{refused:?}");
    let ran = r#"leveret_jobs_finished_total{job="double",outcome="succeeded",queue="doubles"} 1"#;
    eventually("one job has run", LONG, async || owner.metrics_text().contains(ran)).await;
    running.stop().await.unwrap();
    assert!(owner.metrics_text().contains(ran), "the refused job did not run");
}
