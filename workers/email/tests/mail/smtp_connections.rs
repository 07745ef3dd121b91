//! Tests of the pool: connections are reused, and a failed mail does not affect the next one.

use leveret_email::{address, error::FailureKind, mail::Mail};

use crate::{
    draft, mail_to, settings,
    sink::{Do, Script, Sink},
};

#[tokio::test]
async fn mails_share_a_connection() {
    let sink = Sink::start().await;
    let mail = mail_to(&sink);
    for number in 0..5 {
        mail.send(draft(), &format!("job-{number}")).await.unwrap();
    }
    assert_eq!((sink.count("CONNECT"), sink.mails().len()), (1, 5));
}

#[tokio::test]
async fn a_refused_recipient_does_not_cost_the_connection() {
    let sink = Script::default().on("RCPT", Do::Say("550 no such user")).start().await;
    let mail = mail_to(&sink);
    assert_eq!(mail.send(draft(), "job-1").await.unwrap_err().kind(), FailureKind::Permanent);
    mail.send(draft(), "job-2").await.unwrap();
    assert_eq!((sink.count("CONNECT"), sink.mails().len()), (1, 1));
}

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_nothing() {
    let sink = Script::default().on("RSET", Do::HangUp).start().await;
    let mail = mail_to(&sink);
    for number in 0..3 {
        mail.send(draft(), &format!("job-{number}")).await.unwrap();
    }
    assert_eq!((sink.count("CONNECT"), sink.mails().len()), (2, 3));
}

#[tokio::test]
async fn a_server_that_hangs_up_with_421_is_left_alone() {
    let sink = Script::default().on("RCPT", Do::Say("421 shutting down")).start().await;
    let mail = mail_to(&sink);
    assert_eq!(mail.send(draft(), "job-1").await.unwrap_err().kind(), FailureKind::Transient);
    mail.send(draft(), "job-2").await.unwrap();
    assert_eq!(sink.count("CONNECT"), 2);
}

#[tokio::test]
async fn a_cancelled_mail_cannot_answer_for_the_next() {
    for verb in ["MAIL", "RCPT", "DATA", "BODY"] {
        let sink = Script::default().on(verb, Do::KeepSilent).start().await;
        let mail = mail_to(&sink);
        tokio::select! {
            sent = mail.send(draft(), "job-1") => panic!("{verb}: {sent:?}"),
            () = sink.saw(verb) => {}
        }
        mail.send(draft(), "job-2").await.unwrap();
        assert_eq!((sink.count("CONNECT"), sink.mails().len()), (2, 1), "{verb}");
        assert!(String::from_utf8(sink.mails().remove(0)).unwrap().contains("<job-2@example.com>"));
    }
}

#[tokio::test]
async fn many_mails_at_once_all_arrive() {
    let sink = Sink::start().await;
    let mail = mail_to(&sink);
    let sends: Vec<_> = (0..50)
        .map(|number| {
            let mail = mail.clone();
            tokio::spawn(async move { mail.send(draft(), &format!("job-{number}")).await })
        })
        .collect();
    for send in sends {
        send.await.unwrap().unwrap();
    }
    assert_eq!(sink.mails().len(), 50);
}

#[tokio::test]
async fn an_address_beyond_ascii_needs_a_server_that_says_it_can() {
    let to_joerg = || {
        let mut draft = draft();
        draft.to = address::parse("Jörg <jörg@bücher.example>").unwrap();
        draft
    };
    let plain = Sink::start().await;
    let error = mail_to(&plain).send(to_joerg(), "job-1").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Permanent);
    assert!(error.to_string().contains("jörg@xn--bcher-kva.example"), "{error}");

    let mut answer_joerg = draft();
    answer_joerg.reply_to = Some(to_joerg().to);
    let error = mail_to(&plain).send(answer_joerg, "job-1").await.unwrap_err();
    assert!(error.to_string().contains("jörg@xn--bcher-kva.example"), "{error}");

    let able = Script::default().feature("SMTPUTF8").start().await;
    mail_to(&able).send(to_joerg(), "job-1").await.unwrap();
    let log = able.log();
    assert!(log.contains(&"1 MAIL FROM:<shop@example.com> SMTPUTF8 BODY=8BITMIME".to_owned()), "{log:?}");
    assert!(log.contains(&"1 RCPT TO:<jörg@xn--bcher-kva.example>".to_owned()), "{log:?}");
}

#[tokio::test]
async fn a_host_without_a_whole_name_greets_with_its_address() {
    let sink = Sink::start().await;
    let mail = Mail::new(&settings(Some(format!("smtp://127.0.0.1:{}", sink.port())))).unwrap();
    mail.send(draft(), "job-1").await.unwrap();
    let name = sink.log()[1].strip_prefix("1 EHLO ").unwrap().to_owned();
    assert!(name.contains('.'), "{name}");
}

#[tokio::test]
async fn a_server_that_has_enough_of_our_connections_is_not_taken_for_down() {
    let script =
        Script::default().on("CONNECT", Do::Say("220 hello")).on("CONNECT", Do::Say("421 too many connections"));
    let sink = script.on("BODY", Do::Late(500)).start().await;
    let mail = mail_to(&sink);
    let first = mail.clone();
    let first = tokio::spawn(async move { first.send(draft(), "job-1").await });
    sink.saw("BODY").await;
    assert_eq!(mail.send(draft(), "job-2").await.unwrap_err().kind(), FailureKind::Transient);
    first.await.unwrap().unwrap();
}
