//! A client without the framework that publishes small jobs during a fault. It shows when the broker was usable again
//! for a new client, and gives every worker jobs to run.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use leveret_harness::{
    RawClient,
    lapin::{BasicProperties, Confirmation},
};
use leveret_tests::load::{End, Ledger, Load, What, job_id, now_us};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

const EVERY: Duration = Duration::from_millis(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A slower round means that the broker was not usable.
const SLOW: Duration = Duration::from_millis(200);

/// The target of probes.
#[derive(Clone, Debug)]
pub(crate) struct Aim {
    pub(crate) urls: Vec<String>,
    /// The exchange and the routing key.
    pub(crate) to: (&'static str, String),
    /// For events one of each subscription.
    pub(crate) ledgers: Vec<Ledger>,
    /// The number of jobs that succeed; half as many fail once.
    pub(crate) jobs: usize,
}

/// Probes until dropped.
#[derive(Debug)]
pub(crate) struct Prober {
    began: u64,
    rounds: Arc<Mutex<Vec<Round>>>,
    _task: JoinSet<()>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    from_us: u64,
    until_us: u64,
    confirmed: bool,
}

impl Prober {
    pub(crate) fn start(aim: Aim) -> Self {
        let (rounds, mut task) = (Arc::<Mutex<Vec<Round>>>::default(), JoinSet::new());
        let made = Arc::clone(&rounds);
        task.spawn(async move {
            let mut client = None;
            loop {
                let from_us = now_us();
                let confirmed = probe(&mut client, &aim).await.is_ok();
                let round = Round { from_us, until_us: now_us(), confirmed };
                made.lock().unwrap_or_else(PoisonError::into_inner).push(round);
                sleep(EVERY).await;
            }
        });
        Self { began: now_us(), rounds, _task: task }
    }

    /// Returns since when the broker has been usable, if it became usable after `us`.
    pub(crate) fn usable_since(&self, us: u64) -> Option<u64> {
        let rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        rounds.last().filter(|round| round.confirmed && round.until_us >= us)?;
        let good = |round: &&Round| round.confirmed && Duration::from_micros(round.until_us - round.from_us) < SLOW;
        let bad = rounds.iter().rposition(|round| !good(&round));
        // The first confirm after the last problem: that of a slow round itself.
        Some(match bad.map(|index| &rounds[index..]) {
            None => self.began,
            Some(rest) => rest.iter().find(|round| round.confirmed)?.until_us,
        })
    }
}

async fn probe(client: &mut Option<RawClient>, aim: &Aim) -> anyhow::Result<()> {
    if client.is_none() {
        *client = Some(timeout(CONNECT_WITHIN, connect(&aim.urls)).await??);
    }
    let Some(connected) = client.as_ref() else { return Ok(()) };
    let published = publish_all(connected, aim).await;
    if published.is_err() {
        *client = None;
    }
    published
}

async fn publish_all(client: &RawClient, aim: &Aim) -> anyhow::Result<()> {
    for number in 0..aim.jobs + aim.jobs / 2 {
        let job = Load { made_us: now_us(), work_ms: 1, fails: u32::from(number >= aim.jobs), end: End::Done };
        publish(client, aim, &job, &probe_id()).await?;
    }
    Ok(())
}

/// Connects to the first of the addresses that accepts a connection.
pub(crate) async fn connect(urls: &[String]) -> anyhow::Result<RawClient> {
    let mut refusal = anyhow::anyhow!("no address");
    for url in urls {
        match RawClient::connect(url).await {
            Ok(client) => return Ok(client),
            Err(error) => refusal = error.into(),
        }
    }
    Err(refusal)
}

/// Publishes a job of the load and records its confirm.
pub(crate) async fn publish(client: &RawClient, aim: &Aim, job: &Load, id: &str) -> anyhow::Result<()> {
    let properties =
        BasicProperties::default().with_type("test.load".into()).with_message_id(id.into()).with_delivery_mode(2);
    let (exchange, key) = &aim.to;
    let confirmed = client.publish(exchange, key, properties, &serde_json::to_vec(job)?).await?;
    ensure!(matches!(confirmed, Confirmation::Ack(None)), "not confirmed: {confirmed:?}");
    aim.ledgers.iter().for_each(|ledger| ledger.publish(What::Confirmed, job.made_us, id));
    Ok(())
}

fn probe_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    job_id(End::Done, false, &format!("{PROBE}{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) fn is_probe(id: &str) -> bool {
    id.contains(PROBE)
}

const PROBE: &str = "probe-";
