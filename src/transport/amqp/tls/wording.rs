//! What went wrong with TLS, in words that say what to do.

use std::io;

use rustls::{AlertDescription as Alert, CertificateError, Error, InvalidMessage, pki_types::UnixTime};

use crate::transport::amqp::tls::{CA, CERT, KEY, Problem, Tls, cause};

impl Tls {
    /// What is said of a handshake that failed on our side; `unknown` is the authority that we do not trust.
    pub(super) fn failed(&self, error: io::Error, host: &str, unknown: Option<&str>) -> io::Error {
        let words = match cause(&error) {
            Some(Error::InvalidCertificate(problem)) => self.distrust(problem, host, unknown),
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                Some("it does not speak TLS there: take its port for TLS, 5671 as a rule, or amqp://".to_owned())
            }
            _ => None,
        };
        words.map_or(error, |words| io::Error::new(io::ErrorKind::InvalidData, Problem(words)))
    }

    fn distrust(&self, problem: &CertificateError, host: &str, unknown: Option<&str>) -> Option<String> {
        use CertificateError as Wrong;
        let words = match problem {
            Wrong::UnknownIssuer => {
                let authority = unknown.unwrap_or("without a name");
                let known = match &self.ca {
                    Some(file) => format!("which is not in {}: {CA} must name a file that has it", file.display()),
                    None => format!("which this system does not know: name a file that has it in {CA}"),
                };
                format!("its certificate is of the authority {authority:?}, {known}")
            }
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
                format!("its certificate is not for {host:?}: AMQP_URL must call the broker as that does ({problem})")
            }
            Wrong::Expired => "its certificate has expired: the broker needs a new one".to_owned(),
            Wrong::ExpiredContext { time, not_after } => {
                format!("its certificate expired {} ago: the broker needs a new one", between(*not_after, *time))
            }
            Wrong::NotValidYetContext { time, not_before } => {
                format!("its certificate begins in {}: look at the clocks of both", between(*time, *not_before))
            }
            _ => return None,
        };
        Some(words)
    }
}

/// What is said of a broker that refuses us, which with TLS 1.3 it does only after the handshake.
pub(super) fn refusal(tls: &Tls, error: &io::Error) -> Option<String> {
    let Error::AlertReceived(alert) = cause(error)? else { return None };
    match (alert, &tls.identity) {
        (Alert::CertificateRequired, None) => {
            Some(format!("it wants a certificate of its clients: set {CERT} and {KEY} ({error})"))
        }
        // That is how TLS 1.2 says so, among other things.
        (Alert::HandshakeFailure, None) => Some(format!(
            "it ends the handshake ({error}): if it wants a certificate of its clients, set {CERT} and {KEY}"
        )),
        (
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::AccessDenied,
            Some(identity),
        ) => Some(format!("it refuses the certificate in {} of {CERT} ({error})", identity.cert.display())),
        _ => None,
    }
}

fn between(earlier: UnixTime, later: UnixTime) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match later.as_secs().saturating_sub(earlier.as_secs()) {
        seconds if seconds < 2 * DAY => format!("{} min", seconds / 60),
        seconds => format!("{} days", seconds / DAY),
    }
}
