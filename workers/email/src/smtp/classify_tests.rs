//! Tests with the refusals of common servers and providers.

use super::classify;
use crate::{
    error::{FailureKind, SmtpStep},
    smtp::reply::{ReplyReader, SmtpReply},
};

fn reply(text: &str) -> SmtpReply {
    let mut reader = ReplyReader::default();
    let replies = text.split('\n').map(|line| reader.line(line.as_bytes()).unwrap());
    replies.last().flatten().expect(text)
}

const CONFIGURATION: &[(SmtpStep, &[&str])] = &[
    (
        SmtpStep::Connect,
        &[
            "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org",
            "550 5.7.1 Access denied",
            "554 mx.example.net ESMTP not accepting messages from 192.0.2.7",
            "501 Syntactically invalid HELO argument(s)",
            "504 5.5.2 <pod-7>: Helo command rejected: need fully-qualified hostname",
            "450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.7]: bad reverse DNS",
        ],
    ),
    (
        SmtpStep::Login,
        &[
            "535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6",
            "535-5.7.8 Username and Password not accepted. For more information, go to\n535 5.7.8  https://support.google.com/mail/?p=BadCredentials x - gsmtp",
            "534-5.7.9 Application-specific password required.\n534 5.7.9  InvalidSecondFactor",
            "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
            "504 5.5.4 Unrecognized authentication type",
            "525 5.7.1 Unauthorized IP address",
            "502 5.7.0 Your SMTP account is not yet activated",
            "535 Authentication Credentials Invalid",
        ],
    ),
    (
        SmtpStep::Sender,
        &[
            "530 5.7.0 Authentication Required",
            "550 5.1.0 shop@example.com sender rejected",
            "553 5.1.8 shop@example.com... Domain of sender address does not exist",
            "550 The from address does not match a verified Sender Identity.",
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
            "550 5.7.0 From address is not one of your addresses",
            "555 5.5.2 Syntax error, cannot decode response",
            "450 4.1.8 <shop@example.com>: Sender address rejected: Domain not found",
        ],
    ),
    (
        SmtpStep::Recipient,
        &[
            "554 5.7.1 <ann@example.org>: Relay access denied",
            "454 4.7.1 <ann@example.org>: Relay access denied",
            "550 5.7.1 Unable to relay",
            "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain",
            "550 5.7.64 TenantAttribution; Relay Access Denied",
            "550 relay not permitted",
            "550 5.7.1 <ann@example.org>... Relaying denied",
            "553 Relaying disallowed as shop@example.com",
            "550 5.4.1 Relay Access Denied",
            "504 5.5.2 <pod-7>: Helo command rejected: need fully-qualified hostname",
            "504 Helo rejected",
            "550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)",
            "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org",
            "550-5.7.1 Unfortunately, messages from [192.0.2.7] weren't sent. Please contact\n550 5.7.1 your Internet service provider since part of their network is on our block list (S3150).",
            "550 5.7.606 Access denied, banned sending IP [192.0.2.7]",
            "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP.",
            "550 5.7.1 <shop@example.com>: Sender address rejected: not owned by user shop",
            "550-Verification failed for <shop@example.com>\n550 Sender verify failed",
            "550 5.7.23 The message was rejected because of Sender Policy Framework violation",
            "530 5.7.57 Client not authenticated to send mail",
            "530-5.5.1 Authentication Required.\n530 5.5.1 Learn more",
            "503 AUTH first (#5.5.1)",
            "550 5.7.1 delivery not authorized",
            "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients.",
            "550-Domain example.com has exceeded the max emails per hour (100/100 (100%)) allowed.\n550 Message discarded.",
            "550 5.7.232 Your message can't be sent because your trial tenant has exceeded its daily limit",
        ],
    ),
    (
        SmtpStep::Content,
        &[
            "554 Message rejected: Email address is not verified. The following identities failed the check in region US-EAST-1: shop@example.com",
            "554 Access denied: User `arn:aws:iam::1:user/x' is not authorized to perform `ses:SendRawEmail'",
            "554 Message rejected: Sending paused for this account.",
            "454 Throttling failure: Daily message quota exceeded.",
            "550-5.4.5 Daily user sending limit exceeded. For more information on Gmail\n550 5.4.5 sending limits go to https://support.google.com x - gsmtp",
            "550-5.7.26 This mail has been blocked because the sender is unauthenticated.\n550 5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM.",
            "550-5.7.1 [192.0.2.7] Gmail has detected that this message is likely suspicious due to the very low\n550 5.7.1 reputation of the sending IP address.",
            "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process message",
            "554 5.2.252 SendAsDenied; shop@example.com not allowed to send as x@example.com",
            "550 5.1.8 Access denied, bad outbound sender",
            "550 5.7.509 Access denied, sending domain example.com does not pass DMARC verification",
            "554 5.1.8 Email OutgoingMail Blocked.",
        ],
    ),
];

