//! The TLS settings, checked against each other and the addresses.

use std::time::Duration;

#[cfg(feature = "tls")]
use lapin_guard::{ClientIdentity, SettingNames, TlsFiles};
use lapin_guard::{Markers, Options};

use crate::transport::amqp::Address;
use crate::{
    config::Config,
    error::Error,
    message::header::{ORIGINAL, UNREADABLE},
};

const CA: &str = "LEVERET_TLS_CA";
const CERT: &str = "LEVERET_TLS_CERT";
const KEY: &str = "LEVERET_TLS_KEY";
const URL: &str = "AMQP_URL";
const MARKERS: Markers = Markers { reason: UNREADABLE, original: ORIGINAL };

/// The options of every connection. The TLS files fit each other and could be read when the handle was made.
#[derive(Clone, Debug)]
pub(super) struct Tls(Options);

impl Tls {
    /// Checks whether the settings can work.
    pub(super) fn new(config: &Config, addresses: &[Address]) -> Result<Self, Error> {
        let wrong = |setting, reason: &str| Err(Error::Setting { setting, reason: reason.to_owned() });
        let files = [(CA, &config.tls_ca), (CERT, &config.tls_cert), (KEY, &config.tls_key)];
        if let Some((setting, _)) = files.iter().find(|(_, file)| file.is_some()) {
            if cfg!(not(feature = "tls")) {
                return wrong(setting, "this program was built without TLS: enable leveret's `tls` feature");
            }
            if !addresses.iter().any(|address| address.tls) {
                return wrong(setting, "applies to amqps:// only, and no address in AMQP_URL begins so");
            }
        }
        match (&config.tls_cert, &config.tls_key) {
            (Some(_), None) => return wrong(CERT, "a certificate requires its key: set LEVERET_TLS_KEY"),
            (None, Some(_)) => return wrong(KEY, "a key requires its certificate: set LEVERET_TLS_CERT"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if addresses.iter().any(|address| address.is_external() && (!address.tls || config.tls_cert.is_none())) {
            let requires = "auth_mechanism=external is a login by certificate: it requires amqps://, LEVERET_TLS_CERT";
            return wrong(URL, &format!("{requires} and LEVERET_TLS_KEY"));
        }
        Self::of(config)
    }

    #[cfg(feature = "tls")]
    fn of(config: &Config) -> Result<Self, Error> {
        let pair = config.tls_cert.clone().zip(config.tls_key.clone());
        let tls = TlsFiles {
            ca: config.tls_ca.clone(),
            identity: pair.map(|(certificate, key)| ClientIdentity { certificate, key }),
            names: SettingNames { ca: CA, certificate: CERT, key: KEY, uri: URL },
        };
        tls.check().map_err(|error| Error::Setting { setting: error.setting, reason: error.reason })?;
        Ok(Self(Options { markers: MARKERS, tls, ..Options::default() }))
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unnecessary_wraps, reason = "the same signature as with TLS")]
    fn of(_: &Config) -> Result<Self, Error> {
        Ok(Self(Options { markers: MARKERS, ..Options::default() }))
    }

    /// The options of a connection whose handshakes have this time limit each.
    pub(super) fn options(&self, handshake_timeout: Duration) -> Options {
        Options { handshake_timeout, ..self.0.clone() }
    }
}

#[cfg(test)]
#[path = "tls/tests.rs"]
mod tests;
