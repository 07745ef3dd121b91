//! The jobs themselves, through the framework's own attempt.

use std::{path::Path, time::Duration};

use leveret::{ErrorKind, Job, Outcome, testing};
use leveret_email::{Mail, OrderConfirmation, SendEmail, worker};

use crate::{
    mail_to, settings,
    sink::{Do, Script, Sink},
};

fn send_email() -> SendEmail {
    SendEmail {
        to: "Ann <ann@example.org>".to_owned(),
        subject: "Hello".to_owned(),
        text: "Hello, Ann.".to_owned(),
        html: None,
    }
}

fn order() -> OrderConfirmation {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/data/orders.jsonl");
    let orders = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(orders.lines().next().unwrap()).unwrap()
}

fn mail_into(directory: &Path) -> Mail {
    let mut settings = settings(None);
    settings.mail_dir = directory.to_owned();
    Mail::new(&settings).unwrap()
}

async fn perform<J: Job>(mail: &Mail, job: &J) -> Outcome {
    testing::perform(worker(mail.clone()), job).await.unwrap()
}

fn refused(outcome: Outcome) -> String {
    let Outcome::DeadLetter { kind: ErrorKind::Permanent, reason } = outcome else { panic!("{outcome:?}") };
    reason
}

#[tokio::test]
async fn both_jobs_end_in_a_mail() {
    let sink = Sink::start().await;
    let mail = mail_to(&sink);
    assert_eq!(perform(&mail, &send_email()).await, Outcome::Done);
    assert_eq!(perform(&mail, &order()).await, Outcome::Done);
    let mails = sink.mails();
    assert!(String::from_utf8_lossy(&mails[0]).contains("Subject: Hello\r\n"));
    assert!(String::from_utf8_lossy(&mails[1]).contains("Subject: Order T-2026-00001 confirmed\r\n"));
}

#[tokio::test]
async fn without_a_mail_server_a_job_ends_in_a_file_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mail = mail_into(directory.path());
    assert_eq!(perform(&mail, &send_email()).await, Outcome::Done);
    assert_eq!(perform(&mail, &order()).await, Outcome::Done);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn a_job_that_can_never_succeed_is_a_dead_letter_that_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let mail = mail_into(directory.path());
    let mut nobody = send_email();
    nobody.to = "ann at example.org".to_owned();
    let reason = refused(perform(&mail, &nobody).await);
    assert!(reason.contains("ann at example.org"), "{reason}");

    let mut nowhere = order();
    nowhere.customer.email = "zoë".to_owned();
    let reason = refused(perform(&mail, &nowhere).await);
    assert!(reason.contains("\"zoë\""), "{reason}");

    let mut wrong = order();
    wrong.total_cents += 1;
    let reason = refused(perform(&mail, &wrong).await);
    assert!(reason.contains("11501") && reason.contains("11500"), "{reason}");
}

#[tokio::test]
async fn a_refused_recipient_is_a_dead_letter_with_the_servers_words() {
    let sink = Script::default().on("RCPT", Do::Say("550 5.1.1 no such user")).start().await;
    let reason = refused(perform(&mail_to(&sink), &send_email()).await);
    assert!(reason.contains("550 5.1.1 no such user") && reason.contains("ann@example.org"), "{reason}");
}

#[tokio::test]
async fn trouble_that_passes_is_retried_with_its_reason() {
    for (reaction, expected) in [(Do::Say("451 4.3.0 try later"), "451 4.3.0 try later"), (Do::HangUp, "RCPT TO")] {
        let sink = Script::default().on("RCPT", reaction).start().await;
        let outcome = perform(&mail_to(&sink), &send_email()).await;
        let Outcome::Retry { reason, .. } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn a_wrong_password_makes_jobs_wait_and_not_die() {
    let script = Script::default().feature("AUTH PLAIN");
    let sink = script.on("AUTH", Do::Say("535 5.7.8 bad credentials")).start().await;
    let mail = Mail::new(&settings(Some(format!("smtp://ann:wrong@127.0.0.1:{}", sink.port())))).unwrap();
    let outcome = perform(&mail, &send_email()).await;
    let Outcome::Retry { delay, reason, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(delay, Duration::from_secs(300));
    assert!(reason.contains("535"), "{reason}");
}

#[tokio::test]
async fn a_payload_from_any_client_is_read_tolerantly_or_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let mail = mail_into(directory.path());
    let perform_raw = async |payload: &str| {
        testing::perform_raw(worker(mail.clone()), "email", "email.send", payload.as_bytes(), 1).await.unwrap()
    };
    let newer = r#"{"to": "ann@example.org", "subject": "Hi", "text": "Hi", "html": null, "campaign": {"id": 7}}"#;
    assert_eq!(perform_raw(newer).await, Outcome::Done);
    let incomplete = perform_raw(r#"{"to": "ann@example.org", "text": "Hi"}"#).await;
    let Outcome::DeadLetter { kind: ErrorKind::Decode, reason } = incomplete else { panic!("{incomplete:?}") };
    assert!(reason.contains("missing field `subject`"), "{reason}");
}
