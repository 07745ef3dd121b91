//! A server that runs workflows, in a process of its own.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use leveret::{Broker, Config, shutdown_signal};
use leveret_serve::{Options, Services, serve};
use leveret_store::Store;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    config: Config,
    /// The address of the store
    #[arg(long)]
    store: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let broker = Broker::amqp(arguments.config)?;
    let store = loop {
        match Store::open(&arguments.store).await {
            Ok(store) => break store,
            Err(error) => tracing::warn!(%error, "the store cannot be opened, retrying"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let options = Options { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Options::default() };
    serve(Services::new(&broker, store), options, shutdown_signal()).await?;
    Ok(())
}
