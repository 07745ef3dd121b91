//! A worker or a publisher of the fault suite's load, in a process of its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Parser};
use fastrand::Rng;
use leveret::{Broker, Config, PublishError, Publisher, Queue, RetryPolicy, Worker, shutdown_signal};
use leveret_tests::load::{End, Ledger, Load, What, job_id, now_us, run};
use tokio::{sync::Semaphore, task::JoinSet, time::MissedTickBehavior};

/// The interval at which the publisher creates a batch of jobs.
const TICK: Duration = Duration::from_millis(10);
/// Publishes in flight, after which none is made: a publisher that waits must not grow.
const IN_FLIGHT: usize = 200;

#[derive(Parser)]
enum Role {
    Work(Work),
    Publish(Publish),
}

#[derive(Args)]
struct Common {
    #[command(flatten)]
    config: Config,
    /// The queue of the load
    #[arg(long)]
    queue: String,
    /// The file to append a line to for each attempt or publish
    #[arg(long)]
    log: PathBuf,
}

#[derive(Args)]
struct Work {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 16)]
    concurrency: u16,
    #[arg(long, default_value_t = 40)]
    prefetch: u16,
    /// The timeout of an attempt, in milliseconds
    #[arg(long, default_value_t = 120_000)]
    timeout_ms: u64,
}

/// Publishes until a signal stops it and it has published enough.
#[derive(Args)]
struct Publish {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    mix: Mix,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    at_least: u64,
    /// Jobs each second
    #[arg(long)]
    rate: u64,
}

/// The mix of jobs.
#[derive(Args)]
struct Mix {
    /// The longest work of an attempt, in milliseconds
    #[arg(long, default_value_t = 5)]
    work_ms: u64,
    /// Jobs of a hundred whose first attempt fails, and of which half fail a second time
    #[arg(long, default_value_t = 15)]
    failing: u8,
    /// Jobs of a hundred that are published with a delay of up to two seconds
    #[arg(long, default_value_t = 5)]
    delayed: u8,
    /// Jobs of a thousand that are dead-lettered
    #[arg(long, default_value_t = 5)]
    given_up: u16,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match Role::parse() {
        Role::Work(work) => work.run().await,
        Role::Publish(publish) => publish.run().await,
    }
}

impl Work {
    async fn run(self) -> anyhow::Result<()> {
        let (broker, ledger) = self.common.open()?;
        let _health = serve_health(&broker)?;
        let retry = RetryPolicy::fixed(Duration::from_millis(200)).max_attempts(10);
        let queue = Queue::new(self.common.queue.as_str())
            .concurrency(self.concurrency)
            .prefetch(self.prefetch)
            .timeout(Duration::from_millis(self.timeout_ms))
            .retry(retry);
        Worker::new(ledger)
            .queue(queue)
            .handle_with(run, |h| h.queue(self.common.queue))
            .run(&broker, shutdown_signal())
            .await?;
        broker.close().await;
        Ok(())
    }
}

impl Publish {
    async fn run(self) -> anyhow::Result<()> {
        let (broker, ledger) = self.common.open()?;
        let _health = serve_health(&broker)?;
        let sender = Sender { publisher: broker.publisher(), ledger, queue: self.common.queue.as_str().into() };
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut random = Rng::with_seed(self.seed);
        let mut sending = JoinSet::new();
        let mut stop = Box::pin(shutdown_signal());
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut made, mut stopped, mut share) = (0, false, 0.0);
        while !stopped || made < self.at_least {
            tokio::select! {
                () = &mut stop, if !stopped => stopped = true,
                _ = ticks.tick() => share += self.rate as f64 * TICK.as_secs_f64(),
            }
            while share >= 1.0 {
                share -= 1.0;
                let permit = Arc::clone(&room).acquire_owned().await?;
                let job = self.mix.job(&mut random);
                let sender = sender.clone();
                let delay = self.mix.delay(&mut random);
                let id = job_id(job.end, delay.is_some(), &format!("{:x}-{made}", self.seed));
                made += 1;
                sending.spawn(async move {
                    sender.send(&job, &id, delay).await;
                    drop(permit);
                });
                while sending.try_join_next().is_some() {}
            }
        }
        while sending.join_next().await.is_some() {}
        broker.close().await;
        Ok(())
    }
}

#[derive(Clone)]
struct Sender {
    publisher: Publisher,
    ledger: Ledger,
    queue: Arc<str>,
}

impl Sender {
    /// Publishes until it is confirmed, always with the same id.
    async fn send(&self, job: &Load, id: &str, delay: Option<Duration>) {
        loop {
            let publish = self.publisher.publish(job).queue(&*self.queue).id(id);
            let publish = if let Some(delay) = delay { publish.delay(delay) } else { publish };
            let what = match publish.await {
                Ok(_) => What::Confirmed,
                Err(PublishError::Uncertain { .. }) => What::Uncertain,
                Err(error) => {
                    tracing::debug!(id, %error, "not published, retrying");
                    What::Refused
                }
            };
            self.ledger.publish(what, job.made_us, id);
            match what {
                What::Confirmed => return,
                What::Refused => tokio::time::sleep(Duration::from_millis(100)).await,
                _ => {}
            }
        }
    }
}

impl Mix {
    fn job(&self, random: &mut Rng) -> Load {
        let work_ms = random.u64(0..=self.work_ms);
        let fails = if random.u8(0..100) < self.failing { random.u32(1..=2) } else { 0 };
        let end = if random.u16(0..1_000) < self.given_up { End::GivenUp } else { End::Done };
        Load { made_us: now_us(), work_ms, fails, end }
    }

    fn delay(&self, random: &mut Rng) -> Option<Duration> {
        (random.u8(0..100) < self.delayed).then(|| Duration::from_millis(random.u64(100..2_000)))
    }
}

impl Common {
    fn open(&self) -> anyhow::Result<(Broker, Ledger)> {
        Ok((Broker::amqp(self.config.clone())?, Ledger::open(&self.log)?))
    }
}

fn serve_health(broker: &Broker) -> Result<leveret::HealthServer, leveret::Error> {
    let health = broker.serve_health()?;
    tracing::info!("health at {}", health.address());
    Ok(health)
}
