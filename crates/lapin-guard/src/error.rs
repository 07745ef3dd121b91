//! The errors of connecting, in words that name the fix.

use std::{error::Error as StdError, io};

use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};

use crate::{Options, ServerProperties};

/// The reason why there is no connection. No variant shows the password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name lookup failed, no address accepted a TCP connection, or the port does not speak AMQP.
    #[error("{0}")]
    Unreachable(String),
    /// TLS failed: one side does not trust the other, or the port does not speak TLS.
    #[error("{0}")]
    Tls(String),
    /// The broker did not answer in time.
    #[error("{0}")]
    Silent(String),
    /// lapin's error in the AMQP handshake, such as a refused login or vhost.
    #[error("AMQP handshake: {0}")]
    Amqp(lapin::Error),
}

/// A reason in words that name the fix, inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Explained(pub(crate) String);

impl ConnectError {
    pub(crate) fn of_tls(error: &io::Error, options: &Options) -> Self {
        Self::Tls(tls_problem(error, options).unwrap_or_else(|| format!("TLS handshake: {error}")))
    }

    /// The error of a handshake with a broker whose greeting was `server`, if it sent one.
    pub(crate) fn of_amqp(
        error: lapin::Error,
        uri: &AMQPUri,
        options: &Options,
        server: Option<&ServerProperties>,
    ) -> Self {
        let is_tls = uri.scheme == AMQPScheme::AMQPS;
        match problem(&error, uri, options, server) {
            Some(reason) if is_tls => Self::Tls(reason),
            Some(reason) => Self::Unreachable(reason),
            None => Self::Amqp(error),
        }
    }
}

/// The problem if the AMQP handshake failed because of TLS, or because TLS is missing.
fn problem(
    error: &lapin::Error,
    uri: &AMQPUri,
    options: &Options,
    server: Option<&ServerProperties>,
) -> Option<String> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    if let Some(server) = server
        && uri.query.auth_mechanism == Some(SASLMechanism::External)
        && !server.may_offer_external()
    {
        let cause = "the broker offers no login by certificate (plugin rabbitmq_auth_mechanism_ssl, auth_mechanisms)";
        return Some(format!("{cause}: it offers only {}", server.mechanisms));
    }
    let is_tls = uri.scheme == AMQPScheme::AMQPS;
    let hint = "if this is its TLS port, use amqps://";
    match error.kind() {
        // With TLS 1.3 the broker refuses a client certificate only after the handshake.
        lapin::ErrorKind::IOError(error) if is_tls => tls_problem(error, options),
        lapin::ErrorKind::IOError(error) => {
            let ended = matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof);
            (ended && server.is_none()).then(|| format!("{error}, before the broker's greeting: {hint}"))
        }
        // A TLS server answers plaintext with an alert, which is no frame.
        lapin::ErrorKind::ParsingError(_) if !is_tls && server.is_none() => {
            Some(format!("the broker does not speak AMQP on this port: {hint}"))
        }
        _ => None,
    }
}

fn tls_problem(error: &io::Error, options: &Options) -> Option<String> {
    cause(error).map(|Explained(words)| words.clone()).or_else(|| refusal(error, options))
}

#[cfg(feature = "tls")]
fn refusal(error: &io::Error, options: &Options) -> Option<String> {
    options.tls.refusal(error)
}

#[cfg(not(feature = "tls"))]
fn refusal(_: &io::Error, _: &Options) -> Option<String> {
    None
}

/// The cause of type `T` of an error that may be wrapped.
pub(crate) fn cause<T: StdError + 'static>(error: &io::Error) -> Option<&T> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| cause(inner.downcast_ref()?))
}
