//! How a server is set up, and why it cannot start.

use std::{io, net::SocketAddr, time::Duration};

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
    /// Where it listens: 127.0.0.1:8080. Port 0 is any free one.
    pub listen: SocketAddr,
    /// The job of submissions that name none; without one they are refused.
    pub default_job: Option<String>,
    /// Who may ask. None: everybody on this machine, which is why off loopback there must be one.
    pub tokens: Tokens,
    /// How long what is kept.
    pub retention: Retention,
    /// Job queues whose dead letters are taken in besides those of the catalogue.
    pub queues: Vec<String>,
    /// What of payloads is hidden besides what looks like secrets anyway.
    pub redact: RedactionRules,
    /// Connections that may be open at once: 512. At the limit a new one takes the place of one without a request; 8 more
    /// are answered on `/livez`, `/readyz` and `/metrics` alone. Of them 400 may wait for tasks.
    pub connections: usize,
    /// How long requests under way may take when it stops: 10 s.
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

/// Why a server cannot start, or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Everybody who reaches the address could run jobs.
    #[error("listening on {address}, which others can reach, needs tokens: set LEVERET_API_TOKENS=operator:TOKEN")]
    TokensNeeded {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The metrics cannot be made, which is a mistake in this crate.
    #[error("cannot count requests")]
    Metrics(#[from] prometheus::Error),
}
