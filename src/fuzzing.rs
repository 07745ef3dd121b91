//! What the fuzz targets in `fuzz/` reach for; compiled for them alone.

use bytes::Bytes;

use crate::{broker::screened, copy::CopyKind, message::Message, outcome::ErrorKind};

/// Takes any bytes for the payload of a header frame, all the way to a copy of the message.
///
/// # Panics
///
/// Panics if what the screen lets through is not what lapin's parser takes, or if a copy cannot be read again.
pub fn header(payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let frame = [&[2, 0, 1], length.to_be_bytes().as_slice(), payload, &[0xCE]].concat();
    let frame = screened(frame);
    let (rest, parsed) = amq_protocol::frame::parse_frame(frame.as_slice()).expect("the screen lets only this through");
    assert!(rest.is_empty());
    let amq_protocol::frame::AMQPFrame::Header(_, header) = parsed else { panic!("not a header: {parsed:?}") };
    let message = Message { properties: header.properties, body: Bytes::new() };
    let now = 1_800_000_000_000;
    let (_, _, _) = (message.job_name(), message.delivery_count(), message.dead_kind());
    if let Ok(received) = message.envelope(now) {
        let kind = CopyKind::Retry { kind: ErrorKind::Error, reason: "again" };
        let copy = message.copy("queue", received, &kind, now).envelope(now).expect("a copy can be read");
        assert_eq!(copy.attempt, received.attempt.saturating_add(1));
    }
}
