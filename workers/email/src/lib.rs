//! The email worker: jobs on the queue `email` become mails.
//!
//! In reading order: [`worker`] registers the [`jobs`]; a job makes a [`compose::Draft`] ([`order`], with [`money`]);
//! [`mail`] composes it ([`compose`], [`address`], [`text`], [`name`]) and hands it to the mail server or writes it
//! into a file; [`error`] says what a failure means.
//!
//! # What becomes of a job
//! | what happened | outcome |
//! |---|---|
//! | the server accepted the mail, or its file is on disk | done |
//! | the job itself is wrong: an unknown field, no mail address, lines that do not add up, a recipient or mail refused with 5xx | dead letter |
//! | a 4xx answer about this mail, a connection lost in the middle of it | retried by the queue's policy, for about two days |
//! | the server cannot be reached, files cannot be written, or the server fails for five recipients in a row | the circuit `smtp` opens: jobs wait, uncharged; the failed one is retried by the queue's policy |
//! | the set-up or the account is refused: TLS, `EHLO`, login, sender, relaying, block lists, quotas; also the same refusal of five recipients in a row | the circuit `smtp` opens: jobs wait, uncharged; the refused one is retried after 5 minutes, later every hour, for about four days |
//! | the server had the whole mail and did not answer within ten minutes, or hung up | retried after 5 and 10 minutes, then a dead letter that says so |
//!
//! A mail goes to all its recipients or to none, and at least once. Its Message-ID follows from the job's id, so a second
//! copy can be recognised.

pub mod address;
pub mod compose;
mod eml;
pub mod error;
pub mod jobs;
pub mod mail;
pub mod money;
pub mod name;
pub mod order;
mod smtp;
pub mod text;

use std::time::Duration;

use leveret::{CircuitBreaker, Queue, RetryPolicy, Worker};

pub use self::{
    jobs::SendEmail,
    mail::{Mail, MailSettings},
    order::OrderConfirmation,
};

/// The worker of the queue `email`.
#[must_use]
pub fn worker(mail: Mail) -> Worker<Mail> {
    // The transport gives up first, with an error that says where the conversation stood.
    let timeout = mail.patience() + Duration::from_secs(10);
    let queue =
        Queue::of::<SendEmail>().concurrency(16).retry(RetryPolicy::exponential().max_attempts(100)).timeout(timeout);
    // A failure counts against the server only when it concerns every mail: one is enough.
    let server = CircuitBreaker::new(jobs::SMTP).failures(1);
    Worker::new(mail)
        .queue(queue)
        .circuit_breaker(server)
        .handle_with(jobs::send_email, |h| h.circuit(jobs::SMTP))
        .handle_with(jobs::confirm_order, |h| h.circuit(jobs::SMTP))
}
