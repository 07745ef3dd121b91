//! `email.send`: a mail whose words the publisher has already.

use leveret::{Context, Job, JobError, JobResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deliver;
use crate::{address, compose::Draft, error::MailError, mail::Mail};

/// One mail to one mailbox. Unknown fields are ignored.
///
/// ```
/// let job: leveret_email::SendEmail =
///     serde_json::from_str(r#"{"to": "Ann <ann@example.org>", "subject": "Hello", "text": "Hello, Ann."}"#)?;
/// assert_eq!(job.html, None);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "One mail to one mailbox. Unknown fields are ignored.")]
pub struct SendEmail {
    /// `ann@example.org` or `Ann <ann@example.org>`.
    pub to: String,
    /// The subject; line ends in it become spaces.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// The same as HTML, sent as it is beside the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
}

impl Job for SendEmail {
    const NAME: &'static str = "email.send";
    const QUEUE: &'static str = "email";

    fn schema() -> Option<serde_json::Value> {
        Some(schemars::schema_for!(Self).to_value())
    }
}

impl SendEmail {
    fn draft(self) -> Result<Draft, MailError> {
        Ok(Draft { to: address::parse(&self.to)?, subject: self.subject, text: self.text, html: self.html })
    }
}

pub(crate) async fn send_email(job: SendEmail, ctx: Context<Mail>) -> JobResult {
    let draft = job.draft().map_err(JobError::permanent)?;
    deliver(draft, &ctx).await
}
