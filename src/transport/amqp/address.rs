//! The address of a broker, parsed by RFC 3986 and checked as strictly as the settings.
//!
//! An error shows no part of the user or the password. If it is unclear where these end, the error shows the scheme only:
//! a password with an unencoded `/`, `?` or `#` ends the authority part of the text.

use std::{fmt, net::Ipv6Addr, time::Duration};

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use percent_encoding::percent_decode_str;

use crate::transport::amqp::FRAME_MAX;
use crate::{
    config::{Config, duration},
    error::Error,
    time::millis,
};

/// The default limit of each TCP connection. A lost SYN is sent again after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The limit of AMQP's short strings and of host names in DNS, in bytes.
const LONGEST: usize = 255;
const MOST_CONNECT_TIMEOUT_MS: u64 = 60_000;

/// The address of one broker with its connection parameters.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) tls: bool,
    pub(super) user: String,
    pub(super) password: String,
    /// A name, or an IP address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) vhost: String,
    pub(super) connect_timeout: Duration,
    pub(super) connection_name: Option<String>,
    pub(super) mechanism: SASLMechanism,
    /// In seconds, and never 0: without heartbeats a silent loss is never noticed.
    pub(super) heartbeat: u16,
    channel_max: Option<u16>,
}

impl fmt::Debug for Address {
    /// Shows the main fields without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, user, host, port, vhost, heartbeat, .. } = self;
        f.debug_struct("Address")
            .field("tls", tls)
            .field("user", user)
            .field("host", host)
            .field("port", port)
            .field("vhost", vhost)
            .field("heartbeat", heartbeat)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    /// Shows host and port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Splits a list of addresses. Only a comma before another address separates, because a password may have commas.
pub(crate) fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let text = rest?;
        let comma = text.match_indices(',').map(|(at, _)| at).find(|at| begins_address(&text[at + 1..]));
        rest = comma.map(|at| &text[at + 1..]);
        Some(&text[..comma.unwrap_or(text.len())])
    })
}

fn begins_address(text: &str) -> bool {
    let text = text.trim_start();
    let begins = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    begins("amqp://") || begins("amqps://")
}

impl Address {
    /// Parses an address. `heartbeat` is the default of its parameter.
    pub(crate) fn parse(text: &str, heartbeat: Duration) -> Result<Self, Error> {
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        let wrong = |reason| Error::Url { url: without_login(text), reason };
        let address = Self::read(text, heartbeat).map_err(wrong)?;
        if address.tls && cfg!(not(feature = "tls")) {
            return Err(Error::TlsNotCompiled { url: without_login(text) });
        }
        Ok(address)
    }

    fn read(text: &str, heartbeat: Duration) -> Result<Self, String> {
        if text.contains(char::is_control) {
            return Err("it contains a control character".to_owned());
        }
        let (scheme, rest) = text.split_once("://").ok_or("it does not begin with amqp:// or amqps://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "amqp" => false,
            "amqps" => true,
            _ => return Err("its scheme is neither amqp nor amqps".to_owned()),
        };
        let (authority, rest) = rest.split_at(authority_end(rest));
        if rest.contains('@') {
            let encode = "write /, ? and # as %2F, %3F and %23 in a password, and @ as %40 in a vhost";
            return Err(format!("an @ follows the first /, ? or #: {encode}"));
        }
        if rest.contains('#') {
            return Err("it contains a fragment: write # as %23".to_owned());
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, host_and_port) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login_of(login)?;
        let (host, port) = host_and_port_of(host_and_port)?;
        let vhost = path.strip_prefix('/').map_or(Ok("/".to_owned()), |vhost| decoded("vhost", vhost))?;
        if vhost.len() > LONGEST {
            return Err(format!("its vhost is longer than {LONGEST} bytes"));
        }
        let mut address = Self {
            tls,
            user,
            password,
            host,
            port: port.unwrap_or(if tls { 5671 } else { 5672 }),
            vhost,
            connect_timeout: CONNECT_TIMEOUT,
            connection_name: None,
            mechanism: SASLMechanism::Plain,
            heartbeat: heartbeat.as_secs().try_into().unwrap_or(u16::MAX),
            channel_max: None,
        };
        let mut seen = Vec::new();
        for (name, value) in parameters(query)? {
            address.set(&name, &value)?;
            if seen.contains(&name) {
                return Err(format!("its parameter {name} is set twice"));
            }
            seen.push(name);
        }
        Ok(address)
    }

