//! Tests of the email worker with a test mail server and with a mail directory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod compose;
mod files;
mod jobs;
mod program;
mod sink;
mod smtp_answers;
mod smtp_connections;
mod smtp_tls;

use std::path::Path;

use leveret_email::{address, compose::MailDraft, mail::Mail, settings::MailSettings};

/// Returns settings for a mail server.
fn settings(smtp_url: Option<String>) -> MailSettings {
    MailSettings {
        smtp_url,
        smtp_ca_file: None,
        smtp_timeout: 10,
        mail_dir: None,
        mail_attachment_dir: None,
        mail_attachment_limit: 2_000_000,
        mail_from: "Tea Shop <shop@example.com>".to_owned(),
    }
}

/// Returns settings for a mail directory.
fn files_in(directory: &Path) -> MailSettings {
    MailSettings { mail_dir: Some(directory.to_owned()), ..settings(None) }
}

fn mail_to(sink: &sink::Sink) -> Mail {
    Mail::new(&settings(Some(sink.url()))).unwrap()
}

fn draft() -> MailDraft {
    MailDraft::new(address::parse("Ann <ann@example.org>").unwrap(), "Hello", "Hello, Ann.\n")
}
