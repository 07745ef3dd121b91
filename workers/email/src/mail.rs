//! The state of the email worker: who sends, and through what.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lettre::{message::Mailbox, transport::smtp::client::Certificate};

use crate::{
    address,
    compose::{Draft, compose},
    eml,
    error::{MailError, SettingError},
    name::name_of,
    smtp::Smtp,
};

/// How mail leaves; every setting has a flag and an environment variable.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Mail", mut_args(leveret::setting))]
pub struct MailSettings {
    /// The mail server; without one, mails become files in `MAIL_DIR`
    ///
    /// `smtps://user:password@host`, or `smtp://...?tls=required` (STARTTLS, or no mail), or
    /// `smtp://...?tls=opportunistic`, or `smtp://host` without TLS. User and password are percent-encoded.
    #[arg(long, env = "SMTP_URL", hide_env_values = true, value_name = "URL")]
    pub smtp_url: Option<String>,

    /// PEM certificate of the authority that signed the mail server's, when it is not a public one
    #[arg(long, env = "SMTP_CA_FILE", value_name = "FILE")]
    pub smtp_ca_file: Option<PathBuf>,

    /// Seconds allowed for sending one mail, connecting included
    #[arg(long, env = "SMTP_TIMEOUT", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=600))]
    pub smtp_timeout: u64,

    /// Directory of the .eml files
    #[arg(long, env = "MAIL_DIR", value_name = "DIR", default_value = "mail")]
    pub mail_dir: PathBuf,

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
        let transport = match url {
            Some(url) => {
                let authority = settings.smtp_ca_file.as_deref().map(certificate).transpose()?;
                Transport::Smtp(Arc::new(Smtp::new(url, authority.as_ref(), patience)?))
            }
            None => Transport::Files(settings.mail_dir.clone()),
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
        let message = compose(draft, &self.from, job_id)?;
        match &self.transport {
            Transport::Smtp(smtp) => smtp.send(&message).await,
            Transport::Files(dir) => eml::write(dir.clone(), name_of(job_id), message.formatted()).await,
        }
    }

    /// Tells the longest time that [`send`](Self::send) spends on a mail server.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
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

fn certificate(path: &Path) -> Result<Certificate, SettingError> {
    let wrong = |source| SettingError::CaFile { path: path.to_owned(), source };
    let pem = fs::read(path).map_err(|e| wrong(e.into()))?;
    let pem = leveret::without_bom(&pem);
    if !String::from_utf8_lossy(pem).contains("BEGIN CERTIFICATE") {
        return Err(wrong("it holds no PEM certificate".into()));
    }
    Certificate::from_pem(pem).map_err(|e| wrong(e.into()))
}
