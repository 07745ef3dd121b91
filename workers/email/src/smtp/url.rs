//! Parses `SMTP_URL`: `smtp://user:password@host:port/ehlo-name?tls=required`.
//!
//! | URL | TLS | default port |
//! |---|---|---|
//! | `smtps://host` | from the first byte | 465 |
//! | `smtp://host?tls=required` | STARTTLS; without it no mail | 587 |
//! | `smtp://host?tls=opportunistic` | STARTTLS if the server offers it; an attacker can prevent it | 587 |
//! | `smtp://host` | none | 25 |
//!
//! User name and password are percent-decoded; errors never show the URL.

use std::{fmt, sync::Arc};

use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use url::{Host, Position, Url};

/// Error of an invalid `SMTP_URL`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SmtpUrlError {
    /// The text is not a URL.
    #[error(transparent)]
    Syntax(#[from] url::ParseError),
    /// The scheme is neither `smtp` nor `smtps`.
    #[error("the scheme is `{0}`: it must be smtp or smtps")]
    Scheme(String),
    /// The URL has no host.
    #[error("the host is missing")]
    Host,
    /// The URL has an unknown parameter.
    #[error("the parameter `{0}` is unknown: use tls=required or tls=opportunistic, with smtp: only")]
    Parameter(String),
    /// The URL has a password without a user, or a user without a password.
    #[error("user and password must both be set, or neither")]
    Credentials,
    /// The password has a `/`, `?` or `#` that is not percent-encoded.
    #[error("an @ is after the first /, ? or #: write these as %2F, %3F and %23 in a password")]
    Unencoded,
    /// A percent-encoded part is not UTF-8.
    #[error("user, password or path is not UTF-8")]
    Encoding,
    /// The host is not a valid TLS server name.
    #[error("the host is not a valid TLS server name")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Use of TLS on a connection.
pub(crate) enum TlsMode {
    Never,
    /// STARTTLS if the server offers it.
    Opportunistic(ServerTls),
    /// STARTTLS; without it no mail.
    Required(ServerTls),
    /// From the first byte.
    Wrapper(ServerTls),
}

/// TLS configuration, and the name that the certificate must have.
pub(crate) struct ServerTls {
    pub(crate) tls: TlsConnector,
    pub(crate) name: ServerName<'static>,
}

/// User and password of the login.
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// A mail server with TLS and login.
pub(crate) struct SmtpServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: TlsMode,
    pub(crate) credentials: Option<Credentials>,
    /// Name for `EHLO`, if the URL has one.
    pub(crate) hello: Option<String>,
}

impl SmtpServer {
    pub(crate) fn parse(text: &str, roots: RootCertStore) -> Result<Self, SmtpUrlError> {
        let url = Url::parse(text.trim())?;
        // Otherwise a part of the password would count as host, `EHLO` name or parameter, and appear in messages.
        if url[Position::BeforePath..].contains('@') {
            return Err(SmtpUrlError::Unencoded);
        }
        let host = match url.host().ok_or(SmtpUrlError::Host)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let connector = || connector(&host, roots);
        let (tls, default_port) = match (url.scheme(), tls_mode(&url)?.as_deref()) {
            ("smtps", None) => (TlsMode::Wrapper(connector()?), 465),
            ("smtp", Some("required")) => (TlsMode::Required(connector()?), 587),
            ("smtp", Some("opportunistic")) => (TlsMode::Opportunistic(connector()?), 587),
            ("smtp", None) => (TlsMode::Never, 25),
            ("smtp" | "smtps", Some(mode)) => {
                return Err(SmtpUrlError::Parameter(format!("tls={mode}")));
            }
            (scheme, _) => return Err(SmtpUrlError::Scheme(scheme.to_owned())),
        };
        Ok(Self {
            port: url.port().unwrap_or(default_port),
            tls,
            credentials: credentials(&url)?,
            hello: hello(&url)?,
            host,
        })
    }

    /// Returns whether the password crosses a network without TLS.
    pub(crate) fn exposes_password(&self) -> bool {
        let local = matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        self.credentials.is_some() && !local && matches!(self.tls, TlsMode::Never | TlsMode::Opportunistic(_))
    }

