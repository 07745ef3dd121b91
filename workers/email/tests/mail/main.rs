//! What the email worker promises, seen from the mail server and from the mail directory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod compose;
mod files;
mod jobs;
mod program;
mod sink;
mod smtp_answers;
mod smtp_connections;
mod smtp_tls;

use std::path::PathBuf;

use leveret_email::{
    address,
    compose::Draft,
    mail::{Mail, MailSettings},
};

/// Settings for a mail server, or for files when there is no URL.
fn settings(smtp_url: Option<String>) -> MailSettings {
    MailSettings {
        smtp_url,
        smtp_ca_file: None,
        smtp_timeout: 10,
        mail_dir: PathBuf::from("unused"),
        mail_from: "Tea Shop <shop@example.com>".to_owned(),
    }
}

fn mail_to(sink: &sink::Sink) -> Mail {
    Mail::new(&settings(Some(sink.url()))).unwrap()
}

fn draft() -> Draft {
    Draft {
        to: address::parse("Ann <ann@example.org>").unwrap(),
        subject: "Hello".to_owned(),
        text: "Hello, Ann.\n".to_owned(),
        html: None,
    }
}
