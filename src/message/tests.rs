use lapin::types::{ByteArray, FieldArray};
use proptest::prelude::*;

use super::*;
use crate::message::republish::{ERROR_TEXT_LIMIT, Republish};

const NOW: u64 = 1_800_000_000_000;

fn message(headers: &[(&str, AMQPValue)]) -> Message {
    let mut message = Message::new("email.send", &JobId::from("j-1"), b"{}".to_vec(), NOW);
    for (name, value) in headers {
        message.set_header(name, value.clone());
    }
    message
}

#[test]
fn every_integer_width_and_text_is_read() {
    let values = [
        AMQPValue::ShortShortInt(7),
        AMQPValue::ShortShortUInt(7),
        AMQPValue::ShortInt(7),
        AMQPValue::ShortUInt(7),
        AMQPValue::LongInt(7),
        AMQPValue::LongUInt(7),
        AMQPValue::LongLongInt(7),
        AMQPValue::ShortString("7".into()),
        text("7"),
        AMQPValue::ByteArray(ByteArray::from(b"7".to_vec())),
    ];
    for value in values {
        assert_eq!(message(&[(header::ATTEMPT, value.clone())]).envelope(NOW).unwrap().attempt, 7, "{value:?}");
    }
}

#[test]
fn a_time_in_seconds_is_the_same_time() {
    let at = |value| message(&[(header::NOT_BEFORE, value)]).envelope(NOW).unwrap().not_before;
    assert_eq!(at(AMQPValue::Timestamp(NOW / 1000)), at(integer(NOW)));
    let malformed = message(&[(header::NOT_BEFORE, AMQPValue::Timestamp(u64::MAX))]).envelope(NOW).unwrap_err();
    assert_eq!(malformed.header, header::NOT_BEFORE);
}

#[test]
fn a_time_with_decimals_is_read_in_milliseconds_or_if_small_in_seconds() {
    let at = |value| message(&[(header::NOT_BEFORE, value)]).envelope(NOW).unwrap().not_before;
    let seconds = NOW as f64 / 1000.0;
    for value in [
        AMQPValue::Double(NOW as f64),
        AMQPValue::Double(NOW as f64 + 0.75),
        AMQPValue::Double(seconds),
        text("1800000000000.5"),
        text(" 1.8e12 "),
        text("1800000000.0"),
        AMQPValue::DecimalValue(lapin::types::DecimalValue { scale: 1, value: 4_000_000_000 }),
    ] {
        let shown = format!("{value:?}");
        let wanted = if shown.contains("Decimal") { 400_000_000_000 } else { NOW };
        assert_eq!(at(value), Some(wanted), "{shown}");
    }
    assert_eq!(message(&[(header::ATTEMPT, AMQPValue::Double(3.0))]).envelope(NOW).unwrap().attempt, 3);
    assert_eq!(message(&[(header::ENQUEUED_AT, AMQPValue::Double(seconds))]).enqueued_at(), Some(NOW));
}

#[test]
fn the_header_names_the_job_before_the_property_that_other_frameworks_own() {
    let named = |kind: &str, header: Option<&str>| {
        let mut message = message(&[]);
        message.properties = std::mem::take(&mut message.properties).with_type(kind.into());
        if let Some(name) = header {
            message.set_header(header::JOB, text(name));
        }
        message.job_name().map(str::to_owned)
    };
    assert_eq!(named("Acme.Nap, Acme", Some("email.send")).as_deref(), Some("email.send"));
    assert_eq!(named("email.send", None).as_deref(), Some("email.send"));
    assert_eq!(named("email.send", Some("")).as_deref(), Some("email.send"));
    assert_eq!(named("", None), None);
}

#[test]
fn texts_of_publishers_are_read_up_to_the_length_that_workers_write() {
    let long = || text(&"é".repeat(100_000));
    let names = [header::JOB, header::LABEL, header::QUEUE, header::ORIGIN, header::UNREADABLE, header::ERROR];
    let message = message(&names.map(|name| (name, long())));
    let (job, label, queue) = (message.job_name().unwrap(), message.label().unwrap(), message.queue().unwrap());
    assert_eq!([job.len(), label.len(), queue.len(), message.origin().len()], [254, 1024, 254, 64]);
    assert!(message.unreadable().unwrap().len() <= 1024);
    assert!(dead_letter::DeadLetter::read(&message, NOW).reason.len() <= ERROR_TEXT_LIMIT);
}

