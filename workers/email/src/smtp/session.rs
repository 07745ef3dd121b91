//! An SMTP session: every command has a step, expected reply codes and a deadline.
//!
//! The future of an attempt owns the session, so a cancelled attempt closes the connection. Otherwise a late reply could be
//! taken as the reply to the next mail, which would then count as sent.

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use lettre::Address;
use tokio::time::{Instant, timeout_at};

use super::{
    connection::{ConnectionError, SmtpConnection},
    reply::SmtpReply,
    url::{Credentials, SmtpServer, TlsMode},
};
use crate::error::SmtpStep;

/// Time limit of the check of an idle connection, which leaves time for the mail.
const IDLE_CHECK: Duration = Duration::from_secs(5);
/// Time limit of the reply to the end of a mail (RFC 5321, 4.5.3.2.6). The server may be delivering the mail, so a shorter
/// limit causes copies.
pub(crate) const END_OF_DATA: Duration = Duration::from_secs(600);

/// Failure of a session.
#[derive(Debug)]
pub(super) struct SmtpFailure {
    pub(super) step: SmtpStep,
    pub(super) cause: FailureCause,
    /// Position of the refused recipient in the envelope; 0 if the failure is not about one recipient.
    pub(super) recipient: usize,
    /// True if the server may have received the whole mail.
    pub(super) sent: bool,
}

#[derive(Debug)]
pub(super) enum FailureCause {
    /// Reply with 4xx or 5xx.
    Refused(SmtpReply),
    /// Reply with a code that this step does not expect.
    Unexpected(SmtpReply),
    Lost(String),
    Timeout,
    /// TLS or a login mechanism is missing or wrong until a setting changes.
    Configuration(String),
    /// The server does not accept this address.
    Utf8Unsupported(String),
    /// The attempt was cancelled.
    Stopped,
    /// A login was refused a moment ago with this reply, and is not retried yet.
    LoginPaused(String),
}

/// A mail to send.
#[derive(Debug)]
pub(super) struct OutgoingMail<'a> {
    pub(super) from: &'a Address,
    pub(super) to: &'a [Address],
    pub(super) reply_to: Option<&'a Address>,
    pub(super) bytes: &'a [u8],
}

pub(super) struct SmtpSession {
    connection: SmtpConnection,
    /// Extensions of the server in upper case, each with its parameters.
    features: Vec<String>,
    /// True if the last command has its reply and the connection stays open.
    is_in_sync: bool,
    /// Counts this session as open.
    _open: Arc<()>,
}

impl SmtpSession {
    /// Connects, and starts TLS as the settings say.
    pub(super) async fn open(server: &SmtpServer, open: &Arc<()>, deadline: Instant) -> Result<Self, SmtpFailure> {
        let connecting = SmtpConnection::connect(&server.host, server.port, deadline);
        let mut connection = within(deadline, SmtpStep::Connect, connecting).await?;
        if let TlsMode::Wrapper(connector) = &server.tls {
            connection = within(deadline, SmtpStep::Connect, connection.encrypt(connector)).await?;
        }
        let greeting = within(deadline, SmtpStep::Connect, connection.reply()).await?;
        let mut session = Self { connection, features: Vec::new(), is_in_sync: true, _open: Arc::clone(open) };
        session.check_code(SmtpStep::Connect, greeting, &[220])?;
        session.hello(SmtpStep::Connect, server, deadline).await?;
        session.encrypted(server, deadline).await
    }

    async fn hello(&mut self, step: SmtpStep, server: &SmtpServer, deadline: Instant) -> Result<(), SmtpFailure> {
        let name = server.hello.clone().unwrap_or_else(|| own_name(self.connection.local()));
        let reply = self.command(step, &format!("EHLO {name}"), &[250], deadline).await?;
        self.features = reply.lines.iter().skip(1).map(|line| line.trim().to_ascii_uppercase()).collect();
        Ok(())
    }

    async fn encrypted(mut self, server: &SmtpServer, deadline: Instant) -> Result<Self, SmtpFailure> {
        let connector = match &server.tls {
            TlsMode::Required(connector) => connector,
            TlsMode::Opportunistic(connector) if self.offers("STARTTLS") => connector,
            _ => return Ok(self),
        };
        if !self.offers("STARTTLS") {
            let missing = "the server does not offer STARTTLS, and SMTP_URL requires it".to_owned();
            return Err(SmtpFailure::new(SmtpStep::StartTls, FailureCause::Configuration(missing)));
        }
        self.command(SmtpStep::StartTls, "STARTTLS", &[220], deadline).await?;
        self.connection = within(deadline, SmtpStep::StartTls, self.connection.encrypt(connector)).await?;
        // The extensions that the server listed without TLS no longer count (RFC 3207).
        self.hello(SmtpStep::StartTls, server, deadline).await?;
        Ok(self)
    }