    /// Returns `host:port`.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Shows the server without credentials.
impl fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpServer").field("name", &self.name()).field("hello", &self.hello).finish_non_exhaustive()
    }
}

fn tls_mode(url: &Url) -> Result<Option<String>, SmtpUrlError> {
    let mut mode = None;
    for (key, value) in url.query_pairs() {
        if key != "tls" {
            return Err(SmtpUrlError::Parameter(key.into_owned()));
        }
        mode = Some(value.into_owned());
    }
    Ok(mode)
}

fn connector(host: &str, roots: RootCertStore) -> Result<ServerTls, SmtpUrlError> {
    let wrong = |error: Box<dyn std::error::Error + Send + Sync>| SmtpUrlError::Tls(error);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| wrong(error.into()))?;
    Ok(ServerTls { tls: TlsConnector::from(Arc::new(config)), name })
}

fn credentials(url: &Url) -> Result<Option<Credentials>, SmtpUrlError> {
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        ("", Some(_)) | (_, None) => Err(SmtpUrlError::Credentials),
        (user, Some(password)) => Ok(Some(Credentials { user: decode(user)?, password: decode(password)? })),
    }
}

fn hello(url: &Url) -> Result<Option<String>, SmtpUrlError> {
    let name = decode(url.path().trim_matches('/'))?;
    if name.is_empty() {
        return Ok(None);
    }
    if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(SmtpUrlError::Encoding);
    }
    Ok(Some(name))
}

fn decode(text: &str) -> Result<String, SmtpUrlError> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8().map_err(|_| SmtpUrlError::Encoding)?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::{RootCertStore, SmtpServer, TlsMode};

    fn parse(url: &str) -> SmtpServer {
        SmtpServer::parse(url, RootCertStore::empty()).expect(url)
    }

    #[test]
    fn the_url_says_how_to_encrypt_and_where() {
        let server = parse("smtps://mail.example.com");
        assert!(matches!(server.tls, TlsMode::Wrapper(_)));
        assert_eq!(server.name(), "mail.example.com:465");
        let server = parse("smtp://mail.example.com?tls=required");
        assert!(matches!(server.tls, TlsMode::Required(_)));
        assert_eq!(server.port, 587);
        let server = parse("smtp://mail.example.com:2525?tls=opportunistic");
        assert!(matches!(server.tls, TlsMode::Opportunistic(_)));
        assert_eq!(server.port, 2525);
        let server = parse("smtp://[::1]/relay.example.org");
        assert!(matches!(server.tls, TlsMode::Never));
        assert_eq!((server.host.as_str(), server.port), ("::1", 25));
        assert_eq!(server.hello, Some("relay.example.org".to_owned()));
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let server = parse("smtp://ann%40example.org:p%3A%2F%C3%A9@mail.example.com?tls=required");
        let credentials = server.credentials.unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("ann@example.org", "p:/é"));
    }

    #[test]
    fn a_password_over_an_unprotected_network_is_noticed() {
        assert!(parse("smtp://u:p@mail.example.com").exposes_password());
        assert!(parse("smtp://u:p@mail.example.com?tls=opportunistic").exposes_password());
        assert!(!parse("smtp://u:p@127.0.0.1").exposes_password());
        assert!(!parse("smtp://u:p@mail.example.com?tls=required").exposes_password());
        assert!(!parse("smtp://mail.example.com").exposes_password());
    }

    #[test]
    fn a_url_that_means_nothing_stops_the_start_without_showing_the_password() {
        let urls = [
            "mail.example.com",
            "http://u:secret@mail.example.com",
            "smtp://",
            "smtp:mail.example.com",
            "smtp://u:secret@mail.example.com?tls=maybe",
            "smtps://u:secret@mail.example.com?tls=required",
            "smtp://u:secret@mail.example.com?ssl=1",
            "smtp://u@mail.example.com",
            "smtp://:secret@mail.example.com",
            "smtp://u:secret@mail.example.com:99999",
            "smtp://u:%ff@mail.example.com",
            "smtp://u:secret@mail.example.com/a%0d%0ab",
            "smtp://u:25/secret@mail.example.com",
            "smtp://u:25?secret@mail.example.com",
            "smtp://u:25#secret@mail.example.com",
        ];
        for url in urls {
            let error = SmtpServer::parse(url, RootCertStore::empty()).expect_err(url);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
