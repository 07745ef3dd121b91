//! Tests of `MAIL_DIR`: every mail is one file.

use std::{fs, path::Path};

use leveret_email::{error::FailureKind, mail::Mail, settings::MailSettings};
use mail_parser::MessageParser;

use crate::{draft, files_in, settings};

fn mail_into(directory: &Path) -> Mail {
    Mail::new(&files_in(directory)).unwrap()
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
async fn a_directory_that_cannot_be_written_is_waited_for_and_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = mail_into(file.path()).send(draft(), "job-1").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::ServerUnavailable);
    assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_sender_that_cannot_send_stops_the_start() {
    for from in ["", "no address", "jörg@example.com", "a@example.com, b@example.com"] {
        let mut settings = files_in(Path::new("unused"));
        settings.mail_from = from.to_owned();
        let message = Mail::new(&settings).unwrap_err().to_string();
        assert!(message.contains("MAIL_FROM"), "{message}");
    }
}

#[test]
fn mail_leaves_by_the_one_transport_that_the_settings_name() {
    let url = || Some("smtp://mail.example.com".to_owned());
    let dir = || Some("mail".into());
    let empty = || (Some(" ".to_owned()), Some("".into()));
    let start = |smtp_url, mail_dir| Mail::new(&MailSettings { mail_dir, ..settings(smtp_url) });
    assert!(start(url(), None).unwrap().to_string().contains("mail.example.com:25"));
    assert!(start(None, dir()).unwrap().to_string().contains("files in mail"));
    assert!(start(url(), empty().1).is_ok() && start(empty().0, dir()).is_ok(), "set to nothing is not set");
    for (smtp_url, mail_dir) in [(None, None), empty(), (url(), dir())] {
        let message = start(smtp_url, mail_dir).unwrap_err().to_string();
        assert!(message.contains("SMTP_URL") && message.contains("MAIL_DIR"), "{message}");
    }
}
