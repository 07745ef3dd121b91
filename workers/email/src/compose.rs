//! Makes the mail of a draft: headers, MIME parts, encodings.
//!
//! Whatever a job contains, a header stays one header and a body cannot end the mail early.

use lettre::{
    Message,
    message::{
        Body, Mailbox, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
};

use crate::{
    error::MailError,
    name::name_of,
    text::{crlf, one_line},
};

/// With the header's name this stays under the 998 bytes of a line, even if no word of it can be folded.
const SUBJECT_LIMIT: usize = 900;

/// A mail as a job sees it.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The one recipient.
    pub to: Mailbox,
    /// One line; line ends and control characters become spaces.
    pub subject: String,
    /// The plain text, with any line ends.
    pub text: String,
    /// The same as HTML, for readers that prefer it.
    pub html: Option<String>,
}

/// Composes the mail of `draft`, with a Message-ID that follows from the job's id.
///
/// # Errors
/// [`MailError::SubjectTooLong`].
pub fn compose(draft: Draft, from: &Mailbox, job_id: &str) -> Result<Message, MailError> {
    let subject = one_line(&draft.subject);
    let length = subject.chars().count();
    if length > SUBJECT_LIMIT {
        return Err(MailError::SubjectTooLong { length, limit: SUBJECT_LIMIT });
    }
    let builder = Message::builder()
        .from(from.clone())
        .to(draft.to)
        .subject(subject)
        .message_id(Some(message_id(job_id, from)))
        .date_now()
        .raw_header(auto_generated());
    let text = part(ContentType::TEXT_PLAIN, &draft.text);
    Ok(match draft.html {
        None => builder.singlepart(text),
        Some(html) => {
            let both = MultiPart::alternative().singlepart(text).singlepart(part(ContentType::TEXT_HTML, &html));
            builder.multipart(both)
        }
    }?)
}

/// The Message-ID of a job's mail: `<name@domain>`, the domain being that of `MAIL_FROM`.
fn message_id(job_id: &str, from: &Mailbox) -> String {
    format!("<{}@{}>", name_of(job_id), from.email.domain())
}

/// Keeps holiday notices and other robots from answering (RFC 3834).
fn auto_generated() -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned())
}

fn part(kind: ContentType, text: &str) -> SinglePart {
    let text = crlf(text);
    let control = |b: u8| b.is_ascii_control() && !matches!(b, b'\r' | b'\n' | b'\t');
    // NUL and its like are forbidden in a 7bit body, which lettre would choose for them.
    let body = if text.bytes().any(control) {
        Body::new_with_encoding(text, ContentTransferEncoding::QuotedPrintable).unwrap_or_else(Body::new)
    } else {
        Body::new(text)
    };
    SinglePart::builder().header(kind).body(body)
}
