//! A worker publishes status updates and announcements as soon as the missing permission is granted.

use super::{
    Act, Arc, Broker, Catalogue, Config, Context, Deserialize, Duration, Job, LONG, Ordering, Permissions, QueueReader,
    Seen, Serialize, Source, Task, TopologyMode, Worker, broker, declare_status_queue, eventually, shared_node, sleep,
    testing, timeout, worker,
};
use leveret::JobResult;
use leveret_harness::RawClient;

#[derive(Serialize, Deserialize)]
struct Other;

impl Job for Other {
    const NAME: &'static str = "other";
    const QUEUE: &'static str = "tasks";
}

async fn other(_job: Other, _ctx: Context<()>) -> JobResult {
    Ok(())
}

const MUTE: &str = "^leveret.v1.(jobs|dead|delay.*)$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_tried_again_until_the_right_is_granted() {
    let vhost = shared_node().await.vhost().await;
    let owner = broker(&vhost.url());
    declare_status_queue(&owner).await.unwrap();
    let catalogue = Catalogue::follow(&owner);
    catalogue.ready().await;
    // It declares the queue, and does not announce the job.
    testing::start(Worker::new(()).handle(other), &owner).await.unwrap().stop().await.unwrap();
    let rights = |write| Permissions { configure: "", write, read: "^(tasks|leveret.v1.(catalogue|cancelled)$)" };
    vhost.node().add_user("muted", "secret", vhost.name(), rights(MUTE)).await.unwrap();
    let amqp_url = vec![vhost.url_for("muted", "secret")];
    let muted = Broker::amqp(Config { amqp_url, topology: TopologyMode::Verify, ..Config::default() }).unwrap();
    let seen = Arc::<Seen>::default();
    let running = testing::start(worker(&seen), &muted).await.unwrap();
    owner.publisher().publish(&Task { act: Act::Succeed }).track().await.unwrap();
    eventually("it has run", LONG, async || seen.runs.load(Ordering::SeqCst) == 1).await;
    // Long enough for a refusal of every update.
    sleep(Duration::from_secs(3)).await;
    assert!(catalogue.find("task").is_none());
    let (name, write) = (vhost.name(), ".*");
    vhost.node().ctl(&["set_permissions", "--vhost", name, "muted", "", write, ".*"]).await.unwrap();
    timeout(LONG, catalogue.wait_for("task")).await.expect("its jobs are announced");
    let mut feed = QueueReader::new(&owner, Source::StatusUpdates, 100).unwrap();
    let reported = async {
        loop {
            owner.publisher().publish(&Task { act: Act::Succeed }).track().await.unwrap();
            if let Ok(batch) = timeout(Duration::from_secs(5), feed.next(10)).await {
                break batch.messages().len();
            }
        }
    };
    assert!(timeout(2 * LONG, reported).await.expect("steps are reported again") > 0);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_may_publish_no_status_updates_runs_tracked_jobs_nevertheless() {
    let vhost = shared_node().await.vhost().await;
    let owner = broker(&vhost.url());
    testing::start(worker(&Arc::default()), &owner).await.unwrap().stop().await.unwrap();
    let rights = Permissions { configure: "", write: MUTE, read: "^tasks" };
    vhost.node().add_user("mute", "secret", vhost.name(), rights).await.unwrap();
    let config =
        Config { amqp_url: vec![vhost.url_for("mute", "secret")], topology: TopologyMode::Verify, ..Config::default() };
    let (mute, seen) = (Broker::amqp(config).unwrap(), Arc::<Seen>::default());
    let running = testing::start(worker(&seen), &mute).await.unwrap();
    for _ in 0..3 {
        owner.publisher().publish(&Task { act: Act::Succeed }).track().await.unwrap();
    }
    eventually("all have run", LONG, async || seen.runs.load(Ordering::SeqCst) == 3).await;
    running.stop().await.unwrap();
    let raw = RawClient::connect(&vhost.url()).await.unwrap();
    assert_eq!(raw.depth("tasks").await.unwrap(), Some(0), "and were acked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalogue_that_must_not_be_read_says_so_until_it_may() {
    let vhost = shared_node().await.vhost().await;
    let owner = broker(&vhost.url());
    let running = testing::start(Worker::new(()).handle(other), &owner).await.unwrap();
    Catalogue::follow(&owner).wait_for("other").await;
    running.stop().await.unwrap();
    let rights = Permissions { configure: "", write: MUTE, read: "^$" };
    vhost.node().add_user("blind", "secret", vhost.name(), rights).await.unwrap();
    let amqp_url = vec![vhost.url_for("blind", "secret")];
    let blind = Broker::amqp(Config { amqp_url, topology: TopologyMode::Verify, ..Config::default() }).unwrap();
    let catalogue = Catalogue::follow(&blind);
    let is_read = timeout(LONG, catalogue.ready()).await.expect("a refused read does not block");
    assert!(!is_read && catalogue.entries().is_empty());
    let name = vhost.name();
    vhost.node().ctl(&["set_permissions", "--vhost", name, "blind", "", MUTE, ".*"]).await.unwrap();
    timeout(LONG, catalogue.wait_for("other")).await.expect("it is read");
    eventually("all of it is read", LONG, async || catalogue.ready().await).await;
}
