//! `leveret outbox relay`: a relay as a process of its own.

use std::{sync::Arc, time::Duration};

use anyhow::anyhow;
use clap::Args;
use leveret::{Broker, Config, telemetry::Telemetry};
use leveret_sql::{Outbox, Relay};

use super::super::shared::{DatabaseArguments, hidden_if_of_workers, open_store};
use crate::output::{Exit, Failure, print};

/// Publishes jobs that are committed to the outbox, until SIGTERM or SIGINT
///
/// The relay publishes each job at least once, with the id it was enqueued with. It retries a job that no queue accepts with
/// growing delays, then sets it aside with its reason. Such a job delays only later jobs with the same order key.
#[derive(Args)]
#[command(mut_args(hidden))]
pub(super) struct RelayCommand {
    #[command(flatten)]
    database: DatabaseArguments,

    /// Retention of published jobs; by default they are deleted at once
    #[arg(long, value_parser = leveret::duration, value_name = "DURATION")]
    keep: Option<Duration>,

    /// Number of tries of a refused job before it is set aside
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    tries: u32,

    /// Time after which other relays take over the jobs of a silent relay; must exceed the publish timeout
    #[arg(long, value_parser = leveret::duration, default_value = "60s", value_name = "DURATION")]
    lease: Duration,

    /// Store with the keys of unique jobs, which is set aside without one: the store of all their publishers
    #[arg(long, value_name = "STORE")]
    unique_in: Option<String>,

    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    pub(super) telemetry: Telemetry,
}

/// Shows `--http-addr`, because a relay serves metrics like a worker.
fn hidden(argument: clap::Arg) -> clap::Arg {
    if argument.get_id() == "http_addr" { argument } else { hidden_if_of_workers(argument) }
}

impl RelayCommand {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        if self.lease <= self.config.publish_timeout {
            let (lease, timeout) = (self.lease, self.config.publish_timeout);
            return Err(Failure::Usage(anyhow!(
                "--lease is {lease:?}, but must exceed --publish-timeout ({timeout:?})"
            )));
        }
        let outbox = Outbox::open(self.database.existing()?).await?;
        let broker = Broker::amqp(self.config).map_err(|error| Failure::Usage(error.into()))?;
        let health = broker.serve_health().map_err(|error| Failure::Other(error.into()))?;
        print(&format!("http://{}/metrics\n", health.address()))?;
        let mut relay = Relay::new(&outbox, &broker).lease(self.lease).tries(self.tries, Duration::from_secs(1));
        if let Some(address) = self.unique_in {
            relay = relay.unique_in(Arc::new(open_store(&address, "--unique-in").await?));
        }
        if let Some(keep) = self.keep {
            relay = relay.keep(keep);
        }
        relay.run(leveret::shutdown_signal()).await?;
        broker.close().await;
        Ok(Exit::Success)
    }
}
