//! The options of `leveret doctor`, and its help.

use std::time::Duration;

use clap::{Args, value_parser};
use leveret::Config;

use crate::output::Format;

/// Checks the setup of a broker and prints a remedy for each fault
///
/// The doctor checks the connection, the rights of the user, exchanges and queues with their arguments, timeouts, consumers
/// and dead letters. With the management API it also finds the queues by itself, and checks bindings, policies, alarms,
/// replicas and a stuck delay ladder.
///
/// It declares, publishes and removes nothing. It requeues the dead letters that it reads, and the broker counts a delivery
/// of each. The management API's data on policies and the delay ladder is up to ten seconds old.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_foreign), mut_args(leveret::setting))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) config: Config,

    /// Job queue to check; by default all that the management API shows as bound
    #[arg(long = "queue", value_name = "NAME")]
    pub(super) queues: Vec<String>,

    /// Job queue that its worker declares with `Queue::single_active`
    #[arg(long, value_name = "NAME")]
    pub(super) single_active: Vec<String>,

    /// Queue that its worker consumes without declaring it, with `Queue::existing`
    #[arg(long, value_name = "NAME")]
    pub(super) existing: Vec<String>,

    /// Schedule to check; by default all that the management API shows
    #[arg(long = "schedule", value_name = "NAME")]
    pub(super) schedules: Vec<String>,

    /// Check the rights for requests too; by default if the management API shows a queue for replies
    #[arg(long)]
    pub(super) requests: bool,

    /// RabbitMQ's management API: `http://user:password@host:15672`; without a login, that of `AMQP_URL` is used
    #[arg(long, env = "LEVERET_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    pub(super) management_url: Option<String>,

    /// Longest timeout of a handler; the broker's consumer timeout must exceed it
    #[arg(long, value_parser = leveret::duration, default_value = "5m", value_name = "DURATION")]
    pub(super) handler_timeout: Duration,

    /// Number of dead letters to read from each queue for their error kinds; 0 reads none
    #[arg(long, value_parser = value_parser!(u32).range(..=1000), default_value = "100", value_name = "NUMBER")]
    pub(super) sample: u32,

    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    pub(super) output: Format,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  no problem was found; there may be warnings and notes
  1  at least one problem was found
  2  wrong usage
  3  the broker is unreachable, or refused the login or the vhost
  4  an error of the program or its environment, such as a full disk

Levels:
  ok       checked and correct
  note     could not be checked, or advice that cannot be checked
  warning  works, but worse than it should, or not for long
  problem  breaks a promise: jobs are stuck, late or may be lost

Examples:
  leveret doctor --amqp-url amqp://app:secret@mq/prod --queue email --queue reports
  leveret doctor --management-url http://mq:15672
  leveret doctor --management-url http://mq:15672 --output json | jq -r '.findings[].message'

The JSON document contains broker (address, vhost, product, version, cluster), namespace, queues (the checked names), \
findings (each with level, check, subject, message and, where they apply, expected, found and remedy) and summary (the \
number of findings of each level). Later versions may add fields, but rename or remove none.";

/// Hides the flags of [`Config`] that only affect running workers and publishers.
fn hidden_if_foreign(argument: clap::Arg) -> clap::Arg {
    let foreign = ["http_addr", "publish_timeout", "publish_window", "payload_limit", "inline_budget"];
    let hide = foreign.contains(&argument.get_id().as_str());
    argument.hide(hide)
}
