//! Publishing: one task owns the channel, so confirms are matched to publishes without a lock. A caller that goes away
//! does not affect the confirms of others.
//!
//! The futures of whole publishes with their confirms are in flight, up to the window; the task never awaits a single
//! publish. While the broker is blocked or unreachable the task accepts no requests, so the callers wait and memory
//! stays bounded.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::Channel;
use tokio::{
    sync::{Mutex, OwnedMutexGuard, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::transport::amqp::{
    Setup,
    confirm::{Answer, Failure, Resolved, Verdict},
    confirm_watchdog::{CHECK_INTERVAL, ConfirmWatchdog, Replacement},
    connection::LiveConnection,
    declare,
    in_flight::{ChannelLost, InFlight},
    publish_request::{ABANDONED, Fate, PublishRequest, confirming, publish, publish_alone, send},
    reconnector::Reconnector,
    refused::{Refusals, SendDecision},
};
use crate::{
    message::Message,
    topology::Target,
    transport::{SendError, session::OpenError},
};

/// Requests that wait for a slot in the window; further callers wait for a place in this queue.
const QUEUED_REQUESTS: usize = 1024;
const REOPEN_DELAY: Duration = Duration::from_millis(200);
/// The delay after a refusal that only an operator can lift.
const REFUSED_DELAY: Duration = Duration::from_secs(10);

/// The handle on the publishing task. The task starts with the first publish, and again with the next publish if its
/// runtime has ended.
pub(super) struct PublishTask {
    reconnector: Arc<Reconnector>,
    setup: Arc<Setup>,
    requests: mpsc::Sender<PublishRequest>,
    /// Held by the task while it runs.
    receiver: Arc<Mutex<mpsc::Receiver<PublishRequest>>>,
    is_running: Arc<AtomicBool>,
    /// Set when no more requests are accepted; accepted ones are finished.
    finishing: CancellationToken,
    finished: CancellationToken,
}

/// Guard of the running task.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl PublishTask {
    pub(super) fn new(reconnector: Reconnector, setup: Arc<Setup>) -> Self {
        let (finishing, finished) = (CancellationToken::new(), CancellationToken::new());
        let (requests, receiver) = mpsc::channel(QUEUED_REQUESTS);
        let (receiver, is_running) = (Arc::new(Mutex::new(receiver)), Arc::default());
        Self { reconnector: Arc::new(reconnector), setup, requests, receiver, is_running, finishing, finished }
    }

    /// Publishes a message. If a delay or a stream is unroutable, a part of the topology is missing: it is repaired,
    /// and the message is published once more. All of that happens within one publish timeout.
    pub(super) async fn send(&self, target: &Target, message: Box<Message>, fail_fast: bool) -> Result<(), SendError> {
        let began = Instant::now();
        let deadline = began + self.setup.config.publish_timeout;
        let answer = match self.send_once(target, message, fail_fast, deadline).await {
            Err(Failure::Returned(message))
                if matches!(target, Target::Delayed(..) | Target::Stream(_) | Target::Workflows)
                    && self.repair(began, deadline).await =>
            {
                self.send_once(target, message, fail_fast, deadline).await
            }
            answer => answer,
        };
        answer.map_err(SendError::from)
    }

    /// The future is boxed, as are all rare ones here, because it would more than double the size of every waiting
    /// publish.
    async fn repair(&self, missing_at: Instant, deadline: Instant) -> bool {
        let repaired = Box::pin(async {
            declare::invalidate_shared(&self.setup, missing_at).await;
            match self.reconnector.up().await {
                Ok(up) => declare::ensure_shared(&up, &self.setup).await.is_ok(),
                Err(_) => false,
            }
        });
        timeout_at(deadline, repaired).await.unwrap_or(false)
    }

    async fn send_once(&self, target: &Target, message: Box<Message>, fail_fast: bool, deadline: Instant) -> Answer {
        if self.finishing.is_cancelled() {
            return Err(SendError::Closed.into());
        }
        let up = if fail_fast { Some(Box::pin(self.ready()).await?) } else { None };
        let (exchange, key) = self.setup.routes.to(target);
        let fate = Arc::new(Fate::default());
        let (answer, answered) = oneshot::channel();
        // RabbitMQ before 4.2 returns every mandatory publish to direct reply-to.
        let mandatory = !matches!(target, Target::StatusUpdate(..) | Target::DirectReply(_));
        let request = PublishRequest { exchange, key, message, mandatory, fate: Arc::clone(&fate), answer };
        let answer = timeout_at(deadline, async {
            self.requests().reserve().await.map_err(|_| SendError::Closed)?.send(request);
            // The task drops the answer with its channel: a request that was sent by then is uncertain.
            answered.await.unwrap_or_else(|_| Err(self.dropped(&fate).into()))
        });
        let answer = match up {
            None => answer.await,
            Some(up) => Box::pin(unless_blocked(answer, &up, &fate)).await?,
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

    /// Returns the error of a publish whose answer was dropped.
    fn dropped(&self, fate: &Fate) -> SendError {
        if fate.is_sent() {
            return SendError::Uncertain;
        }
        let lost = || SendError::Unavailable("its channel was lost".to_owned());
        if self.finishing.is_cancelled() { SendError::Closed } else { lost() }
    }

    pub(super) fn reconnector(&self) -> Arc<Reconnector> {
        Arc::clone(&self.reconnector)
    }

    /// Returns the connection, if a publish can be sent on it now.
    async fn ready(&self) -> Result<Arc<LiveConnection>, SendError> {
        match tokio::time::timeout(self.setup.config.publish_timeout, self.reconnector.first_state()).await {
            Ok(Ok(up)) => match up.blocked.borrow().clone() {
                Some(reason) => Err(SendError::Blocked(reason)),
                None => Ok(Arc::clone(&up)),
            },
            Ok(Err(reason)) => Err(SendError::Unavailable(reason)),
            Err(_) => Err(SendError::Unavailable("the first connection takes too long".to_owned())),
        }
    }

    fn requests(&self) -> &mpsc::Sender<PublishRequest> {
        if !self.is_running.load(Ordering::Acquire) && !self.is_running.swap(true, Ordering::AcqRel) {
            let running = Running(Arc::clone(&self.is_running));
            let (reconnector, setup) = (Arc::clone(&self.reconnector), Arc::clone(&self.setup));
            let (receiver, finishing) = (Arc::clone(&self.receiver), self.finishing.clone());
            let finished = self.finished.clone();
            tokio::spawn(async move {
                let _running = running;
                let requests = receiver.lock_owned().await;
                let (refused, alone) = (Refusals::default(), FuturesUnordered::new());
                Task { reconnector, setup, requests, refused, alone, last: Weak::new(), finishing }.run().await;
                finished.cancel();
            });
        }
        &self.requests
    }

    /// Accepts no more requests and waits for the accepted ones, at most the publish timeout.
    pub(super) async fn finish(&self) {
        self.finishing.cancel();
        if self.is_running.load(Ordering::Acquire) {
            let timeout = self.setup.config.publish_timeout;
            if tokio::time::timeout(timeout, self.finished.cancelled()).await.is_err() {
                tracing::warn!("closing with unconfirmed publishes");
            }
        }
    }

    pub(super) async fn closed(&self) {
        self.reconnector.closed().await;
    }
}

/// Returns the answer, unless a publish that is not yet sent cannot be sent now.
async fn unless_blocked<A>(answer: impl Future<Output = A>, up: &LiveConnection, fate: &Fate) -> Result<A, SendError> {
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return Ok(answer),
        obstacle = up.obstacle() => if fate.decide(ABANDONED) { return Err(obstacle) },
    }
    Ok(answer.await)
}

struct Task {
    reconnector: Arc<Reconnector>,
    setup: Arc<Setup>,
    refused: Refusals,
    /// Publishes on channels of their own, which outlast the common channel.
    alone: FuturesUnordered<BoxFuture<'static, Option<Resolved>>>,
    /// The connection of the last publish.
    last: Weak<LiveConnection>,
    requests: OwnedMutexGuard<mpsc::Receiver<PublishRequest>>,
    finishing: CancellationToken,
}

/// The reason why a channel is no longer used.
enum Exit {
    /// The channel or its connection was lost, with the confirms of `in_flight` publishes.
    Lost { reason: String, in_flight: usize },
    /// The channel was nacked; another channel may get confirms.
    Nacked,
    /// All accepted requests are published, and no more will come.
    Finished,
}

impl Exit {
    fn lost(reason: impl Into<String>, in_flight: usize) -> Self {
        Self::Lost { reason: reason.into(), in_flight }
    }
}

impl Task {
    /// Publishes until the handle is closed.
    async fn run(mut self) {
        self.publish_all().await;
        // The drop of its answer notifies the caller of each unsent request.
        self.requests.close();
        while self.requests.try_recv().is_ok() {}
    }

    async fn publish_all(&mut self) {
        let mut watchdog = ConfirmWatchdog::new(self.setup.config.publish_timeout);
        loop {
            let up = tokio::select! {
                up = self.reconnector.up() => up,
                () = self.finishing.cancelled() => return,
            };
            let Ok(up) = up else { return };
            if !self.last.ptr_eq(&Arc::downgrade(&up)) {
                // Another connection may lead to another broker.
                (self.last, self.refused) = (Arc::downgrade(&up), Refusals::default());
            }
            match open(&up, &self.setup).await {
                Ok(channel) => match self.publish_on(&up, &channel, &mut watchdog).await {
                    Exit::Finished => return,
                    // One poll queues the frame.
                    Exit::Nacked => {
                        tracing::debug!("publishes were nacked, opening another channel");
                        drop(channel.close(200, "nacked".into()).now_or_never());
                    }
                    Exit::Lost { reason, in_flight } => {
                        watchdog.lost();
                        self.lost(&up, &reason, in_flight).await;
                    }
                },
                Err(error) => {
                    let (reason, delay) = match error {
                        // The broker may have ended the connection because of the refusal.
                        OpenError::Fatal(error) => (error.to_string(), REFUSED_DELAY),
                        OpenError::Passing(reason) => (reason, REOPEN_DELAY),
                    };
                    self.setup.log_throttle.log(format!("publish: {reason}"), || {
                        tracing::warn!(error = reason, "cannot publish yet, retrying");
                    });
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn lost(&mut self, up: &LiveConnection, reason: &str, in_flight: usize) {
        if up.lost.is_cancelled() || !up.connection.status().connected() {
            // The connection's own task logs the loss.
            return tracing::debug!(in_flight, "lost the publishing channel with its connection");
        }
        self.setup.log_throttle.log(format!("publish: {reason}"), || {
            tracing::warn!(error = reason, in_flight, "lost the publishing channel, opening another");
        });
        self.refused.learn(reason, Instant::now());
        // The broker's text begins with the name of its reply: an exchange is missing.
        if reason.contains("NOT_FOUND") {
            declare::invalidate_shared(&self.setup, declare::lately()).await;
        }
    }

    fn admit(&mut self, request: &PublishRequest) -> SendDecision {
        self.refused.admit((&request.exchange, &request.key), request.message.body.len(), Instant::now)
    }

    /// Returns a waiting request, if the window has a slot for it. It is sent together with the one before it, because
    /// awaiting each costs more than sending it.
    fn waiting<F: Future<Output = Resolved>>(&mut self, in_flight: &InFlight<F>) -> Option<PublishRequest> {
        if in_flight.has_room() { self.requests.try_recv().ok() } else { None }
    }

    /// Answers a publish that had a channel of its own, and records whether its exchange is still refused.
    fn answer_alone(&mut self, resolved: Option<Resolved>) {
        let Some(resolved) = resolved else { return };
        match &resolved.verdict {
            Verdict::Lost(Some(text)) => self.refused.learn(text, Instant::now()),
            Verdict::Lost(None) => {}
            Verdict::Confirmed | Verdict::Nacked | Verdict::Returned(_) => {
                self.refused.accepted(&resolved.target.exchange, &resolved.target.key);
            }
        }
        resolved.answer(true);
    }

    /// Publishes on one channel until it is lost.
    async fn publish_on(
        &mut self,
        up: &Arc<LiveConnection>,
        channel: &Channel,
        watchdog: &mut ConfirmWatchdog,
    ) -> Exit {
        let mut blocked = up.blocked.subscribe();
        let mut in_flight = InFlight::new(usize::from(self.setup.config.publish_window.get()));
        let mut ended = false;
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut replacement = Replacement::new();
        loop {
            match (in_flight.publishes.is_empty() && self.alone.is_empty(), ended, replacement.is_due()) {
                (true, true, _) => return Exit::Finished,
                (true, false, true) => return Exit::Nacked,
                _ => {}
            }
            let is_blocked = blocked.borrow_and_update().is_some();
            let has_room = in_flight.has_room() && !replacement.is_due();
            let wakeup = tokio::select! {
                biased;
                Some(resolved) = in_flight.publishes.next() => Wakeup::Resolved(resolved),
                Some(resolved) = self.alone.next() => Wakeup::Alone(resolved),
                () = up.lost.cancelled() => return Exit::lost("the connection was lost", in_flight.publishes.len()),
                _ = blocked.changed() => continue,
                () = self.finishing.cancelled(), if !self.requests.is_closed() => Wakeup::Finish,
                request = self.requests.recv(), if has_room && !is_blocked && !ended => Wakeup::Request(request),
                now = check.tick() => Wakeup::Check(now),
            };
            match wakeup {
                Wakeup::Request(mut next) => {
                    ended |= next.is_none();
                    while let Some(request) = next {
                        match self.admit(&request) {
                            SendDecision::Send => send(&mut in_flight, request, |request| publish(channel, request)),
                            SendDecision::SendAlone => self.alone.push(publish_alone(Arc::clone(up), request).boxed()),
                            SendDecision::Refuse(text) => request.answer(SendError::Refused(text)),
                        }
                        next = self.waiting(&in_flight);
                    }
                }
                Wakeup::Alone(resolved) => self.answer_alone(resolved),
                Wakeup::Finish => {
                    self.requests.close();
                    ended |= is_blocked;
                }
                Wakeup::Resolved(first) => match in_flight.answer(channel, first) {
                    Err(ChannelLost(reason)) => return Exit::lost(reason, in_flight.publishes.len() + 1),
                    Ok(answered) => {
                        watchdog.answered(answered.confirmed);
                        replacement.answered(answered.nacked);
                    }
                },
                Wakeup::Check(now) => {
                    replacement.check(now);
                    if watchdog.check(!is_blocked && !in_flight.publishes.is_empty()) {
                        up.retire("no publish on it is confirmed");
                    }
                }
            }
        }
    }
}

/// The reason why the publisher task acts.
enum Wakeup {
    Request(Option<PublishRequest>),
    Alone(Option<Resolved>),
    Resolved(Resolved),
    Finish,
    Check(Instant),
}

async fn open(up: &LiveConnection, setup: &Setup) -> Result<Channel, OpenError> {
    declare::ensure_shared(up, setup).await?;
    confirming(up).await.map_err(OpenError::Passing)
}
