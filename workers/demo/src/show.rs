//! The demo itself: all workers started, the jobs published, their fates awaited.

use std::{
    fs, iter,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use leveret::{Broker, CircuitBreaker, PublishError};
use leveret_email::{Mail, MailSettings};
use leveret_reports::Reports;
use leveret_store::Store;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    input::{self, Input},
    ledger::{Book, Entry, Ledger},
    mail_server::MailServer,
    progress::Progress,
    stall::Stall,
    summary::Summary,
    task,
};

/// Orders that are published while the mail server is down.
pub const EARLY: usize = 12;

const PUBLISHES_AT_ONCE: usize = 32;
/// How long the workers may take to declare their queues.
const DECLARING: Duration = Duration::from_secs(15);
const LOOK_FOR_DEAD_LETTERS: Duration = Duration::from_millis(500);

/// A demo with its workers running.
#[derive(Debug)]
pub struct Show {
    stage: Stage,
    workers: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Stage {
    broker: Broker,
    /// Where a server keeps the dead letters, if there is one.
    store: Option<Store>,
    ledger: Ledger,
    /// Ids start with it, because a RabbitMQ still holds what earlier runs left.
    run: String,
    inputs: Vec<Input>,
    mail_server: MailServer,
    stall: Stall,
    output: PathBuf,
}

impl Show {
    /// Reads the jobs in `data` and starts the workers, which write below `output`. A server that takes dead letters in
    /// has them in `store`.
    ///
    /// # Errors
    ///
    /// The data is not there or wrong, or `output` cannot be written.
    pub async fn start(
        broker: &Broker,
        store: Option<Store>,
        data: &Path,
        output: &Path,
        ledger: Ledger,
    ) -> anyhow::Result<Self> {
        let inputs = input::read(data)?;
        for dir in [mail_dir(output), report_dir(output)] {
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let mail_server = MailServer::reserve(mail_dir(output)).context("taking a port for the mail server")?;
        let mail = Mail::new(&MailSettings {
            smtp_url: Some(mail_server.url()),
            smtp_ca_file: None,
            smtp_timeout: 10,
            mail_dir: None,
            mail_from: "Tea shop <shop@example.com>".to_owned(),
        })?;
        let reports = Reports { data_dir: data.to_owned(), output_dir: report_dir(output), max_groups: 10_000 };
        let stall = Stall::open(output).await?;
        // A demo does not wait as long for its mail server as a worker should.
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
        let orders = stall.clone().run(broker.clone(), ledger.clone(), stop.clone());
        workers.spawn(async move { Ok(orders.await?) });

        let run = Uuid::new_v4().simple().to_string()[..8].to_owned();
        let stage =
            Stage { broker: broker.clone(), store, ledger, run, inputs, mail_server, stall, output: output.to_owned() };
        Ok(Self { stage, workers, stop })
    }

    /// Publishes all jobs and waits until the last one is done or given up.
    ///
    /// # Errors
    ///
    /// A job could not be published, or a worker stopped of itself.
    pub async fn play(&mut self, progress: &Progress) -> anyhow::Result<()> {
        tokio::select! {
            played = self.stage.play(progress) => played,
            Some(ended) = self.workers.join_next() => match ended? {
                Ok(()) => bail!("a worker stopped of itself"),
                Err(error) => Err(error),
            }
        }
    }

    /// What has become of the jobs so far.
    ///
    /// # Errors
    ///
    /// The shop's orders cannot be read.
    pub async fn summary(&self) -> anyhow::Result<Summary> {
        let stage = &self.stage;
        let orders = stage.stall.orders(stage.inputs.iter().map(|input| stage.id(input))).await?;
        let (mails, reports) = (mail_dir(&stage.output), report_dir(&stage.output));
        Ok(stage.ledger.read(|book| Summary::new(book, orders, &mails, &reports)))
    }

    /// Lets the workers finish what they have begun, and takes no new job.
    ///
    /// # Errors
    ///
    /// A worker's, or the broker's.
    pub async fn drain(&mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.workers.join_next().await {
            ended??;
        }
        self.stage.look_for_dead_letters().await
    }
}

impl Stage {
    async fn play(&mut self, progress: &Progress) -> anyhow::Result<()> {
        for input in &self.inputs {
            let id = self.id(input);
            self.ledger.enter(id.clone(), input.route(), &input.label, input.copies);
            self.stall.expect(&self.ledger, input.route(), &id, &input.label);
        }
        let (early, rest) = self.inputs.split_at(EARLY.min(self.inputs.len()));
        progress.note(&format!("The mail server is down. Publishing the first {} orders.", early.len()));
        self.publish(early).await?;
        self.ledger.wait_for(|book| book.count(|entry| entry.error.is_some()) > 0).await;
        if let Some(error) = self.ledger.read(first_error) {
            progress.note(&format!("The circuit is open, and the mails wait: {error}"));
        }
        progress.note(&format!("The mail server goes up. Publishing {} more jobs.", rest.len()));
        self.mail_server.start().context("starting the mail server")?;
        self.publish(rest).await?;
        self.settled().await
    }

    async fn publish(&self, inputs: &[Input]) -> anyhow::Result<()> {
        let publishes = stream::iter(
            inputs.iter().flat_map(|input| iter::repeat_n(input, input.copies)).map(|input| self.publish_one(input)),
        );
        publishes.buffer_unordered(PUBLISHES_AT_ONCE).try_collect().await.context("publishing")
    }

    /// Publishes one job. Its queue may still have to be declared by the worker that has just started; until a new queue has
    /// a leader, RabbitMQ refuses what is published to it.
    async fn publish_one(&self, input: &Input) -> Result<(), PublishError> {
        let (publisher, id) = (self.broker.publisher(), self.id(input));
        let deadline = Instant::now() + DECLARING;
        loop {
            match input.publish(&publisher, &id).await {
                Err(PublishError::Unroutable { .. } | PublishError::Nacked { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                published => return published,
            }
        }
    }

    async fn settled(&self) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = self.ledger.wait_for(|book| book.count(Entry::is_open) == 0) => return Ok(()),
                () = tokio::time::sleep(LOOK_FOR_DEAD_LETTERS) => self.look_for_dead_letters().await?,
            }
        }
    }

    async fn look_for_dead_letters(&self) -> anyhow::Result<()> {
        let read = self.ledger.read_dead_letters(&self.broker, self.store.as_ref()).await;
        read.context("reading the dead letters")
    }

    fn id(&self, input: &Input) -> String {
        format!("{}.{}", self.run, input.label)
    }
}

fn first_error(book: &Book) -> Option<String> {
    book.entries().iter().find_map(|entry| entry.error.clone())
}

fn mail_dir(output: &Path) -> PathBuf {
    output.join("mail")
}

fn report_dir(output: &Path) -> PathBuf {
    output.join("reports")
}
