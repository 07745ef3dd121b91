//! A scripted broker, which sends frames that RabbitMQ passes on from a hostile publisher.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
const BODY: u8 = 3;
/// The consumer tag of every delivery.
pub(crate) const TAG: &str = "t";

/// The bytes that follow `basic.consume-ok` on a channel.
type Script = dyn Fn(u16) -> Vec<u8> + Send + Sync;

pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [[kind].as_slice(), &channel.to_be_bytes(), &length, payload, &[0xCE]].concat()
}

pub(crate) fn method(channel: u16, class: u8, id: u8, arguments: &[u8]) -> Vec<u8> {
    frame(METHOD, channel, &[[0, class, 0, id].as_slice(), arguments].concat())
}

pub(crate) fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

pub(crate) fn sized(content: &[u8]) -> Vec<u8> {
    [u32::try_from(content.len()).unwrap().to_be_bytes().as_slice(), content].concat()
}

/// The frames of one message with an empty body. `properties` begin with their flags.
pub(crate) fn delivery(channel: u16, routing_key: &[u8], properties: &[u8]) -> Vec<u8> {
    let (tag, key) = (short(TAG.as_bytes()), short(routing_key));
    let arguments = [tag.as_slice(), &1_u64.to_be_bytes(), &[0], &short(b""), &key].concat();
    let header = [[0, 60, 0, 0].as_slice(), &1_u64.to_be_bytes(), properties].concat();
    [method(channel, 60, 60, &arguments), frame(HEADER, channel, &header), frame(BODY, channel, b"x")].concat()
}

/// Properties with headers alone.
pub(crate) fn with_headers(table: &[u8]) -> Vec<u8> {
    [[0x20, 0].as_slice(), &sized(table)].concat()
}

/// Starts a broker and returns its port. `script` gives the bytes after each `basic.consume-ok`.
pub(crate) async fn start(frame_max: u32, script: impl Fn(u16) -> Vec<u8> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script: Arc<Script> = Arc::new(script);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = Arc::clone(&script);
            // A client that goes away ends its connection with an error, which no test is about.
            tokio::spawn(async move { drop(serve(stream, frame_max, &*script).await) });
        }
    });
    port
}

async fn serve(mut stream: TcpStream, frame_max: u32, script: &Script) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 8]).await?;
    let properties = [short(b"version"), b"S".to_vec(), sized(b"9.9.9")].concat();
    let start = [[0, 9].as_slice(), &sized(&properties), &sized(b"PLAIN"), &sized(b"en_US")].concat();
    stream.write_all(&method(0, 10, 10, &start)).await?;
    loop {
        let mut start = [0; 7];
        stream.read_exact(&mut start).await?;
        let [_, high, low, length @ ..] = start;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() + 1];
        stream.read_exact(&mut payload).await?;
        let channel = u16::from_be_bytes([high, low]);
        let answer = match payload.as_slice() {
            // connection.start-ok, open and close
            [0, 10, 0, 11, ..] => {
                let tune = [2_047_u16.to_be_bytes().as_slice(), &frame_max.to_be_bytes(), &[0, 60]].concat();
                method(0, 10, 30, &tune)
            }
            [0, 10, 0, 40, ..] => method(0, 10, 41, &[0]),
            [0, 10, 0, 50, ..] => return stream.write_all(&method(0, 10, 51, &[])).await,
            // channel.open and close
            [0, 20, 0, 10, ..] => method(channel, 20, 11, &[0; 4]),
            [0, 20, 0, 40, ..] => method(channel, 20, 41, &[]),
            // basic.consume
            [0, 60, 0, 20, ..] => [method(channel, 60, 21, &short(TAG.as_bytes())), script(channel)].concat(),
            // channel.close-ok: RabbitMQ sends deliveries until it reads this, and the client gets them after sending it.
            [0, 20, 0, 41, ..] => {
                sleep(Duration::from_millis(100)).await;
                delivery(channel, b"stray", &[0, 0])
            }
            _ => continue,
        };
        stream.write_all(&answer).await?;
    }
}
