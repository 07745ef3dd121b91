//! Sends mail through a mail server, over connections that are kept and used again.
//!
//! In reading order: [`url`] reads the setting, [`wire`] is the connection, [`reply`] what comes over it, [`session`] the
//! conversation; [`verdict`] and [`run`] say what a failure concerns. The client is Leveret's own because a mail must not
//! be sent twice or be lost over details that SMTP libraries leave open: a limit for each step, what was read before the
//! upgrade to TLS, and the code of each step whatever the text.

mod reply;
mod streak;
mod session;
mod url;
mod classify;
mod connection;

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
pub use self::url::UrlError;
use self::{
    reply::Reply,
    streak::{Run, shape},
    session::{Cause, Failure, Outgoing, Session},
    url::{Credentials, Server, Tls},
    classify::{Verdict, judge},
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
    /// Every open session holds a clone.
    open: Arc<()>,
    refused_login: Mutex<Option<(Instant, String)>>,
    /// The last login was accepted.
    is_welcome: AtomicBool,
    /// While none was, one is tried at a time: each wrong one counts against the account.
    login_turn: tokio::sync::Mutex<()>,
    run: Mutex<Run>,
}

impl Smtp {
    pub(crate) fn new(url: &str, roots: RootCertStore, patience: Duration) -> Result<Self, UrlError> {
        let server = Server::parse(url, roots)?;
        if server.exposes_password() {
            tracing::warn!(server = server.name(), "SMTP_URL sends its password without TLS");
        }
        Ok(Self {
            server,
            patience,
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
        !matches!(self.server.tls, Tls::Never)
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
        let mail = Outgoing { from, to: envelope.to(), reply_to, bytes: &bytes };
        let deadline = Instant::now() + self.patience;
        let sent = self.deliver(&mail, deadline, stopped).await;
        match sent {
            Ok(()) => lock(&self.run).clear(),
            Err(failure) => return Err(self.explain(failure, envelope.to())),
        }
        Ok(())
    }

    async fn deliver(
        &self,
        mail: &Outgoing<'_>,
        deadline: Instant,
        stopped: impl Future<Output = ()> + Send,
    ) -> Result<(), Failure> {
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
        self.login_allowed()?;
        let mut session = Session::open(&self.server, &self.open, deadline).await?;
        if let Some(credentials) = &self.server.credentials {
            self.login(&mut session, credentials, deadline).await?;
        }
        Ok(session)
    }

    async fn login(&self, session: &mut Session, credentials: &Credentials, deadline: Instant) -> Result<(), Failure> {
        let is_welcome = || self.is_welcome.load(Ordering::Relaxed);
        let mut turn = None;
        if !is_welcome() {
            let waited = timeout_at(deadline, self.login_turn.lock()).await;
            let guard = waited.map_err(|_| Failure::new(Step::Login, Cause::Timeout))?;
            turn = (!is_welcome()).then_some(guard);
            self.login_allowed()?;
        }
        let answered = session.login(credentials, deadline).await;
        self.is_welcome.store(answered.is_ok(), Ordering::Relaxed);
        if let Err(Failure { cause: Cause::Refused(reply), .. }) = &answered
            && judge(Step::Login, reply).fault == Fault::Setup
        {
            *lock(&self.refused_login) = Some((Instant::now() + LOGIN_PAUSE, answer_of(reply)));
        }
        drop(turn);
        answered
    }

    /// Fails for a while after a login was refused.
    fn login_allowed(&self) -> Result<(), Failure> {
        match lock(&self.refused_login).clone() {
            Some((until, answer)) if Instant::now() < until => {
                Err(Failure::new(Step::Login, Cause::LoginPaused(answer)))
            }
            _ => Ok(()),
        }
    }

    fn explain(&self, failure: Failure, recipients: &[Address]) -> MailError {
        let Failure { step, cause, recipient, sent } = failure;
        let server = self.server.name();
        let to = recipients.get(recipient).map(Address::to_string).unwrap_or_default();
        let is_refused = matches!(cause, Cause::Refused(_));
        let guess = |fault| Verdict { fault, is_guess: true };
        let (answer, verdict) = match cause {
            Cause::Utf8Unsupported(address) => return MailError::AddressNotSupported { server, address },
            Cause::Stopped if sent => ("the attempt was stopped before it did".to_owned(), guess(Fault::Passing)),
            Cause::Stopped => {
                let answer = "the attempt was stopped before the end of the mail".to_owned();
                return MailError::Server { server, to, step, answer, fault: Fault::Passing };
            }
            Cause::Refused(reply) => (answer_of(&reply), judge(step, &reply)),
            Cause::Setup(missing) => (missing, Verdict { fault: Fault::Setup, is_guess: false }),
            Cause::LoginPaused(answer) => {
                let answer = format!("{answer} (asked less than a minute ago)");
                return MailError::Server { server, to, step, answer, fault: Fault::Setup };
            }
            Cause::Unexpected(reply) => {
                (format!("an answer that does not belong here: {}", answer_of(&reply)), guess(Fault::Passing))
            }
            Cause::Lost(what) => (what, guess(Fault::Passing)),
            Cause::Timeout if sent => (format!("no answer within {END_OF_DATA:?}"), guess(Fault::Passing)),
            Cause::Timeout => {
                let fault = self.for_all(step, guess(Fault::Passing), "no answer", &to);
                return MailError::TimedOut { server, to, step, limit: self.patience, fault };
            }
        };
        if sent && !is_refused {
            return MailError::Unknown { server, to, answer };
        }
        let fault = self.for_all(step, verdict, &answer, &to);
        if fault == Fault::Setup {
            tracing::error!(server, %step, error = answer, "the mail server refuses this worker; jobs wait");
        }
        MailError::Server { server, to, step, answer, fault }
    }

    /// What a failure concerns, seen beside the others: no way in, or the same for everybody, is not about one mail.
    fn for_all(&self, step: Step, verdict: Verdict, answer: &str, to: &str) -> Fault {
        // What is known to be about the recipient stays so, however many are wrong in a row.
        let is_run = || verdict.is_guess && lock(&self.run).add(format!("{step} {}", shape(answer, to)), to);
        match verdict.fault {
            // With other sessions open the server is there; it may have enough of them.
            Fault::Passing if step <= Step::Login && Arc::strong_count(&self.open) == 1 => Fault::Server,
            Fault::Passing if is_run() => Fault::Server,
            Fault::Job if is_run() => Fault::Setup,
            fault => fault,
        }
    }
}

impl std::fmt::Debug for Smtp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Smtp").field("server", &self.server).finish_non_exhaustive()
    }
}

/// `550 5.1.1 no such user`; one line of bounded length.
fn answer_of(reply: &Reply) -> String {
    one_line(&format!("{} {}", reply.code, reply.text())).chars().take(ANSWER_SHOWN).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
