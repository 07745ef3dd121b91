//! A service that subscribes to events, or a publisher of them, in a process of its own.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser};
use leveret::{Broker, Config, Context, JobResult, RawEvent, RetryPolicy, Subscription, Worker, shutdown_signal};

#[derive(Parser)]
enum Role {
    Subscribe(Subscribe),
    Emit(Emit),
}

#[derive(Args)]
struct Common {
    #[command(flatten)]
    config: Config,
    /// The file to append a line to for each event
    #[arg(long)]
    lines: PathBuf,
}

#[derive(Args)]
struct Subscribe {
    #[command(flatten)]
    common: Common,
    /// The name of the subscription
    #[arg(long)]
    name: String,
    /// A topic that it handles
    #[arg(long = "topic")]
    topics: Vec<String>,
    /// The fixed delay of retries, of which there are 60
    #[arg(long, default_value_t = 200)]
    retry_ms: u64,
}

/// Emits events one after the other until a signal stops it.
#[derive(Args)]
struct Emit {
    #[command(flatten)]
    common: Common,
    #[arg(long)]
    topic: String,
}

/// One line is one write, so that lines of several processes do not mix.
#[derive(Clone)]
struct Lines(Arc<std::fs::File>);

impl Lines {
    fn open(path: &Path) -> std::io::Result<Self> {
        std::fs::File::options().create(true).append(true).open(path).map(|file| Self(Arc::new(file)))
    }

    fn add(&self, what: &str, topic: &str, id: &str) {
        let line = format!("{what} {} {topic} {id}\n", std::process::id());
        if let Err(error) = (&*self.0).write_all(line.as_bytes()) {
            panic!("cannot write to the file of lines: {error}");
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match Role::parse() {
        Role::Subscribe(subscribe) => subscribe.run().await,
        Role::Emit(emit) => emit.run().await,
    }
}

async fn note(event: RawEvent, ctx: Context<(String, Lines)>) -> JobResult {
    let (name, lines) = ctx.state();
    lines.add(name, event.topic(), ctx.job_id());
    Ok(())
}

impl Subscribe {
    async fn run(self) -> anyhow::Result<()> {
        let broker = Broker::amqp(self.common.config)?;
        let lines = Lines::open(&self.common.lines)?;
        let retry = RetryPolicy::fixed(Duration::from_millis(self.retry_ms)).max_attempts(60);
        let subscription = Subscription::new(self.name.as_str()).retry(retry);
        // The topics live as long as the process.
        let subscription =
            self.topics.into_iter().fold(subscription, |subscription, topic| subscription.pattern(topic.leak()));
        let worker = Worker::new((self.name, lines)).subscribe(subscription, note);
        worker.run(&broker, shutdown_signal()).await?;
        broker.close().await;
        Ok(())
    }
}

impl Emit {
    async fn run(self) -> anyhow::Result<()> {
        let broker = Broker::amqp(self.common.config)?;
        let (publisher, lines) = (broker.publisher(), Lines::open(&self.common.lines)?);
        let mut stop = Box::pin(shutdown_signal());
        for number in 0.. {
            let id = format!("{number}");
            // An event counts once it is confirmed. A queue that elects its leader makes an emit uncertain.
            while let Err(error) = publisher.emit_raw(self.topic.clone(), "{}").id(&*id).await {
                tracing::warn!(%error, "not confirmed, repeating");
            }
            lines.add("emitted", &self.topic, &id);
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
        broker.close().await;
        Ok(())
    }
}
