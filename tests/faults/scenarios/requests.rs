//! Requests: every caller gets its own answer or a typed error. The calling process ends with an error if one gets another's
//! answer, or nothing.

use anyhow::ensure;

use crate::{
    fault::Fault,
    stage::{Cast, Stage, words},
};

/// The requests of the whole suite.
const MOST: u64 = 10_000;

pub(crate) async fn requests_whose_broker_is_killed_twice(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.size.jobs = stage.size.jobs.min(MOST);
    // A request costs several times what a job does. With less to do they all are on their way for a while, so that a kill
    // hits some.
    stage.size.rate = (stage.size.rate / 2).min(MOST / 20);
    stage.begin(Cast { publish: words("--form requests --delayed 0 --work-ms 200"), ..Cast::default() }).await?;
    for _ in 0..2 {
        stage.play().await;
        let mut struck = stage.strike(Fault::BrokerKilled).await?;
        stage.recovered(&mut struck).await?;
    }
    stage.finish().await?;
    ensure!(stage.books.audit.repeated() > 0, "no request was lost: the kills hit none");
    Ok(())
}
