//! The settings of a server, and the errors of its start.

use std::{error::Error as StdError, io, net::SocketAddr, time::Duration};

use leveret_store::Retention;

use crate::{dead::redact::RedactionRules, tokens::Tokens};

/// The settings of a server.
///
/// ```
/// use leveret_serve::Options;
///
/// let options = Options { default_job: Some("demo.sleep".into()), ..Options::default() };
/// assert!(options.listen.ip().is_loopback());
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on: 127.0.0.1:8080 unless set. Port 0 is any free port.
    pub listen: SocketAddr,
    /// The job of submissions that name none. Without a default job they are refused.
    pub default_job: Option<String>,
    /// The accepted tokens. Without tokens every process on this machine may do everything, so an address that is
    /// reachable from other machines requires at least one.
    pub tokens: Tokens,
    /// The retention of rows.
    pub retention: Retention,
    /// Job queues whose dead letters are ingested in addition to those of the catalogue.
    pub queues: Vec<String>,
    /// Rules that hide parts of payloads, in addition to the default ones.
    pub redact: RedactionRules,
    /// The greatest number of open connections: 512 unless set. At the limit a new connection replaces one without a request.
    /// 8 more are served on `/livez`, `/readyz` and `/metrics` only. Up to 400 connections may wait for tasks.
    pub connections: usize,
    /// The time limit of running requests when the server stops: 10 s unless set.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            default_job: None,
            tokens: Tokens::default(),
            retention: Retention::default(),
            queues: Vec::new(),
            redact: RedactionRules::default(),
            connections: 512,
            drain: Duration::from_secs(10),
        }
    }
}

/// A server that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Without tokens, any client that reaches the address could run jobs.
    #[error(
        "listening on {address}, which other machines can reach, requires tokens: set LEVERET_API_TOKENS=operator:TOKEN"
    )]
    TokensNeeded {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The metrics cannot be registered, which is a fault of this crate.
    #[error("cannot register the metrics of requests")]
    Metrics(#[from] prometheus::Error),
    /// A task that ingests status updates or dead letters has ended, which is a fault of this crate. The server stops,
    /// because it would not learn the fate of the jobs that it accepts. Start it again: the broker keeps the messages.
    #[error("the ingestion from the broker has ended")]
    Ingest(#[source] Box<dyn StdError + Send + Sync>),
}
