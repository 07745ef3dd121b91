use std::{error::Error as _, net::IpAddr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use url::Url;

use super::*;

fn parse(text: &str) -> Result<Address, Error> {
    Address::parse(text, Duration::from_secs(10))
}

#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let error = parse(text).expect_err(text).to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn an_address_is_read_part_by_part() {
    for (text, user, password, shown, vhost) in [
        ("amqp://h", "guest", "guest", "h:5672", "/"),
        (" amqp://h/\n", "guest", "guest", "h:5672", ""),
        ("AMQP://h/%2f", "guest", "guest", "h:5672", "/"),
        ("amqp://anna@h:1/a%20b/c", "anna", "guest", "h:1", "a b/c"),
        ("amqp://anna:@h", "anna", "", "h:5672", "/"),
        ("amqp://a%3Ab:c%40%2F%23%3f@h", "a:b", "c@/#?", "h:5672", "/"),
        ("amqp://odd:S3cret,tail;!$&'()*+=:~@10.0.0.1/v,w", "odd", "S3cret,tail;!$&'()*+=:~", "10.0.0.1:5672", "v,w"),
        ("amqp://u:p@ss@h", "u", "p@ss", "h:5672", "/"),
        ("amqp://u:100%sure@h", "u", "100%sure", "h:5672", "/"),
        ("amqp://u:p@[2001:db8::1]:5781/%2f", "u", "p", "[2001:db8::1]:5781", "/"),
        ("amqp://[::1]", "guest", "guest", "[::1]:5672", "/"),
    ] {
        let address = parse(text).unwrap();
        let found = (address.user.as_str(), address.password.as_str(), address.to_string(), address.vhost.as_str());
        assert_eq!(found, (user, password, shown.to_owned(), vhost), "{text}");
    }
    assert_eq!(parse("amqp://[2001:db8::1]:5781").unwrap().host, "2001:db8::1");
}

#[test]
fn an_invalid_broker_address_is_refused_with_its_invalid_part() {
    for (text, part) in [
        ("", "does not begin with amqp://"),
        ("http://h", "scheme"),
        ("amqp://", "no host"),
        ("amqp:///vhost", "no host"),
        ("amqp://u:p@/vhost", "no host"),
        ("amqp://:p@h", "no user"),
        ("amqp://u:p%00q@h", "zero byte"),
        ("amqp://u:%ff@h", "password is not UTF-8"),
        ("amqp://h:0", "port"),
        ("amqp://h:+1", "port"),
        ("amqp://h:65536", "port"),
        ("amqp://2001:db8::1", "[ ]"),
        ("amqp://[::1", "without a ]"),
        ("amqp://[::1]5672", "follow the ]"),
        ("amqp://[h]", "not an IPv6"),
        ("amqp://a,b", "neither a name nor"),
        ("amqp://h/#x", "%23"),
        ("amqp://h/a@b", "%40"),
        ("amqp://u:1234/x@h", "%2F"),
        ("amqp://h\u{7}", "control"),
        ("amqp://h?heartbeat=0", "heartbeat is \"0\""),
        ("amqp://h?heartbeat=0.5", "heartbeat"),
        ("amqp://h?heartbeat=-1", "heartbeat"),
        ("amqp://h?heartbeat=65536", "heartbeat"),
        ("amqp://h?heartbeat=", "heartbeat"),
        ("amqp://h?heartbeat", "heartbeat"),
        ("amqp://h?heartbeat=5&heartbeat=0", "heartbeat"),
        ("amqp://h?heartbeat=5&heartbeat=6", "twice"),
        ("amqp://h?connection_timeout=0", "connection_timeout"),
        ("amqp://h?connection_timeout=3600000", "60000"),
        ("amqp://h?channel_max=0", "channel_max"),
        ("amqp://h?frame_max=4096", "131072"),
        ("amqp://h?auth_mechanism=magic", "external"),
        ("amqp://h?connection_name=", "connection_name"),
        ("amqp://h?connection_name=a%0Ab", "connection_name"),
        ("amqp://h?Heartbeat=5", "unknown"),
        ("amqp://h?verify=verify_none", "\"verify\" is unknown"),
    ] {
        refused(text, &["broker address ", part]);
    }
    refused(&format!("amqp://h/{}", "v".repeat(256)), &["vhost", "255"]);
}

