//! A worker or a publisher of the fault suite's load, in a process of its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use clap::{Args, Parser, ValueEnum};
use fastrand::Rng;
use leveret::{
    Batching, Broker, Config, ErrorKind, PublishError, Publisher, Queue, RequestError, RetryPolicy, Subscription,
    Worker, shutdown_signal,
};
use leveret_tests::load::{End, Ledger, Line, Load, Tail, What, job_id, now_us, run, run_batch};
use tokio::{sync::Semaphore, task::JoinSet, time::MissedTickBehavior};

/// The interval at which the publisher creates a batch of jobs.
const TICK: Duration = Duration::from_millis(10);
/// Publishes in flight, after which none is made: a publisher that waits must not grow.
const IN_FLIGHT: usize = 200;
/// The timeout of a request.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
/// More than any request may take beyond its timeout.
const HANGS: Duration = Duration::from_secs(75);

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
    /// Handle batches of up to this many jobs
    #[arg(long)]
    batch: Option<u16>,
    /// Handle the events of a subscription, which has the name of the queue
    #[arg(long)]
    subscribe: bool,
}

/// The form in which the load is published.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Jobs,
    Events,
    Requests,
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
    #[arg(long, value_enum, default_value = "jobs")]
    form: Form,
    /// A subscription that must get a copy of each event
    #[arg(long = "subscription")]
    subscriptions: Vec<String>,
    /// Publish nothing while more of its jobs than this have not been started: a job that is to show a recovery waits behind
    /// them
    #[arg(long, requires = "effects")]
    most_waiting: Option<u64>,
    /// The file of the workers
    #[arg(long)]
    effects: Option<PathBuf>,
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
    /// Makes one of so many jobs bad, so that it fails each batch that it is part of
    #[arg(long)]
    bad_one_of: Option<u64>,
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
        self.worker(ledger).run(&broker, shutdown_signal()).await?;
        broker.close().await;
        Ok(())
    }

    fn worker(&self, ledger: Ledger) -> Worker<Ledger> {
        let retry = RetryPolicy::fixed(Duration::from_millis(200)).max_attempts(10);
        let (name, timeout) = (self.common.queue.as_str(), Duration::from_millis(self.timeout_ms));
        if self.subscribe {
            let subscription = Subscription::new(name).concurrency(self.concurrency).prefetch(self.prefetch);
            let worker = Worker::new(ledger.of_subscription(name));
            return worker.subscribe(subscription.timeout(timeout).retry(retry), run);
        }
        let queue = Queue::new(name).concurrency(self.concurrency).prefetch(self.prefetch);
        let worker = Worker::new(ledger).queue(queue.timeout(timeout).retry(retry));
        match self.batch {
            Some(jobs) => worker.handle_batch_with(Batching::up_to(jobs), run_batch, |h| h.queue(name)),
            None => worker.handle_with(run, |h| h.queue(name)),
        }
    }
}

impl Publish {
    async fn run(self) -> anyhow::Result<()> {
        let (broker, ledger) = self.common.open()?;
        let _health = serve_health(&broker)?;
        let of = |name: &String| ledger.of_subscription(name);
        let ledgers =
            if self.form == Form::Events { self.subscriptions.iter().map(of).collect() } else { vec![ledger.clone()] };
        let queue = self.common.queue.as_str().into();
        let sender = Sender { publisher: broker.publisher(), ledgers: ledgers.into(), queue, form: self.form };
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut random = Rng::with_seed(self.seed);
        let mut sending = JoinSet::new();
        let mut stop = Box::pin(shutdown_signal());
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut made, mut stopped, mut share) = (0, false, 0.0);
        let mut backlog = self.backlog();
        while !stopped || made < self.at_least {
            tokio::select! {
                () = &mut stop, if !stopped => stopped = true,
                _ = ticks.tick() => share += self.rate as f64 * TICK.as_secs_f64(),
            }
            if let Some(backlog) = &mut backlog
                && backlog.is_full(made)?
            {
                share = 0.0;
            }
            while share >= 1.0 {
                share -= 1.0;
                let permit = Arc::clone(&room).acquire_owned().await?;
                let job = self.mix.job(&mut random, made);
                let sender = sender.clone();
                let delay = self.mix.delay(&mut random).filter(|_| self.form == Form::Jobs);
                let id = job_id(job.end, delay.is_some(), &format!("{:x}-{made}", self.seed));
                made += 1;
                sending.spawn(async move {
                    let sent = sender.send(&job, &id, delay).await;
                    drop(permit);
                    sent
                });
                while let Some(sent) = sending.try_join_next() {
                    sent??;
                }
            }
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        broker.close().await;
        Ok(())
    }
}

