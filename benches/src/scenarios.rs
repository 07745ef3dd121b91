//! The scenarios.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    assignment::{Assignment, Consume, Consumer, Work},
    bench::Bench,
    broker::Kind,
    contest::{ALL, ALL_FAIL, AWAITED, COALESCED, Drain, LEVERET, contest, measure},
    emitting, inserting, instructions, machine,
    measures::{Measure, Sample, Table},
    modelling, publishing, requesting,
    stub::Stub,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// A handler that does nothing, on quorum and classic queues, prefetch 10, 100 and 1000
    Drain,
    /// 1, 4 and 8 queues in one worker
    Queues,
    /// Payloads of 200 bytes, 10 KiB and 1 MiB
    Payload,
    /// Handlers that wait 10 ms, 100 ms and 1 s, a thousand and ten thousand at once
    Waiting,
    /// Handlers that compute, on the blocking pool
    Computing,
    /// One job in five fails once, and jobs that always fail
    Retries,
    /// Confirmed publishes, one by one, pipelined and all at once
    Publish,
    /// Events emitted to 1, 10 and 100 subscriptions, and the drain of a subscription
    Events,
    /// Requests and their replies, one at a time and many at once
    Requests,
    /// Rows inserted into a private PostgreSQL, in batches of 100 and one by one
    Batches,
    /// Time from publish to handler, at 500 jobs a second
    Latency,
    /// Time from the start of the process to its first job
    Start,
    /// A worker without jobs
    Idle,
    /// Jobs on a stub broker that only delivers
    Stub,
    /// Instructions per job on the stub broker, counted by valgrind
    Instructions,
    /// The model of `leveret simulate` compared with real workers, and the capacity of one queue
    Model,
}

impl Scenario {
    pub(crate) fn needs_broker(self) -> bool {
        !matches!(self, Self::Stub | Self::Instructions)
    }
}

pub(crate) async fn run(scenario: Scenario, bench: &Bench) -> Result<Vec<Table>> {
    match scenario {
        Scenario::Drain => drain(bench).await,
        Scenario::Queues => queues(bench).await,
        Scenario::Payload => payload(bench).await,
        Scenario::Waiting => waiting(bench).await,
        Scenario::Computing => computing(bench).await,
        Scenario::Retries => retries(bench).await,
        Scenario::Publish => publishing::run(bench).await,
        Scenario::Events => emitting::run(bench).await,
        Scenario::Requests => requesting::run(bench).await,
        Scenario::Batches => inserting::run(bench).await,
        Scenario::Latency => latency(bench).await,
        Scenario::Start => start(bench).await,
        Scenario::Idle => idle(bench).await,
        Scenario::Stub => stub(bench).await,
        Scenario::Instructions => instructions::run(bench).await,
        Scenario::Model => modelling::run(bench).await,
    }
}

async fn drained(bench: &Bench, scenario: &str, drain: Drain) -> Result<Table> {
    let drain = Drain { jobs: bench.jobs(drain.jobs), ..drain };
    contest(bench, scenario, &ALL, async |(consumer, work)| drain.run(bench.broker()?, consumer, work).await).await
}

async fn drain(bench: &Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for kind in [Kind::Quorum, Kind::Classic] {
        for prefetch in [10, 100, 1_000] {
            let scenario = format!("drain: {} queue, prefetch {prefetch}", kind.name());
            let jobs = if prefetch == 10 { 40_000 } else { 60_000 };
            let drain = Drain { kind, prefetch, concurrency: prefetch, jobs, ..Drain::default() };
            tables.push(drained(bench, &scenario, drain).await?);
        }
    }
    Ok(tables)
}

async fn queues(bench: &Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for queues in [1, 4, 8] {
        let drain = Drain { queues, ..Drain::default() };
        tables.push(drained(bench, &format!("queues: {queues} quorum queues in one worker"), drain).await?);
    }
    Ok(tables)
}