    pub(super) async fn login(&mut self, credentials: &Credentials, deadline: Instant) -> Result<(), SmtpFailure> {
        let Credentials { user, password } = credentials;
        let mechanisms: Vec<&str> = self
            .features
            .iter()
            .filter_map(|feature| feature.strip_prefix("AUTH ").or_else(|| feature.strip_prefix("AUTH=")))
            .flat_map(str::split_whitespace)
            .collect();
        let both = BASE64.encode(format!("\0{user}\0{password}"));
        let plain = password;
        let (user, password) = (BASE64.encode(user), BASE64.encode(password));
        let commands: Vec<(String, u16)> = if mechanisms.contains(&"PLAIN") {
            vec![(format!("AUTH PLAIN {both}"), 235)]
        } else if mechanisms.contains(&"LOGIN") {
            vec![("AUTH LOGIN".to_owned(), 334), (user, 334), (password.clone(), 235)]
        } else {
            let offered = if mechanisms.is_empty() { "none".to_owned() } else { mechanisms.join(", ") };
            let missing = format!("the server has no login by PLAIN or LOGIN; it offers {offered}");
            return Err(SmtpFailure::new(SmtpStep::Login, FailureCause::Configuration(missing)));
        };
        for (command, code) in commands {
            let answered = self.command(SmtpStep::Login, &command, &[code], deadline).await;
            answered.map_err(|failure| failure.without_secrets(&[plain, &both, &password]))?;
        }
        Ok(())
    }

    /// Resets an idle connection, and returns whether the server still answers.
    pub(super) async fn reset(&mut self, deadline: Instant) -> bool {
        let deadline = deadline.min(Instant::now() + IDLE_CHECK);
        self.command(SmtpStep::Connect, "RSET", &[250], deadline).await.is_ok()
    }

    /// Sends one mail to all its recipients or to none. `Ok` means that the server accepted it.
    pub(super) async fn transfer(
        &mut self,
        mail: &OutgoingMail<'_>,
        deadline: Instant,
        stopped: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(), SmtpFailure> {
        let parameters = self.parameters(mail)?;
        self.command(SmtpStep::Sender, &format!("MAIL FROM:<{}>{parameters}", mail.from), &[250], deadline).await?;
        for (recipient, address) in mail.to.iter().enumerate() {
            let command = format!("RCPT TO:<{address}>");
            let answered = self.command(SmtpStep::Recipient, &command, &[250, 251, 252], deadline).await;
            answered.map_err(|failure| SmtpFailure { recipient, ..failure })?;
        }
        self.command(SmtpStep::Content, "DATA", &[354], deadline).await?;
        self.content(mail.bytes, deadline, stopped).await
    }

    async fn content(
        &mut self,
        bytes: &[u8],
        deadline: Instant,
        stopped: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(), SmtpFailure> {
        self.is_in_sync = false;
        let stuffed = dot_stuffed(bytes);
        let written = within(deadline, SmtpStep::Content, async {
            self.connection.send(&stuffed).await?;
            self.connection.expect_no_data().await
        });
        if let Err(failure) = written.await {
            // A server that replies or closes the connection before the end of a mail may have refused it.
            let Some(reply) = self.connection.final_reply().await.filter(SmtpReply::is_refusal) else {
                return Err(failure);
            };
            return Err(SmtpFailure::new(SmtpStep::Content, FailureCause::Refused(reply)));
        }
        // From here on the server may have received the whole mail.
        let limit = Instant::now() + END_OF_DATA;
        let mut sent = false;
        let ended = within(limit, SmtpStep::Content, async {
            sent = true;
            self.connection.exchange(b".\r\n").await
        });
        let answered = tokio::select! {
            biased;
            () = stopped => Err(SmtpFailure::new(SmtpStep::Content, FailureCause::Stopped)),
            answered = ended => answered,
        };
        let checked = answered.and_then(|reply| self.check_code(SmtpStep::Content, reply, &[250]));
        checked.map(drop).map_err(|failure| SmtpFailure { sent, ..failure })
    }

    /// Returns whether the connection is between two mails, so that the next mail can use it.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_in_sync && !self.connection.has_unread()
    }

    /// Returns the parameters of `MAIL FROM`. The composed body is ASCII, so other bytes are addresses in headers.
    fn parameters(&self, mail: &OutgoingMail<'_>) -> Result<&'static str, SmtpFailure> {
        let beyond_ascii = mail.to.iter().chain(mail.reply_to).find(|address| !address.user().is_ascii());
        if mail.bytes.is_ascii() && beyond_ascii.is_none() {
            return Ok("");
        }
        if !self.offers("SMTPUTF8") {
            let address = beyond_ascii.unwrap_or(mail.from).to_string();
            return Err(SmtpFailure::new(SmtpStep::Sender, FailureCause::Utf8Unsupported(address)));
        }
        // Servers with SMTPUTF8 must offer 8BITMIME too (RFC 6531). The headers have the address unchanged.
        Ok(" SMTPUTF8 BODY=8BITMIME")
    }

    fn offers(&self, feature: &str) -> bool {
        self.features.iter().any(|offered| offered.split_whitespace().next() == Some(feature))
    }

    async fn command(
        &mut self,
        step: SmtpStep,
        line: &str,
        codes: &[u16],
        deadline: Instant,
    ) -> Result<SmtpReply, SmtpFailure> {
        self.is_in_sync = false;
        let answered = within(deadline, step, async {
            // A reply that arrives before the command would count as its reply, and shift all later replies.
            self.connection.expect_no_data().await?;
            self.connection.exchange(format!("{line}\r\n").as_bytes()).await
        });
        let reply = answered.await?;
        self.check_code(step, reply, codes)
    }

    /// Checks the code of a reply. A code that the step does not expect is a failure, also a 2xx code.
    fn check_code(&mut self, step: SmtpStep, reply: SmtpReply, codes: &[u16]) -> Result<SmtpReply, SmtpFailure> {
        // After a refusal the session can go on, except after 421, when the server closes the connection.
        self.is_in_sync = codes.contains(&reply.code) || (reply.is_refusal() && reply.code != 421);
        if codes.contains(&reply.code) {
            return Ok(reply);
        }
        let cause = if reply.is_refusal() { FailureCause::Refused(reply) } else { FailureCause::Unexpected(reply) };
        Err(SmtpFailure::new(step, cause))
    }
}

impl SmtpFailure {
    pub(super) fn new(step: SmtpStep, cause: FailureCause) -> Self {
        Self { step, cause, recipient: 0, sent: false }
    }

    /// Masks secrets in the reply, because some servers repeat a command that they do not understand.
    fn without_secrets(mut self, secrets: &[&str]) -> Self {
        match &mut self.cause {
            FailureCause::Refused(reply) | FailureCause::Unexpected(reply) => {
                reply.lines.iter_mut().for_each(|line| *line = masked(line, secrets));
            }
            FailureCause::Lost(text) => *text = masked(text, secrets),
            _ => {}
        }
        self
    }
}

/// Replaces the words that have a secret, or a part of one, by `***`.
fn masked(text: &str, secrets: &[&str]) -> String {
    /// Minimum length of a part; a shorter one reveals almost nothing.
    const PART: usize = 4;
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(*secret, "***");
    }
    let reveals = |word: &str| {
        let parts = secrets.iter().flat_map(|secret| secret.as_bytes().windows(PART));
        parts.into_iter().any(|part| word.as_bytes().windows(PART).any(|other| other.eq_ignore_ascii_case(part)))
    };
    text.split(' ').map(|word| if reveals(word) { "***" } else { word }).collect::<Vec<_>>().join(" ")
}

async fn within<T>(
    deadline: Instant,
    step: SmtpStep,
    work: impl Future<Output = Result<T, ConnectionError>>,
) -> Result<T, SmtpFailure> {
    let cause = match timeout_at(deadline, work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(ConnectionError::Lost(text))) => FailureCause::Lost(text),
        Ok(Err(ConnectionError::Tls(text))) => FailureCause::Configuration(text),
        Err(_) => FailureCause::Timeout,
    };
    Err(SmtpFailure::new(step, cause))
}

