//! The email worker: jobs on the queue `email` become mails.
//!
//! In reading order: [`worker`] registers the [`jobs`]; a job makes a [`compose::Draft`] ([`order`], with [`money`]);
//! [`mail`] composes it ([`compose`], [`address`], [`text`], [`name`]) and hands it to the mail server or writes it
//! into a file; [`error`] says what a failure means.
//!
//! # What becomes of a job
//! | what happened | outcome |
//! |---|---|
//! | the server took the mail, or its file is on disk | done |
//! | the job itself is wrong: no mail address, lines that do not add up, a recipient or mail refused with 5xx | dead letter |
//! | no connection, TLS refused or missing, a 4xx answer, no answer in time, a full disk | retried by the queue's policy, for about two days |
//! | the set-up is wrong: a 5xx answer to connecting, `AUTH` or `MAIL FROM`, or 530, 534, 535, 538 to anything | retried after 5 minutes, later every hour, for about four days |
//!
//! A mail is sent at least once. Its Message-ID follows from the job's id, so a second copy can be recognised.

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

use leveret::{Queue, RetryPolicy, Worker};

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
        Queue::new("email").concurrency(16).retry(RetryPolicy::exponential().max_attempts(100)).timeout(timeout);
    Worker::new(mail).queue(queue).handle(jobs::send_email).handle(jobs::confirm_order)
}
