//! Events as plain data.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::*;
use crate::message::Message;

const NOW: u64 = 1_800_000_000_000;
const LIMIT: usize = 1024;

#[derive(Serialize, Deserialize, Event)]
#[event(crate = crate, topic = "order.placed")]
struct Placed {
    order: String,
}

fn placed() -> NewEvent {
    NewEvent::of(&Placed { order: "17".to_owned() })
}

fn message(new: &NewEvent) -> Message {
    new.clone().into_message(LIMIT, NOW).unwrap().1
}

#[test]
fn the_order_of_setters_does_not_matter() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    let one = placed().id("e").label("l").correlation_id("c").content_type("text/json").header("t", 1).enqueued_at(at);
    let other =
        placed().enqueued_at(at).header("t", 1).content_type("text/json").correlation_id("c").label("l").id("e");
    assert_eq!(one, other);
    let message = message(&one);
    assert_eq!((message.job_name(), message.id(), message.label()), (Some("order.placed"), Some("e"), Some("l")));
    assert_eq!((message.correlation_id(), message.enqueued_at()), (Some("c"), Some(7_000)));
    assert_eq!((&*message.body, message.number("t")), (br#"{"order":"17"}"#.as_slice(), Some(Ok(1))));
    assert_eq!(message.properties.content_type().as_ref().unwrap().as_str(), "text/json");
}

#[test]
fn all_emits_of_one_description_are_the_same_event_and_another_description_is_another_event() {
    let new = placed().track();
    let (first, again) = (message(&new), message(&new));
    assert_eq!((first.id(), first.origin()), (again.id(), again.origin()));
    let other = message(&placed().track());
    assert!(first.id() != other.id() && first.origin() != other.origin());
    let stored: NewEvent = new.clone().into_stored(SystemTime::now()).unwrap().into();
    assert_eq!((message(&stored).id(), message(&stored).origin()), (first.id(), first.origin()));
    // The label does not make it another one, before or after.
    let labelled = message(&new.label("l"));
    assert_eq!((labelled.id(), labelled.origin()), (first.id(), first.origin()));
}

#[test]
fn an_event_has_a_form_in_json_and_in_a_store() {
    let new = NewEvent::raw("order.placed", [0xFF_u8, 0]).id("e").header("tenant", "acme").content_type("x/y");
    let json = r#"{"topic":"order.placed","payload":[255,0],"id":"e","options":{"content_type":"x/y","headers":{"tenant":"acme"}}}"#;
    assert_eq!(serde_json::to_string(&new).unwrap(), json);
    assert_eq!(serde_json::from_str::<NewEvent>(json).unwrap(), new);
    let without_id = r#"{"topic": "order.placed", "payload": "{}"}"#;
    let read = || serde_json::from_str::<NewEvent>(without_id).unwrap();
    assert!(!read().id.is_empty() && read().id != read().id);
    for unknown in
        [r#"{"topic": "a", "payload": "", "delay": 1}"#, r#"{"topic": "a", "payload": "", "options": {"priority": 1}}"#]
    {
        assert!(serde_json::from_str::<NewEvent>(unknown).is_err(), "{unknown}");
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
    let stored = new.clone().into_stored(now).unwrap();
    assert_eq!(
        (&*stored.topic, stored.payload.as_slice(), stored.enqueued_at),
        ("order.placed", [0xFF, 0].as_slice(), now)
    );
    assert_eq!(NewEvent::from(stored), new.enqueued_at(now));
}

#[test]
fn a_value_that_no_worker_could_read_is_refused_with_its_rule_before_a_store_and_before_an_emit() {
    for (new, what) in [
        (NewEvent::raw("order.*", "{}"), "topic"),
        (NewEvent::raw("leveret.order", "{}"), "topic"),
        (placed().id("i".repeat(129)), "event id"),
        (placed().id(""), "event id"),
        (placed().label("l".repeat(1025)), "label"),
        (placed().header("leveret-attempt", 1), "header"),
        (placed().correlation_id("c".repeat(256)), "correlation id"),
        (placed().content_type(""), "content type"),
    ] {
        let refused =
            |error: PublishError| assert!(matches!(error, PublishError::Invalid { what: of, .. } if of == what));
        refused(new.clone().into_message(LIMIT, NOW).unwrap_err());
        refused(new.into_stored(SystemTime::now()).unwrap_err());
    }
    assert!(placed().id("i".repeat(128)).track().into_message(LIMIT, NOW).is_ok());
    let large = NewEvent::raw("a", vec![b' '; LIMIT + 1]).into_message(LIMIT, NOW).unwrap_err();
    assert!(matches!(large, PublishError::TooLarge { part: "payload", .. }), "{large}");
    let headers = placed().header("h", "h".repeat(200_000)).into_message(LIMIT, NOW).unwrap_err();
    assert!(matches!(headers, PublishError::TooLarge { part: "headers", .. }), "{headers}");
}

#[test]
fn a_payload_is_put_into_a_cloud_event_on_request_in_each_emit_alike() {
    let new = placed().id("e").cloud_event("/shop").enqueued_at(SystemTime::UNIX_EPOCH);
    let stored: NewEvent = new.clone().into_stored(SystemTime::now()).unwrap().into();
    for message in [message(&new), message(&stored)] {
        assert_eq!(message.properties.content_type().as_ref().unwrap().as_str(), "application/cloudevents+json");
        let (event, opened) = message.open_cloud_event().unwrap().unwrap();
        assert_eq!((event.id(), event.source(), event.event_type()), ("e", "/shop", "order.placed"));
        assert_eq!((&*opened.body, event.time()), (br#"{"order":"17"}"#.as_slice(), Some(SystemTime::UNIX_EPOCH)));
        assert_eq!((message.id(), message.job_name()), (Some("e"), Some("order.placed")));
    }
    let binary = NewEvent::raw("image.made", [0xFF_u8]).content_type("image/png").cloud_event("/shop");
    let (event, opened) = message(&binary).open_cloud_event().unwrap().unwrap();
    assert_eq!((event.extension("datacontenttype"), &*opened.body), (Some("image/png"), [0xFF].as_slice()));
}

#[test]
fn a_cloud_event_that_could_not_be_read_is_refused() {
    let whole = r#"{"specversion": "1.0", "id": "17", "source": "/shop", "type": "order.placed", "data": {}}"#;
    let ready = || NewEvent::from_cloud_event(whole).unwrap();
    assert_eq!((&*message(&ready()).body, message(&ready()).id()), (whole.as_bytes(), Some("/shop 17")));
    let long = NewEvent::from_cloud_event(whole.replace("/shop", &"s".repeat(127))).unwrap();
    assert!(long.id.len() == 36 && message(&long).job_name() == Some("order.placed"));
    for (new, what) in [
        (placed().cloud_event(""), "source of a CloudEvent"),
        (placed().cloud_event("the shop"), "source of a CloudEvent"),
        (ready().cloud_event("/shop"), "source of a CloudEvent"),
        (NewEvent::from_cloud_event(whole.replace("order.placed", "order/placed")).unwrap(), "topic"),
    ] {
        let error = new.into_message(LIMIT, NOW).unwrap_err();
        assert!(matches!(&error, PublishError::Invalid { what: of, .. } if *of == what), "{error}");
    }
    let no_json = NewEvent::raw("a", "no json").cloud_event("/shop").into_message(LIMIT, NOW).unwrap_err();
    assert!(matches!(no_json, PublishError::Encode { .. }), "{no_json}");
    let large = NewEvent::raw("a", vec![b'1'; LIMIT]).cloud_event("/shop").into_message(LIMIT, NOW).unwrap_err();
    assert!(matches!(large, PublishError::TooLarge { part: "payload", .. }), "{large}");
}
