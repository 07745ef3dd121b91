//! The settings of a process: one struct, set in code, by flags, or by environment variables (feature `clap`).

use std::{fmt, net::SocketAddr, num::NonZeroU16, path::PathBuf, time::Duration};

use crate::{error::Error, time};

/// The settings shared by a broker handle and the workers on it.
///
/// With the feature `clap` it is an argument group. Flatten it into a command's arguments: every setting then has a
/// flag and an environment variable, listed by `--help`.
///
/// ```
/// use leveret::{Broker, Config};
///
/// let config = Config { amqp_url: vec!["amqp://guest:guest@localhost/%2f".into()], ..Config::default() };
/// assert_eq!(config.payload_limit, 1024 * 1024);
/// # let _ = Broker::amqp(config);
/// ```
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::Args), command(mut_args(setting)))]
pub struct Config {
    /// Broker addresses, tried in turn (comma separated): `amqp://user:password@host:5672/vhost`
    // Parsed later: clap repeats an unreadable value, and these contain passwords.
    #[cfg_attr(feature = "clap", arg(long, env = "AMQP_URL", hide_env_values = true, default_value = DEFAULT_URL))]
    pub amqp_url: Vec<String>,

    /// PEM file of the CAs that may certify the broker, instead of the system's
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_TLS_CA", value_name = "FILE"))]
    pub tls_ca: Option<PathBuf>,

    /// PEM file of the client certificate shown to the broker, followed by its chain
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_TLS_CERT", value_name = "FILE"))]
    pub tls_cert: Option<PathBuf>,

    /// PEM file of the client certificate's private key
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_TLS_KEY", value_name = "FILE"))]
    pub tls_key: Option<PathBuf>,

    /// Address of /metrics, /livez and /readyz
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_HTTP_ADDR", default_value = "127.0.0.1:9464"))]
    pub http_addr: SocketAddr,

    /// Prefix of the exchanges and queues that all job queues share
    #[cfg_attr(
        feature = "clap",
        arg(long, env = "LEVERET_NAMESPACE", value_parser = namespace, default_value = "leveret.v1")
    )]
    pub namespace: String,

    /// Declare the topology at start, or only verify it (for a user without configure permission)
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_TOPOLOGY", value_enum, default_value = "declare"))]
    pub topology: TopologyMode,

    /// Heartbeat of the connections; a silent loss is noticed within twice this time
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_HEARTBEAT", value_parser = duration, default_value = "10s"))]
    pub heartbeat: Duration,

    /// Longest wait of a publish for a connection and its confirm
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_PUBLISH_TIMEOUT", value_parser = duration, default_value = "30s"))]
    pub publish_timeout: Duration,

    /// Most publishes that await their confirm at once
    #[cfg_attr(
        feature = "clap",
        arg(long, env = "LEVERET_PUBLISH_WINDOW", value_parser = publish_window, default_value = "1024")
    )]
    pub publish_window: NonZeroU16,

    /// Largest payload in bytes, published or handled
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_PAYLOAD_LIMIT", default_value = "1048576"))]
    pub payload_limit: usize,

    /// Longest average first step of a handler that still starts in its consumer's task, which is cheaper. Slower
    /// handlers get a task of their own each time. 0s: all do
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_INLINE_BUDGET", value_parser = duration, default_value = "50us"))]
    pub inline_budget: Duration,

    /// Time for running jobs to finish after a stop signal; must be less than the orchestrator's grace period
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_DRAIN_TIMEOUT", value_parser = duration, default_value = "25s"))]
    pub drain_timeout: Duration,

    /// The orchestrator's time between SIGTERM and SIGKILL
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_GRACE_PERIOD", value_parser = duration, default_value = "30s"))]
    pub grace_period: Duration,

    /// The broker's consumer timeout; every handler's timeout must be less
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_CONSUMER_TIMEOUT", value_parser = duration, default_value = "30m"))]
    pub consumer_timeout: Duration,
}

/// Time for cancelled attempts to notice before they are dropped.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// The parts of a stop after the drain timeout. Together they fit into the grace period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopTimeouts {
    /// Time from the cancellation of attempts until they are dropped.
    pub(crate) cancelled: Duration,
    /// Time for the confirms of requeued copies.
    pub(crate) requeued: Duration,
    /// Time for the last acks to arrive.
    pub(crate) settled: Duration,
    /// Time from the drop of attempts until the worker's run ends in any case.
    pub(crate) run: Duration,
    /// Time from the signal until the process ends in any case.
    pub(crate) process: Duration,
}

const DEFAULT_WINDOW: NonZeroU16 = NonZeroU16::MIN.saturating_add(1023);
const DEFAULT_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// The handling of the topology at the start of a worker.
///
/// ```
/// use leveret::{Config, TopologyMode};
///
/// let config = Config { topology: TopologyMode::Verify, ..Config::default() };
/// # let _ = config;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum TopologyMode {
    /// Declares missing objects (idempotent); a difference is an error.
    #[default]
    Declare,
    /// Only checks that every queue and exchange exists; requires no configure permission. AMQP shows neither bindings nor
    /// arguments: `leveret doctor` compares them through the management API. Objects that the broker hides from a
    /// user without any permission on them count as existing (RabbitMQ 4.2.6 and later).
    Verify,
}

