//! A connection that breaks on command.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use leveret_harness::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Far longer than loopback takes, far shorter than a test may.
const SILENCE: Duration = Duration::from_millis(100);

/// A proxy before a server that sends back what it gets.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = client.split();
                tokio::io::copy(&mut from, &mut to).await.unwrap_or(0)
            });
        }
    });
    let proxy = Proxy::start(&format!("amqp://user:p%40ss@{upstream}/vhost")).await;
    assert!(proxy.url().starts_with("amqp://user:p%40ss@127.0.0.1:"));
    assert!(proxy.url().ends_with("/vhost"));
    proxy
}

async fn connect(proxy: &Proxy) -> std::io::Result<TcpStream> {
    let (_, address) = proxy.url().split_once('@').unwrap();
    TcpStream::connect(address.trim_end_matches("/vhost")).await
}

async fn say(stream: &mut TcpStream, word: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(word).await?;
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_cut_resets_what_stands_and_lets_new_connections_in() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await.unwrap();
    assert_eq!(say(&mut stream, b"hello").await.unwrap(), b"hello");
    proxy.cut();
    let reset = stream.read_u8().await.unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    let mut stream = connect(&proxy).await.unwrap();
    assert_eq!(say(&mut stream, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn a_refusal_is_the_kernels_own_and_ends() {
    let proxy = echo().await;
    proxy.refuse();
    let refused = async || connect(&proxy).await.is_err();
    leveret_harness::eventually("connections are refused", 10 * SILENCE, refused).await;
    proxy.accept();
    let accepted = async || connect(&proxy).await.is_ok();
    leveret_harness::eventually("connections are accepted", 10 * SILENCE, accepted).await;
}

#[tokio::test]
async fn a_frozen_connection_is_silent_but_open_and_loses_nothing_when_thawed() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await.unwrap();
    assert_eq!(say(&mut stream, b"hello").await.unwrap(), b"hello");
    proxy.freeze();
    let silent = timeout(SILENCE, say(&mut stream, b"anyone?")).await;
    assert!(silent.is_err(), "{silent:?}");
    proxy.thaw();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"anyone?");
}

#[tokio::test]
async fn a_slow_line_delays_and_splits_what_it_carries() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await.unwrap();
    proxy.delay(SILENCE);
    proxy.throttle(10);
    let begun = Instant::now();
    assert_eq!(say(&mut stream, &[7; 500]).await.unwrap(), [7; 500]);
    // Both ways: the delay, and 50 pieces a millisecond apart.
    assert!(begun.elapsed() > 2 * SILENCE + Duration::from_millis(50));
}
