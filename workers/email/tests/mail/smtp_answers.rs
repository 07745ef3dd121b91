//! Tests of the kind of failure for each reply of a mail server, and for a missing reply.

use std::time::Duration;

use leveret_email::{
    address,
    error::{FailureKind, MailError, SmtpStep},
    mail::Mail,
};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    draft, mail_to, settings,
    sink::{Do, Script, Sink},
};

/// Verb, reply to it, and the expected step and kind of the failure.
const ANSWERS: &[(&str, &str, SmtpStep, FailureKind)] = &[
    ("RCPT", "550 5.1.1 no such user", SmtpStep::Recipient, FailureKind::Permanent),
    ("RCPT", "553 5.1.3 bad mailbox", SmtpStep::Recipient, FailureKind::Permanent),
    ("RCPT", "530 5.7.0 must authenticate", SmtpStep::Recipient, FailureKind::Configuration),
    ("RCPT", "450 4.2.1 greylisted", SmtpStep::Recipient, FailureKind::Transient),
    ("RCPT", "451 4.3.0 try later", SmtpStep::Recipient, FailureKind::Transient),
    ("RCPT", "421 4.3.2 shutting down", SmtpStep::Recipient, FailureKind::Transient),
    ("DATA", "554 5.5.1 no valid recipients", SmtpStep::Content, FailureKind::Permanent),
    ("BODY", "552 5.3.4 too big", SmtpStep::Content, FailureKind::Permanent),
    ("BODY", "554 5.7.1 spam", SmtpStep::Content, FailureKind::Permanent),
    ("BODY", "452 4.3.1 disk full", SmtpStep::Content, FailureKind::Transient),
    ("MAIL", "550 5.7.1 sender not allowed", SmtpStep::Sender, FailureKind::Configuration),
    ("MAIL", "530 5.7.0 must authenticate", SmtpStep::Sender, FailureKind::Configuration),
    ("MAIL", "451 4.7.1 slow down", SmtpStep::Sender, FailureKind::Transient),
    ("EHLO", "502 5.5.1 unknown command", SmtpStep::Connect, FailureKind::Configuration),
    ("CONNECT", "554 5.7.1 your address is blocked", SmtpStep::Connect, FailureKind::Configuration),
    ("CONNECT", "421 4.3.2 too many connections", SmtpStep::Connect, FailureKind::ServerUnavailable),
    ("RCPT", "554 5.7.1 <ann@example.org>: Relay access denied", SmtpStep::Recipient, FailureKind::Configuration),
    (
        "RCPT",
        "504 5.5.2 <pod-7>: Helo command rejected: need fully-qualified hostname",
        SmtpStep::Recipient,
        FailureKind::Configuration,
    ),
    ("BODY", "554 Message rejected: Email address is not verified.", SmtpStep::Content, FailureKind::Configuration),
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
async fn a_refusal_is_final_for_the_job_only_when_it_is_about_its_mail() {
    for &(verb, answer, expected_step, expected_fault) in ANSWERS {
        let sink = Script::default().on(verb, Do::Say(answer)).start().await;
        let error = mail_to(&sink).send(draft(), "job-1").await.unwrap_err();
        let MailError::Server { step, kind, answer: shown, to, .. } = &error else {
            panic!("{verb} {answer}: {error}");
        };
        assert_eq!((*step, *kind), (expected_step, expected_fault), "{verb} {answer}");
        assert_eq!((shown.as_str(), to.as_str()), (answer, "ann@example.org"));
        assert!(sink.mails().is_empty());
    }
}

#[tokio::test]
async fn a_connection_that_drops_anywhere_is_tried_again() {
    for (verb, expected) in [
        ("CONNECT", FailureKind::ServerUnavailable),
        ("EHLO", FailureKind::ServerUnavailable),
        ("MAIL", FailureKind::Transient),
        ("RCPT", FailureKind::Transient),
        ("DATA", FailureKind::Transient),
        ("BODY", FailureKind::Unconfirmed),
    ] {
        let sink = Script::default().on(verb, Do::HangUp).start().await;
        let mail = mail_to(&sink);
        let error = mail.send(draft(), "job-1").await.unwrap_err();
        assert_eq!(error.kind(), expected, "{verb}: {error}");
        mail.send(draft(), "job-1").await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_answers_a_mail_late_gets_it_once() {
    let sink = Script::default().on("BODY", Do::Late(1_500)).start().await;
    let mut settings = settings(Some(sink.url()));
    settings.smtp_timeout = 1;
    Mail::new(&settings).unwrap().send(draft(), "job-1").await.unwrap();
    assert_eq!(sink.mails().len(), 1);
}

#[tokio::test]
async fn an_unconfirmed_mail_has_the_same_message_id_when_it_is_sent_again() {
    let sink = Script::default().on("BODY", Do::SayBytes(b"")).on("RSET", Do::HangUp).start().await;
    let mail = mail_to(&sink);
    tokio::select! {
        sent = mail.send(draft(), "job-1") => panic!("{sent:?}"),
        () = sink.saw("BODY") => {}
    }
    mail.send(draft(), "job-1").await.unwrap();
    let ids: Vec<_> = sink.mails().into_iter().map(|mail| String::from_utf8(mail).unwrap()).collect();
    assert_eq!(ids.iter().filter(|mail| mail.contains("Message-ID: <job-1@example.com>")).count(), 2);
}

#[tokio::test]
async fn the_code_decides_whatever_the_text() {
    let answers: [&[u8]; 7] = [
        b"250 accept\xe9\r\n",
        b"250\r\n",
        b"250 \r\n",
        b"\r\n250 queued\r\n",
        b"250 queued\n",
        b"250-\xff\xfe\r\n250 queued\r\n",
        b"250-queued\r\nas a filter says\r\n250 4F3A\r\n",
    ];
    for answer in answers {
        for verb in ["EHLO", "MAIL", "RCPT", "BODY"] {
            let sink = Script::default().on(verb, Do::SayBytes(answer)).start().await;
            let sent = mail_to(&sink).send(draft(), "job-1").await;
            assert!(sent.is_ok(), "{verb} {}: {sent:?}", answer.escape_ascii());
            assert_eq!(sink.mails().len(), 1);
        }
    }
    let sink = Script::default().on("BODY", Do::SayBytes(b"550 refus\xe9\r\n")).start().await;
    assert_eq!(mail_to(&sink).send(draft(), "job-1").await.unwrap_err().kind(), FailureKind::Permanent);
}

#[tokio::test]
async fn each_step_has_its_own_code_and_no_other_counts() {
    for (verb, answer, expected) in [
        ("CONNECT", "250 hello", FailureKind::ServerUnavailable),
        ("EHLO", "220 hello", FailureKind::ServerUnavailable),
        ("MAIL", "354 go on", FailureKind::Transient),
        ("RCPT", "354 go on", FailureKind::Transient),
        ("DATA", "250 fine", FailureKind::Transient),
        ("BODY", "354 go on", FailureKind::Unconfirmed),
        ("BODY", "221 bye", FailureKind::Unconfirmed),
    ] {
        let sink = Script::default().on(verb, Do::Say(answer)).start().await;
        let mail = mail_to(&sink);
        let error = mail.send(draft(), "job-1").await.unwrap_err();
        assert_eq!(error.kind(), expected, "{verb} {answer}: {error}");
        assert!(error.to_string().contains(answer), "{error}");
        // The session is out of sync, so the next mail opens another connection.
        mail.send(draft(), "job-2").await.unwrap();
        assert_eq!(sink.count("CONNECT"), 2, "{verb} {answer}");
    }
}

#[tokio::test]
async fn an_answer_that_was_not_asked_for_cannot_make_a_refused_mail_a_sent_one() {
    for verb in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"] {
        let twice: &[u8] = match verb {
            "CONNECT" => b"220 sink.example\r\n250 injected\r\n",
            "DATA" => b"354 go on\r\n250 injected\r\n",
            _ => b"250 fine\r\n250 injected\r\n",
        };
        let sink = Script::default().on(verb, Do::SayBytes(twice)).always("BODY", "550 refused").start().await;
        let sent = mail_to(&sink).send(draft(), "job-1").await;
        assert!(sent.is_err(), "{verb}");
        assert!(sink.mails().is_empty());
    }
}

#[tokio::test]
async fn a_login_that_the_server_lacks_is_a_configuration_failure_and_is_named() {
    for (feature, expected) in [("AUTH CRAM-MD5 XOAUTH2", "CRAM-MD5, XOAUTH2"), ("SIZE 1000", "offers none")] {
        let sink = Script::default().feature(feature).start().await;
        let mail = Mail::new(&settings(Some(format!("smtp://ann:hidden@127.0.0.1:{}", sink.port())))).unwrap();
        let error = mail.send(draft(), "job-1").await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Configuration);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!((sink.count("AUTH"), sink.count("MAIL")), (0, 0));
    }
}

#[tokio::test]
async fn a_server_that_repeats_a_login_shows_no_password() {
    // AUTH PLAIN: base64 of \0ann\0hidden.
    let echo = "500 not known: AUTH PLAIN AGFubgBoaWRkZW4=";
    let sink = Script::default().feature("AUTH PLAIN").on("AUTH", Do::Say(echo)).start().await;
    let mail = Mail::new(&settings(Some(format!("smtp://ann:hidden@127.0.0.1:{}", sink.port())))).unwrap();
    for _ in 0..2 {
        let message = mail.send(draft(), "job-1").await.unwrap_err().to_string();
        assert!(message.contains("not known: AUTH PLAIN ***") && !message.contains("AGFubg"), "{message}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_shows_no_password_either() {
    for echo in [
        "AUTH PLAIN AGFubgBoaWRkZW4=",
        "? PLAIN AGFubgBoaWRk",
        "ERR ann:hidden",
        "501-what\r\nAGFubgBoaWRkZW4=\r\n501 ?",
    ] {
        let sink = Script::default().feature("AUTH PLAIN").on("AUTH", Do::Say(echo)).start().await;
        let mail = Mail::new(&settings(Some(format!("smtp://ann:hidden@127.0.0.1:{}", sink.port())))).unwrap();
        let message = mail.send(draft(), "job-1").await.unwrap_err().to_string();
        assert!(message.contains("***"), "{message}");
        assert!(!message.contains("AGFu") && !message.contains("aWRk") && !message.contains("hidden"), "{message}");
    }
}

#[tokio::test]
async fn a_login_in_two_steps_is_spoken_where_there_is_no_plain() {
    let script = Script::default().feature("AUTH LOGIN").on("AUTH", Do::Say("334 VXNlcm5hbWU6"));
    // The sink reads user and password, base64 of ann and hidden, as commands.
    let sink = script.on("YW5U", Do::Say("334 UGFzc3dvcmQ6")).on("AGLKZGVU", Do::Say("235 welcome")).start().await;
    let mail = Mail::new(&settings(Some(format!("smtp://ann:hidden@127.0.0.1:{}", sink.port())))).unwrap();
    mail.send(draft(), "job-1").await.unwrap();
    assert_eq!(&sink.log()[2..5], ["1 AUTH LOGIN", "1 YW5u", "1 aGlkZGVu"]);
}

#[tokio::test]
async fn the_same_refusal_of_five_recipients_in_a_row_is_not_about_them() {
    let to = |number: usize| {
        let mut draft = draft();
        draft.to = address::parse(&format!("r{number}@example.org")).unwrap();
        draft
    };
    for (answer, single, run) in [
        ("550 no", FailureKind::Permanent, FailureKind::Configuration),
        ("450 no", FailureKind::Transient, FailureKind::ServerUnavailable),
    ] {
        let sink = Script::default().always("RCPT", answer).start().await;
        let mail = mail_to(&sink);
        for number in [0, 1, 1, 2, 3] {
            assert_eq!(mail.send(to(number), "job").await.unwrap_err().kind(), single, "{answer}");
        }
        for number in [4, 5, 0] {
            assert_eq!(mail.send(to(number), "job").await.unwrap_err().kind(), run, "{answer}");
        }
    }
    let mut script = Script::default();
    for number in 0..20 {
        script = script.on("RCPT", Do::Say(if number % 5 == 4 { "250 fine" } else { "550 no" }));
    }
    let sink = script.start().await;
    let mail = mail_to(&sink);
    for number in 0..20 {
        let sent = mail.send(to(number), "job").await;
        assert!(sent.as_ref().err().is_none_or(|error| error.kind() == FailureKind::Permanent), "{number}: {sent:?}");
    }
}

#[tokio::test]
async fn refusals_that_name_the_recipient_are_each_about_it_however_many_follow() {
    for (answer, expected) in [
        ("550 5.1.1 no", FailureKind::Permanent),
        ("550 no such user here", FailureKind::Permanent),
        ("450 4.2.0 Recipient address rejected: Greylisted", FailureKind::Transient),
    ] {
        let sink = Script::default().always("RCPT", answer).start().await;
        let mail = mail_to(&sink);
        for number in 0..8 {
            let mut draft = draft();
            draft.to = address::parse(&format!("r{number}@example.org")).unwrap();
            let error = mail.send(draft, "job").await.unwrap_err();
            assert_eq!(error.kind(), expected, "{number}: {error}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_refuses_or_is_cut_off_is_never_taken_for_yes() {
    for (answer, expected) in [
        (&b"554-Rejected, write to\r\n250 Main Street\r\n"[..], FailureKind::Permanent),
        (b"250-looks well\r\n451 is not\r\n", FailureKind::Transient),
        // A line without an end before the connection closes.
        (b"250", FailureKind::Unconfirmed),
        (b"250 fine", FailureKind::Unconfirmed),
        (b"250-looks well\r\n250 fi", FailureKind::Unconfirmed),
        (b"250-looks well\r\n45", FailureKind::Unconfirmed),
        (b"451 no", FailureKind::Transient),
        (b"550 refused", FailureKind::Permanent),
    ] {
        let sink = Script::default().on("BODY", Do::SayBytesAndHangUp(answer)).start().await;
        let error = mail_to(&sink).send(draft(), "job-1").await.unwrap_err();
        assert_eq!(error.kind(), expected, "{}: {error}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mail = Mail::new(&settings(Some(format!("smtp://127.0.0.1:{port}")))).unwrap();
    let error = mail.send(draft(), "job-1").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::ServerUnavailable);
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn a_server_that_talks_something_else_is_tried_again() {
    let sink = Script::default().on("CONNECT", Do::Say("HTTP/1.1 400 Bad Request")).start().await;
    let error = mail_to(&sink).send(draft(), "job-1").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::ServerUnavailable, "{error}");
}

#[tokio::test]
async fn a_silent_server_times_out_and_is_tried_again() {
    for (verb, expected, kind) in [
        ("CONNECT", SmtpStep::Connect, FailureKind::ServerUnavailable),
        ("RCPT", SmtpStep::Recipient, FailureKind::Transient),
    ] {
        let sink = Script::default().on(verb, Do::KeepSilent).start().await;
        let mut settings = settings(Some(sink.url()));
        settings.smtp_timeout = 1;
        let mail = Mail::new(&settings).unwrap();
        let start = Instant::now();
        let error = mail.send(draft(), "job-1").await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(60), "{verb}");
        let MailError::TimedOut { step, .. } = &error else { panic!("{verb}: {error}") };
        assert_eq!((*step, error.kind()), (expected, kind));
    }
}

#[tokio::test]
async fn a_wrong_password_is_a_configuration_failure_and_is_not_tried_again_at_once() {
    let script = Script::default().feature("AUTH PLAIN LOGIN");
    let sink = script.on("AUTH", Do::Say("535 5.7.8 bad credentials")).start().await;
    let url = format!("smtp://ann:wrong@127.0.0.1:{}", sink.port());
    let mail = Mail::new(&settings(Some(url))).unwrap();
    for _ in 0..3 {
        let error = mail.send(draft(), "job-1").await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Configuration);
        let message = error.to_string();
        assert!(message.contains("AUTH") && message.contains("535 5.7.8 bad credentials"), "{message}");
        assert!(!message.contains("wrong"), "{message}");
    }
    assert_eq!(sink.count("AUTH"), 1);
    assert_eq!(sink.count("MAIL"), 0);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_however_many_mails_wait() {
    let sink = Script::default().feature("AUTH PLAIN").always("AUTH", "535 5.7.8 bad credentials").start().await;
    let mail = Mail::new(&settings(Some(format!("smtp://ann:wrong@127.0.0.1:{}", sink.port())))).unwrap();
    let sends: Vec<_> = (0..16)
        .map(|number| {
            let mail = mail.clone();
            tokio::spawn(async move { mail.send(draft(), &format!("job-{number}")).await })
        })
        .collect();
    for send in sends {
        assert_eq!(send.await.unwrap().unwrap_err().kind(), FailureKind::Configuration);
    }
    assert_eq!(sink.count("AUTH"), 1);
}

#[tokio::test]
async fn a_login_that_fails_for_now_is_tried_again() {
    let script = Script::default().feature("AUTH PLAIN");
    let sink = script.on("AUTH", Do::Say("454 4.7.0 temporary failure")).start().await;
    let url = format!("smtp://ann:secret@127.0.0.1:{}", sink.port());
    let mail = Mail::new(&settings(Some(url))).unwrap();
    assert_eq!(mail.send(draft(), "job-1").await.unwrap_err().kind(), FailureKind::ServerUnavailable);
    mail.send(draft(), "job-1").await.unwrap();
    // AUTH PLAIN: base64 of \0ann\0secret.
    assert!(sink.log().contains(&"2 AUTH PLAIN AGFubgBzZWNyZXQ=".to_owned()), "{:?}", sink.log());
}
