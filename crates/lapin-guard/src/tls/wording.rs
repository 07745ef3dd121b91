//! TLS errors in words that name the fix.

use std::io;

use rustls::{AlertDescription as Alert, CertificateError, Error, InvalidMessage, pki_types::UnixTime};

use super::TlsFiles;
use crate::error::{Explained, cause};

impl TlsFiles {
    /// Explains a handshake that failed on this side. `issuer` is the issuer of an untrusted certificate.
    pub(super) fn explained(&self, error: io::Error, host: &str, issuer: Option<&str>) -> io::Error {
        let words = match cause(&error) {
            Some(Error::InvalidCertificate(problem)) => self.distrust(problem, host, issuer),
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Some(
                "the broker does not speak TLS on this port: use its TLS port, usually 5671, or amqp://".to_owned(),
            ),
            _ => None,
        };
        words.map_or(error, |words| io::Error::new(io::ErrorKind::InvalidData, Explained(words)))
    }

    fn distrust(&self, problem: &CertificateError, host: &str, issuer: Option<&str>) -> Option<String> {
        use CertificateError as Wrong;
        let ca = self.names.ca;
        let words = match problem {
            Wrong::UnknownIssuer => {
                let issuer = issuer.unwrap_or("without a name");
                let fix = match &self.ca {
                    Some(file) => format!("which is not in {}: {ca} must name a file that has this CA", file.display()),
                    None => format!("which this system does not know: name a file that has this CA in {ca}"),
                };
                format!("the broker's certificate is issued by the CA {issuer:?}, {fix}")
            }
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
                let uri = self.names.uri;
                format!("the broker's certificate is not for {host:?}: {uri} must use a name from it ({problem})")
            }
            Wrong::Expired => "the broker's certificate has expired: the broker needs a new one".to_owned(),
            Wrong::ExpiredContext { time, not_after } => {
                let ago = between(*not_after, *time);
                format!("the broker's certificate expired {ago} ago: the broker needs a new one")
            }
            Wrong::NotValidYetContext { time, not_before } => {
                let wait = between(*time, *not_before);
                format!("the broker's certificate becomes valid in {wait}: check the clocks on both sides")
            }
            _ => return None,
        };
        Some(words)
    }

    /// Explains an alert of a broker that refuses this client. With TLS 1.3 it comes only after the handshake.
    pub(crate) fn refusal(&self, error: &io::Error) -> Option<String> {
        let Error::AlertReceived(alert) = cause(error)? else { return None };
        let fix = || format!("set {} and {}", self.names.certificate, self.names.key);
        match (alert, &self.identity) {
            (Alert::CertificateRequired, None) => {
                Some(format!("the broker requires a client certificate: {} ({error})", fix()))
            }
            // TLS 1.2 has no alert of its own for a missing certificate.
            (Alert::HandshakeFailure, None) => Some(format!(
                "the broker ended the handshake ({error}): if it requires a client certificate, {}",
                fix()
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
            ) => {
                let (file, setting) = (identity.certificate.display(), self.names.certificate);
                Some(format!("the broker refuses the certificate in {file} of {setting} ({error})"))
            }
            _ => None,
        }
    }
}

fn between(earlier: UnixTime, later: UnixTime) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match later.as_secs().saturating_sub(earlier.as_secs()) {
        seconds if seconds < 2 * DAY => format!("{} min", seconds / 60),
        seconds => format!("{} days", seconds / DAY),
    }
}
