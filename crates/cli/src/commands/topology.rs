//! `leveret topology`: what workers declare, written down for those who declare it otherwise.

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

/// Writes down the topology that workers declare
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

/// Writes all exchanges, queues and bindings in a form that RabbitMQ or Kubernetes takes
///
/// The queues are those that are named with --queue and the like; if none is, those that workers announced to the broker,
/// with their schedules.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_of_workers))]
struct Export {
    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    queues: QueueArguments,

    /// The form
    #[arg(long, value_enum, default_value = "definitions")]
    format: Form,

    /// The vhost; without it that of `AMQP_URL`
    #[arg(long, value_name = "NAME")]
    vhost: Option<String>,

    /// Add the users set-up, worker, server, publisher, foreign, operator and scaler with the least rights that each needs
    #[arg(long)]
    users: bool,

    /// The name of the `RabbitmqCluster` (form k8s)
    #[arg(long, default_value = "rabbitmq", value_name = "NAME")]
    cluster: String,

    #[command(flatten)]
    scaling: keda::Scaling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// RabbitMQ's definitions, for `load_definitions` and `rabbitmqctl import_definitions`
    Definitions,
    /// Resources of RabbitMQ's messaging topology operator
    K8s,
    /// Resources of KEDA that scale a Deployment `<queue>-worker` for each queue
    Keda,
}

const AFTER_HELP: &str = "\
Users are written without a password, so that none can log in before you give it one: in `password_hash` of the \
definitions, or in the secret `rabbitmq-<user>` (keys username and password) of Kubernetes.

A queue is not deleted with its resource of the topology operator while there is a job in it or a worker at it. \
RabbitMQ does not know that condition for quorum queues and refuses: such a resource keeps its finalizer until it is \
taken off by hand.

Exit codes:
  0  done
  2  wrong usage
  3  the broker could not be reached
  4  an error of the program or its surroundings
  5  no worker has announced a queue to the broker, and none is named

Examples:
  leveret topology export --queue email --queue reports --status --users > definitions.json
  leveret topology export --amqp-url amqp://app:secret@mq/prod --format k8s | kubectl apply -f -
  leveret topology export --queue email --format keda --max-replicas 50";

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Command::Export(export) = arguments.command;
    if export.users && export.format == Form::Keda {
        return Err(Failure::Usage(anyhow!("--users goes with the forms definitions and k8s: KEDA knows no users")));
    }
    let vhost = match &export.vhost {
        Some(vhost) => vhost.clone(),
        None => scope::vhost(&export.config).map_err(Failure::Usage)?,
    };
    let scope = ExportScope::find(&export.config, export.queues, vhost).await?;
    print_document(&match export.format {
        Form::Definitions => definitions::written(&scope, export.users),
        Form::K8s => kubernetes::written(&scope, export.users, &export.cluster),
        Form::Keda => keda::written(&scope, &export.scaling),
    }?)?;
    Ok(Exit::Success)
}
