//! The scenario of confirmed publishes.

use anyhow::Result;
use leveret::Job;

use crate::{
    assignment::{Assignment, Mail, Publish, Publisher},
    bench::Bench,
    broker::Kind,
    contest::{contest, measure},
    measures::{Measure, Table},
};

pub(crate) const ONE_BY_ONE: &str = "leveret, one by one";
pub(crate) const PIPELINED: &str = "leveret, pipelined";
pub(crate) const ALL: &str = "leveret, publish_all";
pub(crate) const HAND_WRITTEN: &str = "lapin, pipelined";

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Table>> {
    let contestants = [
        (ONE_BY_ONE, Publisher::LeveretAwaited),
        (PIPELINED, Publisher::LeveretPipelined),
        (ALL, Publisher::LeveretAll),
        ("lapin, one by one", Publisher::LapinAwaited),
        (HAND_WRITTEN, Publisher::LapinPipelined),
    ];
    let table = contest(bench, "publish: 200 B, confirmed, quorum queue", &contestants, async |publisher| {
        let broker = bench.broker()?;
        // `publish_all` publishes these jobs to this queue.
        let queue = Mail::QUEUE.to_owned();
        broker.make(&queue, Kind::Quorum).await?;
        let one_by_one = matches!(publisher, Publisher::LeveretAwaited | Publisher::LapinAwaited);
        let jobs = bench.jobs(if one_by_one { 5_000 } else { 50_000 });
        let publish = Publish { publisher, url: broker.url().to_owned(), queue, jobs, bytes: 200 };
        let sample = measure(&Assignment::Publish(publish), Some(broker)).await;
        broker.delete(Mail::QUEUE, false).await?;
        let mut sample = sample?;
        sample.remove(&Measure::StartMs);
        Ok(sample)
    });
    Ok(vec![table.await?])
}
