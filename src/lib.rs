//! Leveret: typed background jobs on RabbitMQ.
//!
//! A service publishes a [`Job`], and a [`Worker`] passes it to the [`Handler`] for its type. Failed jobs are retried
//! after a delay that the broker keeps. Jobs that cannot succeed are dead-lettered to `<queue>.dead` with their error.
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
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `worker` | yes | [`Worker`], handlers, limits, middleware, [`shutdown_signal`] and the tests of handlers |
//! | `health` | yes | [`Broker::serve_health`]: the server of `/metrics`, `/livez` and `/readyz`, with axum |
//! | `clap` | no | [`Config`] as flags and environment variables of a program |
//! | `cron` | no | jobs by a timetable ([`schedule`]), with time zones; turns `worker` on |
//! | `otel` | no | traces and their export over OTLP; turns `telemetry` on |
//! | `telemetry` | no | logs of a program as text or JSON ([`telemetry`]) |
//! | `tls` | no | `amqps://`; without it such an address is refused |
//!
//! A service that only publishes turns the default features off (`cargo add leveret --no-default-features`). It then
//! compiles neither the code of workers nor an HTTP server. [`Broker`], [`Publisher`], the in-memory broker, the readers of
//! [`reader`] and [`catalogue`], and [`Broker::metrics_text`] stay.
//!
//! # Layout
//!
//! The modules are in the order of a job's life. A module imports from the modules before it, never from a later one
//! (`layering_tests`).
//!
//! | module | purpose |
//! |---|---|
//! | `job`, `event`, `error`, `outcome`, `config`, `names`, `text` | the terms that all modules share |
//! | `observe` | metrics, health, log throttle, logs and their export |
//! | `message` | the wire contract: headers, envelope, what a republished copy keeps, dead letters |
//! | `topology` | every exchange, queue and binding; the arithmetic of the delay ladder |
//! | `transport` | the interface to the broker: RabbitMQ through lapin, or a broker in memory |
//! | `tracking` | status updates of tracked jobs, and their cancellation |
//! | `request` | the replies to the requests of this process |
//! | `broker` | the public handle on all of these; `health_server` serves its metrics and health |
//! | `trace` | the W3C trace context that jobs carry, and their spans |
//! | `publish` | publishing of jobs and events, replays, unique keys |
//! | `workflow` | workflows as data, and the pure engine that runs them |
//! | `readers` | whole queues and the catalogue of jobs, for tools |
//! | `limits` | rates, concurrency per key, shared limits, circuit breakers |
//! | `attempt` | one attempt: admission, handler, verdict, the table of dispositions, settlement (the only file that acks) |
//! | `worker` | the worker that a user builds, and the consumer loop |
//! | `schedule` | jobs by a timetable (feature `cron`) |
//! | `events` | subscriptions: handlers of events |
//! | `testing` | attempts without a broker |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(all(feature = "health", feature = "worker")),
    allow(
        dead_code,
        reason = "the rooms below serve features that are off; the checks of `make lint` see all of them"
    )
)]

#[cfg(feature = "worker")]
mod attempt;
#[doc(hidden)]
pub mod backoff;
mod broker;
mod config;
mod error;
mod event;
#[cfg(feature = "worker")]
mod events;
#[cfg(feature = "health")]
mod health_server;
#[cfg(feature = "health")]
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod identity;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod job;
#[cfg(test)]
mod layering_tests;
#[cfg(feature = "worker")]
pub mod limits;
mod message;
pub mod names;
mod observe;
mod outcome;
mod publish;
mod readers;
mod request;
#[cfg(feature = "cron")]
pub mod schedule;
#[cfg(feature = "worker")]
mod shutdown;
pub mod testing;
pub mod text;
#[doc(hidden)]
pub mod time;
pub mod topology;
mod trace;
mod tracking;
mod transport;
#[cfg(feature = "worker")]
mod worker;
pub mod workflow;

#[cfg(feature = "clap")]
pub use crate::config::{comma_list, setting};
#[cfg(feature = "health")]
pub use crate::health_server::HealthServer;
#[doc(hidden)]
pub use crate::job::__derive;
#[cfg(feature = "telemetry")]
pub use crate::observe::telemetry;
#[cfg(feature = "cron")]
pub use crate::schedule::{CatchUp, Schedule};
#[cfg(feature = "worker")]
pub use crate::{
    attempt::{
        batch::{Batch, BatchJob, Batching},
        checkpoint::CheckpointError,
        context::Context,
        handler::Handler,
        middleware::{Middleware, Next},
        retry_policy::RetryPolicy,
    },
    events::{FromEvent, RawEvent, Subscription},
    limits::{
        Rate,
        circuit_breaker::{CircuitBreaker, CircuitState},
    },
    shutdown::shutdown_signal,
    worker::{builder::Worker, options::HandlerOptions, queue::Queue},
};
pub use crate::{
    broker::Broker,
    config::{Config, InvalidDuration, TopologyMode, duration, without_bom},
    error::{Error, JobError, JobResult, PublishError},
    event::Event,
    job::{Job, JobId, JobOutput},
    message::cloud_event::{CloudEvent, InvalidCloudEvent},
    outcome::{ErrorKind, Outcome},
    publish::{
        builder::Publish,
        draft::StoredJob,
        emit::Emit,
        header_value::HeaderValue,
        new_event::{EventOptions, NewEvent, StoredEvent},
        new_job::NewJob,
        options::JobOptions,
        publisher::Publisher,
        replay::Replay,
        request::Request,
        unique::{self, IfTaken},
        with_result::{PublishWithResult, PublishedJob, ResultError},
    },
    readers::{catalogue, event_log, reader},
    request::error::RequestError,
    trace::trace_headers,
    tracking::status_update,
    transport::amqp::probe,
};
