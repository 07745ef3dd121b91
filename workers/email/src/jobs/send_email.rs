//! The job `email.send`, which sends a mail whose text the publisher provides.

use leveret::{Context, Job, JobResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deliver::deliver;
use crate::{address, compose::MailDraft, error::MailError, mail::Mail};

/// One mail. Unknown fields are refused, so a misspelt field is an error.
///
/// ```
/// let job: leveret_email::SendEmail =
///     serde_json::from_str(r#"{"to": "Ann <ann@example.org>", "subject": "Hello", "text": "Hello, Ann."}"#)?;
/// assert_eq!(job.html, None);
/// let misspelt = serde_json::from_str::<leveret_email::SendEmail>(
///     r#"{"to": "ann@example.org", "subject": "Hello", "text": "Hello, Ann.", "htlm": "<p>Hello, Ann.</p>"}"#,
/// );
/// assert!(misspelt.unwrap_err().to_string().contains("unknown field `htlm`"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "email.send", queue = "email", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "One mail. Unknown fields are refused, so a misspelt field is an error.")]
pub struct SendEmail {
    /// `ann@example.org` or `Ann <ann@example.org>`.
    pub to: String,
    /// Further visible recipients; at most 100 together with `to` and `bcc`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cc: Vec<String>,
    /// Further hidden recipients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bcc: Vec<String>,
    /// Address for replies, if it is not the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The subject; line ends become spaces.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// The same content as HTML, sent unchanged beside the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// Names of files in `MAIL_ATTACHMENT_DIR`, such as `invoice-17.pdf`; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<String>,
}

impl SendEmail {
    /// Creates a mail of plain text to one recipient.
    #[must_use]
    pub fn new(to: impl Into<String>, subject: impl Into<String>, text: impl Into<String>) -> Self {
        let (to, subject, text) = (to.into(), subject.into(), text.into());
        let (cc, bcc, attachments) = (Vec::new(), Vec::new(), Vec::new());
        Self { to, cc, bcc, reply_to: None, subject, text, html: None, attachments }
    }

    fn draft(self) -> Result<MailDraft, MailError> {
        let all = |texts: &[String]| texts.iter().map(|text| address::parse(text)).collect::<Result<Vec<_>, _>>();
        Ok(MailDraft {
            to: address::parse(&self.to)?,
            cc: all(&self.cc)?,
            bcc: all(&self.bcc)?,
            reply_to: self.reply_to.as_deref().map(address::parse).transpose()?,
            subject: self.subject,
            text: self.text,
            html: self.html,
            attachments: self.attachments,
        })
    }
}

pub(crate) async fn send_email(job: SendEmail, ctx: Context<Mail>) -> JobResult {
    deliver(job.draft(), &ctx).await
}
