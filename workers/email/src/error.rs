//! The error of a mail that was not sent, and its kind.
//!
//! A refusal of the worker's configuration or account affects every job. A wrong password must not turn a whole queue into
//! dead letters, so such a refusal opens the circuit of the mail server, and the jobs wait.

use std::{fmt, io, path::PathBuf, time::Duration};

/// Step of an SMTP session, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SmtpStep {
    /// Connection, implicit TLS, greeting of the server and `EHLO`.
    Connect,
    /// The upgrade of a plain connection to TLS.
    StartTls,
    /// `AUTH`.
    Login,
    /// `MAIL FROM`; its address is a setting, not part of a job.
    Sender,
    /// `RCPT TO`.
    Recipient,
    /// `DATA` and the mail itself.
    Content,
}

impl fmt::Display for SmtpStep {
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

/// Kind of a failure, which decides the outcome of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The job is wrong: no later attempt can succeed.
    Permanent,
    /// The worker's configuration or account is refused (login, sender, quota, block list): jobs wait for the fix.
    Configuration,
    /// The mail server or the mail directory is unavailable: jobs wait until it is back.
    ServerUnavailable,
    /// This mail failed temporarily: the next attempt may succeed.
    Transient,
    /// The server received the whole mail and did not confirm it: another attempt may deliver a second copy.
    Unconfirmed,
}

/// A mail that was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// The text is not one mailbox. The message shows it escaped, because it comes from a job.
    #[error("{address:?} is not a mail address: {reason}")]
    Address {
        /// The text of the job.
        address: String,
        /// The violated rule.
        reason: String,
    },
    /// The subject is too long for a header.
    #[error("the subject is {length} characters long, the limit is {limit}")]
    SubjectTooLong {
        /// Characters given.
        length: usize,
        /// Characters allowed.
        limit: usize,
    },
    /// The mail has more recipients than every server accepts in one mail.
    #[error("the mail has {count} recipients (to, cc and bcc), the limit is {limit}")]
    TooManyRecipients {
        /// Recipients given.
        count: usize,
        /// Recipients allowed.
        limit: usize,
    },
    /// The address requires SMTPUTF8, which the server does not offer.
    #[error("{server} cannot deliver to the non-ASCII address {address:?}")]
    AddressNotSupported {
        /// The server, as `host:port`.
        server: String,
        /// The recipient.
        address: String,
    },
    /// The library cannot compose the mail.
    #[error("the mail cannot be composed")]
    Compose(#[from] lettre::error::Error),
    /// The SMTP session failed.
    #[error("{server} did not accept the mail for {to:?} ({step}): {answer}")]
    Server {
        /// The server, as `host:port`.
        server: String,
        /// The recipient.
        to: String,
        /// Step of the session.
        step: SmtpStep,
        /// The reply of the server with its code, or the error of the connection.
        answer: String,
        /// Kind of the failure.
        kind: FailureKind,
    },
    /// The server did not answer in time.
    #[error("{server} did not accept the mail for {to:?} ({step}): no answer within {limit:?}")]
    TimedOut {
        /// The server, as `host:port`.
        server: String,
        /// The recipient.
        to: String,
        /// Step of the session.
        step: SmtpStep,
        /// Time limit of the session up to the end of the mail.
        limit: Duration,
        /// Kind of the failure.
        kind: FailureKind,
    },
    /// The server received the whole mail and neither accepted nor refused it.
    #[error("{server} received the whole mail for {to:?} and neither accepted nor refused it: {answer}")]
    Unconfirmed {
        /// The server, as `host:port`.
        server: String,
        /// The first recipient.
        to: String,
        /// The reply of the server, or the error of the connection.
        answer: String,
    },
    /// The mail has too many attachments.
    #[error("the mail has {count} attachments, the limit is {limit}")]
    TooManyAttachments {
        /// Attachments given.
        count: usize,
        /// Attachments allowed.
        limit: usize,
    },
    /// The name of an attachment is refused, or its content is of another type.
    #[error("attachment {name:?} is refused: {reason}")]
    AttachmentName {
        /// The name in the job.
        name: String,
        /// The violated rule.
        reason: &'static str,
    },
    /// The directory does not have the file.
    #[error("attachment {name:?} does not exist in MAIL_ATTACHMENT_DIR")]
    AttachmentMissing {
        /// The name in the job.
        name: String,
    },
    /// The attachments of the mail are too large together.
    #[error("with attachment {name:?} the mail has more than {limit} bytes of attachments (MAIL_ATTACHMENT_LIMIT)")]
    AttachmentsTooLarge {
        /// The name of the file that no longer fits.
        name: String,
        /// Maximum bytes of all attachments.
        limit: u64,
    },
    /// The mail has attachments, and `MAIL_ATTACHMENT_DIR` is not set.
    #[error("the mail has attachments, and MAIL_ATTACHMENT_DIR is not set")]
    NoAttachmentDir,
    /// `MAIL_ATTACHMENT_DIR` cannot be read.
    #[error("cannot read MAIL_ATTACHMENT_DIR {}", path.display())]
    AttachmentDir {
        /// The directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// An attachment cannot be read.
    #[error("cannot read attachment {name:?}")]
    AttachmentUnreadable {
        /// The name in the job.
        name: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The attachments were not read in time, before the worker stopped, or changed meanwhile.
    #[error("the attachments could not be read within 8 s, or changed meanwhile")]
    AttachmentsUnread,
    /// The `.eml` file could not be written.
    #[error("cannot write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

impl MailError {
    /// Returns the kind of the failure.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Address { .. }
            | Self::SubjectTooLong { .. }
            | Self::TooManyRecipients { .. }
            | Self::AddressNotSupported { .. }
            | Self::TooManyAttachments { .. }
            | Self::AttachmentName { .. }
            | Self::AttachmentMissing { .. }
            | Self::AttachmentsTooLarge { .. }
            | Self::Compose(_) => FailureKind::Permanent,
            // Mails without attachments are not affected, so the circuit of the mail server stays closed.
            Self::NoAttachmentDir
            | Self::AttachmentDir { .. }
            | Self::AttachmentUnreadable { .. }
            | Self::AttachmentsUnread => FailureKind::Transient,
            Self::Server { kind, .. } | Self::TimedOut { kind, .. } => *kind,
            Self::Unconfirmed { .. } => FailureKind::Unconfirmed,
            // A full disk or a missing permission affects every mail.
            Self::File { .. } => FailureKind::ServerUnavailable,
        }
    }

    /// Returns whether the mail server, or the mail directory in its place, failed or answered. All other errors come
    /// before the mail is handed over.
    #[must_use]
    pub fn is_of_the_server(&self) -> bool {
        matches!(
            self,
            Self::AddressNotSupported { .. }
                | Self::Server { .. }
                | Self::TimedOut { .. }
                | Self::Unconfirmed { .. }
                | Self::File { .. }
        )
    }
}
