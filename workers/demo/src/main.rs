//! The program `demo`, which runs the email, the reports and the orders worker on real jobs.

use std::{
    io::{ErrorKind, IsTerminal, Write, stderr, stdout},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use leveret::{Broker, Config, Error, HealthServer, shutdown_signal};
use leveret_demo::{
    api::JobApi,
    ledger::Ledger,
    progress::{Progress, ProgressDisplay},
    run::DemoRun,
    summary::RunSummary,
};
use tracing_subscriber::EnvFilter;

const LESSON: &str = r#"What you see:
  Three workers run in this process and consume the queues email, reports
  and orders. At first the mail server is down, and the mails wait until it
  is up. A purchase becomes an order, less stock and an event in one
  transaction. Two subscriptions have their own copy of the event: the
  warehouse writes a pick list, the email worker a mail to the customer. A
  purchase that is sent twice becomes one order, and a purchase for more
  teapots than in stock becomes none. Three checkouts are workflows: charge,
  stock and invoice, order, mail with the invoice. One customer's credit is
  too small; one article is sold out, so that the payment is refunded. A job that cannot succeed (a closed
  mailbox, a missing column) becomes a dead letter with its error. Mails go
  only to a small mail server inside the demo.

Try:
  make demo
      in memory: nothing to install
  make demo ARGS=--keep-running
      then: curl -s http://127.0.0.1:9464/metrics | grep finished
      or:   curl -s -H content-type:application/json -d '{"name": "Important Task", "priority": 1}' \
                 http://127.0.0.1:8080/api/tasks
            curl -s http://127.0.0.1:8080/api/tasks/<the task_id of the answer>
  AMQP_URL=amqp://guest:guest@127.0.0.1/%2f make demo
      on RabbitMQ; afterwards: leveret dead list --store demo-output/leveret.db
  Ctrl-C in the middle
      finishes the running jobs; on RabbitMQ, the next worker runs the rest

On RabbitMQ, stop other workers of these queues first: this summary does not
include the jobs that they run."#;

/// Default log levels. The demo itself shows dead letters, and lapin logs the end of a connection as an error.
const QUIET: &str = "error,leveret::attempt::task=off,lapin=off";

/// Runs the email, the reports and the orders worker on real jobs, and shows the outcome of every job.
#[derive(Parser)]
#[command(name = "demo", version, after_long_help = LESSON, max_term_width = 120, mut_args(leveret::setting))]
struct Settings {
    /// URL of RabbitMQ, such as `amqp://user:password@host:5672/vhost` (several: comma separated); in memory when unset
    #[arg(long, env = "AMQP_URL", value_name = "URL", hide_env_values = true)]
    amqp_url: Vec<String>,

    /// Address of /metrics, /livez and /readyz; the demo uses another port if this one is in use
    #[arg(long, env = "LEVERET_HTTP_ADDR", value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    http_addr: SocketAddr,

    /// Address of the job API; the demo uses another port if this one is in use
    #[arg(long, env = "DEMO_API_ADDR", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    api_addr: SocketAddr,

    /// Directory for the mails, reports and orders
    #[arg(long, env = "DEMO_OUTPUT", value_name = "DIR", default_value = "demo-output")]
    output: PathBuf,

    /// Directory of the jobs to publish (orders, mails, reports, purchases and checkouts.jsonl) and of the data sets
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data"))]
    data: PathBuf,

    /// Keep serving metrics and running jobs after the summary, until Ctrl-C
    #[arg(long)]
    keep_running: bool,

    /// Log level, or log levels by module
    #[arg(long, env = "RUST_LOG", value_name = "LEVELS", default_value = QUIET)]
    log: String,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let ended = tokio::runtime::Runtime::new().context("starting the runtime").and_then(|runtime| {
        let ended = runtime.block_on(run(settings));
        // A thread that blocks, in a handler or a name lookup, must not keep the process alive.
        runtime.shutdown_background();
        ended
    });
    let Err(error) = ended else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let display = ProgressDisplay::default();
    let (filter, writer) = (EnvFilter::try_new(&settings.log).context("RUST_LOG")?, display.clone());
    let filter = filter.add_directive("leveret::trace=off".parse()?);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(move || writer.clone())
        .init();
    let (broker, health) = open(&settings)?;
    let ledger = Ledger::default();
    let progress = Progress::start(display, &ledger);
    progress.note(&format!("Broker: {}", if settings.in_memory() { "in memory" } else { "RabbitMQ" }));
    progress.note(&format!("Metrics: http://{}/metrics", health.address()));
    let kept = (!settings.in_memory()).then_some(settings.output.as_path());
    let api = JobApi::start(&broker, settings.api_addr, kept).await.context("serving the job API")?;
    progress.note(&format!("Job API: http://{}/api", api.address()));
    let mut demo = DemoRun::start(&broker, api.store(), &settings.data, &settings.output, ledger).await?;
    let finished = tokio::select! {
        ended = demo.run(&progress) => ended.map(|()| true)?,
        () = shutdown_signal() => false,
    };
    if finished && settings.keep_running {
        progress.finish();
        print(&demo.summary().await?)?;
        eprintln!(
            "\nStill running: job API at http://{}/api, metrics at http://{}/metrics. Ctrl-C stops.",
            api.address(),
            health.address()
        );
        shutdown_signal().await;
        demo.drain().await?;
    } else {
        if !finished {
            progress.note("Stopping: no new jobs, finishing the running ones (press Ctrl-C again to stop at once).");
        }
        demo.drain().await?;
        progress.finish();
        let summary = demo.summary().await?;
        print(&summary)?;
        note_unfinished(&summary, settings.in_memory());
    }
    api.stop().await?;
    broker.close().await;
    Ok(())
}

impl Settings {
    fn in_memory(&self) -> bool {
        self.amqp_url.is_empty()
    }

    fn broker(&self, http_addr: SocketAddr) -> Result<Broker, Error> {
        let limit = Duration::from_secs(10);
        let config = Config { http_addr, publish_timeout: limit, drain_timeout: limit, ..Config::default() };
        if self.in_memory() {
            return Ok(Broker::memory_with(config));
        }
        Broker::amqp(Config { amqp_url: self.amqp_url.clone(), ..config })
    }
}

/// Opens the broker and serves its metrics, on a free port if the port of the settings is in use.
fn open(settings: &Settings) -> Result<(Broker, HealthServer), Error> {
    let broker = settings.broker(settings.http_addr)?;
    match broker.serve_health() {
        Err(Error::Listen { source, .. }) if source.kind() == ErrorKind::AddrInUse => {
            let broker = settings.broker(SocketAddr::new(settings.http_addr.ip(), 0))?;
            let health = broker.serve_health()?;
            Ok((broker, health))
        }
        served => served.map(|health| (broker, health)),
    }
}

fn print(summary: &RunSummary) -> std::io::Result<()> {
    let columns = console::Term::stdout().size_checked().map_or(100, |(_, columns)| usize::from(columns));
    write!(stdout(), "\n{}", summary.render(columns.clamp(60, 120)))
}

fn note_unfinished(summary: &RunSummary, in_memory: bool) {
    if summary.is_complete() {
        return;
    }
    let place = if in_memory { "are lost with the in-memory broker" } else { "wait on RabbitMQ for the next worker" };
    eprintln!("\nInterrupted: published jobs that are unfinished {place}.");
}
