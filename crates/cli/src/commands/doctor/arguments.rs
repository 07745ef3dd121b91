//! The options of `leveret doctor`, and its help.

use std::time::Duration;

use clap::{Args, value_parser};
use leveret::Config;

use crate::output::Format;

/// Checks a broker for what its workers need, and says how to mend what is wrong
///
/// It looks whether the broker can be reached, whether the user has the rights of a worker, whether every exchange and
/// queue is there with the right arguments, whether times fit into each other, whether the queues have consumers, and
/// what lies in the dead letters. With the management API it also finds the queues by itself and sees bindings, policies,
/// alarms, replicas and a delay ladder that is stuck.
///
/// It declares, publishes and takes nothing. Dead letters that it reads go back; the broker counts a delivery of each.
/// What the management API says of policies and of a stuck ladder is up to ten seconds old.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_foreign), mut_args(leveret::setting))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) config: Config,

    /// A job queue to check; without any, the management API is asked for all that are bound
    #[arg(long = "queue", value_name = "NAME")]
    pub(super) queues: Vec<String>,

    /// A job queue that its worker sets up with `Queue::single_active`
    #[arg(long, value_name = "NAME")]
    pub(super) single_active: Vec<String>,

    /// A queue that its worker adopts as it is, with `Queue::existing`
    #[arg(long, value_name = "NAME")]
    pub(super) existing: Vec<String>,

    /// A schedule to check; without any, the management API is asked for all that there are
    #[arg(long = "schedule", value_name = "NAME")]
    pub(super) schedules: Vec<String>,

    /// RabbitMQ's management API: `http://user:password@host:15672`; without a login in it, that of `AMQP_URL` is taken
    #[arg(long, env = "LEVERET_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    pub(super) management_url: Option<String>,

    /// The longest timeout of a handler, which the broker's consumer timeout must exceed
    #[arg(long, value_parser = leveret::duration, default_value = "5m", value_name = "DURATION")]
    pub(super) handler_timeout: Duration,

    /// How many dead letters of each queue to read for their kinds; 0 reads none
    #[arg(long, value_parser = value_parser!(u32).range(..=1000), default_value = "100", value_name = "NUMBER")]
    pub(super) sample: u32,

    /// How to print the findings
    #[arg(long, value_enum, default_value = "table")]
    pub(super) output: Format,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  no problem was found; there may be warnings and notes
  1  at least one problem was found
  2  wrong usage
  3  the broker could not be reached, or refused the login or the vhost
  4  an error of the program or its surroundings, such as a full disk

Levels:
  ok       looked at, as it should be
  note     could not be looked at, or advice that cannot be checked
  warning  works, but not as well or as long as it should
  problem  breaks a promise: jobs are stuck, late or may be lost

Examples:
  leveret doctor --amqp-url amqp://app:secret@mq/prod --queue email --queue reports
  leveret doctor --management-url http://mq:15672
  leveret doctor --management-url http://mq:15672 --output json | jq -r '.findings[].message'

The JSON document has broker (address, vhost, product, version, cluster), namespace, queues (the names checked), \
findings (each with level, check, subject, message and, where they apply, expected, found and remedy) and summary (how \
many findings of each level). Fields may be added; none is renamed or removed.";

/// Hides the flags of [`Config`] that only running workers and publishers have a use for.
fn hidden_if_foreign(argument: clap::Arg) -> clap::Arg {
    let foreign = ["http_addr", "publish_timeout", "publish_window", "payload_limit", "inline_budget"];
    let hide = foreign.contains(&argument.get_id().as_str());
    argument.hide(hide)
}