#[test]
fn the_parameters_of_an_address_override_the_settings() {
    let heartbeat = |text: &str| parse(text).unwrap().heartbeat;
    assert_eq!(
        (heartbeat("amqp://h"), heartbeat("amqp://h?heartbeat=42"), heartbeat("amqp://h/%2f?heartbeat=2s")),
        (10, 42, 2)
    );
    let all = "amqps://h/?frame_max=131072&channel_max=8&connection_timeout=1500&auth_mechanism=EXTERNAL&connection_name=a+b%2Bc";
    if cfg!(feature = "tls") {
        let address = parse(all).unwrap();
        assert!(address.tls && address.is_external());
        assert_eq!((address.port, address.connect_timeout), (5671, Duration::from_millis(1_500)));
        assert_eq!(address.connection_name.as_deref(), Some("a b+c"));
        let (uri, query) = (address.uri(), address.uri().query);
        assert_eq!(
            (query.channel_max, query.frame_max, query.connection_timeout),
            (Some(8), Some(FRAME_MAX), Some(1_500))
        );
        assert_eq!((uri.scheme, query.auth_mechanism), (AMQPScheme::AMQPS, Some(SASLMechanism::External)));
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn amqps_without_tls_compiled_in_is_refused() {
    assert!(matches!(parse("amqps://u:p@h/%2f"), Err(Error::TlsNotCompiled { .. })));
}

#[test]
fn a_list_is_split_before_an_address_and_nowhere_else() {
    let list = "amqp://u:a,b@h/x,y, AMQPS://h2:1,amqp://h3";
    assert_eq!(split(list).map(str::trim).collect::<Vec<_>>(), ["amqp://u:a,b@h/x,y", "AMQPS://h2:1", "amqp://h3"]);
    assert_eq!(split("").collect::<Vec<_>>(), [""]);
}

#[test]
fn a_wrong_address_is_shown_without_its_login() {
    refused("amqp://guest:hunter2@h:x/v?heartbeat=3", &["broker address amqp://***@h:x/v: "]);
    refused("amqp://guest:hun#ter2@h", &["broker address amqp://***: "]);
}

/// Characters that RFC 3986 allows unencoded in a password.
const AS_IT_IS: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':');

/// Returns the parts of a password that no text may contain: three characters, with a letter or digit among them.
/// Leveret's texts do not contain those letters.
fn parts(password: &str) -> Vec<String> {
    let characters: Vec<_> = password.chars().collect();
    let identifying = characters.windows(3).filter(|part| part.iter().any(|c| c.is_alphanumeric()));
    identifying.map(|part| part.iter().collect()).collect()
}

fn texts(error: &Error) -> String {
    let mut texts = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        texts.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    texts
}

proptest! {
    #[test]
    fn a_password_is_parsed_unchanged_and_appears_in_no_text(
        password in "[QZXJßЖ,;:/?#@%+&=!\\[\\] '\n\u{1F600}]{1,16}",
        host in prop_oneof![Just("h"), Just("h:1"), Just("[::1]"), Just("h:x"), Just("h h"), Just("")],
        after in prop_oneof![Just(""), Just("/%2f"), Just("/v?heartbeat=0"), Just("?x=y"), Just("/v?heartbeat=5")],
        scheme in prop_oneof![Just("amqp"), Just("amqps"), Just("http"), Just("")],
    ) {
        let all = utf8_percent_encode(&password, NON_ALPHANUMERIC).to_string();
        let least = utf8_percent_encode(&password, &AS_IT_IS).to_string();
        for (written, is_legal) in [(all, true), (least, true), (password.clone(), false)] {
            let text = format!("{scheme}://anna:{written}@{host}{after}");
            let shown = match parse(&text) {
                Ok(address) => {
                    prop_assert!(!is_legal || address.password == password, "{text}");
                    format!("{address} {address:?} {address:#?}")
                }
                Err(error) => {
                    let is_sound = is_legal && matches!(host, "h" | "h:1" | "[::1]") && matches!(after, "" | "/%2f" | "/v?heartbeat=5");
                    prop_assert!(!(is_sound && scheme == "amqp"), "{error}");
                    texts(&error)
                }
            };
            for part in parts(&password) {
                prop_assert!(!shown.contains(&part), "{part:?} of {text:?} is in {shown:?}");
            }
        }
    }

    /// An independent URL parser reads every address that both accept in the same way.
    #[test]
    fn an_address_is_read_as_the_url_crate_reads_it(
        text in "amqp://([a-z%:0-9,;@]{0,8}@)?(\\[[0-9a-f:.]{2,9}\\]|[a-zA-Z0-9._-]{0,8}|\\[::1\\])(:[0-9]{0,5})?(/[a-z%0-9,+]{0,6})?(\\?heartbeat=[0-9]{1,2})?",
    ) {
        let (Ok(address), Ok(url)) = (parse(&text), Url::parse(&text)) else { return Ok(()) };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
        let host = decoded(url.host_str().unwrap().trim_matches(['[', ']']));
        let same_ip = address.host.parse::<IpAddr>().is_ok_and(|ip| host.parse() == Ok(ip));
        prop_assert!(same_ip || address.host == host, "{}", text);
        prop_assert_eq!(address.port, url.port().unwrap_or(5672), "{}", text);
        if !url.username().is_empty() {
            prop_assert_eq!(&address.user, &decoded(url.username()), "{}", text);
        }
        if let Some(password) = url.password() {
            prop_assert_eq!(&address.password, &decoded(password), "{}", text);
        }
        prop_assert_eq!(&address.vhost, &url.path().strip_prefix('/').map_or("/".to_owned(), decoded), "{}", text);
        let heartbeat = url.query_pairs().find(|(name, _)| name == "heartbeat").map(|(_, value)| value.into_owned());
        prop_assert_eq!(address.heartbeat.to_string(), heartbeat.map_or("10".to_owned(), |s| s.parse::<u16>().unwrap().to_string()), "{}", text);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "(amqps?://)?\\PC{0,40}") {
        drop(parse(&text));
        let parts: Vec<_> = split(&text).collect();
        prop_assert_eq!(parts.join(","), text);
    }
}
