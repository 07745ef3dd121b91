use amq_protocol::frame::{AMQPFrame, parse_frame};
use lapin::BasicProperties;
use proptest::prelude::*;

use super::{properties::DEEPEST, *};

const MARKERS: Markers = Markers { reason: "lapin-guard-unreadable", original: "lapin-guard-original-properties" };

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1], length.as_slice(), payload, &[0xCE]].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn sized(content: &[u8]) -> Vec<u8> {
    [u32::try_from(content.len()).unwrap().to_be_bytes().as_slice(), content].concat()
}

/// A header frame's payload for an empty body.
fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    [[0, 60, 0, 0].as_slice(), &[0; 8], &flags.to_be_bytes(), properties].concat()
}

fn with_headers(table: &[u8]) -> Vec<u8> {
    header(HEADERS, &sized(table))
}

/// The properties that lapin reads from a header frame.
fn read(frame: &[u8]) -> BasicProperties {
    let (rest, frame) = parse_frame(frame).unwrap();
    let AMQPFrame::Header(1, header) = frame else { panic!("{frame:?}") };
    assert!(rest.is_empty());
    header.properties
}

fn reason(payload: &[u8]) -> Option<String> {
    let replacement = FrameFilter::default().replacement(&frame(HEADER, payload))?;
    let properties = read(&replacement);
    let headers = properties.headers().as_ref().unwrap();
    Some(headers.inner().get(MARKERS.reason).unwrap().as_long_string().unwrap().to_string())
}

fn nested(kind: u8, depth: usize) -> Vec<u8> {
    let name: &[u8] = if kind == b'F' { b"\x01n" } else { b"" };
    let innermost = [&[kind], sized(b"").as_slice()].concat();
    let value = (1..depth).fold(innermost, |inner, _| [&[kind], sized(&[name, &inner].concat()).as_slice()].concat());
    [b"\x01d".as_slice(), &value].concat()
}

#[test]
fn a_header_that_lapin_reads_passes_unchanged() {
    let table = [
        short(b"all").as_slice(),
        b"A",
        &sized(
            &[
                b"t\x01b\x02B\x03s\x04\x04U\x05\x05u\x06\x06".as_slice(),
                b"I1234i1234f1234D12345",
                b"L12345678",
                b"l12345678d12345678T12345678V",
                b"S",
                &sized(b"\xFF\0"),
                b"x",
                &sized(b"\xFF"),
            ]
            .concat(),
        ),
        &nested(b'F', DEEPEST),
        b"\x01e",
        &nested(b'A', DEEPEST)[2..],
    ]
    .concat();
    assert_eq!(reason(&with_headers(&table)), None);
    read(&frame(HEADER, &with_headers(&table)));
    assert_eq!(reason(&header(0, b"")), None);
}

#[test]
fn a_header_that_lapin_cannot_read_is_marked_with_the_reason() {
    let table = [
        (header(1 << 5, &short(b"\xFF")), "its property type is not UTF-8"),
        (header(1 << 7, &short(b"a\xC3")), "its property message_id is not UTF-8"),
        (header(1 << 7, b"\x09short"), "its properties end too soon or too late"),
        (header(1 << 12, b"\x02\x02"), "its properties end too soon or too late"),
        (with_headers(b"\x01\xFFV"), "its property headers has a name that is not UTF-8"),
        (with_headers(b"\x01a_"), "its property headers has a value of an unknown type"),
        (with_headers(b"\x01aS\0\0\0\x09abc"), "its property headers is not well formed"),
        (with_headers(b"\x01aS\xFF\xFF\xFF\xFFabc"), "its property headers is not well formed"),
        (with_headers(&nested(b'A', DEEPEST + 1)), "its property headers is nested too deeply"),
        (with_headers(&nested(b'F', 10_000)), "its property headers is nested too deeply"),
        (with_headers(b"\x01aV\x01bV\x01aV"), "its property headers has a name twice"),
        (with_headers(&many_names_and_then(b"7")), "its property headers has a name twice"),
        (with_headers(&many_names_and_then(b"700")), "its property headers has a name twice"),
    ];
    for (payload, wanted) in table {
        assert_eq!(reason(&payload).as_deref(), Some(wanted));
    }
}

/// A thousand names, and one of them again.
fn many_names_and_then(again: &[u8]) -> Vec<u8> {
    let names = (0..1_000).map(|n| n.to_string().into_bytes()).chain([again.to_vec()]);
    names.flat_map(|name| [short(&name).as_slice(), b"V"].concat()).collect()
}

