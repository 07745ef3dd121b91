//! TLS with a real node: which side trusts which, and the errors without trust.

use std::{future::IntoFuture, path::Path, process::Command, time::Duration};

use leveret::{Broker, Config, PublishError, RetryPolicy, probe::Probe};
use leveret_harness::{Node, NodeOptions, NodeTls, Permissions, Process, eventually, eventually_eq, unique};
use leveret_tests::{
    certificates::{Authority, Files},
    jobs::{Act, Log, publish, script, start, worker},
};
use tokio::net::TcpListener;

use crate::{
    metrics::{get, health_of},
    support::{LONG, RunFile},
};

/// Starts a node with these files of `deploy/rabbitmq`, with its own paths and ports, and with password logins.
async fn node(tls: NodeTls, files: &[&str]) -> Node {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rabbitmq");
    let of_its_own = |line: &&str| !["file = ", "listeners.", "management."].iter().any(|other| line.contains(other));
    let mut options = NodeOptions::default().plugin("rabbitmq_auth_mechanism_ssl").tls(tls);
    for file in files {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        options = text.lines().filter(of_its_own).fold(options, NodeOptions::config);
    }
    Node::start(options.config("auth_mechanisms.2 = PLAIN")).await
}

const TLS: [&str; 1] = ["tls.conf"];
const MUTUAL: [&str; 3] = ["tls.conf", "mtls.conf", "external.conf"];

fn plain(url: &str) -> Config {
    Config { amqp_url: vec![url.to_owned()], ..Config::default() }
}

