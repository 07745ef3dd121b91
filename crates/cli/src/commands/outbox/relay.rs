//! `leveret outbox relay`: a relay by itself, for services that have none within.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use leveret::{Broker, Config, telemetry::Telemetry};
use leveret_store::{Outbox, Relay};

use super::super::shared::{DatabaseArguments, hidden_if_of_workers};
use crate::output::{Exit, Failure, print};

/// Publishes what is committed to the outbox, until it is told to stop
///
/// A job is published at least once, always under the id it was enqueued with. One that no queue takes is tried again with
/// growing pauses, then set aside with its reason; it holds up no other, but those behind it with the same order key.
#[derive(Args)]
#[command(mut_args(hidden))]
pub(super) struct RelayCommand {
    #[command(flatten)]
    database: DatabaseArguments,

    /// Keeps jobs that were published for so long, instead of deleting them at once
    #[arg(long, value_parser = leveret::duration, value_name = "DURATION")]
    keep: Option<Duration>,

    /// How often a job that is refused is tried before it is set aside
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    tries: u32,

    /// How long a relay may be silent before others take up what it had in hand; more than the publish timeout
    #[arg(long, value_parser = leveret::duration, default_value = "60s", value_name = "DURATION")]
    lease: Duration,

    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    pub(super) telemetry: Telemetry,
}

/// A relay has metrics, as workers do.
fn hidden(argument: clap::Arg) -> clap::Arg {
    if argument.get_id() == "http_addr" { argument } else { hidden_if_of_workers(argument) }
}

impl RelayCommand {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        if self.lease <= self.config.publish_timeout {
            let (lease, timeout) = (self.lease, self.config.publish_timeout);
            return Err(Failure::Usage(anyhow!(
                "--lease is {lease:?}, and must be more than --publish-timeout ({timeout:?})"
            )));
        }
        let outbox = Outbox::open(self.database.existing()?).await?;
        let broker = Broker::amqp(self.config).map_err(|error| Failure::Usage(error.into()))?;
        let health = broker.serve_health().map_err(|error| Failure::Other(error.into()))?;
        print(&format!("http://{}/metrics\n", health.address()))?;
        let mut relay = Relay::new(&outbox, &broker).lease(self.lease).tries(self.tries, Duration::from_secs(1));
        if let Some(keep) = self.keep {
            relay = relay.keep(keep);
        }
        relay.run(leveret::shutdown_signal()).await?;
        broker.close().await;
        Ok(Exit::Success)
    }
}
