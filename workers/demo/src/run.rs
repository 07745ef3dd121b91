//! Starts all workers, publishes the jobs, and waits for their outcomes.

use std::{
    fs, iter,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use leveret::{Broker, CircuitBreaker, Job, PublishError, event_log};
use leveret_email::{Mail, MailSettings, SendEmail, jobs::ORDER_MAILS};
use leveret_orders::{PlaceOrder, warehouse::WAREHOUSE};
use leveret_reports::{GenerateReport, Reports};
use leveret_store::Store;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    checkouts::Checkouts,
    jobs::{self, DemoJob},
    ledger::{JobRecord, JobRecords, Ledger},
    mail_server::MailServer,
    progress::Progress,
    shop::{DemoShop, ShopRows},
    summary::RunSummary,
    task,
};

/// Number of orders published while the mail server is down.
pub const EARLY: usize = 12;

const PUBLISHES_AT_ONCE: usize = 32;
/// The queues and subscriptions of the workers.
const QUEUES: [&str; 6] =
    [SendEmail::QUEUE, ORDER_MAILS, GenerateReport::QUEUE, PlaceOrder::QUEUE, WAREHOUSE, task::Task::QUEUE];
/// Time limit for the workers to declare their queues.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(60);
const DEAD_LETTER_INTERVAL: Duration = Duration::from_millis(500);

/// A demo with running workers.
#[derive(Debug)]
pub struct DemoRun {
    state: DemoState,
    workers: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct DemoState {
    broker: Broker,
    /// Store of the server, with the dead letters and the workflows.
    store: Store,
    ledger: Ledger,
    /// Prefix of all ids, because RabbitMQ may have jobs of earlier runs.
    run: String,
    jobs: Vec<DemoJob>,
    checkouts: Checkouts,
    mail_server: MailServer,
    shop: DemoShop,
    output: PathBuf,
}

impl DemoRun {
    /// Reads the jobs in `data`, and starts the workers, which write below `output`. `store` is that of a running server.
    ///
    /// # Errors
    ///
    /// The data is missing or invalid, or `output` cannot be written.
    pub async fn start(
        broker: &Broker,
        store: Store,
        data: &Path,
        output: &Path,
        ledger: Ledger,
    ) -> anyhow::Result<Self> {
        let run = Uuid::new_v4().simple().to_string()[..8].to_owned();
        let (jobs, checkouts) = (jobs::read(data)?, Checkouts::read(data, &run)?);
        for dir in [mail_dir(output), report_dir(output)] {
            fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        let mail_server = MailServer::reserve(mail_dir(output)).context("reserving a port for the mail server")?;
        let mail = Mail::new(&MailSettings {
            smtp_url: Some(mail_server.url()),
            smtp_ca_file: None,
            smtp_timeout: 10,
            mail_dir: None,
            mail_attachment_dir: Some(report_dir(output)),
            mail_attachment_limit: 2_000_000,
            mail_from: "Tea shop <shop@example.com>".to_owned(),
        })?;
        let (data_dir, output_dir) = (data.to_owned(), report_dir(output));
        let reports = Reports { data_dir, output_dir, max_groups: 10_000, yield_every: Duration::from_secs(30) };
        let shop = DemoShop::open(output).await?;
        // Shorter than the default, so that the demo does not wait long for its mail server.
        let server = CircuitBreaker::new("smtp").failures(1).open_for(Duration::from_secs(1));
        let email = leveret_email::worker(mail).circuit_breaker(server).middleware(ledger.recorder());
        let reports = leveret_reports::worker(reports, 2).middleware(ledger.recorder());

        let (mut workers, stop) = (JoinSet::new(), CancellationToken::new());
        let (shared, stopped) = (broker.clone(), stop.clone());
        workers.spawn(async move { Ok(email.run(&shared, stopped.cancelled_owned()).await?) });
        let (shared, stopped) = (broker.clone(), stop.clone());
        workers.spawn(async move { Ok(reports.run(&shared, stopped.cancelled_owned()).await?) });
        let (shared, stopped) = (broker.clone(), stop.clone());
        workers.spawn(async move { Ok(task::worker().run(&shared, stopped.cancelled_owned()).await?) });
        let orders = shop.clone().run(broker.clone(), ledger.clone(), stop.clone());
        workers.spawn(async move { Ok(orders.await?) });
        let analytics = shop.clone().analyse(broker.clone(), stop.clone());
        workers.spawn(async move { Ok(analytics.await?) });

        let state = DemoState {
            broker: broker.clone(),
            store,
            ledger,
            run,
            jobs,
            checkouts,
            mail_server,
            shop,
            output: output.to_owned(),
        };
        Ok(Self { state, workers, stop })
    }

    /// Publishes all jobs, and waits until every job succeeded or is a dead letter.
    ///
    /// # Errors
    ///
    /// A job cannot be published, or a worker stops.
    pub async fn run(&mut self, progress: &Progress) -> anyhow::Result<()> {
        tokio::select! {
            ended = self.state.run(progress) => ended,
            Some(ended) = self.workers.join_next() => match ended? {
                Ok(()) => bail!("a worker stopped unexpectedly"),
                Err(error) => Err(error),
            }
        }
    }

    /// Returns the outcomes of the jobs up to now.
    ///
    /// # Errors
    ///
    /// The orders of the shop cannot be read.
    pub async fn summary(&self) -> anyhow::Result<RunSummary> {
        let state = &self.state;
        let (rows, checkouts) = (state.shop_rows().await?, state.checkouts.ends(&state.store).await?);
        let (mails, reports) = (mail_dir(&state.output), report_dir(&state.output));
        Ok(state.ledger.read(|records| RunSummary::new(records, rows, checkouts, &mails, &reports)))
    }

    /// Returns the credit of a customer in euro cents.
    ///
    /// # Errors
    ///
    /// The database of the shop cannot be read.
    pub async fn credit(&self, customer: &str) -> anyhow::Result<Option<i64>> {
        self.state.shop.credit(customer).await
    }

    /// Stops the workers after their running jobs.
    ///
    /// # Errors
    ///
    /// A worker or the broker fails.
    pub async fn drain(&mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.workers.join_next().await {
            ended??;
        }
        self.state.read_dead_letters().await
    }
}

impl DemoState {
    async fn run(&mut self, progress: &Progress) -> anyhow::Result<()> {
        self.ready().await?;
        for job in &self.jobs {
            let id = self.id(job);
            self.ledger.enter(&id, job.route(), &job.label, job.copies);
            self.shop.expect(&self.ledger, job.route(), &id, &job.label);
        }
        self.checkouts.expect(&self.ledger);
        let (early, rest) = self.jobs.split_at(EARLY.min(self.jobs.len()));
        progress.note(&format!("The mail server is down. Publishing the first {} orders.", early.len()));
        self.publish(early).await?;
        self.ledger.wait_for(|records| records.count(|record| record.error.is_some()) > 0).await;
        if let Some(error) = self.ledger.read(first_error) {
            progress.note(&format!("The circuit is open, and the mails wait: {error}"));
        }
        progress.note(&format!("Starting the mail server. Publishing {} more jobs.", rest.len()));
        self.mail_server.start().context("starting the mail server")?;
        self.publish(rest).await?;
        self.settled().await?;
        progress.note("Starting checkouts, which are workflows: one is refused its payment, one is refunded.");
        self.checkouts.run(&self.broker, &self.store).await?;
        self.settled().await?;
        self.shop.analysed(self.shop_rows().await?.orders).await
    }

