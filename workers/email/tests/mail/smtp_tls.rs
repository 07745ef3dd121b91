//! Tests of TLS: with `tls=required` nothing is sent without TLS.

use std::{io::Write, sync::Arc};

use leveret_email::{error::FailureKind, mail::Mail};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::NamedTempFile;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use crate::{
    draft, settings,
    sink::{Do, Script, Sink},
};

/// Returns the TLS acceptor of a server, and the file with its CA.
fn tls() -> (TlsAcceptor, NamedTempFile) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut authority = NamedTempFile::new().unwrap();
    authority.write_all(cert.pem().as_bytes()).unwrap();
    (TlsAcceptor::from(Arc::new(config)), authority)
}

fn mail(url: String, authority: Option<&NamedTempFile>) -> Mail {
    let mut settings = settings(Some(url));
    settings.smtp_ca_file = authority.map(|file| file.path().to_owned());
    Mail::new(&settings).unwrap()
}

fn credentials_at(sink: &Sink, scheme: &str, rest: &str) -> String {
    format!("{scheme}://ann:secret@localhost:{}{rest}", sink.port())
}

#[tokio::test]
async fn required_tls_sends_nothing_to_a_server_without_it() {
    let sink = Script::default().feature("AUTH PLAIN").start().await;
    let error = mail(credentials_at(&sink, "smtp", "?tls=required"), None).send(draft(), "job-1").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Configuration, "{error}");
    assert!(error.to_string().contains("STARTTLS"), "{error}");
    assert_eq!((sink.count("AUTH"), sink.count("MAIL")), (0, 0));
}

#[tokio::test]
async fn required_tls_upgrades_before_anything_is_said() {
    let (acceptor, authority) = tls();
    let script = Script::default().feature("STARTTLS").feature("AUTH PLAIN");
    let sink = script.tls(acceptor, false).start().await;
    let mail = mail(credentials_at(&sink, "smtp", "?tls=required"), Some(&authority));
    mail.send(draft(), "job-1").await.unwrap();
    let verbs: Vec<_> = sink.log().iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(verbs, ["CONNECT", "EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "BODY"]);
}

#[tokio::test]
async fn smtps_encrypts_from_the_first_byte() {
    let (acceptor, authority) = tls();
    let sink = Script::default().feature("AUTH PLAIN").tls(acceptor, true).start().await;
    mail(credentials_at(&sink, "smtps", ""), Some(&authority)).send(draft(), "job-1").await.unwrap();
    assert_eq!(sink.mails().len(), 1);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_trusted() {
    let (acceptor, _) = tls();
    let sink = Script::default().tls(acceptor, true).start().await;
    let error = mail(credentials_at(&sink, "smtps", ""), None).send(draft(), "job-1").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Configuration, "{error}");
    assert!(sink.log().is_empty(), "{:?}", sink.log());
}

#[tokio::test]
async fn opportunistic_tls_uses_what_the_server_offers() {
    let (acceptor, authority) = tls();
    let able = Script::default().feature("STARTTLS").tls(acceptor, false).start().await;
    let url = |sink: &Sink| format!("smtp://localhost:{}?tls=opportunistic", sink.port());
    mail(url(&able), Some(&authority)).send(draft(), "job-1").await.unwrap();
    assert_eq!(able.count("STARTTLS"), 1);

    let plain = Sink::start().await;
    mail(url(&plain), Some(&authority)).send(draft(), "job-1").await.unwrap();
    assert_eq!((plain.count("STARTTLS"), plain.mails().len()), (0, 1));
}

#[tokio::test]
async fn data_before_the_upgrade_ends_the_connection() {
    let (acceptor, authority) = tls();
    let injected: [&[u8]; 3] = [
        b"220 go ahead\r\n250 fine\r\n",
        b"220 go ahead\r\n250",
        b"220 go ahead\r\n250-sink.example\r\n250 AUTH PLAIN\r\n",
    ];
    for injected in injected {
        let script = Script::default().feature("STARTTLS").always("RCPT", "550 no such user");
        let sink = script.tls(acceptor.clone(), false).on("STARTTLS", Do::SayBytes(injected)).start().await;
        let url = format!("smtp://localhost:{}?tls=required", sink.port());
        let error = mail(url, Some(&authority)).send(draft(), "job-1").await.unwrap_err();
        assert!(error.to_string().contains("before TLS started"), "{error}");
        assert_eq!((error.kind(), sink.count("MAIL")), (FailureKind::ServerUnavailable, 0));
    }
}

#[tokio::test]
async fn tls_to_a_port_without_it_is_a_configuration_failure() {
    let sink = Sink::start().await;
    let error = mail(format!("smtps://localhost:{}", sink.port()), None).send(draft(), "job-1").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Configuration, "{error}");
}

#[test]
fn an_authority_for_a_server_without_tls_stops_the_start() {
    let (_, authority) = tls();
    let mut settings = settings(Some("smtp://localhost".to_owned()));
    settings.smtp_ca_file = Some(authority.path().to_owned());
    let message = Mail::new(&settings).unwrap_err().to_string();
    assert!(message.contains("SMTP_CA_FILE") && message.contains("SMTP_URL"), "{message}");
}

#[test]
fn a_certificate_file_that_holds_none_stops_the_start() {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(b"not a certificate").unwrap();
    let mut settings = settings(Some("smtps://localhost".to_owned()));
    settings.smtp_ca_file = Some(file.path().to_owned());
    let message = Mail::new(&settings).unwrap_err().to_string();
    assert!(message.contains("SMTP_CA_FILE"), "{message}");
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_is_named_and_not_the_url() {
    let (_, authority) = tls();
    let pem = std::fs::read_to_string(authority.path()).unwrap();
    let no_certificate = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    for text in ["", "hello", no_certificate, &format!("{pem}{no_certificate}")] {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut settings = settings(Some("smtps://mail.example.com".to_owned()));
        settings.smtp_ca_file = Some(file.path().to_owned());
        let error = Mail::new(&settings).unwrap_err().to_string();
        assert!(error.contains("SMTP_CA_FILE") && !error.contains("SMTP_URL"), "{error}");
    }
}
