//! TLS, of the broker and of its management API.

use leveret_harness::{Node, NodeOptions, free_port};
use leveret_tests::certificates::{Authority, Files};

use crate::clinic::{assert_says, node, visit};

#[tokio::test]
async fn over_tls_a_trusted_broker_is_checked_in_full_and_the_ca_of_an_untrusted_one_is_named() {
    let authority = Authority::new("Shop CA");
    let options = NodeOptions::default().plugin("rabbitmq_management").config("collect_statistics_interval = 500");
    let node = Node::start(options.tls(authority.node(&authority.certify("localhost"), false))).await;
    let (url, management) = (node.tls_url("guest:guest"), format!("https://localhost:{}", node.http_port()));
    let (files, others) = (Files::of(&authority), Files::of(&Authority::new("Other CA")));
    let ca = |files: &Files| files.path("ca.crt").display().to_string();
    let seen = visit(&url, &["--tls-ca", &ca(&files), "--management-url", &management]).await;
    seen.says("ok", "management", "management API");
    let distrusted = visit(&url, &["--tls-ca", &ca(&others), "--management-url", &management]).await;
    assert_eq!(distrusted.code, 3, "{distrusted:#?}");
    let said = distrusted.says("problem", "connection", "AMQP_URL");
    assert_says(&said, &["cannot be reached", "CN=Shop CA", "LEVERET_TLS_CA", "openssl s_client -connect localhost:"]);
}

#[tokio::test]
async fn tls_to_a_port_without_it_is_named_as_the_cause() {
    let url = node().await.url().replace("amqp://", "amqps://");
    let visit = visit(&url, &[]).await;
    assert_eq!(visit.code, 3, "{visit:#?}");
    assert_says(&visit.says("problem", "connection", "AMQP_URL"), &["does not speak TLS", "5671"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_wrong_usage() {
    let url = format!("amqps://localhost:{}", free_port());
    let visit = visit(&url, &["--tls-ca", "/nowhere/at/all"]).await;
    assert_eq!((visit.code, visit.stdout.as_str()), (2, ""), "{visit:#?}");
    assert_says(&visit.stderr, &["LEVERET_TLS_CA: /nowhere/at/all: No such file"]);
    assert!(!visit.stderr.contains("AMQP_URL"), "{visit:#?}");
}
