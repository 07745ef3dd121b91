//! Sends mail through a mail server, over connections that are kept and used again.

mod session;
mod url;

use std::{
    collections::VecDeque,
    error::Error as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lettre::{Message, transport::smtp::client::Certificate};
use tokio::time::Instant;

pub use self::url::UrlError;
use self::{
    session::{Failure, Outgoing, Session},
    url::Server,
};
use crate::{
    error::{Fault, MailError, Step},
    text::one_line,
};

/// Servers hang up on idle clients after a few minutes; we leave first.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS: usize = 16;
/// Many servers lock an account, or an address out, after a few wrong passwords.
const LOGIN_PAUSE: Duration = Duration::from_secs(60);
const ANSWER_SHOWN: usize = 500;

pub(crate) struct Smtp {
    server: Server,
    patience: Duration,
    idle: Mutex<VecDeque<(Instant, Session)>>,
    refused_login: Mutex<Option<(Instant, String)>>,
}

impl Smtp {
    pub(crate) fn new(url: &str, authority: Option<&Certificate>, patience: Duration) -> Result<Self, UrlError> {
        let server = Server::parse(url, authority)?;
        if server.exposes_password() {
            tracing::warn!(server = server.name(), "SMTP_URL sends its password without TLS");
        }
        Ok(Self { server, patience, idle: Mutex::default(), refused_login: Mutex::default() })
    }

    pub(crate) fn server_name(&self) -> String {
        self.server.name()
    }

    /// Sends one mail within the time allowed; whatever happens to the future, no other mail is harmed.
    pub(crate) async fn send(&self, message: &Message) -> Result<(), MailError> {
        let bytes = message.formatted();
        let envelope = message.envelope();
        let (Some(from), [to]) = (envelope.from(), envelope.to()) else {
            return Err(lettre::error::Error::MissingTo.into());
        };
        let mail = Outgoing { from, to, bytes: &bytes };
        let deadline = Instant::now() + self.patience;
        self.deliver(&mail, deadline).await.map_err(|failure| self.explain(failure, to.as_ref()))
    }

    async fn deliver(&self, mail: &Outgoing<'_>, deadline: Instant) -> Result<(), Failure> {
        let mut session = match self.idle_session(deadline).await {
            Some(session) => session,
            None => self.connect(deadline).await?,
        };
        let sent = session.transfer(mail, deadline).await;
        if session.is_reusable() {
            self.keep(session);
        }
        sent
    }

    /// The connection used last is the likeliest to live.
    async fn idle_session(&self, deadline: Instant) -> Option<Session> {
        let (since, mut session) = lock(&self.idle).pop_back()?;
        if since.elapsed() < IDLE_LIMIT && session.revive(deadline).await {
            return Some(session);
        }
        // Those that have waited longer fare no better, and asking each could take the mail's whole time.
        lock(&self.idle).clear();
        None
    }

    fn keep(&self, session: Session) {
        let mut idle = lock(&self.idle);
        idle.retain(|(since, _)| since.elapsed() < IDLE_LIMIT);
        if idle.len() < IDLE_CONNECTIONS {
            idle.push_back((Instant::now(), session));
        }
    }

    async fn connect(&self, deadline: Instant) -> Result<Session, Failure> {
        if let Some((until, answer)) = lock(&self.refused_login).clone()
            && Instant::now() < until
        {
            return Err(Failure::LoginPaused(answer));
        }
        let opened = Session::open(&self.server, deadline).await;
        if let Err(Failure::Answer(Step::Login, error)) = &opened
            && Fault::of(Step::Login, code_of(error)) == Fault::Setup
        {
            *lock(&self.refused_login) = Some((Instant::now() + LOGIN_PAUSE, answer_of(error)));
        }
        opened
    }

    fn explain(&self, failure: Failure, to: &str) -> MailError {
        let (server, to) = (self.server.name(), to.to_owned());
        match failure {
            Failure::Utf8Unsupported => MailError::AddressNotSupported { server, address: to },
            Failure::Timeout(step) => MailError::TimedOut { server, to, step, limit: self.patience },
            Failure::LoginPaused(answer) => {
                let answer = format!("{answer} (asked less than a minute ago)");
                MailError::Server { server, to, step: Step::Login, answer, fault: Fault::Setup }
            }
            Failure::Answer(step, error) => {
                let fault = Fault::of(step, code_of(&error));
                let answer = answer_of(&error);
                if fault == Fault::Setup {
                    tracing::error!(server, %step, error = answer, "the mail server refuses this worker; jobs wait");
                }
                MailError::Server { server, to, step, answer, fault }
            }
        }
    }
}

impl std::fmt::Debug for Smtp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Smtp").field("server", &self.server).finish_non_exhaustive()
    }
}

fn code_of(error: &lettre::transport::smtp::Error) -> Option<u16> {
    error.status().map(u16::from)
}

/// `550 5.1.1 no such user`, or what went wrong before there was an answer; one line of bounded length.
fn answer_of(error: &lettre::transport::smtp::Error) -> String {
    let text = match (code_of(error), error.source()) {
        (Some(code), Some(text)) => format!("{code} {text}"),
        _ => error.to_string(),
    };
    one_line(&text).chars().take(ANSWER_SHOWN).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
