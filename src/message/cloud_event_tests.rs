//! CloudEvents in JSON and in headers.

use std::time::Duration;

use lapin::{BasicProperties, types::FieldTable};

use super::*;
use crate::message::{integer, text};

const ATTRIBUTES: &str = r#""specversion": "1.0", "id": "17", "source": "/shop", "type": "com.example.placed""#;

fn json(more: &str) -> String {
    format!("{{{ATTRIBUTES}{more}}}")
}

fn message(content_type: &str, body: impl Into<Bytes>) -> Message {
    Message { properties: BasicProperties::default().with_content_type(content_type.into()), body: body.into() }
}

fn opened(body: String) -> Result<(CloudEvent, Message), InvalidCloudEvent> {
    message(CLOUD_EVENT, body).open_cloud_event().map(Option::unwrap)
}

#[test]
fn data_is_taken_as_its_content_type_says() {
    let table: [(&str, &[u8], &str); 14] = [
        (r#", "data": {"order": 17}"#, br#"{"order": 17}"#, JSON),
        (r#", "data": "text""#, br#""text""#, JSON),
        (r#", "data": null"#, b"null", JSON),
        ("", b"null", JSON),
        (r#", "data": 1, "data_base64": null"#, b"1", JSON),
        (r#", "datacontenttype": null, "data": [1]"#, b"[1]", JSON),
        (r#", "datacontenttype": "text/JSON; charset=utf-8", "data": 1"#, b"1", "text/JSON; charset=utf-8"),
        (r#", "datacontenttype": "application/vnd.shop+json", "data": 1"#, b"1", "application/vnd.shop+json"),
        (r#", "datacontenttype": "application/xml", "data": "<a b=\"c\"/>""#, br#"<a b="c"/>"#, "application/xml"),
        (r#", "datacontenttype": "text/plain", "data": "{}""#, b"{}", "text/plain"),
        (r#", "datacontenttype": "application/xml""#, b"", "application/xml"),
        (r#", "data_base64": "eyJhIjoxfQ==""#, br#"{"a":1}"#, JSON),
        (
            r#", "datacontenttype": "application/octet-stream", "data_base64": "/wA=""#,
            b"\xFF\0",
            "application/octet-stream",
        ),
        (r#", "data_base64": """#, b"", JSON),
    ];
    for (more, data, content_type) in table {
        let (_, message) = opened(json(more)).unwrap();
        assert_eq!(&*message.body, data, "{more}");
        assert_eq!(message.properties.content_type().as_ref().unwrap().as_str(), content_type, "{more}");
    }
}

#[test]
fn an_event_that_breaks_the_specification_is_refused_with_the_attribute_and_the_rule() {
    let long = format!(r#"{{"specversion": "{}"}}"#, "9".repeat(1000));
    let table = [
        ("", "it is no JSON: EOF while parsing a value at line 1 column 0"),
        ("{", "it is no JSON"),
        (r#"["secret"]"#, "it is no JSON object"),
        (r#""secret""#, "it is no JSON object"),
        ("{}", "specversion: it is missing"),
        (r#"{"specversion": null}"#, "specversion: it is missing"),
        (r#"{"specversion": 1.0}"#, "specversion: it is not a text"),
        (r#"{"specversion": "0.3"}"#, r#"specversion: "0.3" is not understood: send "1.0""#),
        (&*long, r#"specversion: "9999999999999999" is not"#),
        (r#"{"specversion": "1.0"}"#, "id: it is missing"),
        (r#"{"specversion": "1.0", "id": ""}"#, "id: it is empty"),
        (r#"{"specversion": "1.0", "id": 7}"#, "id: it is not a text"),
        (r#"{"specversion": "1.0", "id": "7"}"#, "source: it is missing"),
        (r#"{"specversion": "1.0", "id": "7", "source": "a b", "type": "t"}"#, "source: it is no URI reference"),
        (r#"{"specversion": "1.0", "id": "7", "source": "/a"}"#, "type: it is missing"),
        (&*json(r#", "datacontenttype": 7"#), "datacontenttype: it is not a text"),
        (&*json(r#", "data_base64": "secret!""#), "data_base64: it is not Base64"),
        (&*json(r#", "data_base64": {}"#), "data_base64: it is not Base64"),
        (&*json(r#", "data": 1, "data_base64": "AA==""#), "data_base64: there is data besides"),
        (&*json(r#", "datacontenttype": "text/xml", "data": {}"#), "data: it is neither JSON"),
    ];
    for (body, reason) in table {
        let error = opened(body.to_owned()).unwrap_err();
        let shown = error.to_string();
        assert!(shown.starts_with("invalid CloudEvent: ") && shown.contains(reason), "{body}: {shown}");
        assert!(!shown.contains("secret") && shown.len() < 120, "{shown}");
        assert_eq!(CloudEvent::from_json(body.as_bytes()), Err(error), "{body}");
    }
    for (content_type, encoding) in [
        ("application/cloudevents-batch+json", ""),
        ("application/cloudevents+avro", ""),
        ("application/cloudevents", ""),
        (CLOUD_EVENT, "gzip"),
    ] {
        let mut message = message(content_type, json(""));
        message.properties = message.properties.with_content_encoding(encoding.into());
        let error = message.open_cloud_event().unwrap_err().to_string();
        assert!(error.contains("is not understood: send UTF-8 JSON as application/cloudevents+json"), "{error}");
    }
}

#[test]
fn attributes_are_texts_and_null_counts_as_absent() {
    let more = r#", "subject": "order 17", "time": "2018-04-05T19:31:00.5+02:00", "dataschema": "/schema", "n": -5,
        "flag": true, "none": null, "datacontenttype": "text/json", "data": 1"#;
    let event = CloudEvent::from_json(json(more).as_bytes()).unwrap();
    assert_eq!((event.id(), event.source(), event.event_type()), ("17", "/shop", "com.example.placed"));
    assert_eq!((event.subject(), event.data_schema()), (Some("order 17"), Some("/schema")));
    assert_eq!(event.time(), Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_522_949_460_500)));
    let names: Vec<_> = event.extensions().map(|(name, _)| name).collect();
    assert_eq!(names, ["datacontenttype", "dataschema", "flag", "n", "subject", "time"]);
    assert_eq!(
        (event.extension("n"), event.extension("flag"), event.extension("none")),
        (Some("-5"), Some("true"), None)
    );
    let without = CloudEvent::from_json(json(r#", "time": "yesterday", "subject": null"#).as_bytes()).unwrap();
    assert_eq!((without.time(), without.subject()), (None, None));
}

#[test]
fn the_content_type_may_have_parameters_and_any_case_and_a_byte_order_mark_may_stand_before() {
    let body = [BYTE_ORDER_MARK, json(r#", "data": 1"#).as_bytes()].concat();
    for content_type in ["application/cloudevents+json; charset=UTF-8", "Application/CloudEvents+JSON"] {
        let (_, message) = message(content_type, body.clone()).open_cloud_event().unwrap().unwrap();
        assert_eq!(&*message.body, b"1", "{content_type}");
    }
    for other in ["application/json", "", "application/cloud+json"] {
        assert_eq!(message(other, body.clone()).open_cloud_event().map(|event| event.is_none()), Ok(true), "{other}");
    }
}

#[test]
fn attributes_in_headers_are_read_beside_a_body_of_their_own() {
    for prefix in PREFIXES {
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("specversion", text("1.0")),
            ("id", text("17")),
            ("source", text("/shop")),
            ("type", text("t")),
            ("time", AMQPValue::Timestamp(1_522_949_460)),
            ("n", integer(5)),
            ("flag", AMQPValue::Boolean(true)),
        ] {
            headers.insert(format!("{prefix}{name}").into(), value);
        }
        headers.insert("tenant".into(), text("acme"));
        let mut message = message("application/json", "{}");
        message.properties = message.properties.with_headers(headers);
        let (event, opened) = message.open_cloud_event().unwrap().unwrap();
        assert_eq!((event.message_id().as_deref(), &*opened.body), (Some("/shop 17"), b"{}".as_slice()));
        assert_eq!(event.extension("time"), Some("2018-04-05T17:31:00Z"));
        assert_eq!(
            (event.extension("n"), event.extension("flag"), event.extension("tenant")),
            (Some("5"), Some("true"), None)
        );
        message.set_header(&format!("{prefix}specversion"), text("0.2"));
        assert_eq!(message.open_cloud_event().unwrap_err().attribute(), Some("specversion"));
    }
}

#[test]
fn an_event_without_an_id_gets_source_and_id_and_its_own_id_stays() {
    let id = |mut message: Message| {
        message.adopt_cloud_event_id(1_000);
        message.id().map(str::to_owned)
    };
    assert_eq!(id(message(CLOUD_EVENT, json(""))).as_deref(), Some("/shop 17"));
    let mut own = message(CLOUD_EVENT, json(""));
    own.set_id(&"own".into());
    assert_eq!(id(own).as_deref(), Some("own"));
    let long = json("").replace("/shop", &"s".repeat(127));
    for without in [message(CLOUD_EVENT, "{}"), message(JSON, json("")), message(CLOUD_EVENT, long)] {
        assert_eq!(id(without), None);
    }
}

#[test]
fn what_is_written_is_read_again_and_has_the_form_of_the_specification() {
    let new =
        |content_type| NewCloudEvent { id: "17", source: "/shop", event_type: "order.placed", content_type, at: 500 };
    let written = new(JSON).to_json(br#"{ "a": 1 }"#).unwrap();
    assert_eq!(
        std::str::from_utf8(&written).unwrap(),
        r#"{"specversion":"1.0","id":"17","source":"/shop","type":"order.placed","time":"1970-01-01T00:00:00.5Z","datacontenttype":"application/json","data":{ "a": 1 }}"#
    );
    let table: [(&str, &[u8]); 4] =
        [(JSON, b"\"text\""), (JSON, b"null"), ("image/png", b"\x89PNG\xFF"), ("text/plain", b"")];
    for (content_type, data) in table {
        let written = new(content_type).to_json(data).unwrap();
        let (event, message) = opened(String::from_utf8(written).unwrap()).unwrap();
        assert_eq!((&*message.body, event.event_type()), (data, "order.placed"));
        assert_eq!(event.time(), Some(SystemTime::UNIX_EPOCH + Duration::from_millis(500)));
    }
    assert!(new(JSON).to_json(b"no json").is_err());
}