#[test]
fn an_inner_table_may_have_the_names_of_an_outer_one() {
    let inner = [b"\x01aF".as_slice(), &sized(b"\x01aV"), b"\x01bF", &sized(b"\x01aV")].concat();
    assert_eq!(reason(&with_headers(&inner)), None);
    assert_eq!(reason(&with_headers(&many_names_and_then(b"1000"))), None);
}

#[test]
fn an_x_death_array_stays_visible() {
    let array = [b"\x07x-deathA".as_slice(), &sized(b"V")].concat();
    let text = [b"\x07x-deathS".as_slice(), &sized(b"harmless")].concat();
    for forged in [[array.as_slice(), b"\x01a_"].concat(), [array.as_slice(), &text].concat(), [text, array].concat()] {
        let replacement = FrameFilter::default().replacement(&frame(HEADER, &with_headers(&forged))).unwrap();
        let properties = read(&replacement);
        assert!(properties.headers().as_ref().unwrap().inner()["x-death"].as_array().unwrap().as_slice().is_empty());
    }
}

#[test]
fn every_sound_property_is_kept() {
    let properties = [
        short(b"application/json").as_slice(),
        &short(b"\xFF"),
        &sized(b"\x01aV"),
        b"\x02\x07",
        &short(b"c"),
        &short(b"j-1"),
        &9_u64.to_be_bytes(),
        &short(b"\xFE"),
    ]
    .concat();
    let flags = 1 << 15 | 1 << 14 | HEADERS | 1 << 12 | 1 << 11 | 1 << 10 | 1 << 7 | 1 << 6 | 1 << 5;
    let replacement = FrameFilter::default().replacement(&frame(HEADER, &header(flags, &properties))).unwrap();
    let kept = read(&replacement);
    let text = |property: &Option<lapin::types::ShortString>| property.as_ref().map(|text| text.as_str().to_owned());
    assert_eq!(text(kept.content_type()).as_deref(), Some("application/json"));
    assert_eq!((text(kept.correlation_id()).as_deref(), text(kept.message_id()).as_deref()), (Some("c"), Some("j-1")));
    assert_eq!((*kept.delivery_mode(), *kept.priority(), *kept.timestamp()), (Some(2), Some(7), Some(9)));
    assert_eq!((kept.kind(), kept.content_encoding()), (&None, &None));
    let headers = kept.headers().as_ref().unwrap().inner();
    let original = [flags.to_be_bytes().as_slice(), &properties].concat();
    assert_eq!(headers[MARKERS.original], lapin::types::AMQPValue::ByteArray(original.into()));
    assert_eq!(headers.len(), 2);
}

#[test]
fn the_greeting_of_the_broker_is_read_up_to_the_first_broken_byte() {
    let greeting = |properties: &[u8]| {
        let server = Arc::default();
        let start = [[0, 10, 0, 10, 0, 9].as_slice(), properties].concat();
        assert_eq!(
            FrameFilter::with_server(FRAME_MAX, MARKERS, Arc::clone(&server)).replacement(&frame(METHOD, &start)),
            None
        );
        server.get().cloned().unwrap()
    };
    let text = |name: &[u8], value: &[u8]| [short(name).as_slice(), b"S", &sized(value)].concat();
    let capabilities = [short(b"capabilities").as_slice(), b"F", &sized(b"\x07confirmt\x01")].concat();
    let table = [capabilities, text(b"version", b"4.1.3"), text(b"product", b"RabbitMQ")].concat();
    let wanted =
        ServerProperties { product: "RabbitMQ".into(), version: "4.1.3".into(), ..ServerProperties::default() };
    assert_eq!(greeting(&sized(&table)), wanted);
    let with_mechanisms = ServerProperties { mechanisms: "PLAIN EXTERNAL".into(), ..wanted.clone() };
    assert_eq!(greeting(&[sized(&table), sized(b"PLAIN EXTERNAL"), sized(b"en_US")].concat()), with_mechanisms);
    assert_eq!(greeting(&[sized(&table), text(b"cluster_name", b"behind the table")].concat()), wanted);
    for unreadable in [b"".as_slice(), b"\0\0\0\xFF", &sized(b"\x07version"), &sized(b"\x07versionS\0\0\0\x09")] {
        assert_eq!(greeting(unreadable), ServerProperties::default());
    }
}

