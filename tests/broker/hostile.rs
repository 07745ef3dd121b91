//! Hostile messages: none of them stops a worker, and none is lost.

use std::{collections::HashMap, slice};

use leveret::{ErrorKind, testing::dead_letters};
use leveret_harness::{Permissions, Process, eventually, shared_node, unique};
use leveret_tests::jobs::{Act, Script, script};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    support::{LONG, Place, RunFile, labels},
    wire::{Properties, Property, Wire, entry, nested_entry, number_entry, sized, text_entry},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Dead,
}

/// A message and its expected end.
struct Hostile {
    name: String,
    properties: Properties,
    body: Vec<u8>,
    fate: Fate,
}

/// The properties of a valid job.
fn sound() -> Properties {
    Properties::default().text(Property::Type, b"test.script").with(Property::DeliveryMode, &[2])
}

fn body(job: &Script) -> Vec<u8> {
    serde_json::to_vec(job).unwrap()
}

/// A job that succeeds at its second attempt, so the effect of its properties on a copy shows.
fn hostile(name: impl Into<String>, properties: Properties, fate: Fate) -> Hostile {
    let name = name.into();
    let acts = [Act::Fail("once".to_owned()), Act::Succeed];
    Hostile { body: body(&script(&format!("hostile-{name}"), acts)), name, properties, fate }
}

fn with_body(name: &str, body: Vec<u8>) -> Hostile {
    Hostile { name: name.to_owned(), properties: sound(), body, fate: Fate::Dead }
}

