//! The state of the email worker: who sends, and through what.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lettre::message::Mailbox;
use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    address,
    compose::{Draft, compose},
    eml,
    error::{MailError, SettingError},
    message_name::message_name,
    smtp::{END_OF_DATA, Smtp},
};

/// How mail leaves; every setting has a flag and an environment variable.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Mail", mut_args(leveret::setting))]
pub struct MailSettings {
    /// The mail server; either this or `MAIL_DIR` must be set
    ///
    /// `smtps://user:password@host`, or `smtp://...?tls=required` (STARTTLS, or no mail), or
    /// `smtp://...?tls=opportunistic`, or `smtp://host` without TLS. User and password are percent-encoded.
    #[arg(long, env = "SMTP_URL", hide_env_values = true, value_name = "URL")]
    pub smtp_url: Option<String>,

    /// PEM certificate of the authority that signed the mail server's, when it is not a public one
    #[arg(long, env = "SMTP_CA_FILE", value_name = "FILE")]
    pub smtp_ca_file: Option<PathBuf>,

    /// Seconds allowed for one mail from connecting to its last byte; the answer to that has ten minutes of its own
    #[arg(long, env = "SMTP_TIMEOUT", value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=600))]
    pub smtp_timeout: u64,

    /// Sends nothing: writes each mail into an .eml file in this directory, in place of `SMTP_URL`
    #[arg(long, env = "MAIL_DIR", value_name = "DIR")]
    pub mail_dir: Option<PathBuf>,

    /// Sender; its domain is also that of the Message-IDs
    #[arg(long, env = "MAIL_FROM", value_name = "MAILBOX", default_value = "Leveret <leveret@localhost>")]
    pub mail_from: String,
}

impl fmt::Debug for MailSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailSettings")
            .field("smtp_url", &self.smtp_url.as_ref().map(|_| "(set)"))
            .field("mail_dir", &self.mail_dir)
            .field("mail_from", &self.mail_from)
            .finish_non_exhaustive()
    }
}

/// Sends mail; cheap to clone, one for all jobs.
#[derive(Debug, Clone)]
pub struct Mail {
    from: Mailbox,
    patience: Duration,
    transport: Transport,
}

#[derive(Debug, Clone)]
enum Transport {
    Smtp(Arc<Smtp>),
    Files(PathBuf),
}

impl Mail {
    /// Checks the settings; connects to nothing yet.
    ///
    /// # Errors
    /// [`SettingError`], which names the setting.
    pub fn new(settings: &MailSettings) -> Result<Self, SettingError> {
        let patience = Duration::from_secs(settings.smtp_timeout);
        // Compose files and unit files pass an unset variable as an empty one.
        let url = settings.smtp_url.as_deref().filter(|url| !url.trim().is_empty());
        let dir = settings.mail_dir.as_deref().filter(|dir| !dir.as_os_str().is_empty());
        let transport = match (url, dir) {
            (Some(url), None) => {
                let roots = roots(settings.smtp_ca_file.as_deref())?;
                let smtp = Smtp::new(url, roots, patience)?;
                if settings.smtp_ca_file.is_some() && !smtp.may_encrypt() {
                    return Err(SettingError::CaFileWithoutTls);
                }
                Transport::Smtp(Arc::new(smtp))
            }
            (None, Some(dir)) => Transport::Files(dir.to_owned()),
            (None, None) => return Err(SettingError::NoWay),
            (Some(_), Some(_)) => return Err(SettingError::TwoWays),
        };
        Ok(Self { from: sender(&settings.mail_from)?, patience, transport })
    }

    /// Sends one mail for the job `job_id`; `Ok` means that the server has taken it, or that its file is on disk.
    ///
    /// Sending again for the same job gives the same Message-ID, and overwrites the file.
    ///
    /// # Errors
    /// [`MailError`]; its [`fault`](MailError::fault) says whether another attempt is of use.
    pub async fn send(&self, draft: Draft, job_id: &str) -> Result<(), MailError> {
        self.send_until(draft, job_id, std::future::pending()).await
    }

    /// As [`send`](Self::send), until `stopped` is over: then a mail that is not out yet stays here, and of one that is,
    /// the fate is unknown.
    pub(crate) async fn send_until(
        &self,
        draft: Draft,
        job_id: &str,
        stopped: impl Future<Output = ()> + Send,
    ) -> Result<(), MailError> {
        let reply_to = draft.reply_to.as_ref().map(|mailbox| mailbox.email.clone());
        let message = compose(draft, &self.from, job_id)?;
        match &self.transport {
            Transport::Smtp(smtp) => smtp.send(&message, reply_to.as_ref(), stopped).await,
            Transport::Files(dir) => eml::write(dir.clone(), message_name(job_id), message.formatted()).await,
        }
    }

    /// Tells the longest time that [`send`](Self::send) spends on a mail server.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience + END_OF_DATA
    }
}

/// Where the mail goes, without secrets.
impl fmt::Display for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Smtp(smtp) => write!(f, "{}", smtp.server_name()),
            Transport::Files(dir) => write!(f, "files in {}", dir.display()),
        }
    }
}

/// An address that only some servers take must not be found out by every job.
fn sender(text: &str) -> Result<Mailbox, SettingError> {
    let from = address::parse(text).map_err(SettingError::From)?;
    if !from.email.user().is_ascii() {
        return Err(SettingError::FromNotAscii { address: from.email.to_string() });
    }
    Ok(from)
}

/// The public authorities, and those of the file.
fn roots(file: Option<&Path>) -> Result<RootCertStore, SettingError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = file else { return Ok(roots) };
    let wrong = |source| SettingError::CaFile { path: path.to_owned(), source };
    let pem = fs::read(path).map_err(|e| wrong(e.into()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(leveret::without_bom(&pem)).collect();
    let found = found.map_err(|e| wrong(e.to_string().into()))?;
    if found.is_empty() {
        return Err(wrong("it holds no PEM certificate".into()));
    }
    for authority in found {
        roots.add(authority).map_err(|e| wrong(e.into()))?;
    }
    Ok(roots)
}
