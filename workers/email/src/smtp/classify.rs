//! Decides what a refusal is about: this mail, or the worker's configuration and account.
//!
//! The evidence in order: the enhanced status code (RFC 3463, its registry, and the codes of Microsoft 365 and Gmail), the
//! reply code, and the words of common servers and providers. Without evidence, a refusal is about the configuration up to
//! `MAIL FROM`, and about the mail from `RCPT TO` on. A wrong guess has limits: a streak of equal guesses counts as a
//! refusal of the configuration (`streak.rs`), and waiting jobs become dead letters after about four days.

use super::reply::SmtpReply;
use crate::error::{FailureKind, SmtpStep};

/// Subject of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefusalSubject {
    Mail,
    Configuration,
    /// The reply does not state its subject.
    Unclear,
}

use RefusalSubject::{Configuration, Mail, Unclear};

/// Class of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RefusalClass {
    pub(super) kind: FailureKind,
    /// True if the reply does not state its subject.
    pub(super) is_guess: bool,
}

// Both lists have whole words in lower case. `*` matches the rest of a word on its side.

/// Words about the recipient. They take precedence: `504 <ann>: Recipient address rejected` is not about the `EHLO` name.
const RECIPIENT_WORDS: &[&str] = &[
    "recipient address rejected",
    "recipient rejected",
    "user unknown",
    "unknown user",
    "user not found",
    "user does not exist",
    "no such user",
    "no such recipient",
    "no such mailbox",
    "unknown recipient",
    "recipient unknown",
    "recipient not found",
    "mailbox not found",
    "mailbox full",
    "mailbox is full",
    "greylist*",
    "graylist*",
];

/// Words about the configuration or the account.
const CONFIGURATION_WORDS: &[&str] = &[
    // Relaying.
    "relay*",
    "not in accepted domain",
    "non-accepted domain",
    // Login and encryption.
    "authenticat*",
    "unauthenticat*",
    "authorization required",
    "credential*",
    "starttls",
    "must use tls",
    "encryption required",
    // The host name of the worker.
    "helo",
    "ehlo",
    "invalid hostname",
    // The sender.
    "sender*",
    "mail from",
    "from address",
    "'from' address",
    "from header",
    "return path",
    "return-path",
    "envelope from",
    "*sendas*",
    "send as",
    "spf",
    "dkim",
    "dmarc",
    // The client's address.
    "client host",
    "your ip",
    "ip address*",
    "sending ip",
    "blacklist*",
    "blocklist*",
    "block list",
    "black list",
    "blocked using",
    "*dnsbl*",
    "*spamhaus*",
    "reputation",
    "reverse dns",
    "rdns",
    "ptr record*",
    "banned",
    // The account and its quota.
    "access denied",
    "your account",
    "account is not",
    "not activated",
    "not verified",
    "not authorized to",
    "not allowed to send",
    "not permitted to send",
    "unauthorized",
    "sending suspended",
    "sending paused",
    "sending limit*",
    "sending quota",
    "submission quota*",
    "outboundspam*",
    "daily",
    "per day",
    "per hour",
    "hourly",
    "messages per",
    "emails per",
    "message limit*",
    "rate limit*",
    "throttl*",
    "credits",
];

/// Classifies a 4xx or 5xx reply.
pub(super) fn classify(step: SmtpStep, reply: &SmtpReply) -> RefusalClass {
    let refused = refusal_subject(step, reply);
    let kind = match refused {
        Configuration => FailureKind::Configuration,
        Mail | Unclear if reply.is_permanent() => FailureKind::Permanent,
        Mail | Unclear => FailureKind::Transient,
    };
    RefusalClass { kind, is_guess: refused == Unclear }
}

fn refusal_subject(step: SmtpStep, reply: &SmtpReply) -> RefusalSubject {
    // The server closes the connection for now, most often because the client connects too often.
    if reply.code == 421 {
        return Unclear;
    }
    let text = words_without_addresses(&reply.text());
    let says = |patterns: &[&str]| patterns.iter().any(|pattern| has_words(&text, pattern));
    let names_recipient = step >= SmtpStep::Recipient && says(RECIPIENT_WORDS);
    let by_status = reply.enhanced().and_then(|status| subject_by_status(step, reply, status));
    match by_status {
        Some(subject) => subject,
        None if names_recipient => Mail,
        None if matches!(reply.code, 500 | 502..=504 | 523..=525 | 530 | 534 | 535 | 538) => Configuration,
        None if reply.is_permanent() && step < SmtpStep::Recipient => Configuration,
        // Every reply to a login has such words.
        None if step != SmtpStep::Login && says(CONFIGURATION_WORDS) => Configuration,
        // A refusal by policy before the server has the mail: it is about the sender or the client.
        None if step == SmtpStep::Recipient && reply.is_permanent() && matches!(reply.enhanced(), Some((7, 0 | 1))) => {
            Configuration
        }
        None => Unclear,
    }
}

/// Returns the words of a reply in lower case without addresses, because an address can have any word.
fn words_without_addresses(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "<>()[],;:\"".contains(c);
    let parts = text.split_inclusive(ends).map(|part| match part.contains('@') {
        true => part.trim_start_matches(|c| !ends(c)),
        false => part,
    });
    let text = parts.collect::<String>().to_lowercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns whether the text has the pattern as whole words. A label of a host name is not a word.
fn has_words(text: &str, pattern: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    if let Some(part) = pattern.strip_prefix('*') {
        return text.contains(part.trim_end_matches('*'));
    }
    let words = pattern.trim_end_matches('*');
    text.match_indices(words).any(|(start, _)| {
        let (before, mut after) = (&text[..start], &text[start + words.len()..]);
        if pattern.ends_with('*') {
            after = after.trim_start_matches(in_word);
        }
        let goes_on = after.strip_prefix('.').unwrap_or(after).starts_with(in_word);
        !goes_on && !before.ends_with(|c| in_word(c) || c == '.')
    })
}

/// Returns the subject by the enhanced status code, if the code is enough.
fn subject_by_status(step: SmtpStep, reply: &SmtpReply, (subject, detail): (u16, u16)) -> Option<RefusalSubject> {
    let of_mail = step >= SmtpStep::Recipient;
    match (subject, detail) {
        // The address of the sender; 90 is Microsoft's limit of recipients a day.
        (1, 7 | 8 | 90) => Some(Configuration),
        (1, _) if of_mail => Some(Mail),
        // Microsoft: not allowed to send as this sender.
        (2, 251 | 252) => Some(Configuration),
        // A full or closed mailbox. Microsoft also uses 2.0 and 2.2 for refused submissions of an account.
        (2, 0 | 2) => None,
        (2, _) if of_mail => Some(Mail),
        (3, 4) | (6, _) => Some(Mail),
        (3, 2 | 5) if reply.is_permanent() => Some(Configuration),
        // Gmail: the sending quota of the account.
        (4, 5) if reply.is_permanent() => Some(Configuration),
        (7, _) if of_mail => subject_by_policy(step, detail),
        _ => None,
    }
}

/// X.7: security and policy.
fn subject_by_policy(step: SmtpStep, detail: u16) -> Option<RefusalSubject> {
    match detail {
        0 | 1 => None,
        // Lists that accept mail from members only, recipients that restrict their senders, and mailboxes with a new
        // owner (RRVS).
        2 | 12 | 15..=19 | 120..=136 | 193 | 513 => Some(Mail),
        // The signature, encryption or format of the mail.
        5..=7 | 29 | 512 => Some(Mail),
        // Yahoo refuses contents with this code.
        9 if step == SmtpStep::Content => None,
        _ => Some(Configuration),
    }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
