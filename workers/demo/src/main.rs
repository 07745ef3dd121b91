//! `demo`: shows the email, the reports and the orders worker at work on real input.

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
    api::Api,
    ledger::Ledger,
    progress::{Display, Progress},
    show::Show,
    summary::Summary,
};
use tracing_subscriber::EnvFilter;

const LESSON: &str = r#"What you see:
  Three workers run in this process and take mails, reports and purchases
  from the queues email, reports and orders. The first mails meet a mail
  server that is still down: they wait until it is up. A purchase becomes
  an order, less stock and a mail in one transaction: one that is sent twice
  is one order, one for more teapots than there are is none. What can never
  succeed (a mailbox that is closed, a column that is not there) becomes a
  dead letter with its reason. Mails go to a small mail server inside the
  demo, and nowhere else.

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
      finishes what runs; on RabbitMQ, the next worker goes on with the rest

On RabbitMQ, stop other workers of these queues first: what becomes of the
jobs that they take never reaches this summary."#;

/// Jobs that are given up are shown by the demo itself, and lapin takes our own closing of a connection for an error.
const QUIET: &str = "error,leveret::attempt::task=off,lapin=off";

/// Runs the email, the reports and the orders worker on real input, and tells what became of every job.
#[derive(Parser)]
#[command(name = "demo", version, after_long_help = LESSON, max_term_width = 120, mut_args(leveret::setting))]
struct Settings {
    /// RabbitMQ to run on, as `amqp://user:password@host:5672/vhost` (several: comma separated); without it, in memory
    #[arg(long, env = "AMQP_URL", value_name = "URL", hide_env_values = true)]
    amqp_url: Vec<String>,

    /// Address of /metrics, /livez and /readyz; another port is chosen when this one is taken
    #[arg(long, env = "LEVERET_HTTP_ADDR", value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    http_addr: SocketAddr,

    /// Address of the job API; another port is chosen when this one is taken
    #[arg(long, env = "DEMO_API_ADDR", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    api_addr: SocketAddr,

    /// Directory for the mails, reports and orders
    #[arg(long, env = "DEMO_OUTPUT", value_name = "DIR", default_value = "demo-output")]
    output: PathBuf,

    /// Directory of the jobs to publish (orders, mails, reports and purchases.jsonl) and the reports' data
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data"))]
    data: PathBuf,

    /// Stay up after the summary, serving metrics and taking jobs, until Ctrl-C
    #[arg(long)]
    keep_running: bool,

    /// What to log: a level, or levels by module
    #[arg(long, env = "RUST_LOG", value_name = "LEVELS", default_value = QUIET)]
    log: String,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let ended = tokio::runtime::Runtime::new().context("starting the runtime").and_then(|runtime| {
        let ended = runtime.block_on(run(settings));
        // A thread that blocks, in a handler or a look-up, must not keep the process.
        runtime.shutdown_background();
        ended
    });
    let Err(error) = ended else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let display = Display::default();
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
    let api = Api::start(&broker, settings.api_addr, kept).await.context("serving the job API")?;
    progress.note(&format!("Job API: http://{}/api", api.address()));
    let mut show = Show::start(&broker, Some(api.store()), &settings.data, &settings.output, ledger).await?;
    let finished = tokio::select! {
        played = show.play(&progress) => played.map(|()| true)?,
        () = shutdown_signal() => false,
    };
    if finished && settings.keep_running {
        progress.finish();
        print(&show.summary().await?)?;
        eprintln!(
            "\nStill running: job API at http://{}/api, metrics at http://{}/metrics. Ctrl-C stops.",
            api.address(),
            health.address()
        );
        shutdown_signal().await;
        show.drain().await?;
    } else {
        if !finished {
            progress.note("Stopping: no new jobs, finishing what runs (Ctrl-C again leaves at once).");
        }
        show.drain().await?;
        progress.finish();
        let summary = show.summary().await?;
        print(&summary)?;
        tell_of_unfinished(&summary, settings.in_memory());
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
        let patience = Duration::from_secs(10);
        let config = Config { http_addr, publish_timeout: patience, drain_timeout: patience, ..Config::default() };
        if self.in_memory() {
            return Ok(Broker::memory_with(config));
        }
        Broker::amqp(Config { amqp_url: self.amqp_url.clone(), ..config })
    }
}

/// Opens the broker and serves its metrics, on a free port if the one in the settings is taken.
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

fn print(summary: &Summary) -> std::io::Result<()> {
    let columns = console::Term::stdout().size_checked().map_or(100, |(_, columns)| usize::from(columns));
    write!(stdout(), "\n{}", summary.render(columns.clamp(60, 120)))
}

fn tell_of_unfinished(summary: &Summary, in_memory: bool) {
    if summary.is_complete() {
        return;
    }
    let fate = if in_memory { "are gone with the in-memory broker" } else { "wait on RabbitMQ for the next worker" };
    eprintln!("\nInterrupted: unfinished jobs that were published already {fate}.");
}
