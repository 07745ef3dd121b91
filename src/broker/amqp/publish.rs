//! Publishing: one task owns the channel, so that confirms are matched to publishes without a lock, and no caller that
//! goes away takes another's confirm with it.
//!
//! Whole publish-and-confirm futures are in flight, up to the window; a publish is never awaited by itself. While the
//! broker is blocked or away the task takes nothing, so that the wait is the caller's and memory stays bounded.

use std::{
    mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Setup,
    confirm::{Answer, Failure, Place, Resolved},
    connection::{Link, Up},
    declare,
    doubt::{CHECK_INTERVAL, Doubt, Nacks},
    in_flight::{ChannelLost, InFlight},
};
use crate::{
    broker::{OpenError, SendError},
    message::Message,
    topology::Target,
};

/// Requests that wait for room in the window; it costs more to wait for room among them.
const QUEUED_REQUESTS: usize = 1024;
const REOPEN_DELAY: Duration = Duration::from_millis(200);

/// The handle on the publishing task, which starts with the first publish.
pub(super) struct PublishTask {
    link: Arc<Link>,
    setup: Arc<Setup>,
    requests: OnceLock<mpsc::Sender<Request>>,
    /// No more requests are taken; those that were are finished.
    finishing: CancellationToken,
    finished: CancellationToken,
}

struct Request {
    exchange: ShortString,
    key: ShortString,
    message: Box<Message>,
    /// Whether it is an error that no queue takes it.
    mandatory: bool,
    fate: Arc<Fate>,
    answer: oneshot::Sender<Answer>,
}

impl Request {
    /// Whether to send it; its caller may have gone away.
    fn is_wanted(&self) -> bool {
        !self.answer.is_closed() && self.fate.decide(SENT)
    }
}

/// Whether a request has been sent, agreed on by its caller and the task.
struct Fate(AtomicU8);

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const ABANDONED: u8 = 2;

