//! A client that writes AMQP frames by hand, for bytes that no client library sends.

use std::collections::BTreeMap;

use lapin::uri::AMQPUri;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection with one confirming channel. It expects the broker to accept every command.
pub(crate) struct Wire {
    stream: TcpStream,
    frame_max: usize,
}

/// A message on the wire: the payload of its header frame from the flags on, and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadMessage {
    pub(crate) properties: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

impl Wire {
    pub(crate) async fn connect(url: &str) -> Self {
        let uri: AMQPUri = url.parse().unwrap();
        let mut stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await.unwrap();
        stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
        let mut wire = Self { stream, frame_max: 4_096 };
        wire.expect([0, 10, 0, 10]).await;
        let login = format!("\0{}\0{}", uri.authority.userinfo.username, uri.authority.userinfo.password);
        let start = [sized(b"").as_slice(), &short(b"PLAIN"), &sized(login.as_bytes()), &short(b"en_US")].concat();
        wire.method(0, [0, 10, 0, 11], &start).await;
        let tune = wire.expect([0, 10, 0, 30]).await;
        wire.frame_max = u32::from_be_bytes(tune[2..6].try_into().unwrap()) as usize;
        wire.method(0, [0, 10, 0, 31], &[&tune[..6], &[0, 0]].concat()).await;
        wire.method(0, [0, 10, 0, 40], &[short(uri.vhost.as_bytes()).as_slice(), &[0, 0]].concat()).await;
        wire.expect([0, 10, 0, 41]).await;
        wire.method(1, [0, 20, 0, 10], &[0]).await;
        wire.expect([0, 20, 0, 11]).await;
        wire.method(1, [0, 85, 0, 10], &[0]).await;
        wire.expect([0, 85, 0, 11]).await;
        wire
    }

    /// The largest property list that one header frame carries.
    pub(crate) fn room(&self) -> usize {
        // Frame, class, weight and body size are the rest.
        self.frame_max - 8 - 12
    }

    /// Publishes and waits for the confirm.
    pub(crate) async fn publish(&mut self, exchange: &str, key: &[u8], properties: &[u8], body: &[u8]) {
        let place = [&[0, 0], short(exchange.as_bytes()).as_slice(), &short(key), &[0]].concat();
        self.method(1, [0, 60, 0, 40], &place).await;
        let size = (body.len() as u64).to_be_bytes();
        self.frame(HEADER, 1, &[[0, 60, 0, 0].as_slice(), &size, properties].concat()).await;
        for part in body.chunks(self.frame_max - 8) {
            self.frame(BODY, 1, part).await;
        }
        self.expect([0, 60, 0, 80]).await;
    }

    /// Gets and acks the first ready message of a queue.
    pub(crate) async fn take(&mut self, queue: &str) -> Option<ReadMessage> {
        self.get(queue, true).await
    }

    /// Gets the first ready message without an ack; it is requeued when this client is dropped.
    pub(crate) async fn hold(&mut self, queue: &str) -> Option<ReadMessage> {
        self.get(queue, false).await
    }

    async fn get(&mut self, queue: &str, no_ack: bool) -> Option<ReadMessage> {
        let place = [&[0, 0], short(queue.as_bytes()).as_slice(), &[no_ack.into()]].concat();
        self.method(1, [0, 60, 0, 70], &place).await;
        let (_, answer) = self.next().await;
        if answer.starts_with(&[0, 60, 0, 72]) {
            return None;
        }
        assert!(answer.starts_with(&[0, 60, 0, 71]), "{}", answer.escape_ascii());
        let (kind, header) = self.next().await;
        assert_eq!(kind, HEADER);
        let size = usize::try_from(u64::from_be_bytes(header[4..12].try_into().unwrap())).unwrap();
        let mut body = Vec::new();
        while body.len() < size {
            body.append(&mut self.next().await.1);
        }
        Some(ReadMessage { properties: header[12..].to_vec(), body })
    }

    async fn method(&mut self, channel: u8, id: [u8; 4], arguments: &[u8]) {
        self.frame(METHOD, channel, &[id.as_slice(), arguments].concat()).await;
    }

    async fn frame(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let frame = [&[kind, 0, channel], sized(payload).as_slice(), &[0xCE]].concat();
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The arguments of the method that must come next.
    async fn expect(&mut self, id: [u8; 4]) -> Vec<u8> {
        let (_, mut payload) = self.next().await;
        assert!(payload.starts_with(&id), "not {id:?} but {}", payload.escape_ascii());
        payload.split_off(4)
    }

    async fn next(&mut self) -> (u8, Vec<u8>) {
        let mut start = [0; 7];
        self.stream.read_exact(&mut start).await.unwrap();
        let [kind, _, _, length @ ..] = start;
        let mut payload = vec![0; u32::from_be_bytes(length) as usize + 1];
        self.stream.read_exact(&mut payload).await.unwrap();
        payload.pop();
        (kind, payload)
    }
}

/// The properties of class basic, each with its bit in the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub(crate) enum Property {
    ContentType = 1 << 15,
    ContentEncoding = 1 << 14,
    Headers = 1 << 13,
    DeliveryMode = 1 << 12,
    Priority = 1 << 11,
    CorrelationId = 1 << 10,
    ReplyTo = 1 << 9,
    Expiration = 1 << 8,
    MessageId = 1 << 7,
    Timestamp = 1 << 6,
    Type = 1 << 5,
    UserId = 1 << 4,
    AppId = 1 << 3,
}

/// A property list in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Properties(BTreeMap<std::cmp::Reverse<Property>, Vec<u8>>);

impl Properties {
    pub(crate) fn with(mut self, property: Property, bytes: &[u8]) -> Self {
        self.0.insert(std::cmp::Reverse(property), bytes.to_vec());
        self
    }

    pub(crate) fn text(self, property: Property, text: &[u8]) -> Self {
        self.with(property, &short(text))
    }

    /// With these entries of the header table; see [`entry`].
    pub(crate) fn headers(self, entries: &[Vec<u8>]) -> Self {
        self.with(Property::Headers, &sized(&entries.concat()))
    }

    /// The bytes of each property; of headers, those of the entries alone.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|(property, bytes)| if property.0 == Property::Headers { &bytes[4..] } else { bytes })
    }

    /// As the header frame carries them, from the flags on.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let flags: u16 = self.0.keys().map(|property| property.0 as u16).sum();
        [flags.to_be_bytes().as_slice(), &self.0.values().flatten().copied().collect::<Vec<_>>()].concat()
    }
}

/// A header: its name, the letter of its type, and its value.
pub(crate) fn entry(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [short(name).as_slice(), &[kind], value].concat()
}

pub(crate) fn text_entry(name: &str, text: &[u8]) -> Vec<u8> {
    entry(name.as_bytes(), b'S', &sized(text))
}

pub(crate) fn number_entry(name: &str, number: i64) -> Vec<u8> {
    entry(name.as_bytes(), b'l', &number.to_be_bytes())
}

/// A header of tables (`F`) or arrays (`A`) within each other.
pub(crate) fn nested_entry(kind: u8, depth: usize) -> Vec<u8> {
    let name: &[u8] = if kind == b'F' { b"\x01n" } else { b"" };
    let inner = (1..depth).fold(Vec::new(), |inner, _| [name, &[kind], &sized(&inner)].concat());
    entry(b"nested", kind, &sized(&inner))
}

pub(crate) fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

pub(crate) fn sized(content: &[u8]) -> Vec<u8> {
    [u32::try_from(content.len()).unwrap().to_be_bytes().as_slice(), content].concat()
}
