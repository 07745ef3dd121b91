//! The meaning of the broker's refusals.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin_guard::ConnectError as GuardError;

use crate::{
    error::Error,
    transport::amqp::{Address, declare::is_mismatch},
};

/// The reason why a broker is not reachable. It contains no password.
///
/// ```
/// # use leveret::{Config, probe::{ConnectError, Probe}};
/// # #[tokio::main] async fn main() {
/// let error = Probe::connect("amqp://guest:guest@127.0.0.1:1", &Config::default()).await.unwrap_err();
/// assert!(matches!(error, ConnectError::Unreachable { .. }));
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not an AMQP URL, or a TLS file that it requires is missing.
    #[error(transparent)]
    Address(Error),
    /// No server answers at the address, or one that does not speak AMQP.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// The cause.
        reason: String,
    },
    /// TLS failed: one side does not trust the other, or the port does not use TLS.
    #[error("{address} cannot be reached: {reason}")]
    Tls {
        /// Host and port.
        address: String,
        /// The fault and its fix.
        reason: String,
    },
    /// The user is unknown, or the password is wrong.
    #[error("{address} refuses the login of user {user:?}: {reason}")]
    Login {
        /// Host and port.
        address: String,
        /// The user.
        user: String,
        /// The broker's text.
        reason: String,
    },
    /// The vhost does not exist, or the user has no permission in it.
    #[error("{address} refuses user {user:?} access to vhost {vhost:?}: {reason}")]
    Vhost {
        /// Host and port.
        address: String,
        /// The user.
        user: String,
        /// The vhost.
        vhost: String,
        /// The broker's text.
        reason: String,
    },
}

/// The reason why the broker refused a request.
///
/// ```
/// # use leveret::probe::Refusal;
/// let refusal = Refusal::Denied("access to queue 'email' in vhost '/' refused".into());
/// assert_eq!(refusal.to_string(), "no permission: access to queue 'email' in vhost '/' refused");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The object does not exist.
    #[error("it does not exist")]
    Missing,
    /// The user lacks a permission; holds the broker's text.
    #[error("no permission: {0}")]
    Denied(String),
    /// The object exists with other arguments. Holds the broker's text, which names the first difference and both
    /// values.
    #[error("other arguments: {0}")]
    Mismatch(String),
    /// The queue is exclusive, and belongs to another connection; holds the broker's text.
    #[error("of another connection: {0}")]
    Locked(String),
    /// Any other failure: the connection was lost, the queue has no leader.
    #[error("no answer: {0}")]
    Failed(String),
}

impl ConnectError {
    /// Returns the error of a failed connection attempt, with the part that failed.
    pub(in super::super) fn of(failure: &GuardError, place: &Address) -> Self {
        let address = place.to_string();
        let protocol = match failure {
            GuardError::Tls(reason) => return Self::Tls { address, reason: reason.clone() },
            GuardError::Amqp(error) => match error.kind() {
                lapin::ErrorKind::ProtocolError(protocol) => protocol,
                _ => return Self::Unreachable { address, reason: failure.to_string() },
            },
            _ => return Self::Unreachable { address, reason: failure.to_string() },
        };
        let mut reason = protocol.get_message().to_string();
        if place.vhost.is_empty() {
            reason.push_str(" (the slash at the end of an address means an empty vhost: remove it, or write /%2f)");
        }
        let user = if place.is_external() { "of the certificate" } else { &place.user }.to_owned();
        match protocol.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Login { address, user, reason },
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                Self::Vhost { address, user, vhost: place.vhost.clone(), reason }
            }
            AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => Self::Unreachable { address, reason },
        }
    }
}

pub(super) fn refusal(error: &lapin::Error) -> Refusal {
    let lapin::ErrorKind::ProtocolError(protocol) = error.kind() else { return Refusal::Failed(error.to_string()) };
    let words = protocol.get_message().to_string();
    match protocol.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Refusal::Missing,
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Refusal::Denied(words),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if is_mismatch(&words) => Refusal::Mismatch(words),
        AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => Refusal::Locked(words),
        AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => Refusal::Failed(words),
    }
}
