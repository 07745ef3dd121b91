//! The commands, one module for each.

mod audit;
mod completions;
mod dead;
mod doctor;
mod events;
mod healthcheck;
mod inbox;
mod jobs;
mod outbox;
mod projections;
mod publish;
mod queues;
mod schedule;
mod serve;
mod shared;
mod simulate;
mod topology;
mod tracked;
mod workflows;

use clap::Subcommand;
use leveret::telemetry::Telemetry;

pub(crate) use self::shared::GlobalArguments;
use crate::output::{Exit, Failure};

#[derive(Subcommand)]
pub(crate) enum Command {
    Publish(Box<publish::Arguments>),
    Queues(Box<queues::Arguments>),
    Jobs(Box<jobs::Arguments>),
    Workflows(Box<workflows::Arguments>),
    Dead(Box<dead::Arguments>),
    Schedule(Box<schedule::Arguments>),
    Events(Box<events::Arguments>),
    Audit(Box<audit::Arguments>),
    Serve(Box<serve::Arguments>),
    Outbox(Box<outbox::Arguments>),
    Inbox(Box<inbox::Arguments>),
    Projections(Box<projections::Arguments>),
    Doctor(Box<doctor::Arguments>),
    Topology(Box<topology::Arguments>),
    Simulate(Box<simulate::Arguments>),
    Healthcheck(healthcheck::Arguments),
    Completions(completions::Arguments),
}

impl Command {
    /// Runs the command; `program` is the whole command line.
    pub(crate) async fn run(self, program: clap::Command) -> Result<Exit, Failure> {
        match self {
            Self::Publish(arguments) => publish::run(*arguments).await,
            Self::Queues(arguments) => queues::run(*arguments).await,
            Self::Jobs(arguments) => jobs::run(*arguments).await,
            Self::Workflows(arguments) => workflows::run(*arguments).await,
            Self::Dead(arguments) => dead::run(*arguments).await,
            Self::Schedule(arguments) => schedule::run(*arguments).await,
            Self::Events(arguments) => events::run(*arguments).await,
            Self::Audit(arguments) => audit::run(*arguments).await,
            Self::Serve(arguments) => serve::run(*arguments).await,
            Self::Outbox(arguments) => outbox::run(*arguments).await,
            Self::Inbox(arguments) => inbox::run(*arguments).await,
            Self::Projections(arguments) => projections::run(*arguments).await,
            Self::Doctor(arguments) => doctor::run(*arguments).await,
            Self::Topology(arguments) => topology::run(*arguments).await,
            Self::Simulate(arguments) => simulate::run(*arguments).await,
            Self::Healthcheck(arguments) => healthcheck::run(arguments).await,
            Self::Completions(arguments) => completions::run(&arguments, program),
        }
    }

    /// The telemetry of this command: logs of a server or relay, traces of a command that publishes.
    pub(crate) fn telemetry(&self) -> Option<Telemetry> {
        match self {
            Self::Serve(arguments) => Some(arguments.telemetry.clone()),
            Self::Outbox(arguments) => arguments.telemetry(),
            Self::Publish(_) | Self::Dead(_) | Self::Schedule(_) | Self::Events(_) | Self::Workflows(_) => {
                Some(Telemetry { log: "off".to_owned(), ..Telemetry::default() })
            }
            _ => None,
        }
    }

    /// True for commands that run on several threads.
    pub(crate) fn is_parallel(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Outbox(_))
    }
}
