use std::{
    io,
    sync::{Arc, Mutex},
};

use leveret_serve::Options;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::site::{Site, options};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn neither_payloads_nor_tokens_are_logged_but_requests_are_by_their_id() {
    let lines = Lines::default();
    let filter = tracing_subscriber::EnvFilter::new("leveret=trace,leveret_serve=trace,leveret_store=trace");
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines.clone()).finish();
    // All tasks of this test run on its thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let tokens = "operator:a-token-nobody-may-read".parse().unwrap();
    let site = Site::with_options(Options { tokens, ..options() }).await;
    let _worker = site.work().await;
    for (act, status) in [("echo", 202), ("hunter2", 422)] {
        let body = json!({ "job": "demo.work", "payload": { "act": act, "password": "hunter3" } });
        let request = site.client.post(format!("{}/api/tasks?q=hunter4", site.base)).json(&body);
        let request = request.bearer_auth("a-token-nobody-may-read").header("x-request-id", "request-17");
        assert_eq!(request.send().await.unwrap().status(), 422, "an unknown parameter");
        let request = site.client.post(format!("{}/api/tasks", site.base)).json(&body);
        let request = request.bearer_auth("a-token-nobody-may-read").header("x-request-id", "request-17");
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let written = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned();
    assert!(written.contains("request-17") && written.contains("/api/tasks"), "{written}");
    assert!(!written.contains("hunter") && !written.contains("nobody-may-read"), "{written}");
}