impl Config {
    /// Checks that the namespace is a valid prefix of names on the broker.
    pub(crate) fn check_namespace(&self) -> Result<(), Error> {
        match namespace(&self.namespace) {
            Ok(_) => Ok(()),
            Err(reason) => Err(Error::Setting { setting: "LEVERET_NAMESPACE", reason }),
        }
    }

    pub(crate) fn stop_timeouts(&self) -> StopTimeouts {
        let left = self.grace_period.saturating_sub(self.drain_timeout);
        let cancelled = (left / 3).min(CANCEL_GRACE);
        StopTimeouts {
            cancelled,
            requeued: left / 5,
            settled: left / 10,
            run: (left * 4 / 5).saturating_sub(cancelled),
            process: self.grace_period.saturating_sub(left / 10),
        }
    }

    /// Checks that a stop fits into the orchestrator's grace period, as a worker does when it starts. The drain timeout
    /// plus one second must be less than the grace period.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leveret::Config;
    ///
    /// assert!(Config::default().check_drain().is_ok());
    /// assert!(Config { drain_timeout: Duration::from_secs(30), ..Config::default() }.check_drain().is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Budget`] with both values.
    pub fn check_drain(&self) -> Result<(), Error> {
        let drain = self.drain_timeout + CANCEL_GRACE;
        less("LEVERET_DRAIN_TIMEOUT plus one second", drain, "LEVERET_GRACE_PERIOD", self.grace_period)
    }

    /// Checks that a handler's timeout is less than the broker's consumer timeout. The error names it as `what`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leveret::Config;
    ///
    /// assert!(Config::default().check_timeout("the timeout of email.send", Duration::from_secs(300)).is_ok());
    /// assert!(Config::default().check_timeout("the timeout of report", Duration::from_secs(3600)).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Budget`] with both values.
    pub fn check_timeout(&self, what: &str, timeout: Duration) -> Result<(), Error> {
        less(what, timeout, "LEVERET_CONSUMER_TIMEOUT", self.consumer_timeout)
    }
}

fn less(inner: &str, inner_value: Duration, outer: &str, outer_value: Duration) -> Result<(), Error> {
    if inner_value < outer_value {
        return Ok(());
    }
    Err(Error::Budget { inner: inner.to_owned(), inner_value, outer: outer.to_owned(), outer_value })
}

impl Default for Config {
    fn default() -> Self {
        Self {
            amqp_url: vec![DEFAULT_URL.to_owned()],
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            http_addr: SocketAddr::from(([127, 0, 0, 1], 9464)),
            namespace: "leveret.v1".to_owned(),
            topology: TopologyMode::Declare,
            heartbeat: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(30),
            publish_window: DEFAULT_WINDOW,
            payload_limit: 1024 * 1024,
            inline_budget: Duration::from_micros(50),
            drain_timeout: Duration::from_secs(25),
            grace_period: Duration::from_secs(30),
            consumer_timeout: Duration::from_secs(30 * 60),
        }
    }
}

impl fmt::Debug for Config {
    /// Shows everything except the addresses, which contain passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("amqp_url", &format_args!("{} addresses", self.addresses().count()))
            .field("tls_ca", &self.tls_ca)
            .field("tls_cert", &self.tls_cert)
            .field("http_addr", &self.http_addr)
            .field("namespace", &self.namespace)
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

/// A text that is not a duration; see [`duration`].
///
/// ```
/// assert!(leveret::duration("5 minutes").unwrap_err().to_string().starts_with("\"5 minutes\" is not a duration"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration such as 250ms, 30s, 5m, 1h or 7d")]
pub struct InvalidDuration {
    text: String,
}

/// Parses a duration such as `50us`, `250ms`, `30s`, `5m`, `1h` or `7d`; a bare number is seconds.
///
/// It is the parser of [`Config`]'s flags, and serves further flags of the same kind.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(leveret::duration("5m"), Ok(Duration::from_secs(300)));
/// ```
///
/// # Errors
///
/// [`InvalidDuration`], which names the value and the expected form.
pub fn duration(text: &str) -> Result<Duration, InvalidDuration> {
    time::span(text).ok_or_else(|| InvalidDuration { text: text.to_owned() })
}

#[cfg(feature = "clap")]
fn publish_window(text: &str) -> Result<NonZeroU16, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number of publishes: expected 1 to 65535"))
}

/// The longest namespace with which the names of schedules fit AMQP's 255 bytes.
const LONGEST_NAMESPACE: usize = 128;

/// Checks that all names on the broker can begin with this namespace, and returns it.
fn namespace(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    if text.is_empty() || text.len() > LONGEST_NAMESPACE || !text.chars().all(allowed) {
        let expected = "expected letters, digits, '.', '_', '-' and ':'";
        return Err(format!("{text:?} is not a namespace: {expected}, at most {LONGEST_NAMESPACE} of them"));
    }
    if text.starts_with("amq.") {
        return Err(format!("{text:?} is not a namespace: RabbitMQ reserves names that start with amq."));
    }
    Ok(text.to_owned())
}

