//! One connection to the mail server: every command with its step, its deadline and its verdict.
//!
//! The future that speaks owns the session, so a cancelled attempt closes the connection. A connection left in the
//! middle of a command would give its late answer to the next mail, and that could be told "sent" before it was.

use std::{future::Future, time::Duration};

use lettre::{
    Address,
    transport::smtp::{
        Error,
        authentication::DEFAULT_MECHANISMS,
        client::{AsyncSmtpConnection, Tls},
        commands::{Data, Mail, Rcpt, Rset},
        extension::{Extension, MailBodyParameter, MailParameter},
    },
};
use tokio::time::{Instant, timeout_at};

use super::url::Server;
use crate::error::Step;

/// Asking an idle connection whether it lives must not eat the time of the mail that wants it.
const PROBE: Duration = Duration::from_secs(5);

/// A step that failed.
#[derive(Debug)]
pub(super) enum Failure {
    Answer(Step, Error),
    Timeout(Step),
    Utf8Unsupported,
    /// A login was refused just now, with this answer; it is not tried again yet.
    LoginPaused(String),
}

/// A mail on its way: one recipient, composed bytes.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) from: &'a Address,
    pub(super) to: &'a Address,
    pub(super) bytes: &'a [u8],
}

pub(super) struct Session {
    connection: AsyncSmtpConnection,
    in_step: bool,
}

impl Session {
    /// Connects, encrypts as the server's settings say, and logs in.
    pub(super) async fn open(server: &Server, deadline: Instant) -> Result<Self, Failure> {
        let wrapper = match &server.tls {
            Tls::Wrapper(parameters) => Some(parameters.clone()),
            _ => None,
        };
        // A host has several addresses at times: one that swallows packets must leave time for the next.
        let per_address = deadline.duration_since(Instant::now()) / 3;
        let address = (server.host.as_str(), server.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(address, Some(per_address), &server.hello, wrapper, None);
        let connection = within(deadline, Step::Connect, connecting).await?;
        let mut session = Self { connection, in_step: false };
        session.encrypt(server, deadline).await?;
        if let Some(credentials) = &server.credentials {
            let login = session.connection.auth(DEFAULT_MECHANISMS, credentials);
            within(deadline, Step::Login, login).await?;
        }
        Ok(session)
    }

    async fn encrypt(&mut self, server: &Server, deadline: Instant) -> Result<(), Failure> {
        let parameters = match &server.tls {
            Tls::Required(parameters) => parameters,
            Tls::Opportunistic(parameters) if self.connection.can_starttls() => parameters,
            _ => return Ok(()),
        };
        let upgrade = self.connection.starttls(parameters.clone(), &server.hello);
        within(deadline, Step::StartTls, upgrade).await
    }

    /// Tells whether an idle connection still answers, and clears what the last mail left in it.
    pub(super) async fn revive(&mut self, deadline: Instant) -> bool {
        let deadline = deadline.min(Instant::now() + PROBE);
        matches!(timeout_at(deadline, self.connection.command(Rset)).await, Ok(Ok(_)))
    }

    /// Hands one mail over; `Ok` means that the server has taken responsibility for it.
    pub(super) async fn transfer(&mut self, mail: &Outgoing<'_>, deadline: Instant) -> Result<(), Failure> {
        let sender = Mail::new(Some(mail.from.clone()), self.parameters(mail)?);
        self.step(deadline, Step::Sender, async |c| c.command(sender).await).await?;
        let recipient = Rcpt::new(mail.to.clone(), Vec::new());
        self.step(deadline, Step::Recipient, async |c| c.command(recipient).await).await?;
        self.step(deadline, Step::Content, async |c| c.command(Data).await).await?;
        self.step(deadline, Step::Content, async |c| c.message(mail.bytes).await).await
    }

    /// Tells whether the connection stands between two mails, so that another may use it.
    pub(super) fn is_reusable(&self) -> bool {
        !self.in_step
    }

    fn parameters(&self, mail: &Outgoing<'_>) -> Result<Vec<MailParameter>, Failure> {
        let addresses: [&str; 2] = [mail.from.as_ref(), mail.to.as_ref()];
        if addresses.iter().all(|address| address.is_ascii()) {
            return Ok(Vec::new());
        }
        if !self.connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(Failure::Utf8Unsupported);
        }
        // SMTPUTF8 servers must offer 8BITMIME too (RFC 6531): the address stands in the headers as it is.
        Ok(vec![MailParameter::SmtpUtfEight, MailParameter::Body(MailBodyParameter::EightBitMime)])
    }

    async fn step<T>(
        &mut self,
        deadline: Instant,
        step: Step,
        command: impl AsyncFnOnce(&mut AsyncSmtpConnection) -> Result<T, Error>,
    ) -> Result<(), Failure> {
        self.in_step = true;
        let answer = within(deadline, step, command(&mut self.connection)).await;
        self.in_step = match &answer {
            Ok(_) => false,
            // After an answer the conversation can go on, but for 421: the server hangs up.
            Err(Failure::Answer(_, error)) => error.status().is_none_or(|code| u16::from(code) == 421),
            Err(_) => true,
        };
        answer.map(drop)
    }
}

async fn within<T>(deadline: Instant, step: Step, work: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match timeout_at(deadline, work).await {
        Ok(answer) => answer.map_err(|error| Failure::Answer(step, error)),
        Err(_) => Err(Failure::Timeout(step)),
    }
}
