//! Without a mail server every mail is one file.

use std::{fs, path::Path};

use leveret_email::{error::Fault, mail::Mail};
use mail_parser::MessageParser;

use crate::{draft, settings};

fn mail_into(directory: &Path) -> Mail {
    let mut settings = settings(None);
    settings.mail_dir = directory.to_owned();
    Mail::new(&settings).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_mail_is_a_file_named_after_its_job_in_a_directory_made_for_it() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("made/for/it");
    mail_into(&directory).send(draft(), "01937c3e-8d5b-7c11-b0a4-3f6d2c1e9a70").await.unwrap();
    assert_eq!(names(&directory), ["01937c3e-8d5b-7c11-b0a4-3f6d2c1e9a70.eml"]);
    let bytes = fs::read(directory.join("01937c3e-8d5b-7c11-b0a4-3f6d2c1e9a70.eml")).unwrap();
    let mail = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!(mail.subject(), Some("Hello"));
    assert_eq!(mail.message_id(), Some("01937c3e-8d5b-7c11-b0a4-3f6d2c1e9a70@example.com"));
}

#[tokio::test]
async fn the_same_job_overwrites_its_file_and_leaves_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let mail = mail_into(directory.path());
    mail.send(draft(), "job-1").await.unwrap();
    let mut second = draft();
    second.subject = "Second".to_owned();
    mail.send(second, "job-1").await.unwrap();
    assert_eq!(names(directory.path()), ["job-1.eml"]);
    assert!(fs::read_to_string(directory.path().join("job-1.eml")).unwrap().contains("Subject: Second"));
}

#[tokio::test]
async fn a_hostile_job_id_stays_inside_the_directory() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("mail");
    let mail = mail_into(&directory);
    let long = "x".repeat(255);
    let ids = ["../escape", "/tmp/escape", "a/b", "nul\0byte", "..", ".", "", &long, "🐇", "x\r\nBcc: eve@example.org"];
    for id in ids {
        mail.send(draft(), id).await.unwrap();
    }
    assert_eq!(names(parent.path()), ["mail"]);
    assert_eq!(names(&directory).len(), ids.len());
    for name in names(&directory) {
        let bytes = fs::read(directory.join(&name)).unwrap();
        let mail = MessageParser::default().parse(&bytes).unwrap();
        let id = mail.message_id().unwrap();
        assert_eq!(format!("{}.eml", id.strip_suffix("@example.com").unwrap()), name);
        assert!(mail.bcc().is_none());
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_tried_again_and_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = mail_into(file.path()).send(draft(), "job-1").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Passing);
    assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_sender_that_cannot_send_stops_the_start() {
    for from in ["", "nobody", "jörg@example.com", "a@example.com, b@example.com"] {
        let mut settings = settings(None);
        settings.mail_from = from.to_owned();
        let message = Mail::new(&settings).unwrap_err().to_string();
        assert!(message.contains("MAIL_FROM"), "{message}");
    }
}
