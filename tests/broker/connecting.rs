//! Connecting: the address, login and name of a connection.

use std::{process::Command, time::Duration};

use leveret::{Broker, Config, PublishError};
use leveret_harness::{Permissions, Process, Proxy, eventually, ignores_empty_variables, shared_node, unique};
use leveret_tests::jobs::{Act, publish, script};
use tokio::{io::AsyncReadExt, net::TcpListener, time::Instant};

use crate::support::{LONG, Place, RunFile, broker};

const PASSWORD: &str = "Qx7,Zk9;Vw:Jy=4";

fn scripted_worker(url: &str, queue: &str, file: &RunFile) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scripted-worker"));
    command.env("AMQP_URL", url).env("LEVERET_HTTP_ADDR", "127.0.0.1:0");
    command.args(["--queue", queue, "--runs"]).arg(file.path());
    command
}

#[tokio::test]
async fn a_password_with_commas_logs_in_and_no_log_line_holds_a_part_of_it_even_at_trace() {
    let vhost = shared_node().await.vhost().await;
    let user = unique("comma");
    vhost.node().add_user(&user, PASSWORD, vhost.name(), Permissions::ALL).await.unwrap();
    let url = vhost.url_for(&user, PASSWORD);
    let (place, file) = (Place::at(&vhost.url(), "trace"), RunFile::new());
    // The second address of the list is never needed.
    let list = format!("{url},amqp://127.0.0.1:1");
    let process = Process::spawn(scripted_worker(&list, &place.queue, &file).env("RUST_LOG", "trace"));
    place.declared().await;
    assert!(process.count("lapin") > 0, "the level is used");
    let parts: Vec<String> = PASSWORD
        .as_bytes()
        .windows(3)
        .flat_map(|part| {
            let text = String::from_utf8(part.to_vec()).unwrap();
            let bytes = format!("{}, {}, {}", part[0], part[1], part[2]);
            [text, bytes]
        })
        .collect();
    for line in process.lines() {
        let held = parts.iter().find(|part| line.contains(part.as_str()));
        assert!(held.is_none(), "{held:?} is in {line}");
    }
    let connected = process.wait_line("connected to the broker", LONG).await;
    let port = url.rsplit_once(':').unwrap().1.split('/').next().unwrap();
    assert!(connected.contains(&format!("broker=\"127.0.0.1:{port}\" address=127.0.0.1:{port}")), "{connected}");
}

