//! The state of the email worker: the sender and the transport.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use lettre::message::Mailbox;

use crate::{
    attachments::AttachmentStore,
    compose::{MailDraft, compose},
    eml,
    error::MailError,
    message_name::message_name,
    settings::{MailSettings, SettingError, roots, sender},
    smtp::{END_OF_DATA, SmtpClient},
};

/// Sends the mails of all jobs. A clone is cheap.
#[derive(Debug, Clone)]
pub struct Mail {
    from: Mailbox,
    timeout: Duration,
    attachments: AttachmentStore,
    transport: MailTransport,
}

#[derive(Debug, Clone)]
enum MailTransport {
    Smtp(Arc<SmtpClient>),
    Files(PathBuf),
}

impl Mail {
    /// Checks the settings, without a connection to the mail server.
    ///
    /// # Errors
    /// [`SettingError`], which names the setting.
    pub fn new(settings: &MailSettings) -> Result<Self, SettingError> {
        let timeout = Duration::from_secs(settings.smtp_timeout);
        // Compose files and unit files pass an unset variable as an empty text.
        let url = settings.smtp_url.as_deref().filter(|url| !url.trim().is_empty());
        let dir = settings.mail_dir.as_deref().filter(|dir| !dir.as_os_str().is_empty());
        let transport = match (url, dir) {
            (Some(url), None) => {
                let roots = roots(settings.smtp_ca_file.as_deref())?;
                let smtp = SmtpClient::new(url, roots, timeout)?;
                if settings.smtp_ca_file.is_some() && !smtp.may_encrypt() {
                    return Err(SettingError::CaFileWithoutTls);
                }
                MailTransport::Smtp(Arc::new(smtp))
            }
            (None, Some(dir)) => MailTransport::Files(dir.to_owned()),
            (None, None) => return Err(SettingError::NoTransport),
            (Some(_), Some(_)) => return Err(SettingError::TwoTransports),
        };
        let dir = settings.mail_attachment_dir.clone().filter(|dir| !dir.as_os_str().is_empty());
        let attachments = AttachmentStore { dir, limit: settings.mail_attachment_limit };
        Ok(Self { from: sender(&settings.mail_from)?, timeout, attachments, transport })
    }

    /// Sends one mail for the job `job_id`. `Ok` means that the server accepted it, or that its file is on disk.
    ///
    /// A second mail for the same job has the same Message-ID, and overwrites the file.
    ///
    /// # Errors
    /// [`MailError`]; its [`kind`](MailError::kind) states whether another attempt can succeed.
    pub async fn send(&self, draft: MailDraft, job_id: &str) -> Result<(), MailError> {
        self.send_until(draft, job_id, std::future::pending()).await
    }

    /// Sends one mail like [`send`](Self::send) until `stopped` resolves.
    ///
    /// Then a mail whose end is not sent yet fails, and a mail whose end is sent is unconfirmed.
    pub(crate) async fn send_until(
        &self,
        draft: MailDraft,
        job_id: &str,
        stopped: impl Future<Output = ()> + Send,
    ) -> Result<(), MailError> {
        let reply_to = draft.reply_to.as_ref().map(|mailbox| mailbox.email.clone());
        let mut stopped = std::pin::pin!(stopped);
        let files = tokio::select! {
            files = self.attachments.read(draft.attachments.clone()) => files?,
            () = &mut stopped => return Err(MailError::AttachmentsUnread),
        };
        let message = compose(draft, files, &self.from, job_id)?;
        match &self.transport {
            MailTransport::Smtp(smtp) => smtp.send(&message, reply_to.as_ref(), stopped).await,
            MailTransport::Files(dir) => eml::write(dir.clone(), message_name(job_id), message.formatted()).await,
        }
    }

    /// Returns the maximum time that [`send`](Self::send) takes with a mail server.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        self.timeout + END_OF_DATA
    }
}

/// Shows the destination of the mails without secrets.
impl fmt::Display for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            MailTransport::Smtp(smtp) => write!(f, "{}", smtp.server_name()),
            MailTransport::Files(dir) => write!(f, "files in {}", dir.display()),
        }
    }
}
