//! The end of a scenario: everything comes to its end, the processes stop, and every job is accounted for.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use leveret_harness::lapin::BasicProperties;
use tokio::time::sleep;

use crate::{
    actor::Actor,
    prober,
    stage::{LONG, Stage},
};

/// Most lines that a process logs in its busiest second, apart from those about single jobs.
const LINES_A_SECOND: usize = 25;
/// RabbitMQ retries its own dead-lettering after three minutes (`dead_letter_worker_publisher_confirm_timeout`).
const LADDER_REPEATS: Duration = Duration::from_secs(200);
/// Most growth of a process's memory after its first seconds, whatever happens to it.
const GROWTH_KIB: u64 = 48 * 1024;

impl Stage<'_> {
    /// Stops the publishers, waits until every job has come to its end, stops the workers, and audits.
    pub(crate) async fn finish(&mut self) -> anyhow::Result<()> {
        self.finish_except(|_, _| false).await
    }

    /// Like [`finish`](Self::finish), but `excused` jobs may be lost, by their id and the time of their confirm.
    pub(crate) async fn finish_except(&mut self, excused: impl Fn(&str, u64) -> bool) -> anyhow::Result<()> {
        for publisher in &self.publishers {
            publisher.process.sigterm();
        }
        let publishing = Duration::from_secs(self.size.jobs / self.size.rate) + LONG;
        for publisher in &self.publishers {
            let status = publisher.process.wait_exit(publishing).await;
            ensure!(status.success(), "a publisher ended with {status}");
        }
        self.all_ended(&excused).await?;
        if self.books.audit.open().next().is_some() || self.books.audit.has_doubts() {
            self.nothing_on_its_way().await?;
        }
        for worker in &self.workers {
            worker.process.sigterm();
        }
        for worker in &self.workers {
            let status = worker.process.wait_exit(LONG).await;
            ensure!(status.success(), "a worker ended with {status}");
        }
        self.books.read()?;
        self.take_kept().await?;
        self.account(&excused).await?;
        self.judge()
    }

    async fn all_ended(&mut self, excused: impl Fn(&str, u64) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + LONG;
        loop {
            self.books.read()?;
            let open = self.books.audit.open().filter(|(id, at)| !excused(id, *at)).count();
            if open == 0 {
                return Ok(());
            }
            self.take_kept().await?;
            if Instant::now() > deadline {
                let examples: Vec<_> = self.books.audit.open().take(5).collect();
                anyhow::bail!("after {LONG:?} {open} jobs have not come to an end: {examples:?}");
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Jobs that may be lost may also be in the ladder, or unacknowledged, and arrive while workers stop.
    async fn nothing_on_its_way(&self) -> anyhow::Result<()> {
        let mut on_its_way = String::new();
        let deadline = Instant::now() + LADDER_REPEATS;
        while Instant::now() < deadline {
            on_its_way = self.node.eval(&held(&self.queues())).await?;
            if on_its_way.trim() == "[]" {
                return Ok(());
            }
            sleep(Duration::from_millis(500)).await;
        }
        anyhow::bail!("after {LADDER_REPEATS:?} these queues still hold jobs: {on_its_way}")
    }

    /// Reads the dead letters and the unrouted messages.
    pub(crate) async fn take_kept(&mut self) -> anyhow::Result<()> {
        let raw = prober::connect(&self.raw_urls).await?;
        for (queue, of) in self.queues() {
            while let Some(letter) = raw.take(&format!("{queue}.dead")).await? {
                let properties = &letter.delivery.properties;
                let kind = header(properties, "leveret-error-kind").unwrap_or_else(|| "by the broker".to_owned());
                self.books.audit.dead(&format!("{}{of}", id_of(properties).unwrap_or_default()), &kind);
            }
        }
        while let Some(kept) = raw.take("leveret.v1.unrouted").await? {
            let properties = &kept.delivery.properties;
            let subscription = header(properties, "leveret-subscription");
            let of = subscription.map_or_else(String::new, |name| format!("@{name}"));
            self.books.audit.unrouted(&format!("{}{of}", id_of(properties).unwrap_or_default()));
        }
        Ok(())
    }

    /// Computes the figures. A message that is left in a queue is a duplicate of a job that has ended, or stuck.
    async fn account(&mut self, excused: impl Fn(&str, u64) -> bool) -> anyhow::Result<()> {
        let raw = prober::connect(&self.raw_urls).await?;
        let mut left = Vec::new();
        for (name, of) in self.queues() {
            for queue in [name.clone(), format!("{name}.suspect")] {
                while let Some(message) = raw.take(&queue).await? {
                    let id = id_of(&message.delivery.properties).context("a message without an id is left")?;
                    left.push(format!("{id}{of}"));
                }
            }
        }
        let gone: BTreeSet<String> =
            self.books.audit.open().filter(|(id, at)| excused(id, *at)).map(|(id, _)| id.to_owned()).collect();
        let mut verdict = self.books.audit.verdict();
        verdict.lost.retain(|id| !gone.contains(id));
        verdict.published -= gone.len();
        let all = || self.workers.iter().chain(&self.publishers).chain(&self.gone);
        self.figures.acks_lost = all().map(|actor| actor.watch.last().acks_lost).sum();
        self.figures.suspects = all().map(|actor| actor.process.count("moving the job to the suspect queue")).sum();
        self.figures.largest_rss_kib =
            all().flat_map(|actor| actor.watch.samples()).map(|sample| sample.rss_kib).max().unwrap_or_default();
        self.figures.deleted = gone.len();
        self.figures.took = self.began.elapsed();
        self.figures.verdict = verdict;
        let audit = &self.books.audit;
        let stuck: Vec<_> = left.iter().filter(|id| !audit.has_ended(id)).map(|id| audit.history(id)).collect();
        ensure!(stuck.is_empty(), "left in the queue: {:?}", some(&stuck));
        Ok(())
    }

    fn judge(&self) -> anyhow::Result<()> {
        let (verdict, figures) = (&self.figures.verdict, &self.figures);
        ensure!(verdict.lost.is_empty(), "{} jobs are lost: {:?}", verdict.lost.len(), some(&verdict.lost));
        ensure!(
            verdict.misplaced.is_empty(),
            "jobs that ended otherwise than they should: {:?}",
            some(&verdict.misplaced)
        );
        ensure!(verdict.unexplained.is_empty(), "done twice for no known reason: {:?}", some(&verdict.unexplained));
        ensure!(verdict.overlapping.is_empty(), "run beside themselves: {:?}", some(&verdict.overlapping));
        // A job that moves to the suspect queue is another message there, which its process cannot know.
        let again = verdict.again.len();
        ensure!(again <= figures.suspects, "run again where they were done: {:?}", some(&verdict.again));
        for actor in self.workers.iter().chain(&self.publishers).chain(&self.gone) {
            bounded(actor)?;
        }
        Ok(())
    }
}

fn id_of(properties: &BasicProperties) -> Option<String> {
    properties.message_id().as_ref().map(ToString::to_string)
}

fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    properties.headers().as_ref()?.inner().get(name)?.as_long_string().map(ToString::to_string)
}

/// Returns an expression for the broker that lists the messages of these queues and the ladder. `rabbitmqctl list_queues`
/// is up to five seconds old, and counts that clients see leave out messages on their way.
fn held(queues: &[(String, String)]) -> String {
    let names: Vec<_> = queues.iter().map(|(name, _)| format!("<<\"{name}\">>")).collect();
    let names = names.join(", ");
    format!(
        "[{{N, Held}} || Q <- rabbit_amqqueue:list(), {{_, _, _, N}} <- [amqqueue:get_name(Q)],
            lists:member(N, [{names}]) orelse string:prefix(N, \"leveret.v1.delay.\") =/= nomatch,
            {{ok, {{_, Held}}, _}} <- [ra:local_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1)],
            Held > 0]."
    )
}

fn some(ids: &[String]) -> &[String] {
    &ids[..ids.len().min(5)]
}

/// A process must neither grow with time nor flood its log.
fn bounded(actor: &Actor) -> anyhow::Result<()> {
    let samples = actor.watch.samples();
    // A process that was killed at once has not settled.
    let Some(settled) = samples.get(20) else { return Ok(()) };
    let largest = samples.iter().map(|sample| sample.rss_kib).max().unwrap_or_default();
    let grown = largest.saturating_sub(settled.rss_kib);
    ensure!(grown < GROWTH_KIB, "process {} grew by {grown} KiB", actor.id());
    for pair in samples.windows(10) {
        let (first, last) = (pair[0], pair[9]);
        let seconds = (last.at_us - first.at_us).div_ceil(1_000_000).max(1) as usize;
        let logged = last.lines - first.lines;
        ensure!(logged <= LINES_A_SECOND * seconds, "process {} logged {logged} lines in {seconds} s", actor.id());
    }
    Ok(())
}
