//! What TLS is spoken with: authorities, and a certificate of our own. The files are read anew for each connection, so
//! that exchanged ones are taken up.

#[cfg(feature = "tls")]
mod authority;
#[cfg(feature = "tls")]
mod handshake;
#[cfg(feature = "tls")]
mod wording;

use std::{error::Error as StdError, io, path::PathBuf};

#[cfg(feature = "tls")]
use self::wording::refusal;
#[cfg(not(feature = "tls"))]
use crate::transport::amqp::shield::Socket;
use crate::transport::amqp::{Address, probe::Server};
use crate::{config::Config, error::Error};

const CA: &str = "LEVERET_TLS_CA";
const CERT: &str = "LEVERET_TLS_CERT";
const KEY: &str = "LEVERET_TLS_KEY";

/// The files of the settings, which fit each other and could be read when the handle was made.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "without TLS it is always empty"))]
pub(super) struct Tls {
    ca: Option<PathBuf>,
    identity: Option<Identity>,
}

/// Who we are: a chain of certificates, ours first, and the key of that.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "without TLS there is none"))]
struct Identity {
    cert: PathBuf,
    key: PathBuf,
}

impl Tls {
    /// Looks whether the settings can work.
    pub(super) fn new(config: &Config, addresses: &[Address]) -> Result<Self, Error> {
        let wrong = |setting, reason: &str| Err(Error::Setting { setting, reason: reason.to_owned() });
        let files = [(CA, &config.tls_ca), (CERT, &config.tls_cert), (KEY, &config.tls_key)];
        if let Some((setting, _)) = files.iter().find(|(_, file)| file.is_some()) {
            if cfg!(not(feature = "tls")) {
                return wrong(setting, "this program was built without TLS: enable leveret's `tls` feature");
            }
            if !addresses.iter().any(|address| address.tls) {
                return wrong(setting, "has an effect on amqps:// only, and no address in AMQP_URL begins so");
            }
        }
        let identity = match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => Some(Identity { cert: cert.clone(), key: key.clone() }),
            (Some(_), None) => return wrong(CERT, "a certificate is of no use without its key: set LEVERET_TLS_KEY"),
            (None, Some(_)) => return wrong(KEY, "a key is of no use without its certificate: set LEVERET_TLS_CERT"),
            (None, None) => None,
        };
        if addresses.iter().any(|address| address.is_external() && (!address.tls || identity.is_none())) {
            return wrong(
                "AMQP_URL",
                "auth_mechanism=external is a login by certificate: it wants amqps://, LEVERET_TLS_CERT and LEVERET_TLS_KEY",
            );
        }
        let tls = Self { ca: config.tls_ca.clone(), identity };
        #[cfg(feature = "tls")]
        tls.check()?;
        Ok(tls)
    }
}

#[cfg(not(feature = "tls"))]
impl Tls {
    /// Nobody calls it: an `amqps://` is refused when it is read.
    pub(super) async fn shake_hands(&self, _: Socket, _: &str) -> io::Result<Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(not(feature = "tls"))]
fn refusal(_: &Tls, _: &io::Error) -> Option<String> {
    None
}

/// Why there is no TLS, in words that say what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Problem(String);

/// What is wrong if the AMQP handshake failed for TLS, or for the lack of it; `server` is the broker if it has spoken AMQP.
pub(super) fn problem(error: &lapin::Error, address: &Address, tls: &Tls, server: Option<&Server>) -> Option<String> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    if let Some(Server { mechanisms, .. }) = server
        && address.is_external()
        && !mechanisms.is_empty()
        && mechanisms.split(' ').all(|mechanism| mechanism != "EXTERNAL")
    {
        let words =
            "it lets nobody in by certificate, for want of rabbitmq_auth_mechanism_ssl or in its auth_mechanisms";
        return Some(format!("{words}: only by {mechanisms}"));
    }
    let hint = "if that is its port for TLS, take amqps://";
    match error.kind() {
        // With TLS 1.3 the broker refuses a certificate only after the handshake.
        lapin::ErrorKind::IOError(error) if address.tls => tls_problem(tls, error),
        lapin::ErrorKind::IOError(error) => {
            let ended = matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof);
            (ended && server.is_none()).then(|| format!("{error}, before it has said anything: {hint}"))
        }
        // What TLS says to somebody who does not speak it is no frame.
        lapin::ErrorKind::ParsingError(_) if !address.tls && server.is_none() => {
            Some(format!("it does not speak AMQP there: {hint}"))
        }
        _ => None,
    }
}

/// What is wrong with TLS, in words that say what to do.
pub(super) fn tls_problem(tls: &Tls, error: &io::Error) -> Option<String> {
    cause(error).map(|Problem(words)| words.clone()).or_else(|| refusal(tls, error))
}

/// The cause of that type, of an error that may have been wrapped.
fn cause<T: StdError + 'static>(error: &io::Error) -> Option<&T> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| cause(inner.downcast_ref()?))
}

#[cfg(test)]
#[path = "tls/tests.rs"]
mod tests;