async fn payload(bench: &Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for (name, bytes, prefetch, jobs) in
        [("200 B", 200, 100, 60_000), ("10 KiB", 10_240, 100, 20_000), ("1 MiB", 1_048_576, 10, 500)]
    {
        let drain = Drain { bytes, prefetch, concurrency: prefetch, jobs, ..Drain::default() };
        tables.push(drained(bench, &format!("payload: {name}, prefetch {prefetch}"), drain).await?);
    }
    Ok(tables)
}

async fn waiting(bench: &Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    let cases = [
        ("100 at once, 10 ms each", 1, 100, 10, 60_000),
        ("1,000 at once, 100 ms each", 1, 1_000, 100, 60_000),
        ("10,000 at once, 1 s each, in 5 queues", 5, 2_000, 1_000, 100_000),
    ];
    for (name, queues, concurrency, ms, jobs) in cases {
        // The default prefetch. RabbitMQ allows 2,000.
        let prefetch = (concurrency * 2).min(2_000);
        let drain = Drain { queues, concurrency, prefetch, jobs: bench.jobs(jobs), ..Drain::default() };
        let work = Work::Sleep(Duration::from_millis(ms));
        let scenario = format!("waiting: {name}");
        let table = contest(bench, &scenario, &[(LEVERET, ())], async |()| {
            let mut sample = drain.run(bench.broker()?, Consumer::Leveret, work).await?;
            let ideal = drain.in_flight() * 1_000.0 / ms as f64;
            let share = sample.get(&Measure::JobsPerSecond).map(|rate| rate / ideal * 100.0);
            sample.extend(share.map(|share| (Measure::IdealPercent, share)));
            Ok(sample)
        });
        tables.push(table.await?);
    }
    Ok(tables)
}

async fn computing(bench: &Bench) -> Result<Vec<Table>> {
    let cores = u16::try_from(std::thread::available_parallelism()?.get())?;
    let jobs = bench.jobs(10_000);
    let drain = Drain { concurrency: cores, prefetch: cores * 4, jobs, ..Drain::default() };
    let work = Work::Compute(Duration::from_millis(1));
    let table = contest(bench, "computing: 1 ms each, a handler on each core", &[(LEVERET, ())], async |()| {
        let mut sample = drain.run(bench.broker()?, Consumer::Leveret, work).await?;
        sample.entry(Measure::IdealPercent).and_modify(|busy| *busy *= 100.0 / drain.in_flight());
        Ok(sample)
    });
    Ok(vec![table.await?])
}

/// The row without failures, to compare with.
pub(crate) const NONE_FAIL: &str = "none fail";
pub(crate) const SOME_FAIL: &str = "one in five fails once";

async fn retries(bench: &Bench) -> Result<Vec<Table>> {
    let drain = Drain { jobs: bench.jobs(60_000), ..Drain::default() };
    let some = [(NONE_FAIL, Work::Nothing), (SOME_FAIL, Work::FailOnce(5))];
    let some = contest(bench, "retries: 100 ms later, prefetch 100", &some, async |work| {
        drain.run(bench.broker()?, Consumer::Leveret, work).await
    });
    let some = some.await?;
    // Few enough to spend most of the time in the ladder, and enough that their delay does not limit the rate.
    let (circling, attempts) = (4_000, bench.jobs(60_000));
    let all = contest(bench, "retries: 4,000 jobs that always fail, prefetch 100", &[(ALL_FAIL, ())], async |()| {
        let broker = bench.broker()?;
        let queue = broker.queue(Kind::Quorum).await?;
        broker.fill(&queue, circling, 200).await?;
        let drain = Drain { jobs: attempts, ..Drain::default() };
        let queues = [queue];
        let consume = drain.consume(broker.url(), &queues, Consumer::Leveret, Work::FailAlways);
        let sample = measure(&Assignment::Consume(consume), Some(broker)).await;
        broker.delete(&queues[0], false).await?;
        sample
    });
    Ok(vec![some, all.await?])
}

