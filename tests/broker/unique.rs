//! Unique jobs: the publisher's error while a key is taken, and the release of the key at the end of its job.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use leveret::{
    Broker, Context, IfTaken, Job, JobId, JobResult, Publish, PublishError, Publisher, Worker, testing,
    unique::{Claim, Claimed, InMemory, UniqueKeys},
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Serialize, Deserialize)]
struct Sync {
    account: u32,
}

impl Job for Sync {
    const NAME: &'static str = "sync";
    const QUEUE: &'static str = "sync";
}

/// Waits for the gate, or until it is cancelled.
async fn sync(_: Sync, ctx: Context<CancellationToken>) -> JobResult {
    tokio::select! {
        () = ctx.state().cancelled() => Ok(()),
        () = ctx.cancelled() => Err("cancelled".into()),
    }
}

struct Place {
    broker: Broker,
    keys: Arc<InMemory>,
    gate: CancellationToken,
    running: testing::Running,
}

impl Place {
    async fn new() -> Self {
        let (broker, gate) = (Broker::memory(), CancellationToken::new());
        let running = testing::start(Worker::new(gate.clone()).handle(sync), &broker).await.unwrap();
        Self { broker, keys: Arc::default(), gate, running }
    }

    fn publisher(&self) -> Publisher {
        self.broker.publisher().unique_in(self.keys.clone())
    }

    fn publish(&self, account: u32, time_to_live: Duration) -> Publish {
        self.publisher().publish(&Sync { account }).unique(account.to_string(), time_to_live)
    }
}

fn refused(published: Result<JobId, PublishError>, by: &JobId) -> bool {
    matches!(published, Err(PublishError::NotUnique { id, .. }) if id == *by)
}

#[tokio::test(start_paused = true)]
async fn an_equal_job_is_refused_until_the_time_to_live_is_over() {
    let place = Place::new().await;
    let first = place.publish(7, HOUR).await.unwrap();
    assert!(refused(place.publish(7, HOUR).await, &first));
    place.publish(8, HOUR).await.unwrap();
    place.publisher().publish(&Sync { account: 7 }).await.unwrap();
    tokio::time::advance(HOUR).await;
    place.publish(7, HOUR).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_id_of_the_equal_job_is_had_if_that_is_wanted() {
    let place = Place::new().await;
    let first = place.publish(7, HOUR).await.unwrap();
    assert_eq!(place.publish(7, HOUR).if_taken(IfTaken::Existing).await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn the_equal_job_is_cancelled_if_it_is_to_be_replaced() {
    let place = Place::new().await;
    let first = place.publish(7, HOUR).await.unwrap();
    let second = place.publish(7, HOUR).if_taken(IfTaken::Replace).await.unwrap();
    assert_ne!(first, second);
    assert!(refused(place.publish(7, HOUR).await, &second));
    place.gate.cancel();
    place.running.stop().await.unwrap();
    let counts = place.broker.metrics_text();
    for outcome in ["cancelled", "succeeded"] {
        let one = format!(r#"leveret_jobs_finished_total{{job="sync",outcome="{outcome}",queue="sync"}} 1"#);
        assert!(counts.contains(&one), "{counts}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_key_of_a_cancelled_job_is_free_at_once_and_no_other_key_is() {
    let place = Place::new().await;
    // One that runs, and one that waits for its time.
    for delay in [Duration::ZERO, HOUR] {
        let publish = |account: u32| place.publish(account, 24 * HOUR).delay(delay);
        let (first, neighbour) = (publish(7).await.unwrap(), publish(8).await.unwrap());
        place.publisher().cancel(first.as_str()).await.unwrap();
        let second = publish(7).if_taken(IfTaken::Existing).await.unwrap();
        assert_ne!(first, second, "delayed by {delay:?}");
        // A late cancellation applies to a job that no longer has the key.
        place.publisher().cancel(first.as_str()).await.unwrap();
        assert!(refused(publish(7).await, &second) && refused(publish(8).await, &neighbour));
        for id in [second, neighbour] {
            place.publisher().cancel(id.as_str()).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_not_published_leaves_its_key_free() {
    let place = Place::new().await;
    let nowhere = place.publish(7, HOUR).queue("nowhere").await;
    assert!(matches!(nowhere, Err(PublishError::Unroutable { .. })));
    place.publish(7, HOUR).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_no_database_could_keep_is_refused() {
    let place = Place::new().await;
    for key in ["x".repeat(1025), "a\0b".to_owned()] {
        let refused = place.publish(7, HOUR).unique(key, HOUR).await;
        assert!(matches!(refused, Err(PublishError::Invalid { what: "unique key", .. })));
    }
    place.publish(7, HOUR).unique("x".repeat(1024), HOUR).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publish_is_repeated_under_its_own_id() {
    let place = Place::new().await;
    place.publish(7, HOUR).id("mine").await.unwrap();
    place.publish(7, HOUR).id("mine").await.unwrap();
    assert!(refused(place.publish(7, HOUR).id("other").await, &JobId::from("mine")));
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_publisher_died_is_free_when_a_publish_can_last_no_longer() {
    let place = Place::new().await;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let (a, b) = (JobId::from("a"), JobId::from("b"));
    let claim = |job_id, after| {
        let now = now + Duration::from_millis(after);
        Claim { key: "sync/7", job_id, origin: "", now, until: now + Duration::from_secs(35), instead_of: None }
    };
    assert_eq!(place.keys.take(claim(&a, 0)).await.unwrap(), Claimed::Taken);
    assert_eq!(place.keys.take(claim(&b, 34_999)).await.unwrap(), Claimed::By("a".into()));
    assert_eq!(place.keys.take(claim(&b, 35_000)).await.unwrap(), Claimed::Taken);
}

#[tokio::test]
async fn without_a_store_nothing_is_unique() {
    let published = Broker::memory().publisher().publish(&Sync { account: 7 }).unique("7", HOUR).await;
    assert!(published.unwrap_err().to_string().contains("Publisher::unique_in"));
}