    async fn publish(&self, jobs: &[DemoJob]) -> anyhow::Result<()> {
        let publishes =
            stream::iter(jobs.iter().flat_map(|job| iter::repeat_n(job, job.copies)).map(|job| self.publish_one(job)));
        publishes.buffer_unordered(PUBLISHES_AT_ONCE).try_collect().await.context("publishing")
    }

    /// Waits until all queues and subscriptions exist: an event without a subscription is dropped.
    async fn ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DECLARE_TIMEOUT;
        while let Some(queue) = QUEUES.iter().find(|queue| !self.broker.consumes(queue)) {
            if Instant::now() >= deadline {
                bail!("no worker consumes from {queue:?}: {}", self.broker.unready().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The log has the events from its declaration on.
        event_log::declare(&self.broker).await.context("declaring the log of events")
    }

    /// Publishes one job. RabbitMQ refuses messages for a new queue without a leader.
    async fn publish_one(&self, job: &DemoJob) -> Result<(), PublishError> {
        let (publisher, id) = (self.broker.publisher(), self.id(job));
        let deadline = Instant::now() + DECLARE_TIMEOUT;
        loop {
            match job.publish(&publisher, &id).await {
                Err(PublishError::Nacked { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                published => return published,
            }
        }
    }

    async fn settled(&self) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = self.ledger.wait_for(|records| records.count(JobRecord::is_open) == 0) => return Ok(()),
                () = tokio::time::sleep(DEAD_LETTER_INTERVAL) => self.read_dead_letters().await?,
            }
        }
    }

    async fn read_dead_letters(&self) -> anyhow::Result<()> {
        self.ledger.read_dead_letters(&self.store).await.context("reading the dead letters")
    }

    async fn shop_rows(&self) -> anyhow::Result<ShopRows> {
        self.shop.rows(self.jobs.iter().map(|job| self.id(job)).chain(self.checkouts.place_ids())).await
    }

    fn id(&self, job: &DemoJob) -> String {
        format!("{}.{}", self.run, job.label)
    }
}

fn first_error(records: &JobRecords) -> Option<String> {
    records.all().iter().find_map(|record| record.error.clone())
}

fn mail_dir(output: &Path) -> PathBuf {
    output.join("mail")
}

fn report_dir(output: &Path) -> PathBuf {
    output.join("reports")
}
