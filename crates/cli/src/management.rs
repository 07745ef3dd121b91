//! A client of RabbitMQ's HTTP API, for the parts that commands read.
//!
//! Every request ends after [`REQUEST_TIMEOUT`]. Errors never contain a password.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use ureq::{
    Agent,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};
use url::{Position, Url};

/// The longest time for one answer. A broker with thousands of queues takes seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer that is read, in bytes.
const LARGEST_ANSWER: u64 = 256 * 1024 * 1024;

/// The API of one broker, with a login.
pub(crate) struct Management {
    agent: Agent,
    /// The address without a trailing slash.
    base: String,
    authorization: String,
}

/// An error of a request to the management API.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManagementError {
    /// The address is invalid.
    #[error("management address: {reason}; expected http://user:password@host:15672")]
    Url { reason: String },
    /// The CA file contains no certificates.
    #[error("LEVERET_TLS_CA: {}: {reason}", file.display())]
    CaFile { file: PathBuf, reason: String },
    /// No answer.
    #[error("the management API at {address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    /// The API refused the request.
    #[error("the management API refuses {path}: status {status}, {reason}")]
    Refused { path: String, status: u16, reason: String },
    /// The answer has an unknown format.
    #[error("the management API's answer to {path} is not understood: {reason}")]
    Unreadable { path: String, reason: String },
}

/// A node of the cluster. Fields that an old broker does not send count as healthy.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) running: bool,
    #[serde(default)]
    pub(crate) mem_alarm: bool,
    #[serde(default)]
    pub(crate) disk_free_alarm: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Queue {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) durable: bool,
    #[serde(default)]
    pub(crate) auto_delete: bool,
    #[serde(default, deserialize_with = "table")]
    pub(crate) arguments: Table,
    /// The keys of the policy and the operator policy, merged by the broker. `None` while the API has no statistics of the
    /// queue: those of a new queue appear after some seconds. Then all fields below are missing too.
    #[serde(default, rename = "effective_policy_definition", deserialize_with = "known_table")]
    pub(crate) policy_keys: Option<Table>,
    #[serde(default)]
    pub(crate) policy: Option<String>,
    #[serde(default)]
    pub(crate) operator_policy: Option<String>,
    #[serde(default)]
    pub(crate) messages: u64,
    #[serde(default)]
    pub(crate) messages_ready: u64,
    #[serde(default)]
    pub(crate) messages_unacknowledged: u64,
    /// `None` if the broker does not report it, empty if the queue has no leader.
    #[serde(default)]
    pub(crate) leader: Option<String>,
    #[serde(default)]
    pub(crate) message_stats: Stats,
    #[serde(default)]
    pub(crate) members: Vec<String>,
    #[serde(default)]
    pub(crate) online: Vec<String>,
}

/// Rates of a queue. RabbitMQ omits rates of events that never happened.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Stats {
    #[serde(default, rename = "publish_details")]
    pub(crate) publish: Rate,
    #[serde(default, rename = "ack_details")]
    pub(crate) ack: Rate,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Rate {
    /// Events per second.
    #[serde(default)]
    pub(crate) rate: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Exchange {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) durable: bool,
    #[serde(default)]
    pub(crate) auto_delete: bool,
    #[serde(default)]
    pub(crate) internal: bool,
    #[serde(default, deserialize_with = "table")]
    pub(crate) arguments: Table,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Binding {
    pub(crate) source: String,
    pub(crate) destination: String,
    /// `queue` or `exchange`.
    pub(crate) destination_type: String,
    pub(crate) routing_key: String,
}

pub(crate) type Table = BTreeMap<String, Value>;

/// Reads a table. RabbitMQ writes an empty one as an empty list, or omits it.
fn table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Table, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Object(map) => map.into_iter().collect(),
        _ => Table::new(),
    })
}

fn known_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Table>, D::Error> {
    table(deserializer).map(Some)
}