const PERMANENT: &[(SmtpStep, &[&str])] = &[
    (
        SmtpStep::Recipient,
        &[
            "550 5.1.1 <ann@example.org>: Recipient address rejected: User unknown in virtual mailbox table",
            "550-5.1.1 The email account that you tried to reach does not exist. Please try\n550 5.1.1 double-checking the recipient's email address",
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
            "550 5.4.1 Recipient address rejected: Access denied.",
            "554 5.7.1 <ann@example.org>: Recipient address rejected: Access denied",
            "504 5.5.2 <ann>: Recipient address rejected: need fully-qualified address",
            "501 5.1.3 Bad recipient address syntax",
            "553 5.1.3 <ann>: bad mailbox",
            "550 5.2.1 The email account that you tried to reach is disabled.",
            "552 5.2.2 The recipient's inbox is out of storage space",
            "550 no such user here",
            "550 mailbox unavailable",
            "556 5.1.10 Recipient address has null MX",
            "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required",
            "550 5.7.17 Mailbox owner has changed",
            "555 5.5.2 Syntax error",
            "550 <ann@dailymail.co.uk>: mailbox unavailable",
            "550 mailbox of hanspfister unavailable",
            "550 (shelob@example.org) mailbox unavailable",
            "550 sender@example.org is not here",
            "550 host relay.example.org said: no mailbox of that name",
            "550 no mailbox for relay@example.org, daily@helo.example",
        ],
    ),
    (
        SmtpStep::Content,
        &[
            "552 5.3.4 Message size exceeds fixed limit",
            "552 Message is too long.",
            "554 5.7.1 Spam message rejected",
            "550 5.7.1 Message content rejected",
            "554 5.7.9 Message not accepted for policy reasons.",
            "554 5.6.0 Message is malformed",
            "554 Transaction failed: Duplicate header 'Subject'.",
            "554 5.5.1 Error: no valid recipients",
            "550 5.7.512 Access denied, message must be RFC 5322 section 3.6.2 compliant",
        ],
    ),
];

const TRANSIENT: &[(SmtpStep, &[&str])] = &[
    (SmtpStep::Connect, &["421 4.7.0 Too many connections from your IP", "421 4.3.2 shutting down"]),
    (
        SmtpStep::Login,
        &["454 4.7.0 Temporary authentication failure", "454 4.7.0 Too many login attempts, please try again later."],
    ),
    (
        SmtpStep::Recipient,
        &[
            "450 4.2.0 <ann@example.org>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch",
            "451 4.7.1 Greylisting in action, please come back later: sender unknown",
            "450-4.2.1 The user you are trying to contact is receiving mail at a rate that\n450 4.2.1 prevents additional messages from being delivered.",
            "452 4.2.2 The recipient's inbox is out of storage space",
            "451 4.3.0 <ann@example.org>: Temporary lookup failure",
            "450 4.1.1 <ann@example.org>: Recipient address rejected: unverified address: Address verification in progress",
            "452 4.5.3 Error: too many recipients",
        ],
    ),
    (
        SmtpStep::Content,
        &["452 4.3.1 Insufficient system storage", "451 4.3.0 queue file write error", "421 4.4.2 timeout exceeded"],
    ),
];

fn check(table: &[(SmtpStep, &[&str])], expected: FailureKind) {
    for (step, replies) in table {
        for text in *replies {
            assert_eq!(classify(*step, &reply(text)).kind, expected, "{step}: {text}");
        }
    }
}

#[test]
fn a_refusal_of_the_configuration_waits_for_an_operator() {
    check(CONFIGURATION, FailureKind::Configuration);
}

#[test]
fn a_refusal_of_the_mail_is_permanent() {
    check(PERMANENT, FailureKind::Permanent);
}

#[test]
fn a_temporary_refusal_is_retried() {
    check(TRANSIENT, FailureKind::Transient);
}

#[test]
fn a_refusal_that_names_the_recipient_is_no_guess_and_one_without_a_reason_is() {
    let is_guess = |text| classify(SmtpStep::Recipient, &reply(text)).is_guess;
    for text in [
        "550 5.1.1 no",
        "550 no such user",
        "550 <ann@example.org>: Recipient address rejected: User unknown",
        "452 4.2.2 over quota, mailbox full",
        "450 4.2.0 Greylisted",
        "550 5.7.1 Relay access denied",
    ] {
        assert!(!is_guess(text), "{text}");
    }
    for text in ["550 no", "550 mailbox unavailable", "450 later", "451 4.3.0 <ann@unknown.user.example>: error"] {
        assert!(is_guess(text), "{text}");
    }
}

#[test]
fn words_in_an_address_are_not_the_servers() {
    assert!(classify(SmtpStep::Recipient, &reply("550 <greylist@example.org>: refused")).is_guess);
    assert_eq!(classify(SmtpStep::Recipient, &reply("450 <spf@example.org>: busy")).kind, FailureKind::Transient);
    assert_eq!(
        classify(SmtpStep::Recipient, &reply("450 Sender:<ann@example.org>, SPF-failed")).kind,
        FailureKind::Configuration
    );
}
