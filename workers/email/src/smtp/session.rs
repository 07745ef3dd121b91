//! One conversation with the mail server: every command with its step, its own codes, its deadline and its verdict.
//!
//! The future that speaks owns the session, so a cancelled attempt closes the connection. A connection left in the middle
//! of a command would give its late answer to the next mail, which could be reported as sent before it was.

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

/// Asking an idle connection whether it lives must not eat the time of the mail that wants it.
const PROBE: Duration = Duration::from_secs(5);
/// How long the server may take to answer the end of a mail (RFC 5321, 4.5.3.2.6): it may be delivering it. Giving up
/// before it does makes a copy.
pub(crate) const END_OF_DATA: Duration = Duration::from_secs(600);

/// A conversation that failed.
#[derive(Debug)]
pub(super) struct SmtpFailure {
    pub(super) step: SmtpStep,
    pub(super) cause: FailureCause,
    /// The recipient at kind, by its place in the envelope; 0 where the failure is about no particular one.
    pub(super) recipient: usize,
    /// The server may have had the whole mail.
    pub(super) sent: bool,
}

#[derive(Debug)]
pub(super) enum FailureCause {
    /// 4xx or 5xx.
    Refused(SmtpReply),
    /// A code that this step does not have.
    Unexpected(SmtpReply),
    Lost(String),
    Timeout,
    /// What is missing or wrong until somebody changes a setting: TLS, a way to log in.
    Setup(String),
    /// The server does not take this address.
    Utf8Unsupported(String),
    /// Nobody waits for the mail any more.
    Stopped,
    /// A login was refused just now, with this answer; it is not tried again yet.
    LoginPaused(String),
}

/// A mail on its way.
#[derive(Debug)]
pub(super) struct OutgoingMail<'a> {
    pub(super) from: &'a Address,
    pub(super) to: &'a [Address],
    pub(super) reply_to: Option<&'a Address>,
    pub(super) bytes: &'a [u8],
}

pub(super) struct SmtpSession {
    wire: SmtpConnection,
    /// What the server offers, in capitals: a word and its parameters each.
    features: Vec<String>,
    /// The last command has had its answer, and the server stays.
    is_sound: bool,
    /// Counts this session among those that are open.
    _open: Arc<()>,
}

impl SmtpSession {
    /// Connects, and encrypts as the server's settings say.
    pub(super) async fn open(server: &SmtpServer, open: &Arc<()>, deadline: Instant) -> Result<Self, SmtpFailure> {
        let connecting = SmtpConnection::connect(&server.host, server.port, deadline);
        let mut wire = within(deadline, SmtpStep::Connect, connecting).await?;
        if let TlsMode::Wrapper(connector) = &server.tls {
            wire = within(deadline, SmtpStep::Connect, wire.encrypt(connector)).await?;
        }
        let greeting = within(deadline, SmtpStep::Connect, wire.reply()).await?;
        let mut session = Self { wire, features: Vec::new(), is_sound: true, _open: Arc::clone(open) };
        session.judged(SmtpStep::Connect, greeting, &[220])?;
        session.hello(SmtpStep::Connect, server, deadline).await?;
        session.encrypted(server, deadline).await
    }