#[test]
fn a_header_frame_above_the_negotiated_size_is_replaced() {
    let long = frame(HEADER, &with_headers(&[b"\x01aS", sized(&[b'x'; 140_000]).as_slice()].concat()));
    // The size that the broker offers, 0 for any, and the negotiated size.
    for (offered, agreed) in [(4_096_u32, 4_096), (0, 131_072), (1 << 20, 131_072)] {
        let mut filter = FrameFilter::default();
        assert_eq!(filter.replacement(&long), None);
        let tune = [[0, 10, 0, 30, 0, 0].as_slice(), &offered.to_be_bytes(), &[0, 60]].concat();
        assert_eq!(filter.replacement(&frame(METHOD, &tune)), None);
        let replacement = filter.replacement(&long).unwrap();
        assert_eq!(replacement.len(), agreed, "as much of it as there is room for");
        assert!(read(&replacement).headers().as_ref().unwrap().contains_key(MARKERS.reason));
    }
}

#[test]
fn a_method_keeps_its_length_and_loses_bytes_that_are_not_utf_8() {
    let deliver = |key: &[u8]| {
        let arguments = [short(b"tag").as_slice(), &[0, 0, 0, 0, 0, 0, 0, 1, 0], &short(b""), &short(key)].concat();
        frame(METHOD, &[[0, 60, 0, 60].as_slice(), &arguments].concat())
    };
    let got = |key: &[u8]| {
        let arguments = [[0, 0, 0, 0, 0, 0, 0, 1, 0].as_slice(), &short(b"e"), &short(key), &[0; 4]].concat();
        frame(METHOD, &[[0, 60, 0, 71].as_slice(), &arguments].concat())
    };
    for method in [&deliver as &dyn Fn(&[u8]) -> Vec<u8>, &got] {
        assert_eq!(FrameFilter::default().replacement(&method("é".as_bytes())), None);
        assert_eq!(FrameFilter::default().replacement(&method(b"a\xFFb")), Some(method(b"a?b")));
        assert!(parse_frame(method(b"a?b").as_slice()).is_ok());
    }
}

fn property_bytes() -> impl Strategy<Value = Vec<u8>> {
    let text = proptest::collection::vec(any::<u8>(), 0..6).prop_map(|text| short(&text));
    let entry = (
        text.clone(),
        proptest::sample::select(b"tbBsUuIifDLldTSxAFV_".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..12),
    )
        .prop_map(|(name, kind, value)| [name.as_slice(), &[kind], &value].concat());
    let table = proptest::collection::vec(entry, 0..3).prop_map(|entries| sized(&entries.concat()));
    proptest::collection::vec(prop_oneof![text, table, proptest::collection::vec(any::<u8>(), 0..9)], 0..5)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn lapin_reads_every_header_that_passes_whatever_its_properties(flags in any::<u16>(), properties in property_bytes()) {
        let original = frame(HEADER, &header(flags, &properties));
        let through = FrameFilter::default().replacement(&original);
        read(through.as_deref().unwrap_or(&original));
        // Every header that lapin can read passes, except one that is nested too deeply.
        prop_assert_eq!(through.is_none(), parse_frame(original.as_slice()).is_ok());
    }

    #[test]
    fn lapin_reads_every_header_that_passes_whatever_its_bytes(
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let original = frame(HEADER, &payload);
        let through = FrameFilter::default().replacement(&original);
        read(through.as_deref().unwrap_or(&original));
    }
}

#[test]
fn frames_of_a_closed_channel_are_dropped_until_it_is_opened_again() {
    let on = |channel: u8, kind, payload: &[u8]| {
        let mut frame = frame(kind, payload);
        frame[2] = channel;
        frame
    };
    let (close, open_ok) = ([0, 20, 0, 40, 1, 150, 0, 0, 0, 0, 0], [0, 20, 0, 11, 0, 0, 0, 0]);
    let deliver = [[0, 60, 0, 60].as_slice(), b"\x01t", &[0; 8], &[0], b"\0\0"].concat();
    let delivery =
        |channel| [on(channel, METHOD, &deliver), on(channel, HEADER, &header(0, b"")), on(channel, 3, b"x")];
    let mut filter = FrameFilter::default();
    assert_eq!(filter.replacement(&on(1, METHOD, &close)), None);
    for frame in delivery(1) {
        assert!(filter.must_be_whole(FrameStart::read(&frame).unwrap()));
        assert_eq!(filter.replacement(&frame), Some(Vec::new()));
    }
    assert!(delivery(2).iter().all(|frame| filter.replacement(frame).is_none()));
    assert_eq!(filter.replacement(&on(1, METHOD, &close)), Some(Vec::new()));
    assert_eq!(filter.replacement(&on(1, METHOD, &open_ok)), None);
    assert!(delivery(1).iter().all(|frame| filter.replacement(frame).is_none()));
    assert!(!filter.must_be_whole(FrameStart::read(&delivery(1)[2]).unwrap()));
}