impl Management {
    /// The API at `url`. Without a login in it, `login` (user and password) is used. With `https://` its certificate must
    /// come from a CA in the file `ca`, like the broker's, or without that file from one of the system's CAs.
    pub(crate) fn new(url: &str, login: (&str, &str), ca: Option<&Path>) -> Result<Self, ManagementError> {
        let wrong = |reason: String| ManagementError::Url { reason };
        let mut url = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(format!("expected http:// or https://, found {}://", url.scheme())));
        }
        // A password with a raw /, ? or # would be parsed as host, port and path, and shown in errors.
        if url[Position::BeforePath..].contains('@') {
            return Err(wrong(
                "found an @ after the first /, ? or #: write these as %2F, %3F and %23 in a password".into(),
            ));
        }
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let (mut user, mut password) = (login.0.to_owned(), login.1.to_owned());
        if !url.username().is_empty() {
            (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
        }
        url.set_username("").and(url.set_password(None)).map_err(|()| wrong("it contains no host".to_owned()))?;
        let tls = TlsConfig::builder()
            .root_certs(roots(ca)?)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config =
            Agent::config_builder().timeout_global(Some(REQUEST_TIMEOUT)).http_status_as_error(false).tls_config(tls);
        Ok(Self {
            agent: config.build().into(),
            base: url.as_str().trim_end_matches('/').to_owned(),
            authorization: format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))),
        })
    }

    /// The address without the login.
    pub(crate) fn address(&self) -> &str {
        &self.base
    }

    pub(crate) fn nodes(&self) -> Result<Vec<Node>, ManagementError> {
        self.get("/api/nodes")
    }

    pub(crate) fn queues(&self, vhost: &str) -> Result<Vec<Queue>, ManagementError> {
        self.get(&format!("/api/queues/{}", encoded(vhost)))
    }

    pub(crate) fn exchanges(&self, vhost: &str) -> Result<Vec<Exchange>, ManagementError> {
        self.get(&format!("/api/exchanges/{}", encoded(vhost)))
    }

    pub(crate) fn bindings(&self, vhost: &str) -> Result<Vec<Binding>, ManagementError> {
        self.get(&format!("/api/bindings/{}", encoded(vhost)))
    }

    /// The broker's time in whole seconds since the epoch, from the header `Date` of an answer.
    pub(crate) fn time(&self) -> Result<Option<u64>, ManagementError> {
        let unreachable =
            |error: ureq::Error| ManagementError::Unreachable { address: self.base.clone(), reason: error.to_string() };
        let request = self.agent.get(format!("{}/api/whoami", self.base)).header("authorization", &self.authorization);
        let answer = request.call().map_err(unreachable)?;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        let time = date.and_then(|date| httpdate::parse_http_date(date).ok());
        Ok(time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs()))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ManagementError> {
        let unreachable =
            |error: ureq::Error| ManagementError::Unreachable { address: self.base.clone(), reason: error.to_string() };
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.authorization);
        let mut answer = request.call().map_err(unreachable)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec().map_err(unreachable)?;
        if status != 200 {
            return Err(ManagementError::Refused { path: path.to_owned(), status, reason: reason(&body) });
        }
        serde_json::from_slice(&body)
            .map_err(|error| ManagementError::Unreadable { path: path.to_owned(), reason: error.to_string() })
    }
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Management").field("base", &self.base).finish_non_exhaustive()
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCerts, ManagementError> {
    // Not the public web CAs: the certificate of a private broker seldom comes from one.
    let Some(file) = ca else { return Ok(RootCerts::PlatformVerifier) };
    let wrong = |reason| ManagementError::CaFile { file: file.to_owned(), reason };
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let items: Result<Vec<_>, _> = parse_pem(leveret::without_bom(&pem)).collect();
    let items = items.map_err(|error| wrong(error.to_string()))?.into_iter();
    Ok(items.filter_map(|item| if let PemItem::Certificate(found) = item { Some(found) } else { None }).into())
}

fn encoded(vhost: &str) -> String {
    utf8_percent_encode(vhost, NON_ALPHANUMERIC).to_string()
}

/// The broker's reason in a refusal: `{"error": …, "reason": …}`.
fn reason(body: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    answer["reason"].as_str().unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener, thread};

    use super::*;

    #[test]
    fn an_https_address_is_greeted_with_tls() {
        const HANDSHAKE: u8 = 22;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api =
            Management::new(&format!("https://{}", listener.local_addr().unwrap()), ("guest", "guest"), None).unwrap();
        let greeted = thread::spawn(move || {
            let mut first = [0];
            listener.accept().unwrap().0.read_exact(&mut first).unwrap();
            first[0]
        });
        assert!(matches!(api.nodes(), Err(ManagementError::Unreachable { .. })));
        assert_eq!(greeted.join().unwrap(), HANDSHAKE);
    }

    #[test]
    fn the_login_of_the_address_goes_before_that_of_amqp_and_is_never_shown() {
        let basic = |login: &str| format!("Basic {}", BASE64_STANDARD.encode(login));
        let own = Management::new("http://ada:p%40ss@h:15672/", ("guest", "guest"), None).unwrap();
        assert_eq!((own.address(), own.authorization.as_str()), ("http://h:15672", basic("ada:p@ss").as_str()));
        assert!(!format!("{own:?}").contains("ss"), "{own:?}");
        let shared = Management::new("https://h/rabbit", ("guest", "secret"), None).unwrap();
        assert_eq!((shared.address(), &shared.authorization), ("https://h/rabbit", &basic("guest:secret")));
        for wrong in ["h:15672", "amqp://guest:hunter2@h", "http://"] {
            let error = Management::new(wrong, ("guest", "guest"), None).unwrap_err().to_string();
            assert!(error.contains("expected http://") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_empty_table_may_be_a_list_and_a_missing_one_is_not_known() {
        let empty = Some(Table::new());
        for (text, policy_keys) in [
            (r#"{"name":"q","arguments":[]}"#, None),
            (r#"{"name":"q","arguments":{},"effective_policy_definition":[]}"#, empty.clone()),
            (r#"{"name":"q","effective_policy_definition":null}"#, empty),
        ] {
            let queue: Queue = serde_json::from_str(text).unwrap();
            assert!(queue.arguments.is_empty(), "{text}");
            assert_eq!(queue.policy_keys, policy_keys, "{text}");
        }
    }
}