async fn latency(bench: &Bench) -> Result<Vec<Table>> {
    let jobs = bench.jobs(4_000);
    let contestants = [(LEVERET, Consumer::Leveret), (AWAITED, Consumer::Awaited), (COALESCED, Consumer::Coalesced)];
    let table = contest(bench, "latency: 500 jobs a second on a quorum queue", &contestants, async |consumer| {
        let broker = bench.broker()?;
        let queues = [broker.queue(Kind::Quorum).await?];
        let drain = Drain { jobs, ..Drain::default() };
        let consume = Consume { latency: true, ..drain.consume(broker.url(), &queues, consumer, Work::Nothing) };
        let assignment = Assignment::Consume(consume);
        let publishing = broker.trickle(&queues[0], jobs, 200, Duration::from_millis(2));
        let (sample, published) = tokio::join!(measure(&assignment, Some(broker)), publishing);
        published?;
        broker.delete(&queues[0], true).await?;
        let mut sample = sample?;
        for meaningless in [Measure::JobsPerSecond, Measure::StartMs] {
            sample.remove(&meaningless);
        }
        Ok(sample)
    });
    Ok(vec![table.await?])
}

async fn start(bench: &Bench) -> Result<Vec<Table>> {
    let contestants = [(LEVERET, Consumer::Leveret), (AWAITED, Consumer::Awaited)];
    let table = contest(bench, "start: to the first job, the queue is there", &contestants, async |consumer| {
        let one = Drain { jobs: 1, ..Drain::default() };
        let mut sample = one.run(bench.broker()?, consumer, Work::Nothing).await?;
        sample.retain(|measure, _| *measure == Measure::StartMs);
        Ok(sample)
    });
    Ok(vec![table.await?])
}

async fn idle(bench: &Bench) -> Result<Vec<Table>> {
    const WATCHED: Duration = Duration::from_secs(10);
    let contestants = [(LEVERET, Consumer::Leveret), (AWAITED, Consumer::Awaited)];
    let table = contest(bench, "idle: 10 s after a first job", &contestants, async |consumer| {
        let broker = bench.broker()?;
        let queues = [broker.queue(Kind::Quorum).await?];
        broker.fill(&queues[0], 1, 200).await?;
        let consume = Drain { jobs: 2, ..Drain::default() }.consume(broker.url(), &queues, consumer, Work::Nothing);
        let mut child = crate::child::Child::start(&Assignment::Consume(consume), &[])?;
        child.next().await?;
        let process = child.id().unwrap_or_default();
        // Wait until the work of start-up is done.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = machine::cpu(process).unwrap_or_default();
        tokio::time::sleep(WATCHED).await;
        let used = machine::cpu(process).unwrap_or_default().saturating_sub(before);
        let rss = machine::peak_rss_kib(&process.to_string()).unwrap_or(0);
        drop(child);
        broker.delete(&queues[0], false).await?;
        Ok(Sample::from([
            (Measure::CpuPercent, used.as_secs_f64() / WATCHED.as_secs_f64() * 100.0),
            (Measure::PeakRssMb, rss as f64 / 1024.0),
        ]))
    });
    Ok(vec![table.await?])
}

async fn stub(bench: &Bench) -> Result<Vec<Table>> {
    let drain = Drain { jobs: bench.jobs(250_000), ..Drain::default() };
    let table = contest(bench, STUB, &ALL, async |(consumer, work)| {
        // The naive consumer takes ten times as long per job.
        let jobs = if consumer == Consumer::Awaited { drain.jobs / 5 } else { drain.jobs };
        on_stub(&Drain { jobs, ..drain }, consumer, work).await
    });
    Ok(vec![table.await?])
}

/// The title of the table of the stub.
pub(crate) const STUB: &str = "stub: a broker that only delivers, prefetch 100";

async fn on_stub(drain: &Drain, consumer: Consumer, work: Work) -> Result<Sample> {
    let feed = drain.feed()?;
    let queues = [feed.queue.clone()];
    let stub = Stub::start(feed)?;
    let consume = drain.consume(&stub.url(), &queues, consumer, work);
    let sample = measure(&Assignment::Consume(consume), None).await?;
    stub.finish()?;
    Ok(sample)
}
