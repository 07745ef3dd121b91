//! From the bytes of a delivery to a decoded job, and its ack.

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame},
    protocol::{
        AMQPClass,
        basic::{AMQPMethod, Deliver},
    },
};
use divan::{Bencher, black_box, counter::ItemsCount};
use lapin_guard::FrameFilter;
use leveret::{
    Job,
    internals::{Acks, Incoming},
};

use crate::samples::{NOW_MS, SendEmail, TEXT_BYTES, message, received};

/// The method, header and body frames of one delivery.
fn frames(attempt: u32) -> [Vec<u8>; 3] {
    let deliver = Deliver {
        consumer_tag: "leveret-019a0000-0000-7000-8000-000000000000".into(),
        delivery_tag: 17,
        redelivered: false,
        exchange: "leveret.v1.jobs".into(),
        routing_key: "email".into(),
    };
    let properties = received(attempt).retry("email", "again", NOW_MS).properties().clone();
    let (body, header) = (vec![b'x'; 300], AMQPContentHeader { class_id: 60, body_size: 300, properties });
    let written = |frame: AMQPFrame| gen_frame(&frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0;
    [
        written(AMQPFrame::Method(1, AMQPClass::Basic(AMQPMethod::Deliver(deliver)))),
        written(AMQPFrame::Header(1, header)),
        written(AMQPFrame::Body(1, body)),
    ]
}

#[divan::bench]
fn filter_one_delivery(bencher: Bencher<'_, '_>) {
    let (frames, mut filter) = (frames(1), FrameFilter::default());
    bencher.bench_local(|| {
        for frame in black_box(&frames) {
            assert!(filter.filter(frame).is_none());
        }
    });
}

#[divan::bench]
fn read_envelope(bencher: Bencher<'_, '_>) {
    let message = message(TEXT_BYTES[0]);
    bencher.with_inputs(|| message.clone()).bench_values(|message| Incoming::read(message, NOW_MS));
}

#[divan::bench(args = [1, 5])]
fn admission_of_attempt(bencher: Bencher<'_, '_>, attempt: u32) {
    let received = received(attempt);
    assert!(received.is_run(SendEmail::NAME, NOW_MS));
    bencher.bench(|| black_box(&received).is_run(SendEmail::NAME, NOW_MS));
}

#[divan::bench(args = TEXT_BYTES)]
fn decode_payload(bencher: Bencher<'_, '_>, text_bytes: usize) {
    let received = Incoming::read(message(text_bytes), NOW_MS);
    bencher.bench(|| black_box(&received).decode::<SendEmail>().unwrap());
}

/// The share of serde alone in [`decode_payload`].
#[divan::bench(args = TEXT_BYTES)]
fn decode_payload_by_hand(bencher: Bencher<'_, '_>, text_bytes: usize) {
    let body = serde_json::to_vec(&crate::samples::job(text_bytes)).unwrap();
    bencher.bench(|| serde_json::from_slice::<SendEmail>(black_box(&body)).unwrap());
}

const ACKS: u64 = 1_000;

/// Acks [`ACKS`] jobs, flushed at half the prefetch and in the end, while `slow` jobs before them stay
/// unacknowledged. Returns the number of frames.
fn ack_all(slow: u64, prefetch: u64) -> u64 {
    let (mut acks, mut frames) = (Acks::default(), 0);
    (1..=slow).for_each(|tag| acks.delivered(tag));
    let unacknowledged = prefetch - slow;
    for tag in slow + 1..=slow + ACKS + unacknowledged {
        acks.delivered(tag);
        if tag > slow + unacknowledged && acks.finish(tag - unacknowledged) as u64 >= prefetch / 2 {
            acks.flush(|_, _| frames += 1);
        }
    }
    acks.flush(|_, _| frames += 1);
    frames
}

#[divan::bench(args = [32, 256])]
fn ack_1000_in_order_with_prefetch(bencher: Bencher<'_, '_>, prefetch: u64) {
    assert_eq!(ack_all(0, prefetch), ACKS.div_ceil(prefetch / 2), "one frame for each flush");
    bencher.counter(ItemsCount::new(ACKS)).bench(|| ack_all(0, black_box(prefetch)));
}

#[divan::bench(args = [32, 256])]
fn ack_1000_behind_a_slow_job_with_prefetch(bencher: Bencher<'_, '_>, prefetch: u64) {
    assert_eq!(ack_all(1, prefetch), ACKS, "one frame for each job");
    bencher.counter(ItemsCount::new(ACKS)).bench(|| ack_all(1, black_box(prefetch)));
}
