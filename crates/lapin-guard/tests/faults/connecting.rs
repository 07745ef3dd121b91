//! Connecting: limits, and the end of an attempt that the caller drops.

use std::time::{Duration, Instant};

use lapin::{ConnectionProperties, uri::AMQPUri};
use lapin_guard::{ConnectError, Options};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::{By, LONG, broker::start, connect, uri};

/// A listener whose queue of connections is full, so that it ignores a further one.
async fn full() -> (TcpListener, Vec<TcpStream>, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let (address, mut waiting) = (listener.local_addr().unwrap(), Vec::new());
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(connected.unwrap());
        assert!(waiting.len() < 100, "this system has no limit");
    }
    (listener, waiting, address.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn lapin_alone_ignores_the_connection_timeout_of_the_uri() {
    let (_listener, _waiting, port) = full().await;
    let uri = uri(&format!("amqp://127.0.0.1:{port}?connection_timeout=200"));
    let alone = timeout(Duration::from_secs(2), connect(By::LapinAlone, &uri)).await;
    assert!(alone.is_err(), "lapin alone now heeds it: {alone:?}");
    let guarded = timeout(LONG, connect(By::Guard, &uri)).await.unwrap().unwrap_err();
    assert_eq!(guarded, format!("TCP connection to 127.0.0.1:{port}: no answer within 200ms"));
}

/// Returns whether the socket of an attempt that its caller dropped is closed.
async fn is_closed_after_an_attempt(by: By) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = uri(&format!("amqp://{}", listener.local_addr().unwrap()));
    let (attempt, accepted) =
        tokio::join!(timeout(Duration::from_millis(300), connect(by, &uri)), timeout(LONG, listener.accept()));
    assert!(attempt.is_err(), "a silent broker cannot be connected to");
    let (mut stream, _) = accepted.unwrap().unwrap();
    let mut rest = Vec::new();
    timeout(Duration::from_secs(3), stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn lapin_alone_keeps_the_socket_of_a_dropped_attempt() {
    assert!(!is_closed_after_an_attempt(By::LapinAlone).await, "lapin alone now closes it");
    assert!(is_closed_after_an_attempt(By::Guard).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_guard_ends_its_connection() {
    let port = start(131_072, |_| Vec::new()).await;
    let (connection, guard) = connect(By::Guard, &uri(&format!("amqp://127.0.0.1:{port}"))).await.unwrap();
    drop(guard);
    let (started, mut connected) = (Instant::now(), true);
    while connected && started.elapsed() < LONG {
        sleep(Duration::from_millis(20)).await;
        connected = connection.status().connected();
    }
    assert!(!connected, "{:?}", connection.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_knows_the_broker_and_the_time_since_its_last_byte() {
    let port = start(131_072, |_| Vec::new()).await;
    let (connection, guard) = connect(By::Guard, &uri(&format!("amqp://127.0.0.1:{port}"))).await.unwrap();
    let guard = guard.unwrap();
    assert_eq!((guard.server().version.as_str(), guard.server().mechanisms.as_str()), ("9.9.9", "PLAIN"));
    assert_eq!(guard.peer().to_string(), format!("127.0.0.1:{port}"));
    sleep(Duration::from_millis(400)).await;
    let before = guard.silent_for();
    assert!(before >= Duration::from_millis(400), "{before:?}");
    connection.create_channel().await.unwrap();
    assert!(guard.silent_for() < before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_with_a_broker_that_is_silent_in_the_handshake_ends_at_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let uri: AMQPUri = uri(&format!("amqp://{address}"));
    let options = Options { handshake_timeout: Duration::from_millis(200), ..Options::default() };
    let connected = lapin_guard::connect(&uri, ConnectionProperties::default(), &options).await;
    let Err(error @ ConnectError::Silent(_)) = connected else { panic!("{connected:?}") };
    assert_eq!(error.to_string(), format!("AMQP handshake with {address}: no answer within 200ms"));
}

#[cfg(not(feature = "tls"))]
#[tokio::test(flavor = "multi_thread")]
async fn lapin_alone_speaks_plaintext_to_an_amqps_address_if_it_is_built_without_tls() {
    let port = start(131_072, |_| Vec::new()).await;
    let uri = uri(&format!("amqps://127.0.0.1:{port}"));
    assert!(connect(By::LapinAlone, &uri).await.is_ok(), "lapin alone now refuses it");
    let guarded = connect(By::Guard, &uri).await.unwrap_err();
    assert_eq!(guarded, "TLS handshake: this program was built without lapin-guard's feature `tls`");
}