impl Fate {
    /// Leaves the queued state for `to`; false if the other side was faster.
    fn decide(&self, to: u8) -> bool {
        self.0.compare_exchange(QUEUED, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn is_sent(&self) -> bool {
        self.0.load(Ordering::Acquire) == SENT
    }
}

impl PublishTask {
    pub(super) fn new(link: Link, setup: Arc<Setup>) -> Self {
        let (finishing, finished) = (CancellationToken::new(), CancellationToken::new());
        Self { link: Arc::new(link), setup, requests: OnceLock::new(), finishing, finished }
    }

    /// Publishes, and once more if a delay has nowhere to wait or a stream is gone: then a part of the topology is missing, and is mended first.
    /// All of it within one publish timeout.
    pub(super) async fn send(&self, target: &Target, message: Box<Message>, fail_fast: bool) -> Result<(), SendError> {
        let deadline = Instant::now() + self.setup.config.publish_timeout;
        let answer = match self.send_once(target, message, fail_fast, deadline).await {
            Err(Failure::Returned(message))
                if matches!(target, Target::Delayed(..) | Target::Stream(_)) && self.mend(deadline).await =>
            {
                self.send_once(target, message, fail_fast, deadline).await
            }
            answer => answer,
        };
        answer.map_err(SendError::from)
    }

    /// Boxed as all that is rarely needed here: it would more than double the size of every publish that waits.
    async fn mend(&self, deadline: Instant) -> bool {
        let mended = Box::pin(async {
            declare::doubt_shared(&self.setup).await;
            match self.link.up().await {
                Ok(up) => declare::ensure_shared(&up, &self.setup).await.is_ok(),
                Err(_) => false,
            }
        });
        timeout_at(deadline, mended).await.unwrap_or(false)
    }

    async fn send_once(&self, target: &Target, message: Box<Message>, fail_fast: bool, deadline: Instant) -> Answer {
        if self.finishing.is_cancelled() {
            return Err(SendError::Closed.into());
        }
        let up = if fail_fast { Some(Box::pin(self.ready()).await?) } else { None };
        let (exchange, key) = self.setup.routes.to(target);
        let fate = Arc::new(Fate(AtomicU8::new(QUEUED)));
        let (answer, answered) = oneshot::channel();
        let mandatory = !matches!(target, Target::Event(..));
        let request = Request { exchange, key, message, mandatory, fate: Arc::clone(&fate), answer };
        let answer = timeout_at(deadline, async {
            self.requests().reserve().await.map_err(|_| SendError::Closed)?.send(request);
            // The task drops an answer with its channel: what was sent by then is uncertain.
            answered
                .await
                .unwrap_or_else(|_| Err(if fate.is_sent() { SendError::Uncertain } else { SendError::Closed }.into()))
        });
        let answer = match up {
            None => answer.await,
            Some(up) => Box::pin(unless_kept_from(answer, &up, &fate)).await?,
        };
        match answer {
            Ok(answer) => answer,
            Err(_) if fate.decide(ABANDONED) => {
                let slow = || SendError::Unavailable("the broker is too slow".to_owned());
                Err(Box::pin(self.ready()).await.err().unwrap_or_else(slow).into())
            }
            Err(_) => Err(SendError::Uncertain.into()),
        }
    }

    /// The connection, if nothing keeps a publish from being sent on it now.
    async fn ready(&self) -> Result<Arc<Up>, SendError> {
        match tokio::time::timeout(self.setup.config.publish_timeout, self.link.first_state()).await {
            Ok(Ok(up)) => match up.blocked.borrow().clone() {
                Some(reason) => Err(SendError::Blocked(reason)),
                None => Ok(Arc::clone(&up)),
            },
            Ok(Err(reason)) => Err(SendError::Unavailable(reason)),
            Err(_) => Err(SendError::Unavailable("the first connection takes too long".to_owned())),
        }
    }

    fn requests(&self) -> &mpsc::Sender<Request> {
        let start = || {
            let (sender, receiver) = mpsc::channel(QUEUED_REQUESTS);
            let task = Task {
                link: Arc::clone(&self.link),
                setup: Arc::clone(&self.setup),
                requests: receiver,
                finishing: self.finishing.clone(),
            };
            let finished = self.finished.clone().drop_guard();
            tokio::spawn(async move {
                task.run().await;
                drop(finished);
            });
            sender
        };
        self.requests.get_or_init(start)
    }

    /// Takes no more and waits for what was taken, at most the publish timeout.
    pub(super) async fn finish(&self) {
        self.finishing.cancel();
        if self.requests.get().is_some() {
            let timeout = self.setup.config.publish_timeout;
            if tokio::time::timeout(timeout, self.finished.cancelled()).await.is_err() {
                tracing::warn!("closing with publishes that are not confirmed");
            }
        }
    }

    pub(super) async fn closed(&self) {
        self.link.closed().await;
    }
}

/// The answer, unless something keeps a publish that is not yet sent from being sent now.
async fn unless_kept_from<A>(answer: impl Future<Output = A>, up: &Up, fate: &Fate) -> Result<A, SendError> {
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return Ok(answer),
        obstacle = up.obstacle() => if fate.decide(ABANDONED) { return Err(obstacle) },
    }
    Ok(answer.await)
}

struct Task {
    link: Arc<Link>,
    setup: Arc<Setup>,
    requests: mpsc::Receiver<Request>,
    finishing: CancellationToken,
}

/// Why a channel is no longer published on.
enum Exit {
    /// The channel or its connection is gone, and with it the confirms of so many publishes.
    Lost { reason: String, in_flight: usize },
    /// It was nacked; another one may be confirmed.
    Nacked,
    /// Everything is published that ever will be.
    Finished,
}

impl Task {
    async fn run(mut self) {
        let mut doubt = Doubt::new(self.setup.config.publish_timeout);
        loop {
            let up = tokio::select! {
                up = self.link.up() => up,
                // What was not sent by now is told so by the drop of its answer.
                () = self.finishing.cancelled() => return,
            };
            let Ok(up) = up else { return };
            match open(&up, &self.setup).await {
                Ok(channel) => match self.publish_on(&up, &channel, &mut doubt).await {
                    Exit::Finished => return,
                    // Polled once, the frame is queued.
                    Exit::Nacked => {
                        tracing::debug!("publishes were nacked, opening another channel");
                        drop(channel.close(200, "nacked".into()).now_or_never());
                    }
                    Exit::Lost { reason, in_flight } => {
                        doubt.lost();
                        self.lost(&up, &reason, in_flight).await;
                    }
                },
                Err(reason) => {
                    if self.setup.quiet.is_news(format!("publish: {reason}")) {
                        tracing::warn!(error = reason, "cannot publish yet, trying again");
                    }
                    tokio::time::sleep(REOPEN_DELAY).await;
                }
            }
        }
    }

