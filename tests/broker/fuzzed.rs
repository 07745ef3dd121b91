//! Random header tables on messages that a worker cannot process: the node's dead-lettering must survive each of them.

use std::time::Duration;

use leveret_harness::{Node, NodeOptions, eventually};
use leveret_tests::jobs::{Act, script};

use crate::{
    support::{LONG, Place, RunFile, labels},
    wire::{Properties, Property, Wire, entry, sized},
};

const MESSAGES: usize = 300;
const PAYLOAD_LIMIT: usize = 512;

/// The names that RabbitMQ's dead-lettering reads or writes, and some that it ignores.
const NAMES: [&[u8]; 10] = [
    b"x-death",
    b"x-death",
    b"x-death",
    b"x-first-death-queue",
    b"x-first-death-reason",
    b"x-first-death-exchange",
    b"x-last-death-queue",
    b"x-delivery-count",
    b"queue",
    b"count",
];

/// The fields of an entry of `x-death`.
const FIELDS: [&[u8]; 6] = [b"queue", b"reason", b"count", b"exchange", b"routing-keys", b"time"];

/// A value of any type that RabbitMQ parses, its letter first.
fn random_value(random: &mut fastrand::Rng, depth: usize) -> Vec<u8> {
    let kinds: &[u8] = if depth == 0 { b"VtbBsuIilfdDTSx" } else { b"VtIlTSAAAFF" };
    let kind = *random.choice(kinds).unwrap();
    let fixed = |random: &mut fastrand::Rng, size: usize| (0..size).map(|_| random.u8(..)).collect::<Vec<_>>();
    let value = match kind {
        b'V' => Vec::new(),
        b't' => vec![u8::from(random.bool())],
        b'b' | b'B' => fixed(random, 1),
        b's' | b'u' => fixed(random, 2),
        b'I' | b'i' => fixed(random, 4),
        b'f' => finite(fixed(random, 4)),
        b'd' => finite(fixed(random, 8)),
        b'D' => fixed(random, 5),
        b'A' => {
            let items = random.usize(..4);
            sized(&(0..items).flat_map(|_| random_value(random, depth - 1)).collect::<Vec<_>>())
        }
        b'F' => {
            let items = random.usize(..5);
            let field = |random: &mut fastrand::Rng| {
                let name = random.choice(FIELDS).unwrap();
                let value = random_value(random, depth - 1);
                entry(name, value[0], &value[1..])
            };
            sized(&(0..items).flat_map(|_| field(random)).collect::<Vec<_>>())
        }
        b'S' | b'x' => sized(random.choice([b"rejected".as_slice(), b"expired", b"", b"\xFF\0", b"fuzzed"]).unwrap()),
        _ => fixed(random, 8),
    };
    [[kind].as_slice(), &value].concat()
}

/// Clears a bit of the exponent. The node refuses a publish with NaN or an infinity, which Erlang cannot represent.
fn finite(mut float: Vec<u8>) -> Vec<u8> {
    float[0] &= 0b1011_1111;
    float
}

fn header(random: &mut fastrand::Rng) -> Vec<u8> {
    let (name, value) = (random.choice(NAMES).unwrap(), random_value(random, 3));
    entry(name, value[0], &value[1..])
}

#[tokio::test]
async fn no_header_table_stops_a_node_from_dead_lettering() {
    let node = Node::start(NodeOptions::default()).await;
    let (place, file) = (Place::at(&node.url(), "fuzzed"), RunFile::new());
    let worker = place.process(&file, &["--payload-limit", &PAYLOAD_LIMIT.to_string()]);
    place.declared().await;
    let mut wire = Wire::connect(&place.url).await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..MESSAGES {
        let count = random.usize(1..6);
        let headers: Vec<_> = (0..count).map(|_| header(&mut random)).collect();
        // Too large, or of an unreadable type: the worker can run neither.
        let (kind, size) =
            if random.bool() { (b"test.script".as_slice(), PAYLOAD_LIMIT + 1) } else { (b"\xFF".as_slice(), 9) };
        let properties = Properties::default().text(Property::Type, kind).headers(&headers);
        wire.publish("", place.queue.as_bytes(), &properties.bytes(), &vec![b' '; size]).await;
    }
    let (raw, dead) = (place.raw().await, format!("{}.dead", place.queue));
    eventually("each is a dead letter", LONG, async || raw.depth(&dead).await.unwrap() == Some(MESSAGES as u32)).await;

    let large = Properties::default().text(Property::Type, b"test.script").bytes();
    wire.publish("", place.queue.as_bytes(), &large, &[b' '; PAYLOAD_LIMIT + 1]).await;
    eventually("the node dead-letters what is rejected", LONG, async || {
        raw.depth(&dead).await.unwrap() == Some(MESSAGES as u32 + 1)
    })
    .await;
    let late = script("late", [Act::Fail("once".to_owned()), Act::Succeed]);
    place
        .broker
        .publisher()
        .publish(&late)
        .queue(place.queue.as_str())
        .delay(Duration::from_millis(300))
        .await
        .unwrap();
    file.until("delays and retries come to their end", |lines| labels(lines, "late").contains("late")).await;
    assert_eq!(worker.count("lost the connection"), 0);
}
