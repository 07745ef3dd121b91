//! The publishers fail.

use std::time::Duration;

use anyhow::ensure;
use leveret_harness::Proxy;
use leveret_tests::{audit::Cause, load::now_us};
use tokio::time::sleep;

use crate::stage::{Cast, Stage};

/// A repeated publish is doubled at worst; the workers' unacknowledged jobs are not affected.
pub(crate) async fn publishers_lose_their_confirms(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin(Cast::default()).await?;
    for _ in 0..stage.size.rounds * 5 {
        sleep(Duration::from_millis(stage.random.u64(50..600))).await;
        let since = now_us();
        stage.figures.faults += 1;
        stage.publishers.iter().for_each(|publisher| publisher.network(Proxy::cut));
        stage.publishing_again(since).await?;
    }
    stage.finish().await?;
    let duplicates = stage.figures().verdict.duplicates;
    ensure!(stage.books.audit.repeated() > 0, "no publish was ever uncertain");
    ensure!(
        duplicates.keys().all(|cause| *cause == Cause::PublishRepeated),
        "doubled for another reason: {duplicates:?}"
    );
    Ok(())
}