fn bodies() -> Vec<Hostile> {
    vec![
        with_body("empty body", Vec::new()),
        with_body("deep JSON", b"[".repeat(200_000)),
        with_body("deep JSON in a field", [br#"{"acts":[],"label":"#.as_slice(), &b"{\"a\":".repeat(50_000)].concat()),
        with_body("NUL bytes", vec![0; 1_000]),
        with_body("invalid UTF-8", b"{\"label\":\"\xFF\xC3\x28\",\"acts\":[]}".to_vec()),
        // The most that RabbitMQ takes from 4.0 on.
        with_body("16 MiB", vec![b' '; 16 << 20]),
    ]
}

/// Every header of the framework with a value of every wrong kind.
fn wrong_types() -> Vec<Hostile> {
    let steering = ["leveret-attempt", "leveret-hop", "leveret-not-before", "leveret-expires-at"];
    let others = [
        "leveret-job",
        "leveret-enqueued-at",
        "leveret-track",
        "leveret-error",
        "leveret-error-kind",
        "leveret-failed-at",
        "leveret-queue",
        "traceparent",
        "tracestate",
        "x-delivery-count",
        "x-acquired-count",
        "x-first-death-queue",
        "x-death",
    ];
    let values: [(&str, u8, Vec<u8>); 11] = [
        ("nothing", b'V', vec![]),
        ("true", b't', vec![1]),
        ("a fraction", b'd', 1.5_f64.to_be_bytes().to_vec()),
        ("a decimal", b'D', vec![1, 0, 0, 0, 9]),
        ("a table", b'F', sized(&text_entry("a", b"b"))),
        ("an array", b'A', sized(b"t\x01V")),
        ("invalid UTF-8", b'S', sized(b"\xFF\xFE")),
        ("NULs", b'S', sized(b"\0\0")),
        ("bytes", b'x', sized(b"\xFF")),
        ("a negative number", b'l', (-7_i64).to_be_bytes().to_vec()),
        ("a huge number", b'l', i64::MAX.to_be_bytes().to_vec()),
    ];
    let mut messages = Vec::new();
    for (header, steers) in steering.map(|name| (name, true)).into_iter().chain(others.map(|name| (name, false))) {
        for (what, kind, value) in &values {
            let fate = match (header, *what) {
                // A time in 1970, in seconds.
                ("leveret-not-before", "a fraction" | "a decimal") => Fate::Done,
                // The name of a job that the queue has no handler for.
                ("leveret-job", "NULs") => Fate::Dead,
                (_, what) if steers && what != "nothing" => Fate::Dead,
                _ => Fate::Done,
            };
            let properties = sound().headers(&[entry(header.as_bytes(), *kind, value)]);
            messages.push(hostile(format!("{header} is {what}"), properties, fate));
        }
    }
    messages
}

fn headers() -> Vec<Hostile> {
    let year_9999 = 253_402_300_799_000;
    let with = |name: &str, header, fate| hostile(name, sound().headers(&[header]), fate);
    let death = [
        entry(b"queue", b'S', &sized(b"elsewhere")),
        entry(b"reason", b'S', &sized(b"expired")),
        entry(b"count", b'l', &i64::MAX.to_be_bytes()),
        entry(b"routing-keys", b'A', &sized(b"")),
    ];
    let death = [b"F".as_slice(), &sized(&death.concat())].concat();
    vec![
        with("64 KiB in one header", text_entry("long", &[b'x'; 64 << 10]), Fate::Done),
        hostile(
            "64 KiB in many headers",
            sound().headers(&(0..6_000).map(|n| entry(n.to_string().as_bytes(), b't', &[1])).collect::<Vec<_>>()),
            Fate::Done,
        ),
        with("the last attempt there is", number_entry("leveret-attempt", u32::MAX.into()), Fate::Dead),
        with("hop at its end", number_entry("leveret-hop", u32::MAX.into()), Fate::Done),
        with("not before the year 9999", number_entry("leveret-not-before", year_9999), Fate::Dead),
        with("not before the year 9999, as text", text_entry("leveret-not-before", b"253402300799000"), Fate::Dead),
        with("long expired", number_entry("leveret-expires-at", 0), Fate::Dead),
        with("published in 1970", number_entry("leveret-enqueued-at", 0), Fate::Done),
        with("forged x-death", entry(b"x-death", b'A', &sized(&death)), Fate::Done),
        with("unnamed header", entry(b"", b't', &[1]), Fate::Done),
        with("header with a NUL in its name", entry(b"a\0b", b't', &[1]), Fate::Done),
        with("tables within each other", nested_entry(b'F', 30), Fate::Done),
    ]
}

fn properties() -> Vec<Hostile> {
    vec![
        hostile("no properties", Properties::default(), Fate::Done),
        hostile("unknown type", sound().text(Property::Type, b"rm -rf"), Fate::Dead),
        hostile("type of NULs", sound().text(Property::Type, &[0; 255]), Fate::Dead),
        hostile("empty type and id", sound().text(Property::Type, b"").text(Property::MessageId, b""), Fate::Done),
        hostile("longest id", sound().text(Property::MessageId, "é".repeat(127).as_bytes()), Fate::Done),
        hostile("gzip", sound().text(Property::ContentEncoding, b"gzip"), Fate::Dead),
        hostile("no JSON", sound().text(Property::ContentType, b"image/png"), Fate::Dead),
        hostile("expiration", sound().text(Property::Expiration, b"3600000"), Fate::Done),
        hostile("priority 255", sound().with(Property::Priority, &[255]), Fate::Done),
        hostile("transient", sound().with(Property::DeliveryMode, &[1]), Fate::Done),
        hostile("end of time", sound().with(Property::Timestamp, &u64::MAX.to_be_bytes()), Fate::Done),
    ]
}

/// Messages that lapin cannot read: it would drop the connection, or overflow its stack and abort the process.
fn unreadable() -> Vec<Hostile> {
    let texts = [
        Property::ContentType,
        Property::ContentEncoding,
        Property::CorrelationId,
        Property::ReplyTo,
        Property::MessageId,
        Property::Type,
        Property::AppId,
    ];
    let texts = texts.map(|property| hostile(format!("{property:?}"), sound().text(property, b"\xFF\xC3"), Fate::Dead));
    let headers = [
        ("a header's name", entry(b"\xFF", b't', &[1])),
        ("a name in a table", entry(b"t", b'F', &sized(&entry(b"\xC3\x28", b'V', b"")))),
        ("25,000 arrays", nested_entry(b'A', 25_000)),
        ("18,000 tables", nested_entry(b'F', 18_000)),
    ];
    let headers = headers.map(|(name, header)| hostile(name, sound().headers(&[header]), Fate::Dead));
    texts
        .into_iter()
        .chain(headers)
        .map(|message| Hostile { name: format!("unreadable {}", message.name), ..message })
        .collect()
}

/// Two messages whose header frames have the largest size: one is done at its first attempt, the other needs a copy.
fn full_frames(room: usize) -> [Hostile; 2] {
    let longest = |spare: usize| {
        let others = sound().headers(&[text_entry("fill", b"")]).bytes().len();
        sound().headers(&[text_entry("fill", &vec![b'x'; room - spare - others])])
    };
    let done = Hostile {
        name: "full header frame".into(),
        properties: longest(0),
        body: body(&script("hostile-full header frame", [Act::Succeed])),
        fate: Fate::Done,
    };
    [done, hostile("full header frame without room for a copy", longest(1), Fate::Dead)]
}

/// Messages that a worker would reject, with an `x-death` that crashes RabbitMQ's dead-lettering process. After two
/// crashes the node would neither dead-letter nor delay anything.
fn forged_deaths(room: usize) -> Vec<Hostile> {
    let death = entry(b"x-death", b'A', &sized(&[b"S".as_slice(), &sized(b"a string, not a table")].concat()));
    let fill = |size| text_entry("fill", &vec![b'x'; size]);
    // RabbitMQ reads the first of two headers with one name, lapin the last.
    let harmless = text_entry("x-death", b"harmless");
    let twice = |first: &Vec<u8>, second: &Vec<u8>| sound().headers(&[first.clone(), second.clone()]);
    vec![
        hostile("forged x-death, done", sound().headers(slice::from_ref(&death)), Fate::Done),
        hostile(
            "forged x-death, unreadable",
            sound().text(Property::Type, b"\xFF").headers(slice::from_ref(&death)),
            Fate::Dead,
        ),
        hostile("forged x-death, nested", sound().headers(&[death.clone(), nested_entry(b'A', 9_000)]), Fate::Dead),
        hostile("forged x-death, no room", sound().headers(&[death.clone(), fill(room - 2_000)]), Fate::Dead),
        Hostile {
            body: vec![b'\t'; 2 << 20],
            ..hostile("forged x-death, large", sound().headers(slice::from_ref(&death)), Fate::Dead)
        },
        Hostile {
            body: vec![b'\n'; 2 << 20],
            ..hostile("unreadable forged x-death, hidden behind a text", twice(&death, &harmless), Fate::Dead)
        },
        hostile("unreadable forged x-death, before it a text", twice(&harmless, &death), Fate::Dead),
    ]
}

/// Publishes each message with a good job behind it.
async fn publish_all(wire: &mut Wire, queue: &str, messages: &[Hostile]) {
    for (n, message) in messages.iter().enumerate() {
        wire.publish("", queue.as_bytes(), &message.properties.bytes(), &message.body).await;
        let good = script(&format!("good-{n}"), [Act::Succeed]);
        wire.publish("", queue.as_bytes(), &sound().bytes(), &body(&good)).await;
    }
}

/// Returns the status line of the worker's response to a probe.
async fn probe(worker: &Process, path: &str) -> String {
    let line = worker.wait_line("health at ", LONG).await;
    let mut stream = TcpStream::connect(line.rsplit(' ').next().unwrap()).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Returns how often each run of these labels has ended.
fn ended(file: &RunFile, prefix: &str) -> HashMap<String, usize> {
    let mut ended = HashMap::new();
    for line in file.lines().into_iter().filter(|line| line.ended && line.label.starts_with(prefix)) {
        *ended.entry(line.label).or_default() += 1;
    }
    ended
}

/// Lets a worker process the messages, and checks the good jobs, the worker and the messages.
async fn meet(place: &Place, wire: &mut Wire, messages: &[Hostile]) {
    let file = RunFile::new();
    let worker = place.process(&file, &["--retry-ms", "200", "--max-attempts", "9"]);
    place.declared().await;
    publish_all(wire, &place.queue, messages).await;
    let name = |message: &Hostile| format!("hostile-{}", message.name);
    let done: Vec<_> = messages.iter().filter(|message| message.fate == Fate::Done).map(name).collect();
    let dead: Vec<_> = messages.iter().filter(|message| message.fate == Fate::Dead).collect();
    file.until("every good job is done", |lines| labels(lines, "good-").len() == messages.len()).await;
    file.until("every hostile one that can be is done", |lines| {
        let ended = labels(lines, "hostile-");
        done.iter().all(|name| ended.contains(name.as_str()))
    })
    .await;
    let (raw, letters) = (place.raw().await, format!("{}.dead", place.queue));
    eventually("all others are dead letters", LONG, async || {
        raw.depth(&letters).await.unwrap().is_some_and(|depth| depth as usize >= dead.len())
    })
    .await;
    assert!(ended(&file, "good-").values().all(|times| *times == 1), "{:?}", ended(&file, "good-"));
    let mut kept = HashMap::new();
    while let Some(taken) = wire.take(&letters).await {
        assert!(kept.insert(taken.body.clone(), taken).is_none(), "one dead letter for each message");
    }
    for message in dead {
        let taken = kept.remove(&message.body).unwrap_or_else(|| panic!("{} is lost", message.name));
        if message.name.starts_with("unreadable") {
            assert!(holds(&taken.properties, &message.properties), "{} has its properties", message.name);
        }
    }
    assert!(kept.is_empty(), "dead without need: {:?}", kept.keys().map(|body| body.escape_ascii().to_string()));
    assert_eq!(worker.count("lost the connection"), 0);
    for path in ["/livez", "/readyz"] {
        let answer = probe(&worker, path).await;
        assert!(answer.contains("200"), "{path}: {answer}");
    }
    for queue in [&place.queue, &format!("{}.suspect", place.queue)] {
        eventually("nothing is left over", LONG, async || raw.depth(queue).await.unwrap() == Some(0)).await;
    }
}

/// Returns whether `list` has every property of `wanted`, apart from the broker's own headers.
fn holds(list: &[u8], wanted: &Properties) -> bool {
    wanted.parts().all(|part| list.windows(part.len()).any(|window| window == part))
}

#[tokio::test]
async fn a_hostile_message_neither_stops_the_worker_nor_is_lost() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "hostile");
    let mut wire = Wire::connect(&place.url).await;
    let mut messages = [bodies(), headers(), properties(), unreadable()].into_iter().flatten().collect::<Vec<_>>();
    messages.extend(forged_deaths(wire.room()));
    messages.extend(full_frames(wire.room()));
    meet(&place, &mut wire, &messages).await;
}

#[tokio::test]
async fn no_type_of_any_header_is_too_wrong() {
    let place = Place::shared("types").await;
    let mut wire = Wire::connect(&place.url).await;
    meet(&place, &mut wire, &wrong_types()).await;
}

#[tokio::test]
async fn a_full_header_frame_that_the_broker_makes_longer_is_a_dead_letter() {
    let place = Place::shared("longer").await;
    place.declare().await;
    let mut wire = Wire::connect(&place.url).await;
    let [message, _] = full_frames(wire.room());
    wire.publish("", place.queue.as_bytes(), &message.properties.bytes(), &message.body).await;
    let mut crashing = Wire::connect(&place.url).await;
    // A probe of the queue's declaration may lie before it.
    eventually("it is unacknowledged", LONG, async || {
        crashing.hold(&place.queue).await.is_some_and(|taken| taken.body == message.body)
    })
    .await;
    drop(crashing);
    let file = RunFile::new();
    let worker = place.process(&file, &[]);
    place.declared().await;
    eventually("it is a dead letter", LONG, async || {
        dead_letters(&place.broker, &place.queue).await.is_ok_and(|letters| letters.len() == 1)
    })
    .await;
    let letters = dead_letters(&place.broker, &place.queue).await.unwrap();
    assert_eq!((letters[0].kind, &letters[0].payload), (Some(ErrorKind::Decode), &message.body));
    assert_eq!(letters[0].job.as_deref(), Some("test.script"), "what can be read is");
    assert!(letters[0].reason.contains("longer than a connection may carry"), "{}", letters[0].reason);
    assert_eq!((worker.count("lost the connection"), labels(&file.lines(), "hostile-").len()), (0, 0));
}

#[tokio::test]
async fn a_copy_is_not_forked_by_cc_and_bcc_nor_refused_for_its_user_id() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "senders");
    let (bystander, mallory) = (unique("bystander"), unique("mallory"));
    let raw = place.raw().await;
    raw.declare_quorum(&bystander, lapin::types::FieldTable::default()).await.unwrap();
    let copied =
        |name: &str| entry(name.as_bytes(), b'A', &sized(&[b"S".as_slice(), &sized(bystander.as_bytes())].concat()));
    vhost.node().add_user(&mallory, "secret", vhost.name(), Permissions::ALL).await.unwrap();
    let mut wire = Wire::connect(&vhost.url_for(&mallory, "secret")).await;
    let messages = [
        hostile("CC", sound().headers(&[copied("CC")]), Fate::Done),
        hostile("BCC", sound().headers(&[copied("BCC")]), Fate::Done),
        hostile("foreign user_id", sound().text(Property::UserId, mallory.as_bytes()), Fate::Done),
    ];
    meet(&place, &mut wire, &messages).await;
    assert_eq!(raw.depth(&bystander).await.unwrap(), Some(2), "one for each original, none for a copy");
}

#[tokio::test]
async fn a_routing_key_that_is_not_text_is_nothing_to_the_worker() {
    let (place, file) = (Place::shared("keys").await, RunFile::new());
    let worker = place.process(&file, &[]);
    place.declared().await;
    let mut wire = Wire::connect(&place.url).await;
    let key = [b"\xFF\xC3.".as_slice(), place.queue.as_bytes()].concat();
    wire.publish("leveret.v1.due", &key, &sound().bytes(), &body(&script("odd", [Act::Succeed]))).await;
    file.until("the job is done", |lines| labels(lines, "odd").len() == 1).await;
    assert_eq!(worker.count("lost the connection"), 0);
}
