//! The settings of the email worker.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use lettre::message::Mailbox;
use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

pub use crate::smtp::SmtpUrlError;
use crate::{address, error::MailError};

/// Transport and sender of the mails; every setting has a flag and an environment variable.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Mail", mut_args(leveret::setting))]
pub struct MailSettings {
    /// URL of the mail server; set either this or `MAIL_DIR`
    ///
    /// `smtps://user:password@host`, or `smtp://...?tls=required` (STARTTLS, or no mail), or
    /// `smtp://...?tls=opportunistic`, or `smtp://host` without TLS. User and password are percent-encoded.
    #[arg(long, env = "SMTP_URL", hide_env_values = true, value_name = "URL")]
    pub smtp_url: Option<String>,

    /// PEM file of the CA that signed the certificate of the mail server; not required for public CAs
    #[arg(long, env = "SMTP_CA_FILE", value_name = "FILE")]
    pub smtp_ca_file: Option<PathBuf>,

    /// Time limit in seconds for one mail, from the connection to its last byte; the reply to the mail has ten minutes
    #[arg(long, env = "SMTP_TIMEOUT", value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=600))]
    pub smtp_timeout: u64,

    /// Directory for .eml files: the worker writes each mail into a file and sends none; replaces `SMTP_URL`
    #[arg(long, env = "MAIL_DIR", value_name = "DIR")]
    pub mail_dir: Option<PathBuf>,

    /// Directory of the files that jobs attach, such as the output directory of the reports worker; a job names a file in it
    #[arg(long, env = "MAIL_ATTACHMENT_DIR", value_name = "DIR")]
    pub mail_attachment_dir: Option<PathBuf>,

    /// Maximum bytes of all attachments of one mail; a mail takes up to five times as much memory
    #[arg(long, env = "MAIL_ATTACHMENT_LIMIT", value_name = "BYTES", default_value_t = 2_000_000,
          value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub mail_attachment_limit: u64,

    /// Sender of the mails; the Message-IDs have its domain
    #[arg(long, env = "MAIL_FROM", value_name = "MAILBOX", default_value = "Leveret <leveret@localhost>")]
    pub mail_from: String,
}

impl fmt::Debug for MailSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailSettings")
            .field("smtp_url", &self.smtp_url.as_ref().map(|_| "(set)"))
            .field("mail_dir", &self.mail_dir)
            .field("mail_attachment_dir", &self.mail_attachment_dir)
            .field("mail_from", &self.mail_from)
            .finish_non_exhaustive()
    }
}

/// An invalid setting, which stops the start. The message never shows `SMTP_URL`, which may have a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// Neither `SMTP_URL` nor `MAIL_DIR` is set.
    #[error("no transport is set: set SMTP_URL to a mail server, or MAIL_DIR to write mails into files")]
    NoTransport,
    /// Both `SMTP_URL` and `MAIL_DIR` are set.
    #[error("both SMTP_URL and MAIL_DIR are set: unset MAIL_DIR to send mail, or SMTP_URL to write files")]
    TwoTransports,
    /// `MAIL_FROM` is not one mailbox.
    #[error("MAIL_FROM is not a valid sender")]
    From(#[source] MailError),
    /// `MAIL_FROM` requires SMTPUTF8.
    #[error("MAIL_FROM has the non-ASCII address {address:?}, which some servers refuse: set an ASCII address")]
    FromNotAscii {
        /// The address.
        address: String,
    },
    /// `SMTP_URL` is invalid.
    #[error("SMTP_URL is invalid: {0}")]
    SmtpUrl(#[from] SmtpUrlError),
    /// `SMTP_CA_FILE` is set for a connection without TLS.
    #[error("SMTP_CA_FILE has no effect because SMTP_URL does not use TLS: use smtps://, or add ?tls=required")]
    CaFileWithoutTls,
    /// `SMTP_CA_FILE` cannot be read.
    #[error("cannot read SMTP_CA_FILE {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The error of the system or of the certificate parser.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Parses `MAIL_FROM`. A non-ASCII address would fail every job on some servers, so it stops the start.
pub(crate) fn sender(text: &str) -> Result<Mailbox, SettingError> {
    let from = address::parse(text).map_err(SettingError::From)?;
    if !from.email.user().is_ascii() {
        return Err(SettingError::FromNotAscii { address: from.email.to_string() });
    }
    Ok(from)
}

/// Returns the public CAs and the CAs of the file.
pub(crate) fn roots(file: Option<&Path>) -> Result<RootCertStore, SettingError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = file else { return Ok(roots) };
    let wrong = |source| SettingError::CaFile { path: path.to_owned(), source };
    let pem = fs::read(path).map_err(|e| wrong(e.into()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(leveret::without_bom(&pem)).collect();
    let found = found.map_err(|e| wrong(e.to_string().into()))?;
    if found.is_empty() {
        return Err(wrong("it has no PEM certificate".into()));
    }
    for authority in found {
        roots.add(authority).map_err(|e| wrong(e.into()))?;
    }
    Ok(roots)
}