#[test]
fn what_status_updates_show_of_an_origin_does_not_reveal_it_and_any_client_can_compute_it() {
    let origin = "9f86d081884c4d63a1b2c3d4e5f60718";
    let digest = message(&[(header::ORIGIN, text(origin))]).origin_digest();
    // Python: uuid.uuid5(uuid.NAMESPACE_OID, origin)
    assert_eq!(digest, "e89a8946-bc23-52b8-8478-5de2e92660e8");
    let (new, queued) =
        crate::NewJob::raw("email.send", "email", "{}").track().into_queued(std::time::SystemTime::now());
    assert!(!serde_json::to_string(&queued).unwrap().contains(new.origin().unwrap()));
    assert_eq!(queued.origin, new.origin().map(origin::digest_of));
}

#[test]
fn copies_keep_the_origin_of_a_tracked_job_and_other_jobs_with_its_id_do_not_have_it() {
    let tracked = |headers: &[(&str, AMQPValue)]| {
        let mut message = message(headers);
        message.set_header(header::TRACK, AMQPValue::Boolean(true));
        message
    };
    let kinds =
        || [Republish::Retry { kind: ErrorKind::Error, reason: "", at: NOW }, Republish::Moved, Republish::Replayed];
    for original in [tracked(&[]), tracked(&[(header::ORIGIN, text("minted"))])] {
        let origin = original.origin().into_owned();
        for kind in kinds() {
            let copy = original.copy("email", original.envelope(NOW).unwrap(), &kind, NOW + 5);
            assert_eq!(copy.origin(), origin, "{kind:?}");
            assert_eq!(copy.bare().origin(), origin);
        }
    }
    let mut forged = tracked(&[(header::HOP, integer(4_294_967_295))]);
    forged.body = b"nonsense".to_vec().into();
    assert_ne!(forged.origin(), tracked(&[]).origin());
    assert_ne!(tracked(&[]).origin(), tracked(&[(header::ORIGIN, text("minted"))]).origin());
    assert!(message(&[]).copy("q", Envelope::default(), &Republish::Moved, NOW).header(header::ORIGIN).is_none());
}

#[test]
fn a_snoozing_job_remembers_when_it_became_due_until_it_is_retried() {
    let original = message(&[(header::NOT_BEFORE, integer(NOW - 9))]);
    let envelope = |message: &Message| message.envelope(NOW).unwrap();
    let snooze = Republish::Later { at: NOW + 5, slot: None, snoozed_since: Some(NOW - 9) };
    let snoozed = original.copy("q", envelope(&original), &snooze, NOW);
    assert_eq!(envelope(&snoozed).snoozed_since, Some(NOW - 9));
    let held = Republish::Later { at: NOW + 7, slot: None, snoozed_since: None };
    let held = snoozed.copy("q", envelope(&snoozed), &held, NOW);
    assert_eq!(envelope(&held).snoozed_since, Some(NOW - 9));
    for kind in [Republish::Retry { kind: ErrorKind::Error, reason: "", at: NOW }, Republish::Replayed] {
        assert_eq!(envelope(&held.copy("q", envelope(&held), &kind, NOW)).snoozed_since, None);
    }
}

#[test]
fn a_reply_to_the_channel_of_the_sender_is_not_copied() {
    let copied = |reply_to: &str| {
        let mut original = message(&[]);
        original.properties = original.properties.with_reply_to(reply_to.into());
        let copy = original.copy("email", original.envelope(NOW).unwrap(), &Republish::Moved, NOW);
        copy.properties.reply_to().as_ref().map(ToString::to_string)
    };
    assert_eq!(copied("amq.rabbitmq.reply-to"), None);
    assert_eq!(copied("amq.rabbitmq.reply-to.g1h2"), Some("amq.rabbitmq.reply-to.g1h2".to_owned()));
}

#[test]
fn an_absent_or_void_header_has_its_default() {
    for message in [message(&[]), message(&[(header::ATTEMPT, AMQPValue::Void)])] {
        let envelope = message.envelope(NOW).unwrap();
        assert_eq!(envelope, Envelope { enqueued_at: Some(NOW), ..Envelope::default() });
    }
}

