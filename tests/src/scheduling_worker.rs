//! A worker with schedules in a process of its own, for tests that kill or stop it. It takes no part in running their jobs.

use clap::Parser;
use leveret::{Broker, CatchUp, Config, shutdown_signal};
use leveret_tests::fires::{Fires, noting, schedule};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    config: Config,
    /// The queue to publish to; the worker's own is the same with `.own`
    #[arg(long)]
    queue: String,
    /// A schedule that fires each second
    #[arg(long = "schedule")]
    schedules: Vec<String>,
    /// Time from which time passes faster, in milliseconds since the epoch
    #[arg(long, default_value_t = 0)]
    from_ms: u64,
    /// Factor by which time passes faster
    #[arg(long, default_value_t = 1)]
    times: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let arguments = Arguments::parse();
    let broker = Broker::amqp(arguments.config)?;
    let mut worker = noting(&format!("{}.own", arguments.queue), &Fires::default());
    for name in &arguments.schedules {
        let each_second = schedule(name, "* * * * * *", &arguments.queue).catch_up(CatchUp::All);
        worker = worker.schedule(each_second.hastened(arguments.from_ms, arguments.times));
    }
    worker.run(&broker, shutdown_signal()).await?;
    broker.close().await;
    Ok(())
}