    async fn hello(&mut self, step: SmtpStep, server: &SmtpServer, deadline: Instant) -> Result<(), SmtpFailure> {
        let name = server.hello.clone().unwrap_or_else(|| own_name(self.wire.local()));
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
            let missing = "it offers no STARTTLS, and SMTP_URL requires it".to_owned();
            return Err(SmtpFailure::new(SmtpStep::StartTls, FailureCause::Setup(missing)));
        }
        self.command(SmtpStep::StartTls, "STARTTLS", &[220], deadline).await?;
        self.wire = within(deadline, SmtpStep::StartTls, self.wire.encrypt(connector)).await?;
        // What was offered without protection counts no longer (RFC 3207).
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
            let missing = format!("it has no login by PLAIN or LOGIN; it offers {offered}");
            return Err(SmtpFailure::new(SmtpStep::Login, FailureCause::Setup(missing)));
        };
        for (command, code) in commands {
            let answered = self.command(SmtpStep::Login, &command, &[code], deadline).await;
            answered.map_err(|failure| failure.without(&[plain, &both, &password]))?;
        }
        Ok(())
    }

    /// Tells whether an idle connection still answers, and clears what the last mail left in it.
    pub(super) async fn revive(&mut self, deadline: Instant) -> bool {
        let deadline = deadline.min(Instant::now() + PROBE);
        self.command(SmtpStep::Connect, "RSET", &[250], deadline).await.is_ok()
    }

    /// Hands one mail over to all its recipients or to none; `Ok` means that the server has taken responsibility for it.
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
        self.is_sound = false;
        let stuffed = stuffed(bytes);
        let written = within(deadline, SmtpStep::Content, async {
            self.wire.send(&stuffed).await?;
            self.wire.expect_silence().await
        });
        if let Err(failure) = written.await {
            // A server that speaks or hangs up before the end of a mail may have refused it.
            let Some(reply) = self.wire.last_words().await.filter(SmtpReply::is_refusal) else { return Err(failure) };
            return Err(SmtpFailure::new(SmtpStep::Content, FailureCause::Refused(reply)));
        }
        // From here on the server may have the whole mail.
        let limit = Instant::now() + END_OF_DATA;
        let mut sent = false;
        let ended = within(limit, SmtpStep::Content, async {
            sent = true;
            self.wire.exchange(b".\r\n").await
        });
        let answered = tokio::select! {
            biased;
            () = stopped => Err(SmtpFailure::new(SmtpStep::Content, FailureCause::Stopped)),
            answered = ended => answered,
        };
        let judged = answered.and_then(|reply| self.judged(SmtpStep::Content, reply, &[250]));
        judged.map(drop).map_err(|failure| SmtpFailure { sent, ..failure })
    }

    /// Tells whether the connection stands between two mails, so that another may use it.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_sound && !self.wire.has_unread()
    }

    /// The composed body is ASCII, so that other bytes are addresses in headers.
    fn parameters(&self, mail: &OutgoingMail<'_>) -> Result<&'static str, SmtpFailure> {
        let beyond_ascii = mail.to.iter().chain(mail.reply_to).find(|address| !address.user().is_ascii());
        if mail.bytes.is_ascii() && beyond_ascii.is_none() {
            return Ok("");
        }
        if !self.offers("SMTPUTF8") {
            let address = beyond_ascii.unwrap_or(mail.from).to_string();
            return Err(SmtpFailure::new(SmtpStep::Sender, FailureCause::Utf8Unsupported(address)));
        }
        // SMTPUTF8 servers must offer 8BITMIME too (RFC 6531): the address stands in the headers as it is.
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
        self.is_sound = false;
        let answered = within(deadline, step, async {
            // An answer before its question would be taken for that of this command, and so on to the end.
            self.wire.expect_silence().await?;
            self.wire.exchange(format!("{line}\r\n").as_bytes()).await
        });
        let reply = answered.await?;
        self.judged(step, reply, codes)
    }

    /// Any other code than the step's own is a failure, also one that sounds well.
    fn judged(&mut self, step: SmtpStep, reply: SmtpReply, codes: &[u16]) -> Result<SmtpReply, SmtpFailure> {
        // After a refusal the conversation can go on, but for 421: the server hangs up.
        self.is_sound = codes.contains(&reply.code) || (reply.is_refusal() && reply.code != 421);
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

    /// Some servers repeat what they do not understand, whole or in part.
    fn without(mut self, secrets: &[&str]) -> Self {
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

/// The text without the words that have a secret in them, or any part of one.
fn masked(text: &str, secrets: &[&str]) -> String {
    /// A part as short as this tells next to nothing.
    const PART: usize = 4;
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(*secret, "***");
    }
    let tells = |word: &str| {
        let parts = secrets.iter().flat_map(|secret| secret.as_bytes().windows(PART));
        parts.into_iter().any(|part| word.as_bytes().windows(PART).any(|other| other.eq_ignore_ascii_case(part)))
    };
    text.split(' ').map(|word| if tells(word) { "***" } else { word }).collect::<Vec<_>>().join(" ")
}

async fn within<T>(
    deadline: Instant,
    step: SmtpStep,
    work: impl Future<Output = Result<T, ConnectionError>>,
) -> Result<T, SmtpFailure> {
    let cause = match timeout_at(deadline, work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(ConnectionError::Lost(text))) => FailureCause::Lost(text),
        Ok(Err(ConnectionError::Tls(text))) => FailureCause::Setup(text),
        Err(_) => FailureCause::Timeout,
    };
    Err(SmtpFailure::new(step, cause))
}

/// The host's name where it is a whole one, else its address: many servers refuse a bare name, such as a pod's.
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

/// Doubles the dots that begin a line, and ends the last line.
fn stuffed(bytes: &[u8]) -> Vec<u8> {
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
    use super::{masked, own_name, stuffed};

    #[test]
    fn a_line_that_begins_with_a_dot_gets_another_and_the_last_line_an_end() {
        assert_eq!(stuffed(b".\r\n..a\r\nb.\r\n.c"), b"..\r\n...a\r\nb.\r\n..c\r\n");
        assert_eq!(stuffed(b""), b"\r\n");
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
