//! Leveret: typed jobs on RabbitMQ that are never lost.
//!
//! A service publishes a [`Job`]; a [`Worker`] hands it to the [`Handler`] for its type; what fails is tried again after
//! a delay that the broker keeps, and what is given up lies in `<queue>.dead` with its reason.
//!
//! ```no_run
//! use leveret::{Broker, Config, Context, Job, JobResult, Worker, shutdown_signal};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, Job)]
//! #[job(name = "greet", queue = "greetings")]
//! struct Greet {
//!     name: String,
//! }
//!
//! async fn greet(job: Greet, ctx: Context<()>) -> JobResult {
//!     println!("hello {} (attempt {})", job.name, ctx.attempt());
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let broker = Broker::amqp(Config::default())?;
//!     Worker::new(()).handle(greet).run(&broker, shutdown_signal()).await?;
//!     Ok(())
//! }
//! ```
//!
//! # Layout
//!
//! The files in the order in which a job flows through them:
//!
//! * `job`, `message`, `copy`, `publisher`: a job, its form on the wire, what copies keep of it, its way to a queue;
//!   `unique`: of which there is one at a time.
//! * `broker`: the seam; behind it RabbitMQ (`broker/amqp`, with a shield before what lapin cannot parse) and the
//!   in-memory broker (`broker/memory`).
//! * `topology`, `delay`: every exchange and queue, and the arithmetic of the delay ladder.
//! * `worker`, `queue`: what a user puts together; `consumer`: the core loop; `turns`: how lanes share its
//!   places; `redeliveries`: what it remembers of a lost
//!   channel; `intake`: what speaks against running a delivery.
//! * `limit`, `breaker`: what a job has to pass before its attempt, if its handler has limits or dependencies; `pace`: how
//!   fast a queue is consumed while they are down.
//! * `task`, `attempt`, `handler`, `middleware`, `context`: one job in hand, one attempt at it.
//! * `retry`, `outcome`, `settle`: the delay, the verdict, and its carrying out; the only place that acks.
//! * `schedule`: jobs by a timetable (feature `cron`).
//! * `event`, `tell`, `tracked`: what is told of tracked jobs; `cancel`: those that nobody wants any more; `stream`: how
//!   workers learn of them, and of each other's jobs (`catalogue`); `feed`: whole queues, for tools.
//! * `trace`: the trace that jobs carry, and their spans (feature `otel`); `telemetry`: logs, and the way of traces to a
//!   collector, for a `main` (features `telemetry`, `otel`).
//! * `config`, `metrics`, `health`, `log_throttle` (no log storms), `identity`, `shutdown`, `error`, `testing`; `probe` for tools that look
//!   at a broker; `internals` for Leveret's own benchmarks and fuzz targets.

mod attempt;
mod backoff;
mod broker;
mod config;
mod error;
mod health_server;
#[doc(hidden)]
pub mod http;
mod identity;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod job;
#[cfg(test)]
mod layering_tests;
pub mod limits;
mod message;
pub mod names;
mod observe;
mod outcome;
mod publish;
mod readers;
#[cfg(feature = "cron")]
pub mod schedule;
mod shutdown;
pub mod testing;
pub mod text;
pub mod topology;
mod trace;
mod tracking;
mod transport;
mod worker;

#[cfg(feature = "clap")]
pub use crate::config::setting;
#[doc(hidden)]
pub use crate::job::__derive;
#[cfg(feature = "telemetry")]
pub use crate::observe::telemetry;
#[cfg(feature = "cron")]
pub use crate::schedule::{CatchUp, Schedule};
pub use crate::{
    attempt::{
        context::Context,
        handler::Handler,
        middleware::{Middleware, Next},
        retry::RetryPolicy,
    },
    broker::Broker,
    config::{Config, TopologyMode, duration, without_bom},
    error::{Error, JobError, JobResult, PublishError},
    health_server::HealthServer,
    job::{Job, JobId},
    limits::{
        Rate,
        circuit_breaker::{CircuitBreaker, CircuitState},
    },
    outcome::{ErrorKind, Outcome},
    publish::{
        builder::Publish,
        header_value::HeaderValue,
        publisher::Publisher,
        replay::Replay,
        unique::{self, IfTaken},
    },
    readers::{catalogue, reader},
    shutdown::shutdown_signal,
    trace::trace_headers,
    tracking::status_update,
    transport::amqp::probe,
    worker::{builder::Worker, queue::Queue},
};
