#[cfg(feature = "tls")]
use std::path::PathBuf;

use super::*;
use crate::transport::amqp::address::parse_addresses;

fn refused(url: &str, change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config { amqp_url: vec![url.to_owned()], ..Config::default() };
    change(&mut config);
    let addresses = parse_addresses(&config).unwrap();
    Tls::new(&config, &addresses).unwrap_err().to_string()
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_file_without_tls_compiled_in_is_refused() {
    assert_says(
        &refused("amqp://h", |config| config.tls_key = Some("k".into())),
        &["LEVERET_TLS_KEY", "`tls` feature"],
    );
}

#[cfg(feature = "tls")]
#[test]
fn a_tls_file_without_an_amqps_address_is_refused() {
    let said = refused("amqp://h", |config| config.tls_cert = Some("c".into()));
    assert_says(&said, &["LEVERET_TLS_CERT", "amqps:// only", "AMQP_URL"]);
}

#[cfg(feature = "tls")]
#[test]
fn a_certificate_and_its_key_belong_together() {
    let said = refused("amqps://h", |config| config.tls_cert = Some("c".into()));
    assert_says(&said, &["LEVERET_TLS_CERT: ", "set LEVERET_TLS_KEY"]);
    let said = refused("amqps://h", |config| config.tls_key = Some("k".into()));
    assert_says(&said, &["LEVERET_TLS_KEY: ", "set LEVERET_TLS_CERT"]);
}

#[test]
fn a_login_by_certificate_requires_one() {
    let said = refused("amqp://h?auth_mechanism=external", |_| {});
    assert_says(&said, &["auth_mechanism=external", "amqps://", "LEVERET_TLS_CERT"]);
}

#[cfg(feature = "tls")]
#[test]
fn the_error_names_a_file_that_is_missing_or_useless() {
    let nowhere = || Some(PathBuf::from("/nowhere/at/all"));
    let said = refused("amqps://h", |config| config.tls_ca = nowhere());
    assert_says(&said, &["LEVERET_TLS_CA: /nowhere/at/all: No such file"]);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let said = refused("amqps://h", |config| config.tls_ca = Some(source.into()));
    assert_says(&said, &["LEVERET_TLS_CA: ", "Cargo.toml: the file has no certificate in PEM"]);
    let said = refused("amqps://h", |config| {
        (config.tls_cert, config.tls_key) = (Some(source.into()), nowhere());
    });
    assert_says(&said, &["LEVERET_TLS_KEY: /nowhere/at/all: No such file"]);
    let said = refused("amqps://h", |config| {
        (config.tls_cert, config.tls_key) = (nowhere(), Some(source.into()));
    });
    assert_says(&said, &["LEVERET_TLS_KEY: ", "Cargo.toml: the file has no private key in PEM"]);
}