#[test]
fn a_malformed_controlling_header_is_named() {
    let table = [
        (header::ATTEMPT, AMQPValue::LongInt(0), "attempts are counted from 1"),
        (header::ATTEMPT, AMQPValue::LongInt(-3), "out of range"),
        (header::ATTEMPT, AMQPValue::LongLongInt(i64::MAX), "out of range"),
        (header::HOP, AMQPValue::Boolean(true), "not a number"),
        (header::HOP, text("soon"), "not a number"),
        (header::ATTEMPT, AMQPValue::Double(1.5), "not a whole number"),
        (header::ATTEMPT, text("1.5"), "not a whole number"),
        (header::NOT_BEFORE, AMQPValue::Double(f64::NAN), "not a number"),
        (header::NOT_BEFORE, text("inf"), "not a number"),
        (header::NOT_BEFORE, AMQPValue::Double(1e300), "out of range"),
        (header::NOT_BEFORE, AMQPValue::LongLongInt(253_402_300_799_000), "over ten years ahead"),
        (header::EXPIRES_AT, AMQPValue::LongLongInt(-1), "before 1970"),
        (header::EXPIRES_AT, AMQPValue::FieldArray(FieldArray::default()), "not a number"),
    ];
    for (name, value, reason) in table {
        let malformed = message(&[(name, value)]).envelope(NOW).unwrap_err();
        assert_eq!(malformed, Malformed { header: name, reason });
    }
}

#[test]
fn a_copy_keeps_the_job_and_drops_what_would_harm_it() {
    let mut original = message(&[
        ("tenant", text("acme")),
        ("CC", AMQPValue::FieldArray(FieldArray::default())),
        ("BCC", AMQPValue::FieldArray(FieldArray::default())),
        ("x-death", AMQPValue::FieldArray(FieldArray::default())),
        ("x-first-death-queue", text("q")),
        ("x-last-death-reason", text("expired")),
        (header::DELIVERY_COUNT, AMQPValue::LongInt(2)),
        (header::TRACEPARENT, text("00-1-2-01")),
        (header::NOT_BEFORE, integer(NOW)),
    ]);
    original.properties = std::mem::take(&mut original.properties)
        .with_user_id("guest".into())
        .with_expiration("5000".into())
        .with_priority(9)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_app_id("shop".into());
    let received = original.envelope(NOW).unwrap();
    let copy = original.copy(
        "email",
        received,
        &Republish::Retry { kind: ErrorKind::Error, reason: "down", at: NOW + 9 },
        NOW + 5,
    );

    let names: Vec<_> = copy.properties.headers().as_ref().unwrap().inner().keys().map(ShortString::as_str).collect();
    let wanted = [
        "leveret-attempt",
        "leveret-enqueued-at",
        "leveret-error",
        "leveret-error-kind",
        "leveret-expires-at",
        "leveret-failed-at",
        "leveret-hop",
        "leveret-not-before",
        "leveret-queue",
        "tenant",
        "traceparent",
    ];
    assert_eq!(names, wanted);
    assert_eq!(copy.body, original.body);
    assert_eq!((copy.id(), copy.job_name()), (Some("j-1"), Some("email.send")));
    let envelope = copy.envelope(NOW).unwrap();
    assert_eq!((envelope.attempt, envelope.hop, envelope.enqueued_at), (2, 1, Some(NOW)));
    assert_eq!(envelope.not_before, Some(NOW + 9), "its own time, not that of the original");
    assert_eq!(envelope.expires_at, Some(NOW + 5 + 5_000), "the broker's expiration has become leveret-expires-at");
    let kept = &copy.properties;
    assert_eq!((kept.user_id(), kept.expiration(), *kept.priority()), (&None, &None, Some(9)));
    assert_eq!(kept.correlation_id().as_ref().map(ShortString::as_str), Some("c"));
    assert_eq!(kept.app_id().as_ref().map(ShortString::as_str), Some("shop"));
}

#[test]
fn a_huge_error_text_is_cut_at_a_character() {
    let original = message(&[]);
    let reason = "é".repeat(100_000);
    let received = original.envelope(NOW).unwrap();
    let copy = original.copy("email", received, &Republish::Dead { kind: ErrorKind::Error, reason: &reason }, NOW);
    assert_eq!(copy.text(header::ERROR).unwrap().len(), ERROR_TEXT_LIMIT);
    assert!(copy.header_size() < COPY_HEADER_LIMIT);
}

#[test]
fn an_expiration_over_ten_years_makes_a_readable_copy() {
    let mut original = message(&[]);
    original.properties = std::mem::take(&mut original.properties).with_expiration("12092665399448378481".into());
    let received = original.envelope(NOW).unwrap();
    let copy = original.copy("q", received, &Republish::Retry { kind: ErrorKind::Error, reason: "r", at: NOW }, NOW);
    assert_eq!(copy.envelope(NOW).unwrap().expires_at, None);
}

