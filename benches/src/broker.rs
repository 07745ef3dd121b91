//! The broker of the benchmark: a private node, or the one at an address.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::{
    options::{QueueDeclareOptions, QueuePurgeOptions},
    types::FieldTable,
};
use leveret::{Config, JobResult, Queue, Subscription, Worker, probe::Probe, testing};
use leveret_harness::{Node, NodeOptions, RawClient, unique};
use serde::{Deserialize, Serialize};

use crate::{
    assignment::{Mail, now_us},
    machine,
};

/// Publishes in flight while a queue is filled.
const WINDOW: usize = 1_000;
/// The longest wait for a broker to become idle after a queue was filled.
const REST_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Quorum,
    Classic,
    /// The queue of a subscription to [`Mail`].
    Subscription,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
            Self::Subscription => "subscription",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Broker {
    url: String,
    version: String,
    /// `None` if the process of the broker is not visible.
    process: Option<u32>,
    raw: RawClient,
    filler: leveret::Broker,
    disk: PathBuf,
    _node: Option<Node>,
}

impl Broker {
    /// Uses the broker at this address, or starts a private one.
    pub(crate) async fn find(url: Option<String>) -> Result<Self> {
        let (url, node) = match url {
            Some(url) => (url, None),
            None => {
                // The harness panics if it cannot start a node.
                let node = tokio::spawn(Node::start(NodeOptions::default())).await;
                let node = node.context("no private RabbitMQ could be started, and --amqp-url is not set")?;
                (node.url(), Some(node))
            }
        };
        let probe = Probe::connect(&url, &Config::default()).await?;
        let (server, port) = (probe.server(), probe.port());
        let is_local = matches!(probe.host(), "127.0.0.1" | "localhost" | "::1");
        probe.close().await;
        let disk = node.as_ref().map_or_else(std::env::temp_dir, |node| node.folder().to_owned());
        Ok(Self {
            version: format!("{} {}", server.product, server.version),
            process: machine::listener(port).filter(|_| is_local),
            raw: RawClient::connect(&url).await?,
            filler: leveret::Broker::amqp(Config { amqp_url: vec![url.clone()], ..Config::default() })?,
            url,
            disk,
            _node: node,
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The data folder of the broker, or the temporary folder if it is unknown.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }

    /// User and system time of the broker, if its process is visible.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        self.process.and_then(machine::cpu)
    }

    /// Creates a queue with a unique name: a quorum queue as workers declare it, or a classic one.
    pub(crate) async fn queue(&self, kind: Kind) -> Result<String> {
        let name = unique(&format!("leveret-bench-{}", kind.name()));
        self.make(&name, kind).await?;
        Ok(name)
    }

    pub(crate) async fn make(&self, name: &str, kind: Kind) -> Result<()> {
        // A starting worker declares and binds missing queues.
        let worker = Worker::new(());
        let worker = match kind {
            Kind::Quorum => worker.queue(Queue::new(name)).handle_with(nothing, |h| h.queue(name)),
            Kind::Classic => {
                let (options, none) = (QueueDeclareOptions::durable(), FieldTable::default());
                self.raw.channel().queue_declare(name.into(), options, none).await?;
                worker.queue(Queue::existing(name)).handle_with(nothing, |h| h.queue(name))
            }
            Kind::Subscription => worker.subscribe(Subscription::new(name), nothing),
        };
        testing::start(worker, &self.filler).await?.stop().await?;
        Ok(())
    }

    /// Publishes `jobs` jobs of `bytes` bytes to a queue, and waits until the broker is idle again.
    pub(crate) async fn fill(&self, queue: &str, jobs: u64, bytes: usize) -> Result<()> {
        let publisher = self.filler.publisher();
        let window = WINDOW.min((16 * 1024 * 1024 / bytes.max(1)).max(1));
        let publishing = (0..jobs).map(|number| {
            let publish = publisher.publish(&Mail::new(number, bytes)).queue(queue);
            async move { publish.await.map(drop) }
        });
        stream::iter(publishing).buffer_unordered(window).try_collect::<()>().await?;
        self.rest().await;
        Ok(())
    }

    /// Emits `jobs` events of `bytes` bytes to all subscriptions, and waits until the broker is idle again.
    pub(crate) async fn emit(&self, jobs: u64, bytes: usize) -> Result<()> {
        let publisher = self.filler.publisher();
        let emitting = (0..jobs).map(|number| publisher.emit(&Mail::new(number, bytes)).into_future());
        stream::iter(emitting).buffer_unordered(WINDOW).try_for_each(async |_| Ok(())).await?;
        self.rest().await;
        Ok(())
    }

    /// Drops the jobs of a queue. Returns their number.
    pub(crate) async fn purge(&self, queue: &str) -> Result<u64> {
        let purged = self.raw.channel().queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        Ok(purged.into())
    }

    /// Publishes jobs at a steady rate.
    pub(crate) async fn trickle(&self, queue: &str, jobs: u64, bytes: usize, every: Duration) -> Result<()> {
        let publisher = self.filler.publisher();
        let mut ticks = tokio::time::interval(every);
        let mut sending = tokio::task::JoinSet::new();
        for number in 0..jobs {
            ticks.tick().await;
            let mail = Mail { sent_us: now_us(), ..Mail::new(number, bytes) };
            let publish = publisher.publish(&mail).queue(queue);
            sending.spawn(publish.into_future());
            while let Some(sent) = sending.try_join_next() {
                sent??;
            }
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        Ok(())
    }

    /// Waits until the broker is idle, so that its deferred work does not count for the next measurement.
    pub(crate) async fn rest(&self) {
        const LOOK: Duration = Duration::from_millis(100);
        let started = Instant::now();
        let mut before = self.cpu();
        while let Some(last) = before
            && started.elapsed() < REST_WITHIN
        {
            tokio::time::sleep(LOOK).await;
            before = self.cpu().filter(|now| now.saturating_sub(last) > LOOK / 5);
        }
    }

    /// Deletes a queue, and those of its suspect jobs and dead letters. A queue that should be drained must be empty.
    pub(crate) async fn delete(&self, queue: &str, emptied: bool) -> Result<()> {
        let asked = Instant::now();
        // The broker may still process the last acks.
        while emptied && let Some(left @ 1..) = self.raw.depth(queue).await? {
            if asked.elapsed() > REST_WITHIN {
                bail!("{queue} still contains {left} jobs: they were not acked");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for part in ["", ".suspect", ".dead"] {
            self.raw.delete_queue(&format!("{queue}{part}")).await?;
        }
        Ok(())
    }
}

async fn nothing(_: Mail, _: leveret::Context<()>) -> JobResult {
    Ok(())
}