#[tokio::test]
async fn connections_are_distinguished_by_program_host_process_and_version() {
    let vhost = shared_node().await.vhost().await;
    let (place, file) = (Place::at(&vhost.url(), "named"), RunFile::new());
    let process = Process::spawn(&scripted_worker(&vhost.url(), &place.queue, &file));
    process.wait_line("connected to the broker", LONG).await;
    let listed = async || {
        let list = ["list_connections", "--no-table-headers", "vhost", "client_properties"];
        let listed = vhost.node().ctl(&list).await.unwrap();
        let own = listed.lines().filter(|line| line.split_whitespace().next() == Some(vhost.name()));
        own.map(str::to_owned).collect::<Vec<_>>()
    };
    let pid = process.id();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let wanted = [
        format!("\"scripted-worker@{}#{pid} consume\"", host.trim()),
        r#"{"product","Leveret"}"#.to_owned(),
        format!("{{\"pid\",\"{pid}\"}}"),
        r#"{"program","scripted-worker"}"#.to_owned(),
        format!(r#"{{"host","{}"}}"#, host.trim()),
        format!(r#"{{"version","{}"}}"#, env!("CARGO_PKG_VERSION")),
    ];
    eventually("the connection is listed with all of it", LONG, async || {
        let listed = listed().await;
        listed.iter().any(|line| wanted.iter().all(|part| line.contains(part)))
    })
    .await;
    let named = broker(&(vhost.url() + "?connection_name=billing+9&auth_mechanism=amqplain"));
    drop(publish(&named, "nowhere", &script("x", [Act::Succeed])).await);
    eventually("the name in the address is used", LONG, async || {
        listed().await.iter().any(|line| line.contains(r#"{"connection_name","billing 9"}"#))
    })
    .await;
}

#[tokio::test]
async fn an_ipv6_address_leads_to_that_host() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let handle = broker(&format!("amqp://u:p@{}/%2f", listener.local_addr().unwrap()));
    let publishing = tokio::spawn(async move { drop(publish(&handle, "q", &script("x", [Act::Succeed])).await) });
    let (mut connection, _) = tokio::time::timeout(LONG, listener.accept()).await.expect("a connection").unwrap();
    let mut header = [0; 8];
    connection.read_exact(&mut header).await.unwrap();
    assert_eq!(&header, b"AMQP\0\0\x09\x01");
    publishing.abort();
}

#[tokio::test]
async fn a_login_that_is_refused_is_tried_again_after_seconds_that_double() {
    let proxy = Proxy::start(&shared_node().await.url()).await;
    let url = proxy.url().replace("guest:guest", "guest:wrong");
    let config = Config { amqp_url: vec![url], publish_timeout: LONG, ..Config::default() };
    let (handle, started) = (Broker::amqp(config).unwrap(), Instant::now());
    let publishing = tokio::spawn({
        let handle = handle.clone();
        async move { publish(&handle, "q", &script("x", [Act::Succeed])).await.map(drop) }
    });
    eventually("there is a third attempt", LONG, async || proxy.accepted() >= 3).await;
    assert!(started.elapsed() >= Duration::from_secs(3), "{:?}", started.elapsed());
    handle.close().await;
    let error = publishing.await.unwrap().unwrap_err();
    assert!(matches!(error, PublishError::Closed), "{error}");
}

#[tokio::test]
async fn an_address_where_nothing_listens_is_reported_as_a_refused_tcp_connection() {
    let handle = broker("amqp://u:p@127.0.0.1:1");
    let publisher = handle.publisher().fail_fast();
    let error = publisher.publish_raw("j", "q", "{}").await.unwrap_err().to_string();
    assert!(
        error.contains("127.0.0.1:1 cannot be reached: TCP connection to 127.0.0.1:1: Connection refused"),
        "{error}"
    );
    let handle = broker("amqp://u:p@no-such-host.invalid");
    let publisher = handle.publisher().fail_fast();
    let error = publisher.publish_raw("j", "q", "{}").await.unwrap_err().to_string();
    assert!(error.contains("lookup of \"no-such-host.invalid\": "), "{error}");
}

#[test]
fn a_handle_whose_runtime_has_ended_works_on_the_next() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // The node of the tests belongs to the runtime that starts it.
    let nodes = runtime();
    let place = nodes.block_on(async {
        let place = Place::shared("runtimes").await;
        place.declare().await;
        place.broker.close().await;
        place
    });
    let handle = broker(&place.url);
    for n in 0..3 {
        let job = script(&format!("of-{n}"), [Act::Succeed]);
        let other = runtime();
        other.block_on(async { publish(&handle, &place.queue, &job).await }).unwrap();
        assert_eq!(handle_metric(&handle, "leveret_broker_connected"), 1, "{n}");
    }
    nodes.block_on(async { handle.close().await });
    assert!(matches!(
        nodes.block_on(async { publish(&handle, "q", &script("x", [])).await }),
        Err(PublishError::Closed)
    ));
}

fn handle_metric(broker: &Broker, name: &str) -> i64 {
    let families = broker.registry().gather();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    family.get_metric()[0].get_gauge().get_value() as i64
}

#[tokio::test]
async fn a_variable_that_is_empty_counts_as_unset_and_one_that_is_wrong_is_named_with_its_flag() {
    let program = env!("CARGO_BIN_EXE_scripted-worker");
    let variables = ignores_empty_variables(program, &[]);
    assert!(variables.contains("LEVERET_NAMESPACE") && variables.len() > 15, "{variables:?}");
    let (place, file) = (Place::shared("empty").await, RunFile::new());
    let mut command = Command::new(program);
    command.envs(variables.iter().map(|name| (name, " "))).env("AMQP_URL", &place.url);
    command.args(["--http-addr", "127.0.0.1:0", "--queue", &place.queue, "--runs"]).arg(file.path());
    let process = Process::spawn(&command);
    place.declared().await;
    process.sigterm();
    assert!(process.wait_exit(LONG).await.success());
    for (variable, value, flag) in [
        ("LEVERET_HEARTBEAT", "soon", "--heartbeat"),
        ("LEVERET_NAMESPACE", "a b", "--namespace"),
        ("LEVERET_TOPOLOGY", "guess", "--topology"),
        ("LEVERET_PUBLISH_WINDOW", "-1", "--publish-window"),
        ("LEVERET_PUBLISH_WINDOW", "0", "--publish-window"),
        ("LEVERET_LOG_FORMAT", "xml", "--log-format"),
    ] {
        let run = scripted_worker(&place.url, "q", &file).env(variable, value).output().unwrap();
        let text = String::from_utf8(run.stderr).unwrap();
        assert!(!run.status.success() && text.contains(&format!("'{flag} <{variable}>'")), "{text}");
    }
}
