//! Tests that a mail has the content of its job, and no more.

use std::time::{Duration, Instant};

use leveret_email::{
    address,
    attachments::Attachment,
    compose::{MailDraft, compose},
    error::FailureKind,
    order::OrderConfirmation,
};
use mail_parser::{Message, MessageParser, MimeHeaders};

use crate::{draft, mail_to, sink::Sink};

fn composed(draft: MailDraft, job_id: &str) -> Message<'static> {
    let from = address::parse("Tea Shop <shop@example.com>").unwrap();
    let bytes = compose(draft, Vec::new(), &from, job_id).unwrap().formatted();
    assert!(bytes.split(|b| *b == b'\n').all(|line| line.len() <= 999), "a line is too long");
    MessageParser::default().parse(&bytes).unwrap().into_owned()
}

fn header_names(mail: &Message<'_>) -> Vec<String> {
    let mut names: Vec<_> = mail.headers().iter().map(|header| header.name().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_mail_has_the_headers_that_mail_needs() {
    let mail = composed(draft(), "job-1");
    assert_eq!(
        header_names(&mail),
        [
            "Auto-Submitted",
            "Content-Transfer-Encoding",
            "Content-Type",
            "Date",
            "From",
            "MIME-Version",
            "Message-ID",
            "Subject",
            "To"
        ]
    );
    assert_eq!(mail.from().unwrap().first().unwrap().name(), Some("Tea Shop"));
    assert_eq!(mail.to().unwrap().first().unwrap().address(), Some("ann@example.org"));
    assert_eq!(mail.header("Auto-Submitted").unwrap().as_text(), Some("auto-generated"));
    assert!(mail.date().is_some());
    assert_eq!(mail.body_text(0).unwrap().trim_end(), "Hello, Ann.");
}

#[test]
fn the_message_id_follows_from_the_job_id_alone() {
    let id = |job: &str| composed(draft(), job).message_id().unwrap().to_owned();
    assert_eq!(id("job-1"), "job-1@example.com");
    assert_eq!(id("Ünï\0\r\n<x>"), id("Ünï\0\r\n<x>"));
    assert_ne!(id("job-1"), id("job-2"));
    assert_ne!(id("a/b"), id("a-b"));
    assert_ne!(id("A"), id("a"));
}

#[test]
fn a_subject_cannot_become_another_header_or_the_body() {
    let plain = header_names(&composed(draft(), "job-1"));
    for end in ["\r\n", "\n", "\r", "\r\n\r\n", "\u{85}", "\u{2028}", "\0", "é\r\n"] {
        let mut hostile = draft();
        hostile.subject = format!("Hi{end}Bcc: eve@example.org{end}");
        let mail = composed(hostile, "job-1");
        assert_eq!(header_names(&mail), plain, "{end:?}");
        let subject = mail.subject().unwrap();
        assert!(subject.starts_with("Hi") && subject.contains("Bcc: eve@example.org"), "{subject:?}");
        assert!(!subject.contains(char::is_control), "{subject:?}");
        assert_eq!(mail.body_text(0).unwrap().trim_end(), "Hello, Ann.");
    }
}

#[test]
fn names_and_subjects_in_any_script_arrive_as_written() {
    for name in [
        "Zoë O'Brien",
        "佐藤 陽菜",
        "D'Arcy \"Bo\" Fitzgerald",
        "Okafor, Jr.",
        "Mary 🌻 Jane",
        "a\\b",
        "<eve@example.org>",
    ] {
        let mut named = draft();
        named.to = address::mailbox(name, "ann@example.org").unwrap();
        named.subject = format!("Für {name}: {}", "日本語 🍵 ".repeat(20).trim());
        let expected = named.subject.clone();
        let mail = composed(named, "job-1");
        let to = mail.to().unwrap();
        assert_eq!(to.iter().count(), 1, "{name}");
        assert_eq!(to.first().unwrap().name(), Some(name));
        assert_eq!(to.first().unwrap().address(), Some("ann@example.org"));
        assert_eq!(mail.subject(), Some(expected.as_str()));
    }
}

#[test]
fn a_subject_without_end_is_the_jobs_fault() {
    let from = address::parse("shop@example.com").unwrap();
    let mut long = draft();
    long.subject = "x".repeat(1_000_000);
    let error = compose(long, Vec::new(), &from, "job-1").unwrap_err();
    assert_eq!(error.kind(), FailureKind::Permanent);
    assert!(error.to_string().contains("1000000"), "{error}");
    let mut longest = draft();
    longest.subject = "x".repeat(900);
    composed(longest, "job-1");
}

#[test]
fn text_and_html_are_alternatives() {
    let mut both = draft();
    both.html = Some("<p>Hello, <b>Ann</b> – 日本</p>".to_owned());
    let mail = composed(both, "job-1");
    assert!(mail.content_type().unwrap().subtype().unwrap() == "alternative");
    assert_eq!(mail.body_text(0).unwrap().trim_end(), "Hello, Ann.");
    assert_eq!(mail.body_html(0).unwrap(), "<p>Hello, <b>Ann</b> – 日本</p>");
}

#[tokio::test]
async fn a_body_cannot_end_the_mail_early() {
    let bodies = [
        ".",
        ".\r\n",
        "a\n.\nMAIL FROM:<eve@example.org>\n",
        "a\r\n.\r\nRSET\r\n",
        "a\r.\rb",
        "a\n.\r\nb",
        "..\n...\n",
        "a\0b\u{1}\u{7f}",
        "日本\r.\n🍵",
    ];
    let sink = Sink::start().await;
    let mail = mail_to(&sink);
    for (index, body) in bodies.into_iter().enumerate() {
        let mut hostile = draft();
        hostile.text = body.to_owned();
        mail.send(hostile, "job-1").await.unwrap();
        let taken = sink.mails();
        assert_eq!((taken.len(), sink.count("CONNECT")), (index + 1, 1), "{body:?}");
        let raw = &taken[index];
        let bare = raw.windows(2).any(|w| (w[0] == b'\r') != (w[1] == b'\n'));
        assert!(!bare && !raw.contains(&0), "{body:?}");
        let parsed = MessageParser::default().parse(raw).unwrap();
        let text = parsed.body_text(0).unwrap().replace("\r\n", "\n");
        let expected = body.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(text.trim_end_matches('\n'), expected.trim_end_matches('\n'), "{body:?}");
    }
}

#[test]
fn a_large_body_of_short_lines_is_composed_in_no_time() {
    let mut large = draft();
    large.text = "\n".repeat(500_000);
    large.html = Some("é\n".repeat(300_000));
    let start = Instant::now();
    composed(large, "job-1");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn every_order_of_the_demo_arrives_as_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/data/orders.jsonl");
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let order: OrderConfirmation = serde_json::from_str(line).expect(line);
        let mail = composed(order.draft().unwrap(), &order.id);
        let to = mail.to().unwrap();
        assert_eq!(to.first().unwrap().name(), Some(order.customer.name.as_str()));
        assert_eq!(to.first().unwrap().address(), Some(order.customer.email.as_str()));
        let text = mail.body_text(0).unwrap();
        for line in &order.lines {
            assert!(text.contains(&line.description), "{text}");
        }
    }
}

#[test]
fn an_attached_file_arrives_with_its_name_and_every_byte() {
    let content: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    for (html, name) in [(None, "invoice-17.pdf"), (Some("<p>Hello</p>"), "Rechnung für \"Ann\" – 請求書.pdf")] {
        let file = Attachment { name: name.to_owned(), content_type: "application/pdf", content: content.clone() };
        let from = address::parse("Tea Shop <shop@example.com>").unwrap();
        let draft = MailDraft { html: html.map(str::to_owned), ..draft() };
        let bytes = compose(draft, vec![file], &from, "job-1").unwrap().formatted();
        assert!(bytes.is_ascii() && bytes.split(|b| *b == b'\n').all(|line| line.len() <= 999), "a line is too long");
        let mail = MessageParser::default().parse(&bytes).unwrap();
        assert_eq!(mail.body_text(0).unwrap().trim_end(), "Hello, Ann.");
        assert_eq!(mail.html_body_count(), 1);
        let attached = mail.attachment(0).unwrap();
        assert_eq!((attached.attachment_name(), attached.contents()), (Some(name), content.as_slice()));
        assert_eq!(attached.content_type().unwrap().subtype(), Some("pdf"));
        assert_eq!(mail.attachment_count(), 1);
    }
}
