//! Composes a mail from a draft: headers, MIME parts, encodings.
//!
//! No text of a job can add a header, or end the mail early.

use lettre::{
    Address, Message,
    address::Envelope,
    message::{
        Attachment as AttachmentPart, Body, Mailbox, Mailboxes, MultiPart, SinglePart,
        header::{Cc, ContentTransferEncoding, ContentType, From, HeaderName, HeaderValue, ReplyTo, To},
    },
};

use crate::{
    attachments::Attachment,
    error::MailError,
    message_name::message_name,
    text::{crlf, one_line},
};

/// Maximum subject, which stays under the 998 bytes of a line even if it cannot be folded.
const SUBJECT_LIMIT: usize = 900;
/// Maximum recipients; every server must accept as many in one mail (RFC 5321, 4.5.3.1.8).
const RECIPIENT_LIMIT: usize = 100;

/// Recipients and content of a mail.
#[derive(Debug, Clone)]
pub struct MailDraft {
    /// The main recipient.
    pub to: Mailbox,
    /// Further visible recipients.
    pub cc: Vec<Mailbox>,
    /// Further hidden recipients.
    pub bcc: Vec<Mailbox>,
    /// Address for replies, if it is not the sender.
    pub reply_to: Option<Mailbox>,
    /// The subject; line ends and control characters become spaces.
    pub subject: String,
    /// The plain text, with any kind of line ends.
    pub text: String,
    /// The same content as HTML.
    pub html: Option<String>,
    /// Names of the files to attach.
    pub attachments: Vec<String>,
}

impl MailDraft {
    /// Creates a mail of plain text to one recipient.
    #[must_use]
    pub fn new(to: Mailbox, subject: impl Into<String>, text: impl Into<String>) -> Self {
        let (subject, text) = (subject.into(), text.into());
        let (cc, bcc, attachments) = (Vec::new(), Vec::new(), Vec::new());
        Self { to, cc, bcc, reply_to: None, subject, text, html: None, attachments }
    }

    /// Returns all recipients, each once.
    fn recipients(&self) -> Vec<Address> {
        let mut recipients: Vec<Address> = Vec::new();
        for mailbox in std::iter::once(&self.to).chain(&self.cc).chain(&self.bcc) {
            if !recipients.contains(&mailbox.email) {
                recipients.push(mailbox.email.clone());
            }
        }
        recipients
    }
}

/// Composes the mail of `draft` with these files, and with a Message-ID derived from the job's id.
///
/// # Errors
/// [`MailError::SubjectTooLong`], [`MailError::TooManyRecipients`].
pub fn compose(draft: MailDraft, files: Vec<Attachment>, from: &Mailbox, job_id: &str) -> Result<Message, MailError> {
    let subject = one_line(&draft.subject);
    let length = subject.chars().count();
    if length > SUBJECT_LIMIT {
        return Err(MailError::SubjectTooLong { length, limit: SUBJECT_LIMIT });
    }
    let count = 1 + draft.cc.len() + draft.bcc.len();
    if count > RECIPIENT_LIMIT {
        return Err(MailError::TooManyRecipients { count, limit: RECIPIENT_LIMIT });
    }
    let mut builder = Message::builder()
        // lettre parses the sender again and refuses some valid addresses. The real sender is set below.
        .from(Mailbox::new(None, Address::new_dangerous("sender", "localhost")))
        .envelope(Envelope::new(Some(from.email.clone()), draft.recipients())?)
        .header(To::from(Mailboxes::from(draft.to)))
        .subject(subject)
        .message_id(Some(message_id(job_id, from)))
        .date_now()
        .raw_header(auto_generated());
    if !draft.cc.is_empty() {
        builder = builder.header(Cc::from(draft.cc.into_iter().collect::<Mailboxes>()));
    }
    if let Some(reply_to) = draft.reply_to {
        builder = builder.header(ReplyTo::from(Mailboxes::from(reply_to)));
    }
    let text = part(ContentType::TEXT_PLAIN, &draft.text);
    let html = draft.html.map(|html| part(ContentType::TEXT_HTML, &html));
    let mut message = match (html, files.is_empty()) {
        (None, true) => builder.singlepart(text),
        (Some(html), true) => builder.multipart(MultiPart::alternative().singlepart(text).singlepart(html)),
        (html, false) => {
            let mixed = MultiPart::mixed();
            let mut mixed = match html {
                None => mixed.singlepart(text),
                Some(html) => mixed.multipart(MultiPart::alternative().singlepart(text).singlepart(html)),
            };
            for file in files {
                mixed = mixed.singlepart(attached(file)?);
            }
            builder.multipart(mixed)
        }
    }?;
    message.headers_mut().set(From::from(Mailboxes::from(from.clone())));
    Ok(message)
}

/// Returns the Message-ID of a job's mail: `<name@domain>` with the domain of `MAIL_FROM`.
fn message_id(job_id: &str, from: &Mailbox) -> String {
    format!("<{}@{}>", message_name(job_id), from.email.domain())
}

/// Returns the header that stops automatic replies such as holiday notices (RFC 3834).
fn auto_generated() -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned())
}

/// Returns the part of an attached file, in base64 so that no server changes a byte.
fn attached(file: Attachment) -> Result<SinglePart, MailError> {
    let kind = ContentType::parse(file.content_type)
        .map_err(|_| MailError::AttachmentName { name: file.name.clone(), reason: "its type has no MIME type" })?;
    let body = Body::new_with_encoding(file.content, ContentTransferEncoding::Base64).unwrap_or_else(Body::new);
    Ok(AttachmentPart::new(file.name).body(body, kind))
}

fn part(kind: ContentType, text: &str) -> SinglePart {
    let text = crlf(text);
    let control = |b: u8| b.is_ascii_control() && !matches!(b, b'\r' | b'\n' | b'\t');
    // A 7bit body, which lettre would choose, must not have NUL and other control characters.
    let body = if text.bytes().any(control) {
        Body::new_with_encoding(text, ContentTransferEncoding::QuotedPrintable).unwrap_or_else(Body::new)
    } else {
        Body::new(text)
    };
    SinglePart::builder().header(kind).body(body)
}
