//! What can keep a mail from being sent, and whose fault it is.
//!
//! A mail server's 5xx answer is final for the mail it is about, but it is about this mail only from the recipient
//! onwards. Refused before that (greeting, `EHLO`, login, sender), every other job would be refused too: a wrong
//! password must not turn a whole queue into dead letters, so such an answer is the set-up's fault, and jobs wait.

use std::{fmt, io, path::PathBuf, time::Duration};

pub use crate::smtp::UrlError;

/// How far a conversation with the mail server had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Connecting, implicit TLS, the server's greeting and `EHLO`.
    Connect,
    /// The upgrade of a plain connection to TLS.
    StartTls,
    /// `AUTH`.
    Login,
    /// `MAIL FROM`: the address is a setting, not part of a job.
    Sender,
    /// `RCPT TO`.
    Recipient,
    /// `DATA` and the mail itself.
    Content,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::StartTls => "STARTTLS",
            Self::Login => "AUTH",
            Self::Sender => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Content => "DATA",
        })
    }
}

/// Whose fault a failure is, and so what becomes of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The job's own: no later attempt can succeed.
    Job,
    /// The worker's set-up (login, sender, a server that will not talk to us): jobs wait until somebody mends it.
    Setup,
    /// Nobody's for long: the next attempt may succeed.
    Passing,
}

impl Fault {
    /// Judges a server's answer; `code` is absent when no answer came (connection, TLS, timeout).
    pub(crate) fn of(step: Step, code: Option<u16>) -> Self {
        match code {
            // Authentication required, too weak, wrong, or needing TLS: some servers say so only at MAIL or RCPT.
            Some(530 | 534 | 535 | 538) => Self::Setup,
            Some(500..=599) if step < Step::Recipient => Self::Setup,
            Some(500..=599) => Self::Job,
            _ => Self::Passing,
        }
    }
}

/// A mail that was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// The text is not one mailbox; shown escaped, as it came from outside.
    #[error("{address:?} is not a mail address: {reason}")]
    Address {
        /// The offending text.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The subject cannot be a header.
    #[error("the subject is {length} characters long, the limit is {limit}")]
    SubjectTooLong {
        /// Characters given.
        length: usize,
        /// Characters allowed.
        limit: usize,
    },
    /// The address needs SMTPUTF8, which the server does not offer.
    #[error("{server} cannot deliver to the non-ASCII address {address:?}")]
    AddressNotSupported {
        /// The server, as `host:port`.
        server: String,
        /// The recipient.
        address: String,
    },
    /// The parts do not make a mail.
    #[error("the mail cannot be composed")]
    Compose(#[from] lettre::error::Error),
    /// The conversation with the server failed.
    #[error("{server} did not take the mail for {to:?} ({step}): {answer}")]
    Server {
        /// The server, as `host:port`.
        server: String,
        /// The recipient.
        to: String,
        /// Where in the conversation.
        step: Step,
        /// The server's answer with its code, or what went wrong instead.
        answer: String,
        /// Whose fault that is.
        fault: Fault,
    },
    /// The server did not answer in time.
    #[error("{server} did not take the mail for {to:?} ({step}): no answer within {limit:?}")]
    TimedOut {
        /// The server, as `host:port`.
        server: String,
        /// The recipient.
        to: String,
        /// What was being waited for.
        step: Step,
        /// The time allowed for the whole mail.
        limit: Duration,
    },
    /// The `.eml` file could not be written.
    #[error("cannot write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl MailError {
    /// Tells whose fault the failure is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Address { .. }
            | Self::SubjectTooLong { .. }
            | Self::AddressNotSupported { .. }
            | Self::Compose(_) => Fault::Job,
            Self::Server { fault, .. } => *fault,
            Self::TimedOut { .. } | Self::File { .. } => Fault::Passing,
        }
    }
}

/// A setting that the worker cannot start with. It never shows `SMTP_URL`, which may hold a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// `MAIL_FROM` is not one mailbox.
    #[error("MAIL_FROM is wrong")]
    From(#[source] MailError),
    /// `MAIL_FROM` needs SMTPUTF8.
    #[error("MAIL_FROM is wrong: not every server takes the non-ASCII address {address:?}")]
    FromNotAscii {
        /// The address.
        address: String,
    },
    /// `SMTP_URL` cannot be used.
    #[error("SMTP_URL is wrong: {0}")]
    SmtpUrl(#[from] UrlError),
    /// `SMTP_CA_FILE` cannot be used.
    #[error("SMTP_CA_FILE {} cannot be read", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What the system or the certificate parser said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[cfg(test)]
mod tests {
    use super::{Fault, Step};

    #[test]
    fn a_refusal_is_the_jobs_fault_only_from_the_recipient_onwards() {
        let cases = [
            (Step::Connect, Some(554), Fault::Setup),
            (Step::StartTls, Some(502), Fault::Setup),
            (Step::Login, Some(535), Fault::Setup),
            (Step::Login, Some(454), Fault::Passing),
            (Step::Sender, Some(550), Fault::Setup),
            (Step::Sender, Some(451), Fault::Passing),
            (Step::Recipient, Some(550), Fault::Job),
            (Step::Recipient, Some(530), Fault::Setup),
            (Step::Recipient, Some(450), Fault::Passing),
            (Step::Recipient, Some(421), Fault::Passing),
            (Step::Content, Some(554), Fault::Job),
            (Step::Content, Some(452), Fault::Passing),
            (Step::Content, None, Fault::Passing),
        ];
        for (step, code, expected) in cases {
            assert_eq!(Fault::of(step, code), expected, "{step} answered {code:?}");
        }
    }
}
