//! What `SMTP_URL` says: `smtp://user:password@host:port/ehlo-name?tls=required`.
//!
//! | URL | TLS | default port |
//! |---|---|---|
//! | `smtps://host` | from the first byte | 465 |
//! | `smtp://host?tls=required` | STARTTLS, or no mail | 587 |
//! | `smtp://host?tls=opportunistic` | STARTTLS where offered; an attacker can take it away | 587 |
//! | `smtp://host` | none | 25 |
//!
//! User name and password are percent-decoded; errors never show the URL.

use std::{fmt, sync::Arc};

use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use url::{Host, Position, Url};

/// What is wrong with an `SMTP_URL`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SmtpUrlError {
    /// Not a URL.
    #[error(transparent)]
    Syntax(#[from] url::ParseError),
    /// Neither `smtp` nor `smtps`.
    #[error("its scheme is `{0}`, not smtp or smtps")]
    Scheme(String),
    /// No host.
    #[error("it names no host")]
    Host,
    /// A parameter that means nothing here.
    #[error("it has the parameter `{0}`; known are tls=required and tls=opportunistic, on smtp: only")]
    Parameter(String),
    /// A password without a user, or a user without a password.
    #[error("it needs both user and password, or neither")]
    Credentials,
    /// A password with a raw `/`, `?` or `#`, which ends the host's part of the text.
    #[error("an @ stands after the first /, ? or #: write these as %2F, %3F and %23 in a password")]
    Unencoded,
    /// A percent-encoded part is not UTF-8.
    #[error("its user, password or path is not UTF-8")]
    Encoding,
    /// The host cannot be a TLS server name.
    #[error("its host cannot be used with TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// When the connection is encrypted.
pub(crate) enum TlsMode {
    Never,
    /// By STARTTLS where the server offers it.
    Opportunistic(ServerTls),
    /// By STARTTLS, or not used at all.
    Required(ServerTls),
    /// From the first byte.
    Wrapper(ServerTls),
}

/// What TLS is spoken with, and the name that the certificate must have.
pub(crate) struct ServerTls {
    pub(crate) tls: TlsConnector,
    pub(crate) name: ServerName<'static>,
}

/// Who logs in.
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// A mail server and how to talk to it.
pub(crate) struct SmtpServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: TlsMode,
    pub(crate) credentials: Option<Credentials>,
    /// The name for `EHLO`, if the URL has one.
    pub(crate) hello: Option<String>,
}

impl SmtpServer {
    pub(crate) fn parse(text: &str, roots: RootCertStore) -> Result<Self, SmtpUrlError> {
        let url = Url::parse(text.trim())?;
        // Else a part of the password would be the host, the greeting or a parameter, and be shown as that.
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

    /// Tells whether a password would cross the network readable.
    pub(crate) fn exposes_password(&self) -> bool {
        let local = matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        self.credentials.is_some() && !local && matches!(self.tls, TlsMode::Never | TlsMode::Opportunistic(_))
    }

    /// Names the server as `host:port`.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Without the credentials.
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
