//! TLS with PEM files, which are read again for each connection, so that renewed certificates need no restart.

mod handshake;
mod issuer;
mod wording;

use std::path::PathBuf;

/// The PEM files of TLS. They are read again for each connection.
///
/// A file may begin with a byte order mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CAs that may certify the broker. Without a file, the CAs of the system. With a file, no other CA is trusted,
    /// unlike with lapin's own TLS. A broker whose certificate is exactly one in this file is trusted too.
    pub ca: Option<PathBuf>,
    /// The client certificate.
    pub identity: Option<ClientIdentity>,
    /// The names of the settings in errors.
    pub names: SettingNames,
}

/// The PEM files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate, followed by its chain.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

/// The names of the program's settings, such as its environment variables. Errors name the setting to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingNames {
    /// [`TlsFiles::ca`]. Default: `the CA file`.
    pub ca: &'static str,
    /// [`ClientIdentity::certificate`]. Default: `the client certificate`.
    pub certificate: &'static str,
    /// [`ClientIdentity::key`]. Default: `the client key`.
    pub key: &'static str,
    /// The URI. Default: `the URI`.
    pub uri: &'static str,
}

impl Default for SettingNames {
    fn default() -> Self {
        Self { ca: "the CA file", certificate: "the client certificate", key: "the client key", uri: "the URI" }
    }
}

/// A file that cannot be used, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
#[non_exhaustive]
pub struct TlsFileError {
    /// The setting, as [`SettingNames`] calls it.
    pub setting: &'static str,
    /// The file, and its problem.
    pub reason: String,
}

#[cfg(test)]
mod tests;