impl Publish {
    fn backlog(&self) -> Option<Backlog> {
        let (most, effects) = self.most_waiting.zip(self.effects.clone())?;
        Some(Backlog { most, effects: Tail::new(effects), started: 0, of: format!("{:x}-", self.seed) })
    }
}

/// The jobs of a publisher that no worker has started, by the workers' file. A job that is started twice counts twice,
/// so that there may be some more.
struct Backlog {
    most: u64,
    effects: Tail,
    started: u64,
    /// The beginning of the numbers of the publisher's jobs.
    of: String,
}

impl Backlog {
    fn is_full(&mut self, made: u64) -> anyhow::Result<bool> {
        let is_first = |line: &&Line| line.what == What::Start && line.attempt == 1 && line.id.contains(&self.of);
        self.started += self.effects.lines()?.iter().filter(is_first).count() as u64;
        Ok(made.saturating_sub(self.started) > self.most)
    }
}

#[derive(Clone)]
struct Sender {
    publisher: Publisher,
    /// For events one of each subscription.
    ledgers: Arc<[Ledger]>,
    queue: Arc<str>,
    form: Form,
}

impl Sender {
    /// Publishes until it is confirmed, always with the same id. A request is sent once.
    async fn send(&self, job: &Load, id: &str, delay: Option<Duration>) -> anyhow::Result<()> {
        if self.form == Form::Requests {
            let what = self.ask(job, id).await?;
            self.note(what, job, id);
            return Ok(());
        }
        loop {
            let published = if self.form == Form::Events {
                self.publisher.emit(job).id(id).await.map(drop)
            } else {
                let publish = self.publisher.publish(job).queue(&*self.queue).id(id);
                if let Some(delay) = delay { publish.delay(delay).await.map(drop) } else { publish.await.map(drop) }
            };
            let what = match published {
                Ok(_) => What::Confirmed,
                Err(PublishError::Uncertain { .. }) => What::Uncertain,
                Err(error) => {
                    tracing::debug!(id, %error, "not published, retrying");
                    What::Refused
                }
            };
            self.note(what, job, id);
            match what {
                What::Confirmed => return Ok(()),
                What::Refused => tokio::time::sleep(Duration::from_millis(100)).await,
                _ => {}
            }
        }
    }

    fn note(&self, what: What, job: &Load, id: &str) {
        self.ledgers.iter().for_each(|ledger| ledger.publish(what, job.made_us, id));
    }

    /// Asks once. Only the answer to this caller, or an error that says what became of the request, is right.
    async fn ask(&self, job: &Load, id: &str) -> anyhow::Result<What> {
        let request = self.publisher.request(job).queue(&*self.queue).id(id).timeout(ANSWERED_WITHIN);
        let Ok(answer) = tokio::time::timeout(HANGS, request.into_future()).await else {
            bail!("request {id} hangs: nothing after {HANGS:?}");
        };
        match answer {
            Ok(answer) => {
                ensure!(answer == id, "request {id} got the answer to {answer}");
                ensure!(job.end == End::Done, "request {id} was answered");
                Ok(What::Confirmed)
            }
            Err(RequestError::Failed { kind: ErrorKind::Permanent, .. }) if job.end == End::GivenUp => {
                Ok(What::Confirmed)
            }
            Err(RequestError::Lost | RequestError::TimedOut { .. }) => Ok(What::Uncertain),
            Err(RequestError::Publish(_) | RequestError::Unroutable { .. }) => Ok(What::Refused),
            Err(error) => bail!("request {id}: {error}"),
        }
    }
}

impl Mix {
    fn job(&self, random: &mut Rng, number: u64) -> Load {
        let work_ms = random.u64(0..=self.work_ms);
        let fails = if random.u8(0..100) < self.failing { random.u32(1..=2) } else { 0 };
        let is_bad = self.bad_one_of.is_some_and(|all| number % all == all / 2);
        let end = match random.u16(0..1_000) < self.given_up {
            _ if is_bad => End::Bad,
            true => End::GivenUp,
            false => End::Done,
        };
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
