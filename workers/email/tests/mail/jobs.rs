//! Tests of the jobs through the attempt of the framework.

use std::{path::Path, time::Duration};

use leveret::{Broker, CircuitBreaker, Config, ErrorKind, Job, Outcome, testing};
use leveret_email::{Mail, MailSettings, OrderConfirmation, OrderPlaced, SendEmail, worker};

use crate::{
    files_in, mail_to, settings,
    sink::{Do, Script, Sink},
};

fn send_email() -> SendEmail {
    SendEmail::new("Ann <ann@example.org>", "Hello", "Hello, Ann.")
}

fn order() -> OrderConfirmation {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/data/orders.jsonl");
    let orders = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(orders.lines().next().unwrap()).unwrap()
}

fn mail_into(directory: &Path) -> Mail {
    Mail::new(&files_in(directory)).unwrap()
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
async fn a_placed_order_ends_in_a_mail_to_its_customer_and_an_order_that_does_not_add_up_in_a_dead_letter() {
    let sink = Sink::start().await;
    let mail = mail_to(&sink);
    let placed = |customer: &str, total| {
        format!(
            r#"{{"order": 17, "customer": "{customer}", "lines": [{{"sku": "TEA-1", "quantity": 2, "cents": 890}}],
                "total_cents": {total}, "placed_at": "2026-11-21T15:00:00Z", "later": true}}"#
        )
    };
    let perform = async |payload: String| {
        let worker = worker(mail.clone());
        testing::perform_raw(worker, "order-mails", "order.placed", payload.as_bytes(), 1).await.unwrap()
    };
    assert_eq!(perform(placed("Ann <ann@example.org>", 1780)).await, Outcome::Done);
    let mails = sink.mails();
    let text = String::from_utf8_lossy(&mails[0]);
    for part in [
        "Subject: Order 17 confirmed\r\n",
        "To: Ann <ann@example.org>\r\n",
        "2 x TEA-1\r\n",
        "8.90 EUR each: 17.80 EUR",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(refused(perform(placed("ann", 1780)).await).contains("\"ann\""));
    assert!(refused(perform(placed("ann@example.org", 1781)).await).contains("1781"));
    assert_eq!(sink.mails().len(), 1);
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
async fn every_address_that_is_accepted_is_sent() {
    let sink = Sink::start().await;
    let mail = mail_to(&sink);
    for (to, sent) in [
        ("\"john doe\"@example.net", "<\"john doe\"@example.net>"),
        ("user@[192.0.2.1]", "<user@[192.0.2.1]>"),
        ("user@[IPv6:2001:db8::1]", "<user@[IPv6:2001:db8::1]>"),
        ("a..b@docomo.ne.jp", "<\"a..b\"@docomo.ne.jp>"),
        ("a.@docomo.ne.jp", "<\"a.\"@docomo.ne.jp>"),
        ("John (Sales) <j@example.org>", "<j@example.org>"),
        ("j@example.org <j@example.org>", "<j@example.org>"),
    ] {
        let mut job = send_email();
        (job.to, job.cc, job.reply_to) = (to.to_owned(), vec![to.to_owned()], Some(to.to_owned()));
        assert_eq!(perform(&mail, &job).await, Outcome::Done, "{to}");
        let log = sink.log();
        let last = log.iter().rev().find(|line| line.contains("RCPT")).unwrap();
        assert!(last.ends_with(&format!("RCPT TO:{sent}")), "{last}");
        let bytes = sink.mails().pop().unwrap();
        let parsed = mail_parser::MessageParser::default().parse(&bytes).unwrap();
        assert!(parsed.to().is_some() && parsed.cc().is_some() && parsed.reply_to().is_some(), "{to}");
    }
}

#[tokio::test]
async fn a_sender_may_be_any_address_that_can_be_sent() {
    let sink = Sink::start().await;
    for from in ["\"tea shop\"@example.com", "Tea (Shop) <shop@[192.0.2.1]>"] {
        let mut settings = settings(Some(sink.url()));
        settings.mail_from = from.to_owned();
        assert_eq!(perform(&Mail::new(&settings).unwrap(), &send_email()).await, Outcome::Done, "{from}");
    }
    assert_eq!(sink.mails().len(), 2);
}

#[tokio::test]
async fn a_job_that_can_never_succeed_is_a_dead_letter_that_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let mail = mail_into(directory.path());
    let mut no_address = send_email();
    no_address.to = "ann at example.org".to_owned();
    let reason = refused(perform(&mail, &no_address).await);
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
async fn a_payload_from_any_client_is_sent_whole_or_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let mail = mail_into(directory.path());
    let perform_raw = async |payload: &str| {
        testing::perform_raw(worker(mail.clone()), "email", "email.send", payload.as_bytes(), 1).await.unwrap()
    };
    let with = |field: &str| format!(r#"{{"to": "ann@example.org", "subject": "Hi", "text": "Hi"{field}}}"#);
    assert_eq!(perform_raw(&with(r#", "html": null, "cc": [], "reply_to": null"#)).await, Outcome::Done);
    for (payload, expected) in [
        (with(r#", "htlm": "<p>Hi</p>""#), "unknown field `htlm`"),
        (with(r#", "BCC": ["bob@example.org"]"#), "unknown field `BCC`"),
        (with(r#", "attachment": "a.pdf""#), "unknown field `attachment`"),
        (r#"{"to": "ann@example.org", "text": "Hi"}"#.to_owned(), "missing field `subject`"),
    ] {
        let outcome = perform_raw(&payload).await;
        let Outcome::DeadLetter { kind: ErrorKind::Decode, reason } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(expected), "{reason}");
    }
    for field in [r#", "cc": ["bob"]"#, r#", "bcc": ["ann@example.org", "bob"]"#, r#", "reply_to": "bob""#] {
        let reason = refused(perform_raw(&with(field)).await);
        assert!(reason.contains("\"bob\" is not a mail address"), "{reason}");
    }
}

#[tokio::test]
async fn copies_go_to_all_who_are_named_and_no_header_names_the_hidden() {
    let sink = Sink::start().await;
    let mut job = send_email();
    job.cc = vec!["Bob <bob@example.org>".to_owned(), "carol@example.org".to_owned()];
    job.bcc = vec!["dave@example.org".to_owned(), "BOB@example.org".to_owned(), "bob@example.org".to_owned()];
    job.reply_to = Some("Help <help@example.com>".to_owned());
    assert_eq!(perform(&mail_to(&sink), &job).await, Outcome::Done);
    let recipients: Vec<_> =
        sink.log().into_iter().filter_map(|line| Some(line.split_once("RCPT TO:")?.1.to_owned())).collect();
    let expected = ["ann", "bob", "carol", "dave", "BOB"].map(|name| format!("<{name}@example.org>"));
    assert_eq!(recipients, expected);
    let mail = String::from_utf8(sink.mails().remove(0)).unwrap();
    assert!(mail.contains("Reply-To: Help <help@example.com>\r\n"), "{mail}");
    assert!(mail.contains("Cc: Bob <bob@example.org>, carol@example.org\r\n"), "{mail}");
    assert!(!mail.contains("dave") && !mail.to_lowercase().contains("bcc"), "{mail}");
}

#[tokio::test]
async fn a_mail_goes_to_all_its_recipients_or_to_none() {
    let sink =
        Script::default().on("RCPT", Do::Say("250 fine")).on("RCPT", Do::Say("550 5.1.1 no such user")).start().await;
    let mut job = send_email();
    job.cc = vec!["bob@example.org".to_owned()];
    let reason = refused(perform(&mail_to(&sink), &job).await);
    assert!(reason.contains("\"bob@example.org\""), "{reason}");
    assert!(sink.mails().is_empty());

    job.bcc = vec!["carol@example.org".to_owned(); 99];
    let reason = refused(perform(&mail_to(&sink), &job).await);
    assert!(reason.contains("101 recipients") && reason.contains("100"), "{reason}");
}

#[tokio::test]
async fn a_refusal_of_the_configuration_opens_the_circuit_and_the_jobs_wait() {
    for (verb, answer) in [
        ("CONNECT", "554 5.7.1 Client host [192.0.2.7] blocked using zen.spamhaus.org"),
        ("EHLO", "504 Helo rejected"),
        ("MAIL", "553 5.7.1 sender not owned by this account"),
        ("RCPT", "554 5.7.1 Relay access denied"),
        ("BODY", "550 5.4.5 Daily user sending limit exceeded"),
    ] {
        let sink = Script::default().always(verb, answer).start().await;
        let broker = Broker::memory();
        let running = testing::start(worker(mail_to(&sink)), &broker).await.unwrap();
        broker.publisher().publish(&send_email()).await.unwrap();
        let open = "leveret_circuit_state{circuit=\"smtp\"} 2";
        while !broker.metrics_text().contains(open) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..50 {
            broker.publisher().publish(&send_email()).await.unwrap();
        }
        assert!(testing::dead_letters(&broker, "email").await.unwrap().is_empty());
        // The first attempt, and a probe on a slow machine.
        assert!(sink.count(verb) <= 2, "{verb}: {:?}", sink.log());
        running.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_job_that_never_reached_the_mail_server_does_not_close_its_circuit() {
    let sink = Script::default().always("MAIL", "553 5.7.1 sender not owned by this account").start().await;
    let server = CircuitBreaker::new("smtp").failures(1).open_for(Duration::from_millis(100));
    let broker = Broker::memory();
    let running = testing::start(worker(mail_to(&sink)).circuit_breaker(server), &broker).await.unwrap();
    let is = |series: &str| broker.metrics_text().lines().any(|line| line == series);
    let until = async |series: &str| {
        while !is(series) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    broker.publisher().publish(&send_email()).await.unwrap();
    until(r#"leveret_circuit_state{circuit="smtp"} 2"#).await;

    let no_mail = OrderPlaced {
        order: 17,
        customer: "ann@example.org".to_owned(),
        lines: Vec::new(),
        total_cents: 0,
        confirm: false,
    };
    broker.publisher().emit(&no_mail).await.unwrap();
    broker.publisher().publish(&SendEmail::new("ann at example.org", "Hello", "Hello.")).await.unwrap();
    let with_file = SendEmail { attachments: vec!["invoice-17.pdf".to_owned()], ..send_email() };
    broker.publisher().publish(&with_file).await.unwrap();
    for finished in [
        r#"leveret_jobs_finished_total{job="order.placed",outcome="succeeded",queue="order-mails"} 1"#,
        r#"leveret_jobs_finished_total{job="email.send",outcome="dead",queue="email"} 1"#,
        r#"leveret_jobs_finished_total{job="email.send",outcome="retried",queue="email"} 2"#,
    ] {
        until(finished).await;
        assert!(!is(r#"leveret_circuit_state{circuit="smtp"} 0"#), "{finished}");
    }
    assert_eq!(sink.count("MAIL"), 1, "{:?}", sink.log());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn refusals_of_single_mails_leave_the_circuit_closed() {
    let mut script = Script::default();
    for _ in 0..4 {
        script = script.on("RCPT", Do::Say("550 5.1.1 no such user"));
        script = script.on("RCPT", Do::Say("450 4.2.0 Greylisted"));
    }
    let sink = script.start().await;
    let broker = Broker::memory();
    let running = testing::start(worker(mail_to(&sink)), &broker).await.unwrap();
    for number in 0..20 {
        let job = SendEmail::new(format!("r{number}@example.org"), "Hello", "Hello.");
        broker.publisher().publish(&job).await.unwrap();
    }
    while sink.mails().len() < 12 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(broker.metrics_text().contains("leveret_circuit_state{circuit=\"smtp\"} 0"));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn an_attempt_that_is_stopped_while_the_server_has_the_mail_counts_as_one_of_unknown_fate() {
    let sink = Script::default().on("BODY", Do::KeepSilent).start().await;
    let broker = Broker::memory_with(Config { drain_timeout: Duration::from_millis(1), ..Config::default() });
    let running = testing::start(worker(mail_to(&sink)), &broker).await.unwrap();
    broker.publisher().publish(&send_email()).await.unwrap();
    sink.saw("BODY").await;
    running.stop().await.unwrap();
    let metrics = broker.metrics_text();
    let retried = "leveret_jobs_finished_total{job=\"email.send\",outcome=\"retried\",queue=\"email\"} 1";
    assert!(metrics.contains(retried), "{metrics}");
}

#[tokio::test]
async fn a_job_attaches_the_files_that_it_names_and_is_a_dead_letter_if_one_is_missing() {
    let (sink, files) = (Sink::start().await, tempfile::tempdir().unwrap());
    std::fs::write(files.path().join("invoice-17.pdf"), "%PDF-1.7 17").unwrap();
    let mail =
        Mail::new(&MailSettings { mail_attachment_dir: Some(files.path().to_owned()), ..settings(Some(sink.url())) });
    let mail = mail.unwrap();
    let with = |name: &str| OrderConfirmation { attachments: vec![name.to_owned()], ..order() };
    assert_eq!(perform(&mail, &with("invoice-17.pdf")).await, Outcome::Done);
    let sent = String::from_utf8_lossy(&sink.mails()[0]).into_owned();
    // "%PDF-1.7 17" in base64.
    assert!(sent.contains("Attached: invoice-17.pdf") && sent.contains("JVBERi0xLjcgMTc="), "{sent}");
    let reason = refused(perform(&mail, &with("invoice-18.pdf")).await);
    assert_eq!(reason, r#"attachment "invoice-18.pdf" does not exist in MAIL_ATTACHMENT_DIR"#);
    let job = SendEmail { attachments: vec!["../secret.pdf".to_owned()], ..send_email() };
    assert!(refused(perform(&mail, &job).await).contains("without directories"));
    // A worker without the directory cannot send this mail, and the job waits for one that can.
    let outcome = perform(&mail_to(&sink), &with("invoice-17.pdf")).await;
    let Outcome::Retry { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("MAIL_ATTACHMENT_DIR is not set"), "{reason}");
    assert_eq!(sink.mails().len(), 1);
}

#[tokio::test]
async fn an_order_that_a_workflow_confirms_is_not_confirmed_by_its_event_too() {
    let sink = Sink::start().await;
    let payload = r#"{"order": 17, "customer": "ann@example.org", "lines": [], "total_cents": 0, "confirm": false}"#;
    let worker = worker(mail_to(&sink));
    let outcome = testing::perform_raw(worker, "order-mails", "order.placed", payload.as_bytes(), 1).await.unwrap();
    assert_eq!((outcome, sink.mails().len()), (Outcome::Done, 0));
}
