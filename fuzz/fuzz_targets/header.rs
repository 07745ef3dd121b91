//! Reads a job from any bytes as its header frame. The frame filter, lapin's parser and Leveret's reader take all of them.
#![no_main]

use amq_protocol::frame::{AMQPFrame, parse_frame};
use lapin_guard::FrameFilter;
use leveret::internals::{Incoming, Message};

const NOW_MS: u64 = 1_800_000_000_000;

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let length = u32::try_from(payload.len()).unwrap();
    let frame = [&[2, 0, 1], length.to_be_bytes().as_slice(), payload, &[0xCE]].concat();
    let frame = FrameFilter::default().filter(&frame).unwrap_or(frame);
    let (rest, parsed) = parse_frame(frame.as_slice()).expect("every frame that passes can be parsed");
    assert!(rest.is_empty());
    let AMQPFrame::Header(_, header) = parsed else { panic!("not a header: {parsed:?}") };
    let message = Message::delivered(header.properties, bytes::Bytes::new());
    let _ = message.dead_kind();
    let received = Incoming::read(message, NOW_MS);
    let _ = received.is_run("job", NOW_MS);
    if let Some(attempt) = received.attempt() {
        let copy = Incoming::read(received.retry("queue", "again", NOW_MS), NOW_MS);
        assert_eq!(copy.attempt(), Some(attempt.saturating_add(1)), "a copy can be read");
    }
});
