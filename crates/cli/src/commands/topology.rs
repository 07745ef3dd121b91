//! `leveret topology`: exports the topology that workers declare, for other tools that declare it.

mod definitions;
mod keda;
mod kubernetes;
mod scope;
mod users;

use anyhow::anyhow;
use clap::{Args, Subcommand, ValueEnum};
use leveret::Config;

use self::scope::{ExportScope, QueueArguments};
use super::shared::hidden_if_of_workers;
use crate::output::{Exit, Failure, print_document};

/// Exports the topology that workers declare
#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Export(Box<Export>),
}

/// Exports all exchanges, queues and bindings for RabbitMQ or Kubernetes
///
/// The export contains the queues named with --queue, --lanes, --single-active and --existing. If none is named, it contains
/// the queues and schedules that workers announced on the broker.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_of_workers))]
struct Export {
    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    queues: QueueArguments,

    /// Output format
    #[arg(long, value_enum, default_value = "definitions")]
    format: ExportFormat,

    /// Vhost; by default that of `AMQP_URL`
    #[arg(long, value_name = "NAME")]
    vhost: Option<String>,

    /// Add the users set-up, worker, server, publisher, foreign, operator and scaler, each with the least rights it needs
    #[arg(long)]
    users: bool,

    /// Name of the `RabbitmqCluster` (format k8s)
    #[arg(long, default_value = "rabbitmq", value_name = "NAME")]
    cluster: String,

    #[command(flatten)]
    scaling: keda::Scaling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// RabbitMQ's definitions, for `load_definitions` and `rabbitmqctl import_definitions`
    Definitions,
    /// Resources of RabbitMQ's messaging topology operator
    K8s,
    /// Resources of KEDA that scale a Deployment `<queue>-worker` for each queue
    Keda,
}

const AFTER_HELP: &str = "\
Exported users have no password and cannot log in. Set a password in `password_hash` of the definitions, or in the \
Kubernetes secret `rabbitmq-<user>` (keys username and password).

The topology operator does not delete a queue that contains jobs or has a consumer. RabbitMQ does not support that \
condition for quorum queues and refuses the deletion: remove the finalizer of such a resource by hand.

Exit codes:
  0  done
  2  wrong usage
  3  the broker is unreachable
  4  an error of the program or its environment
  5  no queue is named, and no worker has announced one

Examples:
  leveret topology export --queue email --queue reports --status --users > definitions.json
  leveret topology export --amqp-url amqp://app:secret@mq/prod --format k8s | kubectl apply -f -
  leveret topology export --queue email --format keda --max-replicas 50";

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Command::Export(export) = arguments.command;
    if export.users && export.format == ExportFormat::Keda {
        return Err(Failure::Usage(anyhow!("--users requires the format definitions or k8s: KEDA has no users")));
    }
    let vhost = match &export.vhost {
        Some(vhost) => vhost.clone(),
        None => scope::vhost(&export.config).map_err(Failure::Usage)?,
    };
    let scope = ExportScope::find(&export.config, export.queues, vhost).await?;
    print_document(&match export.format {
        ExportFormat::Definitions => definitions::written(&scope, export.users),
        ExportFormat::K8s => kubernetes::written(&scope, export.users, &export.cluster),
        ExportFormat::Keda => keda::written(&scope, &export.scaling),
    }?)?;
    Ok(Exit::Success)
}
