//! Sends mail through a mail server, over connections that are kept and used again.
//!
//! In reading order: [`url`] reads the setting, [`wire`] is the connection, [`reply`] what comes over it, [`session`] the
//! conversation; [`verdict`] and [`run`] say what a failure concerns. The client is Leveret's own because a mail must not
//! be sent twice or be lost over details that SMTP libraries leave open: a limit for each step, what was read before the
//! upgrade to TLS, and the code of each step whatever the text.

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

/// Servers hang up on idle clients after a few minutes; we leave first.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS: usize = 16;
/// Many servers lock an account, or an address out, after a few wrong passwords.
const LOGIN_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct SmtpClient {
    server: SmtpServer,
    timeout: Duration,
    idle: Mutex<VecDeque<(Instant, SmtpSession)>>,
    /// Every open session holds a clone.
    open: Arc<()>,
    refused_login: Mutex<Option<(Instant, String)>>,
    /// The last login was accepted.
    is_welcome: AtomicBool,
    /// While none was, one is tried at a time: each wrong one counts against the account.
    login_turn: tokio::sync::Mutex<()>,
    run: Mutex<FailureStreak>,
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
            is_welcome: AtomicBool::new(false),
            login_turn: tokio::sync::Mutex::default(),
            run: Mutex::default(),
        })
    }

    pub(crate) fn server_name(&self) -> String {
        self.server.name()
    }

    /// Tells whether TLS is ever spoken.
    pub(crate) fn may_encrypt(&self) -> bool {
        !matches!(self.server.tls, TlsMode::Never)
    }

    /// Sends one mail within the time allowed; whatever happens to the future, no other mail is harmed.
    ///
    /// When `stopped` is over, the end of the mail is not sent any more, or its answer not waited for.
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
            Ok(()) => lock(&self.run).clear(),
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

    /// The connection used last is the likeliest to live.
    async fn idle_session(&self, deadline: Instant) -> Option<SmtpSession> {
        let (since, mut session) = lock(&self.idle).pop_back()?;
        if since.elapsed() < IDLE_LIMIT && session.revive(deadline).await {
            return Some(session);
        }
        // Those that have waited longer fare no better, and asking each could take the mail's whole time.
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
        let is_welcome = || self.is_welcome.load(Ordering::Relaxed);
        let mut turn = None;
        if !is_welcome() {
            let waited = timeout_at(deadline, self.login_turn.lock()).await;
            let guard = waited.map_err(|_| SmtpFailure::new(SmtpStep::Login, FailureCause::Timeout))?;
            turn = (!is_welcome()).then_some(guard);
            self.login_allowed()?;
        }
        let answered = session.login(credentials, deadline).await;
        self.is_welcome.store(answered.is_ok(), Ordering::Relaxed);
        if let Err(SmtpFailure { cause: FailureCause::Refused(reply), .. }) = &answered
            && classify(SmtpStep::Login, reply).kind == FailureKind::Configuration
        {
            *lock(&self.refused_login) = Some((Instant::now() + LOGIN_PAUSE, reply.summary()));
        }
        drop(turn);
        answered
    }

    /// Fails for a while after a login was refused.
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
        let (answer, verdict) = match cause {
            FailureCause::Utf8Unsupported(address) => return MailError::AddressNotSupported { server, address },
            FailureCause::Stopped if sent => {
                ("the attempt was stopped before it did".to_owned(), guess(FailureKind::Transient))
            }
            FailureCause::Stopped => {
                let answer = "the attempt was stopped before the end of the mail".to_owned();
                return MailError::Server { server, to, step, answer, kind: FailureKind::Transient };
            }
            FailureCause::Refused(reply) => (reply.summary(), classify(step, &reply)),
            FailureCause::Setup(missing) => {
                (missing, RefusalClass { kind: FailureKind::Configuration, is_guess: false })
            }
            FailureCause::LoginPaused(answer) => {
                let answer = format!("{answer} (asked less than a minute ago)");
                return MailError::Server { server, to, step, answer, kind: FailureKind::Configuration };
            }
            FailureCause::Unexpected(reply) => {
                (format!("an answer that does not belong here: {}", reply.summary()), guess(FailureKind::Transient))
            }
            FailureCause::Lost(what) => (what, guess(FailureKind::Transient)),
            FailureCause::Timeout if sent => {
                (format!("no answer within {END_OF_DATA:?}"), guess(FailureKind::Transient))
            }
            FailureCause::Timeout => {
                let kind = self.for_all(step, guess(FailureKind::Transient), "no answer", &to);
                return MailError::TimedOut { server, to, step, limit: self.timeout, kind };
            }
        };
        if sent && !is_refused {
            return MailError::Unconfirmed { server, to, answer };
        }
        let kind = self.for_all(step, verdict, &answer, &to);
        if kind == FailureKind::Configuration {
            tracing::error!(server, %step, error = answer, "the mail server refuses this worker; jobs wait");
        }
        MailError::Server { server, to, step, answer, kind }
    }

    /// What a failure concerns, seen beside the others: no way in, or the same for everybody, is not about one mail.
    fn for_all(&self, step: SmtpStep, verdict: RefusalClass, answer: &str, to: &str) -> FailureKind {
        // What is known to be about the recipient stays so, however many are wrong in a row.
        let is_run = || verdict.is_guess && lock(&self.run).add(format!("{step} {}", normalized(answer, to)), to);
        match verdict.kind {
            // With other sessions open the server is there; it may have enough of them.
            FailureKind::Transient if step <= SmtpStep::Login && Arc::strong_count(&self.open) == 1 => {
                FailureKind::ServerUnavailable
            }
            FailureKind::Transient if is_run() => FailureKind::ServerUnavailable,
            FailureKind::Permanent if is_run() => FailureKind::Configuration,
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
