//! Finds queues without a consumer: jobs that wait there will not start.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use leveret::{
    Broker,
    probe::{Probe, Refusal},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// The time for which an answer of the broker counts, or that it gave none.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// The longest wait of a caller. A later answer is for the next one.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// The most queues that are remembered.
const MOST_QUEUES: usize = 1_000;

/// Asks the broker for the consumers of queues, over a connection of its own that is opened when it is needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consumers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    probe: Option<Probe>,
    /// For a queue, the time of the answer, and true if it exists without a consumer.
    queues: BTreeMap<String, (Instant, bool)>,
}

impl Consumers {
    /// Returns those of the queues that exist and have no consumer, as far as the broker answers soon.
    pub(crate) async fn without(&self, broker: &Broker, queues: BTreeSet<String>) -> BTreeSet<String> {
        if queues.is_empty() || broker.is_memory() {
            return BTreeSet::new();
        }
        // Another caller is asking: the next look has its answer.
        let Ok(mut known) = Arc::clone(&self.0).try_lock_owned() else { return BTreeSet::new() };
        let broker = broker.clone();
        // A task of its own, so that a caller that leaves does not break off a handshake.
        let asking = tokio::spawn(async move { known.without(&broker, queues).await });
        timeout(ANSWERED_WITHIN, asking).await.map(Result::unwrap_or_default).unwrap_or_default()
    }
}

impl Known {
    async fn without(&mut self, broker: &Broker, queues: BTreeSet<String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for queue in queues {
            let is_fresh = |(at, _): &&(Instant, bool)| at.elapsed() < KNOWN_FOR;
            let is_without = match self.queues.get(&queue).filter(is_fresh) {
                Some((_, is_without)) => *is_without,
                None => self.ask(broker, &queue).await,
            };
            if is_without {
                found.insert(queue);
            }
        }
        found
    }

    async fn ask(&mut self, broker: &Broker, queue: &str) -> bool {
        let is_without = match self.probe(broker).await {
            None => false,
            Some(probe) => match probe.depth(queue).await {
                Ok(depth) => depth.consumers == 0,
                Err(Refusal::Missing | Refusal::Denied(_) | Refusal::Mismatch(_)) => false,
                // The next question opens a new connection.
                Err(_) => {
                    self.probe = None;
                    false
                }
            },
        };
        if self.queues.len() >= MOST_QUEUES {
            self.queues.clear();
        }
        self.queues.insert(queue.to_owned(), (Instant::now(), is_without));
        is_without
    }

    async fn probe(&mut self, broker: &Broker) -> Option<&mut Probe> {
        if self.probe.is_none() {
            for url in broker.config().addresses() {
                self.probe = Probe::connect(url, broker.config()).await.ok();
                if self.probe.is_some() {
                    break;
                }
            }
        }
        self.probe.as_mut()
    }
}
