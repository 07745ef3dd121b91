use std::{cell::RefCell, io};

use leveret_serve::Options;
use serde_json::json;

use crate::site::{Site, options};

/// Collects the log of this test's thread. A subscriber for one thread only would miss callsites that other threads have
/// registered as disabled.
struct Lines;

thread_local! {
    static WRITTEN: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.with_borrow_mut(|written| written.iter_mut().for_each(|written| written.extend(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn neither_payloads_nor_tokens_are_logged_but_requests_are_by_their_id() {
    let filter = tracing_subscriber::EnvFilter::new("leveret=trace,leveret_serve=trace,leveret_store=trace");
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(|| Lines).init();
    WRITTEN.set(Some(Vec::new()));
    let tokens = "operator:a-token-no-log-may-have".parse().unwrap();
    let site = Site::with_options(Options { tokens, ..options() }).await;
    let _worker = site.work().await;
    for (act, status) in [("echo", 202), ("hunter2", 422)] {
        let body = json!({ "job": "demo.work", "payload": { "act": act, "password": "hunter3" } });
        let request = site.client.post(format!("{}/api/tasks?q=hunter4", site.base)).json(&body);
        let request = request.bearer_auth("a-token-no-log-may-have").header("x-request-id", "request-17");
        assert_eq!(request.send().await.unwrap().status(), 422, "an unknown parameter");
        let request = site.client.post(format!("{}/api/tasks", site.base)).json(&body);
        let request = request.bearer_auth("a-token-no-log-may-have").header("x-request-id", "request-17");
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let written = String::from_utf8(WRITTEN.take().unwrap()).unwrap();
    assert!(written.contains("request-17") && written.contains("/api/tasks"), "{written}");
    assert!(!written.contains("hunter") && !written.contains("no-log-may-have"), "{written}");
}
