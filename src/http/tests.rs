//! Tests of slow clients, busy connections, stops and hosts.

use axum::routing::get;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::DropGuard;

use super::*;

const LONG: Duration = Duration::from_secs(30);

struct Served {
    address: std::net::SocketAddr,
    /// One permit for each slow request that has begun.
    begun: Arc<Semaphore>,
    release: Arc<Semaphore>,
    stop: DropGuard,
    serving: tokio::task::JoinHandle<()>,
}

async fn serving(connections: usize, idle: Duration) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let (begun, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (begins, waiting) = (Arc::clone(&begun), Arc::clone(&release));
    let slow = async move || {
        begins.add_permits(1);
        waiting.acquire().await.unwrap().forget();
        "done\n"
    };
    let routes = Router::new().route("/livez", get(async || "ok\n")).route("/slow", get(slow));
    let serving = tokio::spawn(serve(listener, routes, Limits { connections, idle }, stop.clone()));
    Served { address, begun, release, stop: stop.drop_guard(), serving }
}

impl Served {
    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Returns the response to a request, if there is one.
    async fn get(&self, path: &str) -> String {
        read(self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await).await
    }
}

/// Reads until the end of the connection.
async fn read(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let ended = timeout(LONG, stream.read_to_end(&mut text)).await.expect("it ends in time");
    drop(ended);
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn half_sent_requests_block_no_other_client() {
    let served = serving(8, LONG).await;
    let mut held = Vec::new();
    for number in 0..100 {
        held.push(served.send("GET /slow HTTP/1.1\r\nHost: x\r\nX-Part").await);
        if number % 10 == 0 {
            assert!(served.get("/livez").await.ends_with("ok\n"));
        }
    }
    assert!(served.get("/livez").await.ends_with("ok\n"));
    // The oldest connections are closed.
    assert_eq!(read(held.swap_remove(0)).await, "");
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_ends_its_connection() {
    let served = serving(8, Duration::from_millis(200)).await;
    let mut drip = served.send("GET /livez HTTP/1.1\r\n").await;
    let closed = async {
        while drip.write_all(b"X: y\r\n").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, closed).await.expect("a head sent byte by byte is cut off");
    assert!(read(served.send("").await).await.is_empty(), "so is a silent connection");
}

#[tokio::test]
async fn requests_in_progress_stay_and_probes_are_answered_beyond_the_limit() {
    let served = serving(3, LONG).await;
    let mut busy = Vec::new();
    for _ in 0..3 {
        busy.push(served.send("GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await);
    }
    timeout(LONG, served.begun.acquire_many(3)).await.expect("all have begun").unwrap().forget();
    let refused = served.get("/slow").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("problem+json"), "{refused}");
    for _ in 0..50 {
        assert!(served.get("/livez").await.ends_with("ok\n"));
    }
    served.release.add_permits(3);
    for stream in busy {
        assert!(read(stream).await.ends_with("done\n"));
    }
    served.release.add_permits(1);
    assert!(served.get("/slow").await.ends_with("done\n"));
}

#[tokio::test]
async fn a_stop_waits_for_requests_in_progress_and_not_for_idle_connections() {
    let served = serving(8, LONG).await;
    let (idle, slow) = (served.send("").await, served.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await);
    timeout(LONG, served.begun.acquire()).await.expect("it has begun").unwrap().forget();
    let Served { release, stop, serving, .. } = served;
    drop(stop);
    assert_eq!(read(idle).await, "");
    release.add_permits(1);
    assert!(read(slow).await.ends_with("done\n"));
    timeout(LONG, serving).await.expect("it ends").unwrap();
}

#[test]
fn a_host_is_local_by_its_name_or_its_address() {
    for (host, local) in [
        ("localhost", true),
        ("LOCALHOST:9464", true),
        ("127.0.0.1:9464", true),
        ("[::1]:9464", true),
        ("127.9.9.9", true),
        ("evil.example", false),
        ("evil.example:9464", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("10.0.0.1", false),
        ("localhost@evil.example", false),
        ("", false),
    ] {
        assert_eq!(is_local(host), local, "{host}");
    }
}