/// Returns the host name if it has a domain, else the address: many servers refuse a name such as that of a pod.
fn own_name(local: IpAddr) -> String {
    let name = hostname::get().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if name.contains('.') && name.split('.').all(label) {
        return name;
    }
    match local.to_canonical() {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    }
}

/// Doubles each dot at the beginning of a line, and ends the last line.
fn dot_stuffed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 64 + 2);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{dot_stuffed, masked, own_name};

    #[test]
    fn a_line_that_begins_with_a_dot_gets_another_and_the_last_line_an_end() {
        assert_eq!(dot_stuffed(b".\r\n..a\r\nb.\r\n.c"), b"..\r\n...a\r\nb.\r\n..c\r\n");
        assert_eq!(dot_stuffed(b""), b"\r\n");
    }

    #[test]
    fn no_part_of_a_secret_is_shown_and_other_words_are() {
        let secrets = ["hidden word", "AGFubgBoaWRkZW4="];
        for (text, shown) in [
            ("500 AUTH PLAIN AGFubgBoaWRkZW4= is not known", "500 AUTH PLAIN *** is not known"),
            ("500 AUTH PLAIN AGFubgBoaW", "500 AUTH PLAIN ***"),
            ("500 auth plain agfubgboawrkzw4=", "500 auth plain ***"),
            ("500 user=ann,password=hidden", "500 ***"),
            ("535 `hidden word' is wrong", "535 `***' is wrong"),
            ("535 5.7.8 bad credentials", "535 5.7.8 bad credentials"),
        ] {
            assert_eq!(masked(text, &secrets), shown);
        }
        assert_eq!(masked("535 no", &["", "x"]), "535 no");
    }

    #[test]
    fn the_own_name_is_one_that_servers_take() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let name = own_name(address.parse().unwrap());
            assert!(name.contains('.') || name.contains("[IPv6:"), "{name}");
        }
    }
}
