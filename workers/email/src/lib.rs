//! The email worker: jobs on the queue `email` and the events of the subscription `order-mails` send mails.
//!
//! In reading order: [`worker`] registers the [`jobs`]. A job creates a [`compose::MailDraft`] ([`order`], with [`money`]).
//! [`mail`] reads its [`attachments`], composes it ([`compose`], [`address`], [`text`], [`message_name`]), and sends it to
//! the mail server or writes it into a file. [`error`] has the kinds of failures, [`settings`] the settings.
//!
//! # Outcomes
//! | what happens | outcome |
//! |---|---|
//! | the server accepted the mail, or its file is on disk | done |
//! | the job is wrong: an unknown field, an invalid mail address, lines that do not add up, an attachment that is missing, too large or of another type, or a recipient or mail refused with 5xx | dead letter |
//! | a 4xx reply about this mail, a connection lost during it, or attachments that cannot be read | retried by the queue's policy, for about two days |
//! | the server is unreachable, files cannot be written, or the server fails for five recipients in a row | the circuit `smtp` opens: jobs wait, and no attempt is charged; the failed job is retried by the queue's policy |
//! | the configuration or the account is refused: TLS, `EHLO`, login, sender, relaying, block lists, quotas; also the same refusal of five recipients in a row | the circuit `smtp` opens: jobs wait, and no attempt is charged; the refused job is retried after 5 minutes, later every hour, for about four days |
//! | the server received the whole mail and did not reply within ten minutes, or closed the connection | retried after 5 and 10 minutes, then a dead letter with this error |
//!
//! A mail goes to all its recipients or to none, and at least once. Its Message-ID is derived from the id of the job or
//! event, so mail servers and readers can recognise a second copy.

pub mod address;
pub mod attachments;
pub mod compose;
mod eml;
pub mod error;
pub mod jobs;
pub mod mail;
pub mod message_name;
pub mod money;
pub mod order;
pub mod settings;
mod smtp;
pub mod text;

use std::time::Duration;

use leveret::{CircuitBreaker, Queue, RetryPolicy, Subscription, Worker};

pub use self::{
    jobs::{OrderPlaced, OrderedLine, SendEmail},
    mail::Mail,
    order::OrderConfirmation,
    settings::MailSettings,
};

/// Returns the worker of the queue `email` and of the subscription `order-mails`.
#[must_use]
pub fn worker(mail: Mail) -> Worker<Mail> {
    // The time limit of the transport is shorter, so that its error names the step of the session.
    let timeout = mail.time_limit() + Duration::from_secs(10);
    let retry = RetryPolicy::exponential().max_attempts(100);
    let queue = Queue::of::<SendEmail>().concurrency(16).retry(retry.clone()).timeout(timeout);
    let orders = Subscription::new(jobs::ORDER_MAILS).concurrency(16).retry(retry).timeout(timeout);
    // Only failures that affect every mail count, so one of them opens the circuit.
    let server = CircuitBreaker::new(jobs::SMTP).failures(1);
    Worker::new(mail)
        .queue(queue)
        .circuit_breaker(server)
        .handle_with(jobs::send_email, |h| h.circuit(jobs::SMTP))
        .handle_with(jobs::confirm_order, |h| h.circuit(jobs::SMTP))
        .subscribe_with(orders, jobs::mail_order, |h| h.circuit(jobs::SMTP))
}
