//! Clients that hold connections.

use std::time::Duration;

use leveret_serve::Options;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::site::{Site, options};

#[tokio::test]
async fn half_sent_requests_and_followers_keep_neither_probes_nor_submissions_out() {
    let site = Site::with_options(Options { connections: 8, ..options() }).await;
    let worker = site.work().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    let address = site.base.strip_prefix("http://").unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        let request = format!("GET /api/tasks/{id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut follower = TcpStream::connect(address).await.unwrap();
        follower.write_all(request.as_bytes()).await.unwrap();
        held.push(follower);
    }
    for _ in 0..100 {
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Ty").await.unwrap();
        held.push(half);
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        let got = tokio::time::timeout(Duration::from_secs(20), site.get(path)).await;
        assert_eq!(got.expect(path).0, 200, "{path}");
    }
    site.submit_work("echo").await;
}
