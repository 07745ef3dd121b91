//! Each answer of a mail server, and each lack of one, is judged as the issue of the job or not.

use std::time::Duration;

use leveret_email::{
    error::{Fault, MailError, Step},
    mail::Mail,
};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    draft, mail_to, settings,
    sink::{Do, Script, Sink},
};

/// Verb, answer to it, and what is made of that.
const ANSWERS: &[(&str, &str, Step, Fault)] = &[
    ("RCPT", "550 5.1.1 no such user", Step::Recipient, Fault::Job),
    ("RCPT", "553 5.1.3 bad mailbox", Step::Recipient, Fault::Job),
    ("RCPT", "530 5.7.0 must authenticate", Step::Recipient, Fault::Setup),
    ("RCPT", "450 4.2.1 greylisted", Step::Recipient, Fault::Passing),
    ("RCPT", "451 4.3.0 try later", Step::Recipient, Fault::Passing),
    ("RCPT", "421 4.3.2 shutting down", Step::Recipient, Fault::Passing),
    ("DATA", "554 5.5.1 no valid recipients", Step::Content, Fault::Job),
    ("BODY", "552 5.3.4 too big", Step::Content, Fault::Job),
    ("BODY", "554 5.7.1 spam", Step::Content, Fault::Job),
    ("BODY", "452 4.3.1 disk full", Step::Content, Fault::Passing),
    ("MAIL", "550 5.7.1 sender not allowed", Step::Sender, Fault::Setup),
    ("MAIL", "530 5.7.0 must authenticate", Step::Sender, Fault::Setup),
    ("MAIL", "451 4.7.1 slow down", Step::Sender, Fault::Passing),
    ("EHLO", "502 5.5.1 unknown command", Step::Connect, Fault::Setup),
    ("CONNECT", "554 5.7.1 your address is blocked", Step::Connect, Fault::Setup),
    ("CONNECT", "421 4.3.2 too many connections", Step::Connect, Fault::Passing),
];

#[tokio::test]
async fn a_mail_the_server_takes_is_sent() {
    let sink = Sink::start().await;
    mail_to(&sink).send(draft(), "job-1").await.unwrap();
    assert_eq!(sink.mails().len(), 1);
    assert_eq!(
        sink.log(),
        [
            "1 CONNECT",
            "1 EHLO client.example",
            "1 MAIL FROM:<shop@example.com>",
            "1 RCPT TO:<ann@example.org>",
            "1 DATA",
            "1 BODY"
        ]
    );
}

#[tokio::test]
async fn a_5xx_is_final_for_the_job_only_when_it_is_about_its_mail() {
    for &(verb, answer, expected_step, expected_fault) in ANSWERS {
        let sink = Script::default().on(verb, Do::Say(answer)).start().await;
        let error = mail_to(&sink).send(draft(), "job-1").await.unwrap_err();
        let MailError::Server { step, fault, answer: shown, to, .. } = &error else {
            panic!("{verb} {answer}: {error}");
        };
        assert_eq!((*step, *fault), (expected_step, expected_fault), "{verb} {answer}");
        assert_eq!((shown.as_str(), to.as_str()), (answer, "ann@example.org"));
        assert!(sink.mails().is_empty());
    }
}

#[tokio::test]
async fn a_connection_that_drops_anywhere_is_tried_again() {
    for verb in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "BODY"] {
        let sink = Script::default().on(verb, Do::HangUp).start().await;
        let mail = mail_to(&sink);
        let error = mail.send(draft(), "job-1").await.unwrap_err();
        assert_eq!(error.fault(), Fault::Passing, "{verb}: {error}");
        mail.send(draft(), "job-1").await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mail = Mail::new(&settings(Some(format!("smtp://127.0.0.1:{port}")))).unwrap();
    let error = mail.send(draft(), "job-1").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Passing);
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn a_server_that_talks_something_else_is_tried_again() {
    let sink = Script::default().on("CONNECT", Do::Say("HTTP/1.1 400 Bad Request")).start().await;
    let error = mail_to(&sink).send(draft(), "job-1").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Passing, "{error}");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_in_time_and_tried_again() {
    for (verb, expected) in [("CONNECT", Step::Connect), ("RCPT", Step::Recipient), ("BODY", Step::Content)] {
        let sink = Script::default().on(verb, Do::KeepSilent).start().await;
        let mut settings = settings(Some(sink.url()));
        settings.smtp_timeout = 1;
        let mail = Mail::new(&settings).unwrap();
        let start = Instant::now();
        let error = mail.send(draft(), "job-1").await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(3), "{verb}");
        let MailError::TimedOut { step, .. } = &error else { panic!("{verb}: {error}") };
        assert_eq!((*step, error.fault()), (expected, Fault::Passing));
    }
}

#[tokio::test]
async fn a_wrong_password_is_the_setups_fault_and_is_not_tried_again_at_once() {
    let script = Script::default().feature("AUTH PLAIN LOGIN");
    let sink = script.on("AUTH", Do::Say("535 5.7.8 bad credentials")).start().await;
    let url = format!("smtp://ann:wrong@127.0.0.1:{}", sink.port());
    let mail = Mail::new(&settings(Some(url))).unwrap();
    for _ in 0..3 {
        let error = mail.send(draft(), "job-1").await.unwrap_err();
        assert_eq!(error.fault(), Fault::Setup);
        let message = error.to_string();
        assert!(message.contains("AUTH") && message.contains("535 5.7.8 bad credentials"), "{message}");
        assert!(!message.contains("wrong"), "{message}");
    }
    assert_eq!(sink.count("AUTH"), 1);
    assert_eq!(sink.count("MAIL"), 0);
}

#[tokio::test]
async fn a_login_that_fails_for_now_is_tried_again() {
    let script = Script::default().feature("AUTH PLAIN");
    let sink = script.on("AUTH", Do::Say("454 4.7.0 temporary failure")).start().await;
    let url = format!("smtp://ann:secret@127.0.0.1:{}", sink.port());
    let mail = Mail::new(&settings(Some(url))).unwrap();
    assert_eq!(mail.send(draft(), "job-1").await.unwrap_err().fault(), Fault::Passing);
    mail.send(draft(), "job-1").await.unwrap();
    // AUTH PLAIN: base64 of \0ann\0secret.
    assert!(sink.log().contains(&"2 AUTH PLAIN AGFubgBzZWNyZXQ=".to_owned()), "{:?}", sink.log());
}
