//! The metrics and probes of a running worker.

use std::{io::Write, process::Stdio, time::Duration};

use leveret_harness::{Process, Proxy, eventually, promtool, shared_node, unique};
use leveret_tests::jobs::{Act, publish, script};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{LONG, Place, RunFile};

/// The status and body of a GET.
pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub(crate) async fn health_of(process: &Process) -> String {
    let line = process.wait_line("health at ", LONG).await;
    line.rsplit(' ').next().unwrap().to_owned()
}

/// The value of a series, by its name and labels as they are written.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_of_a_running_worker_pass_promtool_start_at_zero_and_move() {
    let (place, file) = (Place::shared("metrics").await, RunFile::new());
    let process = place.process(&file, &["--max-attempts", "2", "--retry-ms", "100"]);
    let address = health_of(&process).await;
    let queue = place.queue.clone();
    let series = |name: &str, more: &str| format!(r#"leveret_{name}{{job="test.script",{more}queue="{queue}"}}"#);
    eventually("it is ready", LONG, async || get(&address, "/readyz").await.0 == 200).await;
    let (_, start) = get(&address, "/metrics").await;
    let counters = [
        series("jobs_received_total", "").replace('}', r#",redelivered="false"}"#),
        series("jobs_finished_total", r#"outcome="succeeded","#),
        series("jobs_finished_total", r#"outcome="retried","#),
        series("jobs_finished_total", r#"outcome="dead","#),
        series("job_errors_total", r#"kind="error","#),
        series("job_errors_total", r#"kind="permanent","#),
        series("job_duration_seconds_count", ""),
        series("job_wait_seconds_count", ""),
        series("job_critical_time_seconds_count", ""),
        series("job_attempts_count", ""),
    ];
    for counter in &counters {
        assert_eq!(value(&start, counter), Some(0.0), "{counter} in\n{start}");
    }
    for (gauge, wanted) in [
        (format!(r#"leveret_consumers_expected{{queue="{queue}"}}"#), 1.0),
        (format!(r#"leveret_consumers_up{{queue="{queue}"}}"#), 1.0),
        (format!(r#"leveret_consumers_up{{queue="{queue}.suspect"}}"#), 1.0),
        (format!(r#"leveret_worker_concurrency_limit{{queue="{queue}"}}"#), 16.0),
        (format!(r#"leveret_jobs_in_progress{{queue="{queue}"}}"#), 0.0),
        (format!(r#"leveret_acks_lost_total{{queue="{queue}"}}"#), 0.0),
        ("leveret_reconnects_total".to_owned(), 0.0),
        ("leveret_broker_blocked".to_owned(), 0.0),
    ] {
        assert_eq!(value(&start, &gauge), Some(wanted), "{gauge} in\n{start}");
    }
    place.publish(&script("good", [Act::Succeed])).await;
    place.publish(&script("flaky", [Act::Fail("down".into()), Act::Succeed])).await;
    place.publish(&script("wrong", [Act::GiveUp("no".into())])).await;
    // good 1 + flaky 2 + wrong 1 deliveries; 2 succeeded, 1 retried, 1 dead
    for (counter, wanted) in counters.iter().zip([4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 4.0, 4.0, 3.0, 3.0]) {
        eventually(counter, LONG, async || value(&get(&address, "/metrics").await.1, counter) == Some(wanted)).await;
    }
    check_with_promtool(&get(&address, "/metrics").await.1);
    assert_eq!(get(&address, "/livez").await.0, 200);
}

fn check_with_promtool(text: &str) {
    let mut command = std::process::Command::new(promtool());
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_a_missing_consumer_is_not_ready() {
    let proxy = Proxy::start(&shared_node().await.url()).await;
    let (place, file) = (Place::at(proxy.url(), "ready"), RunFile::new());
    let process = place.process(&file, &[]);
    let address = health_of(&process).await;
    let ready = async || get(&address, "/readyz").await.0 == 200;
    eventually("it is ready", LONG, ready).await;
    proxy.refuse();
    proxy.cut();
    eventually("it is not ready without its broker", LONG, async || !ready().await).await;
    let (_, reason) = get(&address, "/readyz").await;
    assert!(reason.contains(&place.queue), "{reason}");
    assert_eq!(get(&address, "/livez").await.0, 200, "a restart would not repair the broker");
    proxy.accept();
    eventually("it is ready again", LONG, ready).await;
    let (_, text) = get(&address, "/metrics").await;
    assert!(value(&text, "leveret_reconnects_total") >= Some(1.0), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_false_while_draining() {
    let (place, file) = (Place::shared(&unique("drain")).await, RunFile::new());
    let process = place.process(&file, &[]);
    let address = health_of(&process).await;
    place.declared().await;
    place.publish(&script("long", [Act::WorkMs(2_000)])).await;
    file.until("the job runs", |lines| lines.iter().any(|line| line.label == "long")).await;
    process.sigterm();
    eventually("it reports that it drains", LONG, async || get(&address, "/readyz").await.1.contains("draining")).await;
    assert!(process.wait_exit(Duration::from_secs(20)).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_jobs_are_counted_by_what_became_of_them() {
    let place = Place::shared("counted").await;
    place.declare().await;
    let health = leveret::Broker::amqp(leveret::Config {
        amqp_url: vec![place.url.clone()],
        http_addr: ([127, 0, 0, 1], 0).into(),
        ..leveret::Config::default()
    })
    .unwrap();
    let server = health.serve_health().unwrap();
    publish(&health, &place.queue, &script("x", [Act::Succeed])).await.unwrap();
    publish(&health, "nowhere-at-all", &script("x", [Act::Succeed])).await.unwrap_err();
    let (_, text) = get(&server.address().to_string(), "/metrics").await;
    let confirmed =
        format!(r#"leveret_jobs_published_total{{job="test.script",outcome="confirmed",queue="{}"}}"#, place.queue);
    let returned = r#"leveret_jobs_published_total{job="test.script",outcome="returned",queue="nowhere-at-all"}"#;
    assert_eq!((value(&text, &confirmed), value(&text, returned)), (Some(1.0), Some(1.0)), "{text}");
    assert_eq!(value(&text, "leveret_publish_confirm_seconds_count"), Some(2.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_requests_up_to_the_file_limit_keep_no_probe_out() {
    let (place, file) = (Place::shared("slow").await, RunFile::new());
    let process = place.process_with_files(&file, 96);
    let address = health_of(&process).await;
    eventually("it is ready", LONG, async || get(&address, "/readyz").await.0 == 200).await;
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Half").await.unwrap();
        held.push(stream);
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = tokio::time::timeout(Duration::from_secs(20), get(&address, path)).await;
        assert_eq!(answer.expect(path).0, 200, "{path}");
    }
    place.publish(&script("meanwhile", [Act::Succeed])).await;
    file.until("jobs go on", |lines| lines.iter().any(|line| line.ended && line.label == "meanwhile")).await;
}
