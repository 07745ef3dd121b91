//! The time from a fault until everything works again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use leveret_tests::load::{Line, What, now_us};
use tokio::time::sleep;

use crate::{
    actor::Actor,
    fault::Fault,
    prober::{Aim, Prober},
    stage::{LONG, POLL, Stage},
    watch::Sample,
};

/// The delay of the load's retries.
const RETRY: Duration = Duration::from_millis(200);
/// Longest time until a process is ready, once its last consumer is connected and its copies are confirmed.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// A fault, and the recovery from it.
#[derive(Debug)]
pub(crate) struct Struck {
    began: u64,
    /// Runs until the recovery.
    prober: Option<Prober>,
    /// The workers' lost connections before it.
    reconnects: Vec<u64>,
    /// The time at which the workers could detect the loss.
    pub(crate) knowable: u64,
}

impl Struck {
    /// The time at which the fault began, on the shared clock.
    pub(crate) fn began(&self) -> u64 {
        self.began
    }
}

impl Stage<'_> {
    /// Records that a fault begins now and is detectable at once.
    pub(crate) fn struck(&mut self) -> Struck {
        let mut struck = self.struck_without_probes();
        self.probe(&mut struck);
        struck
    }

    /// The same, without probes for now.
    pub(crate) fn struck_without_probes(&mut self) -> Struck {
        self.figures.faults += 1;
        self.books.probes.clear();
        let began = now_us();
        Struck { began, knowable: began, reconnects: self.reconnects(), prober: None }
    }

    /// Starts the probes, which count as the moment from which the broker is usable.
    pub(crate) fn probe(&mut self, struck: &mut Struck) {
        let aim = Aim { jobs: 2 * self.workers.len(), ..self.aim() };
        struck.prober = Some(Prober::start(aim));
    }

    /// Strikes with a fault, and returns when it is over.
    pub(crate) async fn strike(&mut self, fault: Fault) -> anyhow::Result<Struck> {
        let mut struck = self.struck();
        struck.knowable = fault.strike(self).await?.unwrap_or(struck.knowable);
        Ok(struck)
    }

    /// Measures the recovery: from the moment when a new client could publish and the loss could be known, until every
    /// worker has started a job published since. Soon after, every worker must be ready, and failing jobs must be
    /// retried in time.
    pub(crate) async fn recovered(&mut self, struck: &mut Struck) -> anyhow::Result<()> {
        let since = self.consuming_again(struck).await?;
        self.retrying_again(since, self.size.recovery + RETRY).await?;
        struck.prober = None;
        self.ready_again(struck.began()).await
    }

    /// Like [`recovered`](Self::recovered), but failing jobs need not be retried before `back`, which ends the outage.
    pub(crate) async fn recovered_but_for_retries(
        &mut self,
        struck: &mut Struck,
        back: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let since = self.consuming_again(struck).await?;
        self.ready_again(struck.began()).await?;
        back.await;
        self.retrying_again(since, LONG).await?;
        struck.prober = None;
        Ok(())
    }

    async fn consuming_again(&mut self, struck: &Struck) -> anyhow::Result<u64> {
        let since = self.usable(struck).await?.max(struck.knowable);
        let starts = self.probes_of_everyone(since, What::Start).await?;
        let last = starts.values().map(|line| line.at_us).max().unwrap_or(since);
        let recovery = Duration::from_micros(last.saturating_sub(since));
        self.figures.recoveries.push(recovery);
        let limit = self.size.recovery;
        ensure!(recovery <= limit, "consuming again after {recovery:?}, which is more than {limit:?}");
        Ok(since)
    }

    /// Waits until the prober's client is confirmed; returns since when.
    async fn usable(&mut self, struck: &Struck) -> anyhow::Result<u64> {
        let (over, deadline) = (now_us(), Instant::now() + LONG);
        loop {
            let prober = struck.prober.as_ref().context("a fault is recovered from once")?;
            if let Some(since) = prober.usable_since(over) {
                return Ok(since);
            }
            ensure!(Instant::now() < deadline, "the broker was not usable within {LONG:?}");
            sleep(POLL).await;
        }
    }

    /// Returns, for each worker, its first line of that kind about a probe published since.
    async fn probes_of_everyone(&mut self, since: u64, what: What) -> anyhow::Result<BTreeMap<u32, Line>> {
        let deadline = Instant::now() + LONG;
        let wanted: BTreeSet<_> = self.workers.iter().map(Actor::id).collect();
        loop {
            self.books.read()?;
            let mut lines = BTreeMap::new();
            for line in self.books.probes.iter().filter(|line| line.what == what && line.made_us >= since) {
                if wanted.contains(&line.process) {
                    lines.entry(line.process).or_insert_with(|| line.clone());
                }
            }
            if lines.len() == wanted.len() {
                return Ok(lines);
            }
            let seen: Vec<_> = lines.keys().collect();
            ensure!(Instant::now() < deadline, "of {wanted:?} only {seen:?} run jobs after {LONG:?} ({what:?})");
            sleep(POLL).await;
        }
    }

    /// Checks that a probe that every worker has seen fail is retried in time, which shows that their publishing
    /// connections work.
    async fn retrying_again(&mut self, since: u64, limit: Duration) -> anyhow::Result<()> {
        let failed = self.probes_of_everyone(since, What::Fail).await?;
        let deadline = Instant::now() + LONG;
        loop {
            self.books.read()?;
            let again = |failed: &Line| {
                let mut lines = self.books.probes.iter();
                lines.find(|line| line.what == What::Start && line.attempt == 2 && line.id == failed.id)
            };
            let back: Option<Vec<_>> =
                failed.values().map(|failed| Some(again(failed)?.at_us.saturating_sub(failed.at_us))).collect();
            if let Some(longest) = back.and_then(|back| back.into_iter().max()) {
                let longest = Duration::from_micros(longest);
                ensure!(longest <= limit, "a retry took {longest:?}, which is more than {limit:?}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "retries have not come back within {LONG:?}");
            sleep(POLL).await;
        }
    }

    /// Every worker must be ready within two seconds of the return of its last consumer.
    async fn ready_again(&mut self, began: u64) -> anyhow::Result<()> {
        let now = now_us();
        let is_ready = move |worker: &Actor| worker.watch.last().ready && worker.watch.last().at_us > now;
        self.until("every worker is ready", |stage| stage.workers.iter().all(is_ready)).await?;
        for worker in &self.workers {
            let samples = worker.watch.since(began);
            let missing = |sample: &Sample| sample.wanted == 0 || sample.up < sample.wanted;
            let Some(last) = samples.iter().rposition(missing) else { continue };
            let whole = samples.get(last + 1).context("a sample with all consumers up")?;
            let unready = || samples[last..].iter().take_while(|sample| !sample.ready);
            let ready = samples[last..].iter().find(|sample| sample.ready).context("a sample that is ready")?;
            // The broker may refuse retries for longer than consumers; the worker is not ready until it accepts them.
            let refused = unready().filter(|sample| sample.unconfirmed > 0).last();
            let free = refused.map_or(whole.at_us, |sample| sample.at_us.max(whole.at_us));
            let late = Duration::from_micros(ready.at_us.saturating_sub(free));
            ensure!(late <= READY_WITHIN, "ready {late:?} after the last consumer was back and all copies confirmed");
            let lied = samples.iter().find(|sample| missing(sample) && sample.ready);
            ensure!(lied.is_none(), "ready without a consumer: {lied:?}");
        }
        Ok(())
    }

    /// Checks that every worker has reported the loss of its consumers, and was not ready meanwhile.
    pub(crate) fn reported_loss(&self, struck: &Struck) -> anyhow::Result<()> {
        for worker in &self.workers {
            let samples = worker.watch.since(struck.began());
            let reported = samples.iter().any(|sample| sample.up < sample.wanted && !sample.ready);
            ensure!(reported, "worker {} never reported that it lost a consumer", worker.id());
        }
        Ok(())
    }

    /// Checks that `reconnects_total` of every worker has counted the loss.
    pub(crate) fn counted_loss(&self, struck: &Struck) -> anyhow::Result<()> {
        let (before, after) = (&struck.reconnects, self.reconnects());
        let counted = after.iter().zip(before).all(|(after, before)| after > before);
        ensure!(counted, "reconnects_total did not count: {before:?} then {after:?}");
        Ok(())
    }

    /// Checks that every worker has logged this many lost consumers by now. A channel recovers before a scrape shows
    /// it.
    pub(crate) fn logged_loss(&self, times: usize) -> anyhow::Result<()> {
        for worker in &self.workers {
            let logged = worker.process.count("lost the consumer");
            ensure!(logged >= times, "worker {} logged {logged} lost consumers, not {times}", worker.id());
        }
        Ok(())
    }

    /// Returns the number of connections that each worker has lost so far.
    pub(crate) fn reconnects(&self) -> Vec<u64> {
        self.workers.iter().map(|worker| worker.watch.last().reconnects).collect()
    }
}
