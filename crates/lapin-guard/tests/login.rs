//! lapin's log, which shows the login without the guard. It has a process of its own, for the global log.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "faults/broker.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod broker;

use std::{
    io,
    sync::{Arc, Mutex},
};

use async_rs::Runtime;
use lapin::{Connection, ConnectionProperties, uri::AMQPUri};
use lapin_guard::Options;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether a log has this text, or its bytes as lapin writes them.
fn shows(log: &Log, text: &str) -> bool {
    let bytes = format!("{:?}", text.as_bytes());
    log.text().contains(text) || log.text().contains(bytes.trim_matches(['[', ']']))
}

#[tokio::test(flavor = "multi_thread")]
async fn lapin_alone_logs_the_password_at_level_trace() {
    let (log, port) = (Log::default(), broker::start(131_072, |_| Vec::new()).await);
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE);
    subscriber.with_ansi(false).with_writer(move || writer.clone()).init();
    let uri = |password: &str| -> AMQPUri { format!("amqp://anna:{password}@127.0.0.1:{port}").parse().unwrap() };

    let properties = ConnectionProperties::default();
    let (uri_alone, runtime) = (uri("bare-secret"), Runtime::tokio_current());
    let _alone = Connection::connect_uri_with_runtime(uri_alone, properties.clone(), runtime).await.unwrap();
    assert!(shows(&log, "bare-secret"), "lapin alone no longer logs it");

    let _guarded = lapin_guard::connect(&uri("guarded-secret"), properties, &Options::default()).await.unwrap();
    assert!(log.text().matches("StartOk").count() > 1, "lapin logs the frame: {}", log.text());
    assert!(!shows(&log, "guarded-secret"));
}