#[test]
fn a_bare_copy_fits_whatever_headers_the_publisher_wrote() {
    let huge = || text(&"x".repeat(60_000));
    let original = message(&[("tenant", huge()), ("leveret-more", huge()), (header::EXPIRES_AT, huge())]);
    let envelope = Envelope::default();
    let kind = Republish::Dead { kind: ErrorKind::TooLarge, reason: "too much" };
    let copy = original.copy("email", envelope, &kind, NOW);
    assert!(copy.header_size() > COPY_HEADER_LIMIT);
    let bare = copy.bare();
    assert!(bare.header_size() < 1_000);
    assert_eq!(
        (bare.dead_kind(), bare.id(), bare.text(header::ERROR)),
        (Some(ErrorKind::TooLarge), Some("j-1"), Some("too much"))
    );
}

#[test]
fn an_unreadable_message_is_distinguished_from_its_copy() {
    let unreadable =
        message(&[(header::UNREADABLE, text("nested")), ("x-death", AMQPValue::FieldArray(FieldArray::default()))]);
    assert_eq!((unreadable.unreadable(), unreadable.dead_kind()), (Some("nested"), Some(ErrorKind::Decode)));
    assert!(unreadable.must_not_be_rejected());
    let received = unreadable.envelope(NOW).unwrap();
    let copy = unreadable.copy("q", received, &Republish::Dead { kind: ErrorKind::Decode, reason: "nested" }, NOW);
    assert_eq!(
        (copy.unreadable(), copy.must_not_be_rejected(), copy.dead_kind()),
        (None, false, Some(ErrorKind::Decode))
    );
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<f64>().prop_map(AMQPValue::Double),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        proptest::collection::vec(inner, 0..4).prop_map(|values| {
            let mut array = FieldArray::default();
            values.into_iter().for_each(|value| array.push(value));
            AMQPValue::FieldArray(array)
        })
    })
}

proptest! {
    #[test]
    fn no_header_panics_the_reader_and_every_copy_is_readable(
        name in prop_oneof![Just(header::ATTEMPT), Just(header::HOP), Just(header::NOT_BEFORE), Just(header::EXPIRES_AT),
            Just(header::ENQUEUED_AT), Just(header::JOB), Just(header::DELIVERY_COUNT), Just("x-death")],
        value in value(), now in any::<u64>(),
    ) {
        let message = message(&[(name, value)]);
        let _ = (message.job_name(), message.delivery_count(), message.header_size());
        if let Ok(received) = message.envelope(now) {
            let copy = message.copy("q", received, &Republish::Retry { kind: ErrorKind::Error, reason: "r", at: now }, now);
            let again = copy.envelope(now);
            prop_assert_eq!(again.map(|e| (e.attempt, e.hop)),
                Ok((received.attempt.saturating_add(1), received.hop.saturating_add(1))));
        }
    }
}

/// A job with a field of every kind.
#[derive(serde::Serialize, serde::Deserialize)]
struct Anything {
    text: String,
    number: f64,
    integer: Option<i128>,
    list: Vec<Self>,
}

impl crate::Job for Anything {
    const NAME: &'static str = "anything";
    const QUEUE: &'static str = "anything";
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let json = proptest::string::string_regex(r#"[\[\]{}:,"0-9a-zA-Z\\.+ -]{0,60}"#)
        .unwrap()
        .prop_map(String::into_bytes)
        .boxed();
    let field = prop_oneof![Just("text"), Just("number"), Just("integer"), Just("list"), Just("other")];
    let object = proptest::collection::vec((field, json.clone()), 0..5).prop_map(|fields| {
        let fields = fields.iter().map(|(name, value)| [b"\"", name.as_bytes(), b"\":", value].concat());
        [b"{".as_slice(), &fields.collect::<Vec<_>>().join(&b','), b"}"].concat()
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..80), json, object]
}

proptest! {
    #[test]
    fn a_payload_is_a_job_or_a_dead_letter_whatever_its_bytes(payload in payload()) {
        async fn accept(_job: Anything, _ctx: crate::Context<()>) -> crate::JobResult {
            Ok(())
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let worker = crate::Worker::new(()).handle(accept);
        let outcome = runtime.block_on(crate::testing::perform_raw(worker, "anything", "anything", &payload, 1)).unwrap();
        let decoded = serde_json::from_slice::<Anything>(&payload).is_ok();
        let dead = matches!(outcome, crate::Outcome::DeadLetter { kind: ErrorKind::Decode, .. });
        prop_assert_eq!((decoded, dead), (outcome == crate::Outcome::Done, !decoded));
    }
}
