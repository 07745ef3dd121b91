//! What the broker's refusals mean.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin_guard::ConnectError as GuardError;

use crate::{
    error::Error,
    transport::amqp::{Address, declare::is_mismatch},
};

/// Why a broker could not be connected to. No password is shown.
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
    /// The address is not an AMQP one, or what TLS needs for it is not there.
    #[error(transparent)]
    Address(Error),
    /// Nobody answers there, or nobody who speaks AMQP.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What happened instead.
        reason: String,
    },
    /// TLS failed: one of the two does not trust the other, or the port is not for it.
    #[error("{address} cannot be reached: {reason}")]
    Tls {
        /// Host and port.
        address: String,
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// Unknown user or wrong password.
    #[error("{address} refuses the login of user {user:?}: {reason}")]
    Login {
        /// Host and port.
        address: String,
        /// The user.
        user: String,
        /// The broker's words.
        reason: String,
    },
    /// No such vhost, or no permission of any kind in it.
    #[error("{address} does not let user {user:?} into vhost {vhost:?}: {reason}")]
    Vhost {
        /// Host and port.
        address: String,
        /// The user.
        user: String,
        /// The vhost.
        vhost: String,
        /// The broker's words.
        reason: String,
    },
}

/// Why the broker did not do what it was asked for.
///
/// ```
/// # use leveret::probe::Refusal;
/// let refusal = Refusal::Denied("access to queue 'email' in vhost '/' refused".into());
/// assert_eq!(refusal.to_string(), "no permission: access to queue 'email' in vhost '/' refused");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is none of that name.
    #[error("there is none")]
    Missing,
    /// The user lacks a permission; the broker's words.
    #[error("no permission: {0}")]
    Denied(String),
    /// It exists with other arguments; the broker's words, which name the first that differs and both values.
    #[error("other arguments: {0}")]
    Mismatch(String),
    /// Anything else: the connection was lost, the queue has no leader.
    #[error("no answer: {0}")]
    Failed(String),
}

impl ConnectError {
    /// What failed, with the part that it was.
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
            reason.push_str(" (the slash at the end of an address is no vhost: leave it out, or write /%2f)");
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
        AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => Refusal::Failed(words),
    }
}
