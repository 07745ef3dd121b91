//! Sends mail to an SMTP server over a pool of connections.
//!
//! In reading order: [`url`] parses the setting, [`connection`] reads and writes bytes, [`reply`] parses replies, and
//! [`session`] runs the SMTP commands. [`mod@classify`] and [`streak`] decide what a refusal is about.
//!
//! The client is Leveret's own, because SMTP libraries leave open what can lose or duplicate a mail: a time limit for each
//! step, bytes that arrive before the upgrade to TLS, and the expected reply code of each step.

mod classify;
mod connection;
mod reply;
mod session;
mod streak;
mod url;

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lettre::{Address, Message};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::RootCertStore;

pub(crate) use self::session::END_OF_DATA;
pub use self::url::SmtpUrlError;
use self::{
    classify::{RefusalClass, classify},
    session::{FailureCause, OutgoingMail, SmtpFailure, SmtpSession},
    streak::{FailureStreak, normalized},
    url::{Credentials, SmtpServer, TlsMode},
};
use crate::error::{FailureKind, MailError, SmtpStep};

/// Maximum idle time of a connection. Servers close idle connections after a few minutes.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS: usize = 16;
/// Pause after a refused login. Many servers lock an account or an address after a few wrong passwords.
const LOGIN_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct SmtpClient {
    server: SmtpServer,
    timeout: Duration,
    idle: Mutex<VecDeque<(Instant, SmtpSession)>>,
    /// Each open session has a clone, so the count is the number of sessions plus one.
    open: Arc<()>,
    refused_login: Mutex<Option<(Instant, String)>>,
    /// True if the last login was accepted.
    login_accepted: AtomicBool,
    /// Until a login is accepted, one connection at a time tries it: each wrong one counts against the account.
    first_login: tokio::sync::Mutex<()>,
    streak: Mutex<FailureStreak>,
}

impl SmtpClient {
    pub(crate) fn new(url: &str, roots: RootCertStore, timeout: Duration) -> Result<Self, SmtpUrlError> {
        let server = SmtpServer::parse(url, roots)?;
        if server.exposes_password() {
            tracing::warn!(server = server.name(), "SMTP_URL sends its password without TLS");
        }
        Ok(Self {
            server,
            timeout,
            idle: Mutex::default(),
            open: Arc::default(),
            refused_login: Mutex::default(),
            login_accepted: AtomicBool::new(false),
            first_login: tokio::sync::Mutex::default(),
            streak: Mutex::default(),
        })
    }

    pub(crate) fn server_name(&self) -> String {
        self.server.name()
    }

    /// Returns whether the connection can use TLS.
    pub(crate) fn may_encrypt(&self) -> bool {
        !matches!(self.server.tls, TlsMode::Never)
    }

    /// Sends one mail within the time limit. Dropping the future does not affect other mails.
    ///
    /// After `stopped` resolves, the client does not send the end of the mail, or does not wait for the reply to it.
    pub(crate) async fn send(
        &self,
        message: &Message,
        reply_to: Option<&Address>,
        stopped: impl Future<Output = ()> + Send,
    ) -> Result<(), MailError> {
        let bytes = message.formatted();
        let envelope = message.envelope();
        let from = envelope.from().ok_or(lettre::error::Error::MissingFrom)?;
        let mail = OutgoingMail { from, to: envelope.to(), reply_to, bytes: &bytes };
        let deadline = Instant::now() + self.timeout;
        let sent = self.deliver(&mail, deadline, stopped).await;
        match sent {
            Ok(()) => lock(&self.streak).clear(),
            Err(failure) => return Err(self.explain(failure, envelope.to())),
        }
        Ok(())
    }

    async fn deliver(
        &self,
        mail: &OutgoingMail<'_>,
        deadline: Instant,
        stopped: impl Future<Output = ()> + Send,
    ) -> Result<(), SmtpFailure> {
        let mut session = match self.idle_session(deadline).await {
            Some(session) => session,
            None => self.connect(deadline).await?,
        };
        let sent = session.transfer(mail, deadline, pin!(stopped)).await;
        if session.is_reusable() {
            self.keep(session);
        }
        sent
    }

    /// Takes the connection that was used last, which is the most likely to be open.
    async fn idle_session(&self, deadline: Instant) -> Option<SmtpSession> {
        let (since, mut session) = lock(&self.idle).pop_back()?;
        if since.elapsed() < IDLE_LIMIT && session.reset(deadline).await {
            return Some(session);
        }
        // Connections that are idle for longer are closed too. A check of each could take the whole time of the mail.
        lock(&self.idle).clear();
        None
    }

    fn keep(&self, session: SmtpSession) {
        let mut idle = lock(&self.idle);
        idle.retain(|(since, _)| since.elapsed() < IDLE_LIMIT);
        if idle.len() < IDLE_CONNECTIONS {
            idle.push_back((Instant::now(), session));
        }
    }

