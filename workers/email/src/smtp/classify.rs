//! What a refusal concerns: this mail, or the worker's set-up and account.
//!
//! The order of the evidence: the enhanced status code (RFC 3463, its registry, and the codes of Microsoft 365 and Gmail),
//! then the reply code, then the words that common servers and providers use. What none of them settles concerns the
//! set-up before the recipient is named, and the mail from then on. A wrong guess is bounded on both sides: a run of equal
//! guesses counts as the set-up's (`run.rs`), and jobs that wait are given up after about four days.

use super::reply::SmtpReply;
use crate::error::{FailureKind, SmtpStep};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefusalSubject {
    Mail,
    Setup,
    /// Nothing tells.
    Unclear,
}

use RefusalSubject::{Mail, Setup, Unclear};

/// What a refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RefusalClass {
    pub(super) kind: FailureKind,
    /// Nothing in the reply tells whom it concerns.
    pub(super) is_guess: bool,
}

// Both lists are in lower case and of whole words; `*` stands for the rest of a word on that side.

/// Words about the recipient. They come first: `504 <ann>: Recipient address rejected` is not about our own name.
const OF_THE_RECIPIENT: &[&str] = &[
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

/// Words about the set-up or the account.
const OF_THE_SETUP: &[&str] = &[
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
    // The worker's own name.
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

/// Judges a 4xx or 5xx reply.
pub(super) fn classify(step: SmtpStep, reply: &SmtpReply) -> RefusalClass {
    let concerns = concerns(step, reply);
    let kind = match concerns {
        Setup => FailureKind::Configuration,
        Mail | Unclear if reply.is_permanent() => FailureKind::Permanent,
        Mail | Unclear => FailureKind::Transient,
    };
    RefusalClass { kind, is_guess: concerns == Unclear }
}

fn concerns(step: SmtpStep, reply: &SmtpReply) -> RefusalSubject {
    // The server hangs up for now, most often on clients that come too fast.
    if reply.code == 421 {
        return Unclear;
    }
    let text = plain(&reply.text());
    let says = |patterns: &[&str]| patterns.iter().any(|pattern| has(&text, pattern));
    let names_recipient = step >= SmtpStep::Recipient && says(OF_THE_RECIPIENT);
    let settled = reply.enhanced().and_then(|status| of_status(step, reply, status));
    match settled {
        Some(concerns) => concerns,
        None if names_recipient => Mail,
        None if matches!(reply.code, 500 | 502..=504 | 523..=525 | 530 | 534 | 535 | 538) => Setup,
        None if reply.is_permanent() && step < SmtpStep::Recipient => Setup,
        // Of a login every word is about a login.
        None if step != SmtpStep::Login && says(OF_THE_SETUP) => Setup,
        // Refused by policy before the mail itself was seen: by who sends, and from where.
        None if step == SmtpStep::Recipient && reply.is_permanent() && matches!(reply.enhanced(), Some((7, 0 | 1))) => {
            Setup
        }
        None => Unclear,
    }
}

/// The words of a reply in lower case, without the addresses in it: any word can be in an address.
fn plain(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "<>()[],;:\"".contains(c);
    let parts = text.split_inclusive(ends).map(|part| match part.contains('@') {
        true => part.trim_start_matches(|c| !ends(c)),
        false => part,
    });
    let text = parts.collect::<String>().to_lowercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tells whether the text has the pattern as words of their own. The labels of a host name are none.
fn has(text: &str, pattern: &str) -> bool {
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

/// What the enhanced status code alone settles.
fn of_status(step: SmtpStep, reply: &SmtpReply, (subject, detail): (u16, u16)) -> Option<RefusalSubject> {
    let of_mail = step >= SmtpStep::Recipient;
    match (subject, detail) {
        // The sender's address; 90 is Microsoft's limit of recipients a day.
        (1, 7 | 8 | 90) => Some(Setup),
        (1, _) if of_mail => Some(Mail),
        // Microsoft: not allowed to send as this sender.
        (2, 251 | 252) => Some(Setup),
        // A full or closed mailbox; with 2.0 and 2.2 Microsoft also refuses what an account submits.
        (2, 0 | 2) => None,
        (2, _) if of_mail => Some(Mail),
        (3, 4) | (6, _) => Some(Mail),
        (3, 2 | 5) if reply.is_permanent() => Some(Setup),
        // Gmail: the sending quota of the account.
        (4, 5) if reply.is_permanent() => Some(Setup),
        (7, _) if of_mail => of_policy(step, detail),
        _ => None,
    }
}

/// X.7: security and policy.
fn of_policy(step: SmtpStep, detail: u16) -> Option<RefusalSubject> {
    match detail {
        0 | 1 => None,
        // Lists and groups that take mail from members only, recipients that restrict their senders, and mailboxes that
        // have changed hands (RRVS).
        2 | 12 | 15..=19 | 120..=136 | 193 | 513 => Some(Mail),
        // The mail's own signature, encryption or form.
        5..=7 | 29 | 512 => Some(Mail),
        // Yahoo refuses contents so.
        9 if step == SmtpStep::Content => None,
        _ => Some(Setup),
    }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
