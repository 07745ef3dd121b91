//! Frames from hostile publishers.

use std::{env, os::unix::process::ExitStatusExt, process::Command, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection,
    message::Delivery,
    options::BasicConsumeOptions,
    types::{AMQPValue, FieldTable},
};
use lapin_guard::{Guard, Markers};
use tokio::time::{sleep, timeout};

use crate::{
    By, LONG,
    broker::{TAG, delivery, method, short, sized, start, with_headers},
    connect, uri,
};

async fn consume(channel: &Channel) -> lapin::Consumer {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume("q".into(), TAG.into(), options, FieldTable::default()).await.unwrap()
}

/// Waits for the first message of a consumer.
async fn first(consumer: &mut lapin::Consumer) -> Result<Delivery, String> {
    match timeout(LONG, consumer.next()).await.expect("lapin hangs") {
        Some(delivered) => delivered.map_err(|error| error.to_string()),
        None => Err("the consumer ended".to_owned()),
    }
}

/// A connection to a broker that sends some frames, and the first message.
struct Received {
    connection: Connection,
    message: Result<Delivery, String>,
    _guard: Option<Guard>,
}

impl Received {
    /// Connects to a broker that sends these frames after each `basic.consume-ok`.
    async fn by(by: By, frame_max: u32, frames: &[u8]) -> Self {
        let frames = frames.to_vec();
        let port = start(frame_max, move |_| frames.clone()).await;
        let (connection, guard) = connect(by, &uri(&format!("amqp://127.0.0.1:{port}"))).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let message = first(&mut consume(&channel).await).await;
        Self { connection, message, _guard: guard }
    }

    /// Returns whether the connection ends. lapin reports that a moment after the message or the end of the consumer.
    async fn ends(&self) -> bool {
        ends(&self.connection).await
    }
}

async fn ends(connection: &Connection) -> bool {
    for _ in 0..40 {
        if !connection.status().connected() {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}

/// Expects that the frames end the connection of lapin alone. Returns the message that arrives with the guard, whose
/// connection does not end.
async fn only_guarded(frame_max: u32, frames: &[u8]) -> Delivery {
    assert!(Received::by(By::LapinAlone, frame_max, frames).await.ends().await, "lapin alone now survives it");
    let guarded = Received::by(By::Guard, frame_max, frames).await;
    assert!(!guarded.ends().await);
    guarded.message.unwrap()
}

/// The reason in the marker header of a message.
fn marked(delivery: &Delivery) -> String {
    let headers = delivery.properties.headers().as_ref().expect("a marked message has headers").inner();
    let AMQPValue::LongString(reason) = &headers[Markers::default().reason] else { panic!("{headers:?}") };
    assert!(headers.contains_key(Markers::default().original), "{headers:?}");
    reason.to_string()
}

fn nested(depth: usize) -> Vec<u8> {
    let innermost = [b"A".as_slice(), &sized(b"")].concat();
    let value = (1..depth).fold(innermost, |inner, _| [b"A".as_slice(), &sized(&inner)].concat());
    with_headers(&[b"\x01d".as_slice(), &value].concat())
}

const CHILD: &str = "LAPIN_GUARD_TEST_CHILD";

#[tokio::test(flavor = "multi_thread")]
async fn deeply_nested_headers_abort_the_process_without_the_guard() {
    let frames = delivery(1, b"k", &nested(20_000));
    if env::var_os(CHILD).is_some() {
        drop(Received::by(By::LapinAlone, 131_072, &frames).await);
        return;
    }
    let name = "frames::deeply_nested_headers_abort_the_process_without_the_guard";
    let child = Command::new(env::current_exe().unwrap()).args(["--exact", name]).env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.signal().is_some(), "lapin alone now survives it: {:?} {said}", child.status);
    assert!(said.contains("has overflowed its stack"), "{said}");
    let guarded = Received::by(By::Guard, 131_072, &frames).await.message.unwrap();
    assert_eq!(marked(&guarded), "its property headers is nested too deeply");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_that_is_not_utf_8_ends_the_connection_without_the_guard() {
    let properties = [[0, 0x20].as_slice(), &short(b"\xFF")].concat();
    let guarded = only_guarded(131_072, &delivery(1, b"k", &properties)).await;
    assert_eq!(marked(&guarded), "its property type is not UTF-8");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_name_that_is_not_utf_8_ends_the_connection_without_the_guard() {
    let guarded = only_guarded(131_072, &delivery(1, b"k", &with_headers(b"\x01\xFFV"))).await;
    assert_eq!(marked(&guarded), "its property headers has a name that is not UTF-8");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_frame_above_the_negotiated_size_ends_the_connection_without_the_guard() {
    let headers = with_headers(&[b"\x01aS", sized(&[b'x'; 10_000]).as_slice()].concat());
    let guarded = only_guarded(8_192, &delivery(1, b"k", &headers)).await;
    assert_eq!(marked(&guarded), "its header frame is longer than a connection may carry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routing_key_that_is_not_utf_8_ends_the_connection_without_the_guard() {
    let guarded = only_guarded(131_072, &delivery(1, b"a\xFFb", &[0, 0])).await;
    assert_eq!(guarded.routing_key.as_str(), "a?b");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_headers_with_one_name_lapin_alone_keeps_the_last_where_rabbitmq_reads_the_first() {
    let table = [b"\x01aS".as_slice(), &sized(b"first"), b"\x01aS", &sized(b"last")].concat();
    let frames = delivery(1, b"k", &with_headers(&table));
    let alone = Received::by(By::LapinAlone, 131_072, &frames).await.message.unwrap();
    assert_eq!(alone.properties.headers().as_ref().unwrap().inner()["a"], AMQPValue::LongString("last".into()));
    let guarded = Received::by(By::Guard, 131_072, &frames).await.message.unwrap();
    assert_eq!(marked(&guarded), "its property headers has a name twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_on_a_closed_channel_ends_the_connection_without_the_guard() {
    for by in [By::LapinAlone, By::Guard] {
        let close = [406_u16.to_be_bytes().as_slice(), &short(b"no"), &[0; 4]].concat();
        let frames = move |channel| match channel {
            1 => method(1, 20, 40, &close),
            other => delivery(other, b"k", &[0, 0]),
        };
        let port = start(131_072, frames).await;
        let (connection, _guard) = connect(by, &uri(&format!("amqp://127.0.0.1:{port}"))).await.unwrap();
        let (closed, other) = (connection.create_channel().await.unwrap(), connection.create_channel().await.unwrap());
        assert!(first(&mut consume(&closed).await).await.is_err(), "the broker has closed the channel");
        assert_eq!(ends(&connection).await, by == By::LapinAlone, "{by:?}");
        if by == By::Guard {
            assert_eq!(first(&mut consume(&other).await).await.unwrap().routing_key.as_str(), "k");
        }
    }
}