    async fn connect(&self, deadline: Instant) -> Result<SmtpSession, SmtpFailure> {
        self.login_allowed()?;
        let mut session = SmtpSession::open(&self.server, &self.open, deadline).await?;
        if let Some(credentials) = &self.server.credentials {
            self.login(&mut session, credentials, deadline).await?;
        }
        Ok(session)
    }

    async fn login(
        &self,
        session: &mut SmtpSession,
        credentials: &Credentials,
        deadline: Instant,
    ) -> Result<(), SmtpFailure> {
        let login_accepted = || self.login_accepted.load(Ordering::Relaxed);
        let mut turn = None;
        if !login_accepted() {
            let waited = timeout_at(deadline, self.first_login.lock()).await;
            let guard = waited.map_err(|_| SmtpFailure::new(SmtpStep::Login, FailureCause::Timeout))?;
            turn = (!login_accepted()).then_some(guard);
            self.login_allowed()?;
        }
        let answered = session.login(credentials, deadline).await;
        self.login_accepted.store(answered.is_ok(), Ordering::Relaxed);
        if let Err(SmtpFailure { cause: FailureCause::Refused(reply), .. }) = &answered
            && classify(SmtpStep::Login, reply).kind == FailureKind::Configuration
        {
            *lock(&self.refused_login) = Some((Instant::now() + LOGIN_PAUSE, reply.summary()));
        }
        drop(turn);
        answered
    }

    /// Returns an error for [`LOGIN_PAUSE`] after a refused login.
    fn login_allowed(&self) -> Result<(), SmtpFailure> {
        match lock(&self.refused_login).clone() {
            Some((until, answer)) if Instant::now() < until => {
                Err(SmtpFailure::new(SmtpStep::Login, FailureCause::LoginPaused(answer)))
            }
            _ => Ok(()),
        }
    }

    fn explain(&self, failure: SmtpFailure, recipients: &[Address]) -> MailError {
        let SmtpFailure { step, cause, recipient, sent } = failure;
        let server = self.server.name();
        let to = recipients.get(recipient).map(Address::to_string).unwrap_or_default();
        let is_refused = matches!(cause, FailureCause::Refused(_));
        let guess = |kind| RefusalClass { kind, is_guess: true };
        let (answer, class) = match cause {
            FailureCause::Utf8Unsupported(address) => return MailError::AddressNotSupported { server, address },
            FailureCause::Stopped if sent => {
                ("the attempt was stopped before the reply".to_owned(), guess(FailureKind::Transient))
            }
            FailureCause::Stopped => {
                let answer = "the attempt was stopped before the end of the mail".to_owned();
                return MailError::Server { server, to, step, answer, kind: FailureKind::Transient };
            }
            FailureCause::Refused(reply) => (reply.summary(), classify(step, &reply)),
            FailureCause::Configuration(missing) => {
                (missing, RefusalClass { kind: FailureKind::Configuration, is_guess: false })
            }
            FailureCause::LoginPaused(answer) => {
                let answer = format!("{answer} (the login was refused less than a minute ago)");
                return MailError::Server { server, to, step, answer, kind: FailureKind::Configuration };
            }
            FailureCause::Unexpected(reply) => {
                (format!("unexpected reply: {}", reply.summary()), guess(FailureKind::Transient))
            }
            FailureCause::Lost(what) => (what, guess(FailureKind::Transient)),
            FailureCause::Timeout if sent => {
                (format!("no answer within {END_OF_DATA:?}"), guess(FailureKind::Transient))
            }
            FailureCause::Timeout => {
                let kind = self.kind_with_streak(step, guess(FailureKind::Transient), "no answer", &to);
                return MailError::TimedOut { server, to, step, limit: self.timeout, kind };
            }
        };
        if sent && !is_refused {
            return MailError::Unconfirmed { server, to, answer };
        }
        let kind = self.kind_with_streak(step, class, &answer, &to);
        if kind == FailureKind::Configuration {
            tracing::error!(server, %step, error = answer, "the mail server refuses this worker; jobs wait");
        }
        MailError::Server { server, to, step, answer, kind }
    }

    /// Returns the kind of a failure in view of the earlier ones.
    ///
    /// A failed connection, or the same failure for many recipients, is not about one mail.
    fn kind_with_streak(&self, step: SmtpStep, class: RefusalClass, answer: &str, to: &str) -> FailureKind {
        // A refusal that is known to be about the recipient does not count towards a streak.
        let is_streak = || class.is_guess && lock(&self.streak).add(format!("{step} {}", normalized(answer, to)), to);
        match class.kind {
            // With other sessions open the server is reachable, and may limit the number of sessions.
            FailureKind::Transient if step <= SmtpStep::Login && Arc::strong_count(&self.open) == 1 => {
                FailureKind::ServerUnavailable
            }
            FailureKind::Transient if is_streak() => FailureKind::ServerUnavailable,
            FailureKind::Permanent if is_streak() => FailureKind::Configuration,
            kind => kind,
        }
    }
}

impl std::fmt::Debug for SmtpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmtpClient").field("server", &self.server).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
