//! The reasons why a mail was not sent, and what each means for its job.
//!
//! A refusal that concerns the worker's set-up or its account meets every other job too: a wrong password must not turn a
//! whole queue into dead letters. Such a refusal opens the circuit of the mail server, and the jobs wait.

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

/// What a failure concerns, and so what becomes of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The job's own: no later attempt can succeed.
    Job,
    /// The worker's set-up or its account (login, sender, quota, block list): jobs wait until it is fixed.
    Setup,
    /// The mail server or the mail directory as a whole, for now: jobs wait until it is back.
    Server,
    /// This mail alone, for now: its next attempt may succeed.
    Passing,
    /// The server had the whole mail and did not answer: it may have been delivered, and another attempt may copy it.
    Unknown,
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
    /// More recipients than every server takes in one mail.
    #[error("the mail has {count} recipients (to, cc and bcc), the limit is {limit}")]
    TooManyRecipients {
        /// Recipients given.
        count: usize,
        /// Recipients allowed.
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
        /// What it concerns.
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
        /// The time allowed for everything up to the end of the mail.
        limit: Duration,
        /// What it concerns.
        fault: Fault,
    },
    /// The server had the whole mail, and then no answer came that says whether it was accepted.
    #[error("{server} had the whole mail for {to:?} and did not say whether it accepts it: {answer}")]
    Unknown {
        /// The server, as `host:port`.
        server: String,
        /// The first recipient.
        to: String,
        /// What came, or went wrong, instead.
        answer: String,
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
            | Self::TooManyRecipients { .. }
            | Self::AddressNotSupported { .. }
            | Self::Compose(_) => Fault::Job,
            Self::Server { fault, .. } | Self::TimedOut { fault, .. } => *fault,
            Self::Unknown { .. } => Fault::Unknown,
            // A full disk, or a directory without the right to write: every mail meets it.
            Self::File { .. } => Fault::Server,
        }
    }
}

/// A setting that the worker cannot start with. It never shows `SMTP_URL`, which may hold a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// Neither `SMTP_URL` nor `MAIL_DIR` is set.
    #[error("no way for mail to leave: set SMTP_URL to a mail server, or MAIL_DIR to write mails into files instead")]
    NoWay,
    /// Both `SMTP_URL` and `MAIL_DIR` are set.
    #[error("both SMTP_URL and MAIL_DIR are set: unset MAIL_DIR to send mail, or SMTP_URL to write files")]
    TwoWays,
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
    /// `SMTP_CA_FILE` is set for a server that is spoken to without TLS.
    #[error("SMTP_CA_FILE has no effect, as SMTP_URL asks for no TLS: use smtps://, or add ?tls=required")]
    CaFileWithoutTls,
    /// `SMTP_CA_FILE` cannot be used.
    #[error("SMTP_CA_FILE {} cannot be used", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What the system or the certificate parser said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
