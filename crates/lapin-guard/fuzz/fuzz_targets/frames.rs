//! Filters method and header frames with any payload. lapin's parser reads every header that passes, and no method frame
//! changes its length.
#![no_main]

use amq_protocol::frame::{AMQPFrame, parse_frame};
use lapin_guard::FrameFilter;

const METHOD: u8 = 1;
const HEADER: u8 = 2;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&[kind, 0, 1], length.to_be_bytes().as_slice(), payload, &[0xCE]].concat()
}

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let header = frame(HEADER, payload);
    let header = FrameFilter::default().filter(&header).unwrap_or(header);
    let (rest, parsed) = parse_frame(header.as_slice()).expect("every header that passes can be parsed");
    assert!(rest.is_empty() && matches!(parsed, AMQPFrame::Header(1, _)), "{parsed:?}");

    let method = frame(METHOD, payload);
    if let Some(replaced) = FrameFilter::default().filter(&method) {
        assert_eq!(replaced.len(), method.len());
    }
});