/// Returns the error of a tool that connects.
async fn refusal(config: &Config) -> String {
    Probe::connect(&config.amqp_url[0], config).await.expect_err("the connection is refused").to_string()
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

/// Runs one job there.
async fn work(config: Config) -> Broker {
    let (broker, queue, log) = (Broker::amqp(config).unwrap(), unique("tls"), Log::default());
    let running =
        start(worker(&queue, |queue| queue.retry(RetryPolicy::fixed(Duration::from_millis(100))), &log), &broker);
    let job = script("one", [Act::Fail("not yet".into()), Act::Succeed]);
    eventually("it is published", LONG, async || publish(&broker, &queue, &job).await.is_ok()).await;
    log.until("it is done at the second attempt", |runs| runs.iter().any(|run| run.attempt == 2 && run.finished)).await;
    running.stop().await.unwrap();
    broker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_works_over_tls_and_a_broker_that_it_cannot_trust_is_refused_with_what_to_do() {
    let (authority, foreign) = (Authority::new("Shop CA"), Authority::new("Other CA"));
    let node = node(authority.node(&authority.certify("localhost"), false), &TLS).await;
    let (files, url) = (Files::of(&authority), node.tls_url("guest:guest"));
    work(files.config(&url)).await.close().await;

    let unknown = r#"the broker's certificate is issued by the CA "CN=Shop CA""#;
    let said = refusal(&Files::of(&foreign).config(&url)).await;
    assert_says(&said, &[unknown, "ca.crt: LEVERET_TLS_CA must name"]);
    assert_says(&refusal(&plain(&url)).await, &[unknown, "this system does not know", "LEVERET_TLS_CA"]);
    let by_number = url.replace("localhost", "127.0.0.1");
    assert_says(&refusal(&files.config(&by_number)).await, &[r#"not for "127.0.0.1""#, "AMQP_URL", "localhost"]);
    files.lay(&authority.certify("worker"));
    let said = refusal(&files.mutual(&external(&node))).await;
    assert_says(&said, &["no login by certificate", "rabbitmq_auth_mechanism_ssl", "only PLAIN"]);
    let without_tls = url.replace("amqps://", "amqp://");
    assert_says(&refusal(&plain(&without_tls)).await, &["if this is its TLS port, use amqps://"]);
    let not_for_tls = node.url().replace("amqp://", "amqps://");
    assert_says(&refusal(&files.config(&not_for_tls)).await, &["does not speak TLS", "5671", "amqp://"]);
    node.exchange_tls(&authority.node(&authority.certify_until_2001("localhost"), false)).await.unwrap();
    assert_says(
        &refusal(&files.config(&url)).await,
        &["the broker's certificate expired", "days ago", "needs a new one"],
    );
    node.exchange_tls(&authority.node(&authority.certify("rabbit.example.org"), false)).await.unwrap();
    assert_says(&refusal(&files.config(&url)).await, &[r#"not for "localhost""#, "rabbit.example.org"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_requires_certificates_accepts_clients_with_one_and_others_learn_what_is_missing() {
    let (authority, foreign) = (Authority::new("Shop CA"), Authority::new("Other CA"));
    let node = node(authority.node(&authority.certify("localhost"), true), &MUTUAL).await;
    let (files, by_password, by_certificate) = (Files::of(&authority), node.tls_url("guest:guest"), external(&node));
    let required = ["requires a client certificate", "LEVERET_TLS_CERT and LEVERET_TLS_KEY"];
    files.lay(&authority.certify("worker"));
    work(files.mutual(&by_password)).await.close().await;

    assert_says(
        &refusal(&files.mutual(&by_certificate)).await,
        &["refuses the login", "of the certificate", "EXTERNAL"],
    );
    node.add_user("worker", "unknown to it", "/", Permissions::ALL).await.unwrap();
    work(files.mutual(&by_certificate)).await.close().await;

    // The refusal may come at any step of the handshake.
    for _ in 0..20 {
        assert_says(&refusal(&files.config(&by_password)).await, &required);
        files.lay(&foreign.certify("worker"));
        let refuses = ["refuses the certificate in ", "tls.crt of LEVERET_TLS_CERT", "UnknownCA"];
        assert_says(&refusal(&files.mutual(&by_certificate)).await, &refuses);
        files.lay(&authority.certify_until_2001("worker"));
        assert_says(&refusal(&files.mutual(&by_certificate)).await, &["refuses the certificate", "CertificateExpired"]);
    }
    std::fs::write(files.path("tls.key"), authority.certify("worker").key).unwrap();
    let said = refusal(&files.mutual(&by_certificate)).await;
    assert_says(&said, &["LEVERET_TLS_CERT: ", "is LEVERET_TLS_KEY the key of this certificate?"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_certified_itself_is_trusted_when_the_settings_name_exactly_its_certificate() {
    let (itself, certified) = Authority::of_itself("localhost", false);
    let node = node(itself.node(&certified, false), &TLS).await;
    let (files, url) = (Files::of(&itself), node.tls_url("guest:guest"));
    // Some editors write a byte order mark before the text.
    std::fs::write(files.path("ca.crt"), format!("\u{feff}{}", itself.pem())).unwrap();
    work(files.config(&url)).await.close().await;

    let by_number = url.replace("localhost", "127.0.0.1");
    assert_says(&refusal(&files.config(&by_number)).await, &[r#"not for "127.0.0.1""#]);
    let (other, _) = Authority::of_itself("localhost", false);
    assert_says(&refusal(&Files::of(&other).config(&url)).await, &["cannot be reached", "certificate"]);
    let (expired, certified) = Authority::of_itself("localhost", true);
    node.exchange_tls(&expired.node(&certified, false)).await.unwrap();
    assert_says(&refusal(&Files::of(&expired).config(&url)).await, &["the broker's certificate expired"]);
}

fn external(node: &Node) -> String {
    node.tls_url("") + "?auth_mechanism=external"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_exchanged_on_disk_is_the_next_connections() {
    let authority = Authority::new("Shop CA");
    let node = node(authority.node(&authority.certify("localhost"), true), &MUTUAL).await;
    let files = Files::of(&authority);
    for user in ["before", "after"] {
        node.add_user(user, "unknown to it", "/", Permissions::ALL).await.unwrap();
    }
    files.lay(&authority.certify("before"));
    let broker = work(files.mutual(&external(&node))).await;
    let users = async || {
        let listed = node.ctl(&["list_connections", "--no-table-headers", "user"]).await.unwrap();
        let mut users: Vec<_> = listed.lines().map(str::to_owned).collect();
        users.dedup();
        users
    };
    eventually_eq("both connections are of the first", LONG, vec!["before".to_owned()], users).await;
    files.lay(&authority.certify("after"));
    node.ctl(&["close_all_connections", "exchanged"]).await.unwrap();
    eventually_eq("both are of the second", LONG, vec!["after".to_owned()], users).await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_trust_its_broker_says_so_in_the_log_and_at_readyz_and_a_wrong_file_stops_it() {
    let authority = Authority::new("Shop CA");
    let node = node(authority.node(&authority.certify("localhost"), false), &TLS).await;
    let (files, runs) = (Files::of(&Authority::new("Other CA")), RunFile::new());
    let run = |ca: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scripted-worker"));
        command.env("AMQP_URL", node.tls_url("guest:guest")).env("LEVERET_HTTP_ADDR", "127.0.0.1:0");
        command.env("LEVERET_TLS_CA", files.path(ca)).env("RUST_LOG", "info,lapin=off");
        Process::spawn(command.args(["--queue", "tls", "--runs"]).arg(runs.path()))
    };
    let process = run("ca.crt");
    let address = health_of(&process).await;
    let logged = process.wait_line("cannot connect to the broker", LONG).await;
    assert_says(&logged, &["Shop CA", "LEVERET_TLS_CA"]);
    let (status, unready) = get(&address, "/readyz").await;
    assert_eq!(status, 503);
    assert_says(&unready, &["the broker is unreachable", "Shop CA", "LEVERET_TLS_CA"]);
    std::fs::write(files.path("ca.crt"), authority.pem()).unwrap();
    eventually("the file is read again", LONG, async || get(&address, "/readyz").await.0 == 200).await;

    let process = run("missing.crt");
    assert!(!process.wait_exit(LONG).await.success());
    let lines = process.lines().join("\n");
    assert_says(&lines, &["LEVERET_TLS_CA: ", "missing.crt: No such file"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_accepts_a_connection_and_no_handshake_is_abandoned_soon() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqps://{}", listener.local_addr().unwrap());
    let files = Files::of(&Authority::new("Shop CA"));
    let broker = Broker::amqp(Config { publish_timeout: Duration::from_secs(5), ..files.config(&url) }).unwrap();
    let (mut held, job) = (Vec::new(), script("x", [Act::Succeed]));
    let publishing = publish(&broker, "q", &job).into_future();
    tokio::pin!(publishing);
    let published = loop {
        tokio::select! {
            published = &mut publishing => break published,
            taken = listener.accept() => held.push(taken.unwrap()),
        }
    };
    assert!(held.len() > 1, "the first is replaced by a second");
    let Err(PublishError::Unavailable { reason, .. }) = published else { panic!("{published:?}") };
    assert_says(&reason, &["no answer"]);
}