    /// Sets a parameter of the query. An unknown one is an error, because its author relies on it.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = |expected: &str| Err(format!("its parameter {name} is {value:?}, expected {expected}"));
        match name {
            "heartbeat" => match duration(value).map(|time| u16::try_from(time.as_secs())) {
                Ok(Ok(seconds @ 1..)) => self.heartbeat = seconds,
                _ => return wrong("1 to 65535 seconds: without heartbeats a silent loss is never noticed"),
            },
            "connection_timeout" => match value.parse() {
                Ok(ms @ 1..=MOST_CONNECT_TIMEOUT_MS) => self.connect_timeout = Duration::from_millis(ms),
                _ => return wrong("1 to 60000 milliseconds"),
            },
            "channel_max" => match value.parse() {
                Ok(channels @ 1..) => self.channel_max = Some(channels),
                _ => return wrong("1 to 65535"),
            },
            "frame_max" if value.parse() == Ok(FRAME_MAX) => {}
            "frame_max" => return wrong(&format!("{FRAME_MAX}, or no such parameter")),
            "auth_mechanism" => {
                self.mechanism = match value.to_ascii_lowercase().as_str() {
                    "plain" => SASLMechanism::Plain,
                    "amqplain" => SASLMechanism::AMQPlain,
                    "external" => SASLMechanism::External,
                    "anonymous" => SASLMechanism::Anonymous,
                    _ => return wrong("plain, amqplain, external or anonymous"),
                }
            }
            "connection_name" => match value.len() {
                1..=LONGEST if !value.contains(char::is_control) => self.connection_name = Some(value.to_owned()),
                _ => return wrong("1 to 255 bytes without control characters"),
            },
            _ => {
                let known = "heartbeat, connection_timeout, channel_max, auth_mechanism and connection_name";
                return Err(format!("its parameter {name:?} is unknown; known are {known}"));
            }
        }
        Ok(())
    }

    /// Returns the vhost.
    pub(crate) fn vhost(&self) -> &str {
        &self.vhost
    }

    /// Returns whether the client certificate names the user, instead of the address.
    pub(super) fn is_external(&self) -> bool {
        matches!(self.mechanism, SASLMechanism::External)
    }

    /// The URI for the guard, with the password.
    pub(super) fn uri(&self) -> AMQPUri {
        let userinfo = AMQPUserInfo { username: self.user.clone(), password: self.password.clone() };
        AMQPUri {
            scheme: if self.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            authority: AMQPAuthority { userinfo, host: self.host.clone(), port: self.port },
            vhost: self.vhost.clone(),
            query: AMQPQueryString {
                frame_max: Some(FRAME_MAX),
                channel_max: self.channel_max,
                heartbeat: Some(self.heartbeat),
                connection_timeout: Some(millis(self.connect_timeout)),
                auth_mechanism: Some(self.mechanism),
            },
        }
    }
}

fn authority_end(rest: &str) -> usize {
    rest.find(['/', '?', '#']).unwrap_or(rest.len())
}

/// Returns user and password, by default RabbitMQ's.
fn login_of(text: &str) -> Result<(String, String), String> {
    let (user, password) = text.split_once(':').unwrap_or((text, "guest"));
    let (user, password) = if matches!(text, "" | ":") { ("guest", "guest") } else { (user, password) };
    let (user, password) = (decoded("user", user)?, decoded("password", password)?);
    if user.is_empty() {
        return Err("it has a password and no user".to_owned());
    }
    // The PLAIN mechanism separates the two with this byte.
    if user.contains('\0') || password.contains('\0') {
        return Err("its user or password contains a zero byte".to_owned());
    }
    Ok((user, password))
}

/// Returns host and port.
fn host_and_port_of(text: &str) -> Result<(String, Option<u16>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("its host has a [ without a ]")?;
        let host: Ipv6Addr = host.parse().map_err(|_| "its host in [ ] is not an IPv6 address")?;
        let port = match after.strip_prefix(':') {
            Some(port) => port_of(port)?,
            None if after.is_empty() => None,
            None => return Err("only : and a port may follow the ] of its host".to_owned()),
        };
        return Ok((host.to_string(), port));
    }
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    let port = port_of(port)?;
    let host = decoded("host", host)?;
    if host.is_empty() {
        return Err("it names no host".to_owned());
    }
    let is_name_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    if host.len() > LONGEST || !host.chars().all(is_name_character) {
        return Err("its host is neither a name nor an IP address".to_owned());
    }
    Ok((host, port))
}

fn port_of(text: &str) -> Result<Option<u16>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let port = digits.filter(|port| *port > 0);
    port.map(Some).ok_or_else(|| "its port is not a number from 1 to 65535 (put an IPv6 host in [ ])".to_owned())
}

/// The parameters, in the encoding of forms.
fn parameters(query: &str) -> Result<Vec<(String, String)>, String> {
    let text = |text: &str| decoded("query", &text.replace('+', " "));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| Ok((text(name)?, text(value)?)))
        .collect()
}

fn decoded(what: &str, text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| format!("its {what} is not UTF-8 once it is percent-decoded"))
}

/// The address without user and password. The scheme alone if it is unclear where they end.
fn without_login(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| begins_address(&format!("{scheme}://")))
    else {
        return "***".to_owned();
    };
    let (authority, after) = rest.split_at(authority_end(rest));
    match authority.split_once('@') {
        Some((_, host)) if !host.contains('@') && !after.contains('@') => {
            let path = after.split(['?', '#']).next().unwrap_or_default();
            format!("{scheme}://***@{host}{path}")
        }
        _ => format!("{scheme}://***"),
    }
}

/// Parses the addresses of the settings.
pub(super) fn parse_addresses(config: &Config) -> Result<Vec<Address>, Error> {
    let addresses: Vec<_> =
        config.addresses().map(|address| Address::parse(address, config.heartbeat)).collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(Error::Setting { setting: "AMQP_URL", reason: "it contains no address".to_owned() });
    }
    Ok(addresses)
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
