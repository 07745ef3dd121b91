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
//! The rooms stand in the order of a job's life. A room imports from the rooms before its own, never from a later one
//! (`layering_tests`).
//!
//! | room | what it does |
//! |---|---|
//! | `job`, `event`, `error`, `outcome`, `config`, `names`, `text` | the words that all rooms share |
//! | `observe` | metrics, health, log throttle, logs and their export |
//! | `message` | the wire contract: headers, envelope, what a republished copy keeps, dead letters |
//! | `topology` | every exchange, queue and binding; the arithmetic of the delay ladder |
//! | `transport` | the seam to the broker: RabbitMQ through lapin, or a broker in memory |
//! | `tracking` | status updates of tracked jobs, and their cancellation |
//! | `broker` | the public handle over all of these; `health_server` serves its metrics and health |
//! | `trace` | the W3C trace context that jobs carry, and their spans |
//! | `publish` | the way of a job to its queue and of an event to its topic, replays, unique keys |
//! | `readers` | whole queues and the catalogue of jobs, for tools |
//! | `limits` | rates, concurrency per key, shared limits, circuit breakers |
//! | `attempt` | one attempt: admission, handler, verdict, the table of dispositions, settlement (the only file that acks) |
//! | `worker` | what a user puts together, and the consumer loop |
//! | `schedule` | jobs by a timetable (feature `cron`) |
//! | `events` | subscriptions: handlers of events |
//! | `testing` | attempts without a broker |

mod attempt;
mod backoff;
mod broker;
mod config;
mod error;
mod event;
mod events;
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
    event::Event,
    events::{FromEvent, RawEvent, Subscription},
    health_server::HealthServer,
    job::{Job, JobId},
    limits::{
        Rate,
        circuit_breaker::{CircuitBreaker, CircuitState},
    },
    outcome::{ErrorKind, Outcome},
    publish::{
        builder::Publish,
        emit::Emit,
        header_value::HeaderValue,
        publisher::Publisher,
        replay::Replay,
        unique::{self, IfTaken},
    },
    readers::{catalogue, event_log, reader},
    shutdown::shutdown_signal,
    trace::trace_headers,
    tracking::status_update,
    transport::amqp::probe,
    worker::{builder::Worker, options::HandlerOptions, queue::Queue},
};