/// Returns a file's content without the byte order mark that some editors write before UTF-8.
///
/// Leveret reads all files named by settings in this way. Use it for files of your own settings.
///
/// ```
/// assert_eq!(leveret::without_bom(b"\xEF\xBB\xBFtoken"), b"token");
/// assert_eq!(leveret::without_bom(b"token"), b"token");
/// ```
#[must_use]
pub fn without_bom(content: &[u8]) -> &[u8] {
    content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content)
}

/// Makes an empty environment variable count as unset, and makes errors name the variable beside the flag.
///
/// [`Config`] and [`telemetry`](crate::observe::telemetry) use it. For your own arguments, add it to the attributes of
/// their struct:
///
/// ```
/// #[derive(clap::Parser)]
/// #[command(mut_args(leveret::setting))]
/// struct Settings {
///     /// Address of the mail server
///     #[arg(long, env = "SMTP_URL")]
///     smtp_url: String,
/// }
/// # use clap::CommandFactory;
/// # let mut command = Settings::command();
/// assert!(command.render_help().to_string().contains("--smtp-url <SMTP_URL>"));
/// ```
#[cfg(feature = "clap")]
#[must_use]
pub fn setting(argument: clap::Arg) -> clap::Arg {
    let Some(variable) = argument.get_env().map(std::ffi::OsStr::to_owned) else { return argument };
    let value = std::env::var_os(&variable);
    let is_empty = value.as_ref().is_some_and(|value| value.to_string_lossy().trim().is_empty());
    if is_empty {
        return argument.env(clap::builder::Resettable::Reset);
    }
    // Errors identify an argument by its flag and the name of its value.
    let is_named = argument.get_action().takes_values() && (value.is_some() || argument.is_required_set());
    if is_named { argument.value_name(variable.to_string_lossy().into_owned()) } else { argument }
}

/// Makes the parser of a list whose items are separated by commas, from the parser of an item. Spaces around an item
/// are no part of it, and empty items are left out.
///
/// The argument has the type `Vec<Box<[T]>>`: a list for each time that its flag is given.
///
/// ```
/// #[derive(clap::Parser)]
/// struct Settings {
///     #[arg(long = "port", value_parser = leveret::comma_list(port))]
///     ports: Vec<Box<[u16]>>,
/// }
///
/// fn port(text: &str) -> Result<u16, String> {
///     text.parse().map_err(|_| "expected a port".to_owned())
/// }
/// # use clap::Parser;
/// let settings = Settings::parse_from(["worker", "--port", "80, 443,", "--port", "8080"]);
/// assert_eq!(settings.ports.concat(), [80, 443, 8080]);
/// let error = Settings::try_parse_from(["worker", "--port", "80, http"]).err().unwrap().to_string();
/// assert!(error.contains(r#""http": expected a port"#));
/// ```
#[cfg(feature = "clap")]
pub fn comma_list<T: 'static>(
    item: impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<Box<[T]>, String> + Clone + Send + Sync + 'static {
    move |text: &str| {
        let items = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        items.map(|text| item(text).map_err(|reason| format!("{text:?}: {reason}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_namespace_is_refused() {
        for right in ["leveret.v1", "a", "Shop_2:test-x", &"n".repeat(128)] {
            assert_eq!(namespace(right), Ok(right.to_owned()));
        }
        for wrong in ["", " ", "a b", "a\n", "a/b", "#", "*", "ü", "amq.v1", "a\0", &"n".repeat(129)] {
            let config = Config { namespace: wrong.to_owned(), ..Config::default() };
            let error = crate::Broker::amqp(config).unwrap_err().to_string();
            assert!(error.starts_with("LEVERET_NAMESPACE: ") && error.contains("not a namespace"), "{error}");
        }
    }

    #[cfg(feature = "clap")]
    #[test]
    fn a_list_has_its_items_without_spaces_around_them_and_no_empty_one() {
        let names = comma_list(|name| Ok(name.to_owned()));
        for (text, items) in [
            ("a", &["a"][..]),
            ("a,b", &["a", "b"]),
            (" a , b c,\n", &["a", "b c"]),
            (",a,,b,", &["a", "b"]),
            (" , ", &[]),
            ("", &[]),
        ] {
            assert_eq!(names(text).unwrap().to_vec(), items, "{text:?}");
        }
        let numbers = comma_list(|number| number.parse::<u8>().map_err(|error| error.to_string()));
        assert!(numbers("1, 256").unwrap_err().starts_with("\"256\": "));
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(duration("50us"), Ok(Duration::from_micros(50)));
        for (text, ms) in
            [("250ms", 250), ("30s", 30_000), ("30", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "s", "-1s", "1w", "1.5s", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn debug_output_shows_no_password() {
        let config = Config { amqp_url: vec!["amqp://u:hunter2@h".into()], ..Config::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