    async fn lost(&self, up: &Up, reason: &str, in_flight: usize) {
        if up.lost.is_cancelled() || !up.connection.status().connected() {
            // The connection tells its loss itself.
            return tracing::debug!(in_flight, "lost the publishing channel with its connection");
        }
        if self.setup.quiet.is_news(format!("publish: {reason}")) {
            tracing::warn!(error = reason, in_flight, "lost the publishing channel, opening another");
        }
        // The broker's words begin with the name of its reply: an exchange has gone missing.
        if reason.contains("NOT_FOUND") {
            declare::doubt_shared(&self.setup).await;
        }
    }

    /// Publishes on one channel until it is lost.
    async fn publish_on(&mut self, up: &Up, channel: &Channel, doubt: &mut Doubt) -> Exit {
        let mut blocked = up.blocked.subscribe();
        let mut in_flight = InFlight::new(usize::from(self.setup.config.publish_window));
        let mut ended = false;
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut nacks = Nacks::new();
        loop {
            match in_flight.publishes.is_empty() {
                true if ended => return Exit::Finished,
                true if nacks.are_over => return Exit::Nacked,
                _ => {}
            }
            let is_blocked = blocked.borrow_and_update().is_some();
            let has_room = in_flight.has_room() && !nacks.are_over;
            let event = tokio::select! {
                biased;
                Some(resolved) = in_flight.publishes.next() => Event::Resolved(resolved),
                () = up.lost.cancelled() => {
                    let reason = "the connection was lost".to_owned();
                    return Exit::Lost { reason, in_flight: in_flight.publishes.len() };
                }
                _ = blocked.changed() => continue,
                () = self.finishing.cancelled(), if !self.requests.is_closed() => Event::Finish,
                request = self.requests.recv(), if has_room && !is_blocked && !ended => Event::Request(request),
                _ = check.tick() => Event::Check,
            };
            match event {
                Event::Request(None) => ended = true,
                Event::Request(Some(request)) => {
                    self.send(request, &mut in_flight, |request| publish(channel, request));
                }
                Event::Finish => {
                    self.requests.close();
                    ended |= is_blocked;
                }
                Event::Resolved(first) => match in_flight.answer(channel, first) {
                    Err(ChannelLost(reason)) => {
                        return Exit::Lost { reason, in_flight: in_flight.publishes.len() + 1 };
                    }
                    Ok(answered) => {
                        doubt.answered(&answered);
                        nacks.answered(&answered);
                    }
                },
                Event::Check => {
                    nacks.check();
                    if doubt.is_over(!is_blocked && !in_flight.publishes.is_empty()) {
                        up.give_up("nothing that was published on it is confirmed");
                    }
                }
            }
        }
    }

    /// Sends a request and those behind it: waiting for each by itself costs more than sending it.
    fn send<F>(&mut self, first: Request, in_flight: &mut InFlight<F>, publish: impl Fn(Request) -> F)
    where
        F: Future<Output = Resolved>,
    {
        let mut next = Some(first);
        while let Some(request) = next {
            if request.is_wanted() {
                in_flight.push(request.message.body.len(), publish(request));
            }
            next = Some(()).filter(|()| in_flight.has_room()).and_then(|()| self.requests.try_recv().ok());
        }
    }
}

async fn publish(channel: &Channel, request: Request) -> Resolved {
    let Request { exchange, key, mut message, mandatory, answer, .. } = request;
    let id = message.properties.message_id().clone();
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    let properties = mem::take(&mut message.properties);
    let confirmed = match channel.basic_publish(exchange.clone(), key.clone(), options, &message.body, properties).await
    {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Resolved::new(Place { exchange, key, id }, message.body.len(), confirmed, answer)
}

enum Event {
    Request(Option<Request>),
    Resolved(Resolved),
    Finish,
    Check,
}

async fn open(up: &Up, setup: &Setup) -> Result<Channel, String> {
    declare::ensure_shared(up, setup).await.map_err(|error| match error {
        OpenError::Fatal(error) => error.to_string(),
        OpenError::Passing(reason) => reason,
    })?;
    let channel = up.channel().await?;
    up.unless_lost(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}
