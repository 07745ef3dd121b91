use serde::{Serializer, ser::Error as _};

use super::*;
use crate::{
    message::{Message, header},
    publish::draft::StoredJob,
    topology::Target,
};

const NOW: u64 = 1_800_000_000_000;

#[derive(Serialize, Deserialize)]
struct Laned {}

impl Job for Laned {
    const NAME: &'static str = "laned";
    const QUEUE: &'static str = "laned";
    const LANES: bool = true;
}

fn raw() -> NewJob {
    NewJob::raw("j", "q", "{}")
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(NOW)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns the target and the message, without its random values.
fn published(new: NewJob) -> (Target, Message) {
    let (_, target, mut message) = new.id("a").into_message(1024, NOW).unwrap();
    message.remove_header(header::ORIGIN);
    (target, message)
}

fn error_of(new: NewJob) -> PublishError {
    new.into_message(1024, NOW).map(drop).unwrap_err()
}

#[test]
fn the_order_of_setters_does_not_matter() {
    type Setter = fn(NewJob) -> NewJob;
    let setters: [Setter; 12] = [
        |new| new.queue("other"),
        |new| new.lanes(),
        |new| new.priority(9),
        |new| new.if_taken(IfTaken::Replace),
        |new| new.unique("k", seconds(60)),
        |new| new.delay(seconds(3)),
        |new| new.expires(seconds(9)),
        |new| new.track(),
        |new| new.label("l"),
        |new| new.correlation_id("c"),
        |new| new.content_type("text/json"),
        |new| new.header("tenant", "acme"),
    ];
    for new in [raw, || NewJob::of(&Laned {})] {
        let forward = setters.iter().fold(new(), |new, set| set(new));
        let backward = setters.iter().rev().fold(new(), |new, set| set(new));
        assert_eq!(serde_json::to_string(&forward).unwrap(), serde_json::to_string(&backward).unwrap());
        assert_eq!(forward, backward);
        assert_eq!(published(forward).0, published(backward).0);
    }
}

#[test]
fn a_priority_selects_a_lane_only_on_a_queue_that_is_known_to_have_lanes() {
    let queue = |new: NewJob| published(new.priority(9)).0.queue().to_owned();
    let laned = || NewJob::of(&Laned {});
    assert_eq!(queue(laned()), "laned.high");
    assert_eq!(queue(laned().queue("laned")), "laned.high");
    assert_eq!(queue(laned().queue("other").queue("laned")), "laned.high");
    assert_eq!(queue(laned().queue("other")), "other");
    assert_eq!(queue(laned().queue("laned.low")), "laned.low");
    assert_eq!(queue(laned().lanes().queue("other")), "other.high");
    assert_eq!(queue(NewJob::raw("laned", "laned", "{}")), "laned");
    assert_eq!(queue(raw().lanes()), "q.high");
}

#[test]
fn a_job_that_was_kept_as_json_is_published_as_the_original() {
    for new in [
        raw(),
        NewJob::of(&Laned {}).priority(9),
        NewJob::of(&Laned {}).queue("other").priority(9),
        NewJob::raw("j", "q", vec![0xff, 0]).content_type("application/octet-stream"),
        raw().at(now() + seconds(7)).correlation_id("c").label("l"),
        raw().delay(Duration::from_millis(1_500)).expires(seconds(9)).header("n", 1).header("b", true),
        raw().unique("k", seconds(60)).if_taken(IfTaken::Replace),
    ] {
        let json = serde_json::to_string(&new).unwrap();
        let kept: NewJob = serde_json::from_str(&json).unwrap();
        assert_eq!(kept, new, "{json}");
        let ((target, message), (kept_target, kept_message)) = (published(new), published(kept));
        assert_eq!((kept_target, kept_message.properties), (target, message.properties), "{json}");
        assert_eq!(kept_message.body, message.body);
    }
    assert!(serde_json::from_str::<NewJob>(r#"{"name": "j", "queue": "q", "payload": "{}", "priority": 5}"#).is_err());
}

#[test]
fn a_stored_job_is_due_and_expires_at_the_times_of_its_enqueue() {
    let stored = raw().delay(seconds(3)).expires(seconds(9)).track().into_stored(now()).unwrap();
    assert_eq!(stored.enqueued_at, now());
    let json = serde_json::to_string(&stored.options).unwrap();
    let options: JobOptions = serde_json::from_str(&json).unwrap();
    let later = |ms| {
        let new = NewJob::from(StoredJob { options: options.clone(), ..stored.clone() });
        let (id, target, message) = new.into_message(1024, NOW + ms).unwrap();
        assert_eq!((id, message.origin().into_owned()), (stored.id.clone(), options.origin.clone().unwrap()));
        let envelope = message.envelope(NOW + ms).unwrap();
        assert_eq!((envelope.enqueued_at, envelope.expires_at), (Some(NOW), Some(NOW + 9_000)));
        (matches!(target, Target::Delayed(..)), envelope.not_before)
    };
    assert_eq!(later(1_000), (true, Some(NOW + 3_000)));
    assert_eq!(later(4_000), (false, None));
    assert_eq!(later(60_000), (false, None), "a job that has expired expires in its queue");
    let laned = NewJob::of(&Laned {}).priority(9).into_stored(now()).unwrap();
    assert_eq!(serde_json::to_string(&laned.options).unwrap(), r#"{"priority":9,"lanes":true}"#);
}

#[test]
fn an_invalid_value_is_an_error_that_names_it() {
    let long = |length: usize| "x".repeat(length);
    for (what, new) in [
        ("job name", NewJob::raw("Not A Name", "q", "{}")),
        ("queue", raw().queue("")),
        ("job id", raw().id("")),
        ("job id", raw().id(long(256))),
        ("priority", raw().priority(32)),
        ("label", raw().label(long(1025))),
        ("correlation id", raw().correlation_id(long(256))),
        ("content type", raw().content_type("")),
        ("header", raw().header("x-death", 1)),
        ("delay", raw().delay(LONGEST)),
        ("delay", raw().at(now() + LONGEST)),
        ("delay", raw().delay(seconds(1)).at(now())),
        ("delay", raw().at(now()).delay(seconds(1))),
        ("time to live", raw().expires(LONGEST)),
        ("unique key", raw().unique(long(1025), seconds(1))),
        ("unique key", raw().unique("a\0", seconds(1))),
        ("if_taken", raw().if_taken(IfTaken::Existing)),
    ] {
        let error = error_of(new.clone());
        assert!(matches!(error, PublishError::Invalid { what: found, .. } if found == what), "{what}: {error}");
        let error = new.into_stored(now()).unwrap_err();
        assert!(matches!(error, PublishError::Invalid { what: found, .. } if found == what), "{what}: {error}");
    }
    let large = raw().header("tenant", long(112 * 1024));
    assert!(matches!(large.clone().into_stored(now()), Err(PublishError::TooLarge { part: "headers", .. })));
    assert!(matches!(error_of(large), PublishError::TooLarge { part: "headers", .. }));
    assert!(matches!(error_of(NewJob::raw("j", "q", long(1025))), PublishError::TooLarge { part: "payload", .. }));
}

const LONGEST: Duration = seconds(10 * 365 * 24 * 60 * 60);

#[test]
fn a_job_that_would_expire_before_it_can_run_is_refused_with_both_values() {
    for born_expired in [
        raw().delay(seconds(3)).expires(seconds(1)),
        raw().expires(seconds(1)).delay(seconds(3)),
        raw().delay(seconds(3)).expires(seconds(3)),
        raw().at(now() + seconds(3600)).expires(seconds(60)),
        raw().expires(Duration::from_micros(1)),
    ] {
        let error = born_expired.clone().into_stored(now()).unwrap_err();
        assert!(matches!(error, PublishError::Invalid { what: "time to live", .. }), "{error}");
        let error = error_of(born_expired);
        assert!(matches!(error, PublishError::Invalid { what: "time to live", .. }), "{error}");
    }
    let error = error_of(raw().delay(seconds(3)).expires(seconds(1))).to_string();
    assert!(error.contains("1s with a delay of 3s"), "{error}");
    let right = [
        raw().delay(seconds(1)).expires(seconds(3)),
        raw().expires(seconds(1)),
        raw().at(SystemTime::UNIX_EPOCH).expires(seconds(3)),
    ];
    for right in right {
        right.into_message(1024, NOW).unwrap();
    }
}

#[derive(Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("no form"))
    }
}

impl Job for Unwritable {
    const NAME: &'static str = "unwritable";
    const QUEUE: &'static str = "q";
}

#[test]
fn a_job_that_does_not_serialise_is_an_error_of_each_way_to_publish_it() {
    let new = || NewJob::of(&Unwritable);
    for error in [error_of(new()), new().into_stored(now()).unwrap_err()] {
        assert_eq!(error.to_string(), r#"the payload of job "unwritable" does not serialise: no form"#);
    }
    assert!(serde_json::to_string(&new()).unwrap_err().to_string().contains("no form"));
}

#[test]
fn the_debug_output_has_no_contents() {
    let shown = format!("{:?}", NewJob::raw("j", "q", "secret").header("token", "secret").label("secret"));
    assert!(shown.contains("bytes: Ok(6)") && !shown.contains("secret"), "{shown}");
}
