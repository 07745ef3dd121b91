//! The simulation: processes events in the order of time.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
    iter::Peekable,
};

use crate::{
    autoscaler::{Autoscaler, Decisions},
    load::Job,
    outcome::Outcome,
    pool::{JobNumber, Pool},
};

/// The system that runs the jobs. Times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct System {
    /// The workers, or those at the start.
    pub workers: Workers,
    /// Adds and removes workers. Without it their number is constant.
    pub autoscaler: Option<Autoscaler>,
    /// Deliveries per second that the queue's leader can handle, from publish to ack.
    pub queue_rate: f64,
    /// The time from publish to handler in an empty queue.
    pub latency: f64,
}

/// The workers of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// The number of processes.
    pub count: u32,
    /// Concurrent attempts per process.
    pub concurrency: u32,
    /// Unacknowledged deliveries per process.
    pub prefetch: u32,
}

impl Default for Workers {
    fn default() -> Self {
        Self { count: 1, concurrency: 16, prefetch: 32 }
    }
}

impl Default for System {
    fn default() -> Self {
        Self { workers: Workers::default(), autoscaler: None, queue_rate: 10_000.0, latency: 0.001 }
    }
}

/// Runs these jobs, which must be sorted by time, through the system until all have ended.
pub fn run(system: &System, jobs: impl Iterator<Item = Job>) -> Outcome {
    let mut model = Model::new(system, jobs.peekable());
    while let Some((now, event)) = model.next_event() {
        model.pass_time(now);
        model.happen(event);
        model.deliver();
    }
    model.finish()
}

#[derive(Clone, Copy, Debug)]
enum EventKind {
    /// A job is ready in the queue.
    Ready(JobNumber),
    /// An attempt has ended in this worker.
    Ended(JobNumber, usize),
    /// The delay of a job is over.
    Due(JobNumber),
    /// The autoscaler evaluates the queue.
    Look,
    /// A new worker consumes.
    Joined,
}

/// An event with its time. The order is reversed, because the heap returns the greatest first.
#[derive(Clone, Copy, Debug)]
struct Event(f64, EventKind);

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.total_cmp(&self.0)
    }
}

/// A job that has arrived and not ended.
struct Live {
    job: Job,
    /// The time of the publish, or of the end of the last delay.
    since: f64,
    failures: usize,
}

struct Model<I: Iterator<Item = Job>> {
    system: System,
    coming: Peekable<I>,
    events: BinaryHeap<Event>,
    live: Vec<Live>,
    /// Free numbers of ended jobs, for reuse.
    free: Vec<JobNumber>,
    ready: VecDeque<JobNumber>,
    pool: Pool,
    decisions: Option<Decisions>,
    now: f64,
    /// Jobs without a worker: ready, or not yet handled by the queue's leader.
    queued: u64,
    /// The time until which the queue's leader is busy.
    leader_until: f64,
    leader_worked: f64,
    /// Workers that are starting.
    joining: u32,
    /// Integrals over time: slots, busy slots, workers.
    places: f64,
    taken: f64,
    worker_time: f64,
    ended: u64,
    outcome: Outcome,
}

impl<I: Iterator<Item = Job>> Model<I> {
    fn new(system: &System, coming: Peekable<I>) -> Self {
        let Workers { count, concurrency, prefetch } = system.workers;
        let mut pool = Pool::new(concurrency, prefetch.max(concurrency));
        let count = system.autoscaler.map_or(count, |scaler| count.clamp(scaler.min, scaler.max));
        (0..count).for_each(|_| pool.add_worker());
        let mut events = BinaryHeap::new();
        if system.autoscaler.is_some() {
            events.push(Event(0.0, EventKind::Look));
        }
        Self {
            system: *system,
            coming,
            events,
            live: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            pool,
            decisions: system.autoscaler.map(Decisions::new),
            now: 0.0,
            queued: 0,
            leader_until: 0.0,
            leader_worked: 0.0,
            joining: 0,
            places: 0.0,
            taken: 0.0,
            worker_time: 0.0,
            ended: 0,
            outcome: Outcome::default(),
        }
    }

    /// The next event: the arrival of a job or a scheduled event. `None` once all jobs have ended.
    fn next_event(&mut self) -> Option<(f64, Option<EventKind>)> {
        let comes = self.coming.peek().map(|job| job.at);
        if comes.is_none() && self.live.len() == self.free.len() {
            return None;
        }
        match (comes, self.events.peek()) {
            (Some(at), Some(Event(next, _))) if at <= *next => Some((at, None)),
            (Some(at), None) => Some((at, None)),
            (_, Some(_)) => self.events.pop().map(|Event(at, what)| (at, Some(what))),
            (None, None) => None,
        }
    }

    fn pass_time(&mut self, now: f64) {
        let passed = now - self.now;
        let places = f64::from(self.pool.staying() * self.system.workers.concurrency);
        self.places += passed * places;
        self.taken += passed * self.pool.running() as f64;
        self.worker_time += passed * f64::from(self.pool.staying());
        self.now = now;
    }

    fn happen(&mut self, what: Option<EventKind>) {
        match what {
            None => self.come(),
            Some(EventKind::Due(number)) => {
                self.live[number].since = self.now;
                self.queue_up(number);
            }
            Some(EventKind::Ready(number)) => self.ready.push_back(number),
            Some(EventKind::Ended(number, worker)) => self.end(number, worker),
            Some(EventKind::Look) => self.look(),
            Some(EventKind::Joined) => {
                self.joining -= 1;
                self.pool.add_worker();
            }
        }
    }

    fn come(&mut self) {
        let Some(job) = self.coming.next() else { return };
        let live = Live { since: job.at, failures: 0, job };
        let number = match self.free.pop() {
            Some(number) => {
                self.live[number] = live;
                number
            }
            None => {
                self.live.push(live);
                self.live.len() - 1
            }
        };
        self.queue_up(number);
    }

    /// The leader handles jobs one after another.
    fn queue_up(&mut self, number: JobNumber) {
        self.queued += 1;
        if self.queued > self.outcome.longest_queue {
            self.outcome.longest_queue = self.queued;
            self.outcome.caught_up = None;
        }
        let work = 1.0 / self.system.queue_rate;
        self.leader_until = self.leader_until.max(self.now) + work;
        self.leader_worked += work;
        let ready = self.leader_until.max(self.now + self.system.latency);
        self.events.push(Event(ready, EventKind::Ready(number)));
    }

    fn deliver(&mut self) {
        while !self.ready.is_empty() && self.pool.has_taker() {
            let Some(number) = self.ready.pop_front() else { return };
            self.queued -= 1;
            if self.queued == 0 {
                self.outcome.caught_up.get_or_insert(self.now);
            }
            if let Some(worker) = self.pool.deliver(number) {
                self.start(number, worker);
            }
        }
    }

    fn start(&mut self, number: JobNumber, worker: usize) {
        let live = &self.live[number];
        self.outcome.waits.add(self.now - live.since);
        self.events.push(Event(self.now + live.job.service, EventKind::Ended(number, worker)));
    }

    fn end(&mut self, number: JobNumber, worker: usize) {
        self.ended += 1;
        self.outcome.ended = self.now;
        let live = &mut self.live[number];
        if let Some(delay) = live.job.delays.get(live.failures) {
            live.failures += 1;
            self.outcome.retried += 1;
            self.events.push(Event(self.now + delay, EventKind::Due(number)));
        } else {
            let ended = if live.job.dies { &mut self.outcome.dead } else { &mut self.outcome.succeeded };
            *ended += 1;
            self.free.push(number);
        }
        if let Some(next) = self.pool.end(worker) {
            self.start(next, worker);
        }
    }

    fn look(&mut self) {
        let (Some(decisions), Some(settings)) = (&mut self.decisions, self.system.autoscaler) else { return };
        let workers = self.pool.staying() + self.joining;
        let wanted = decisions.decide(self.now, workers, self.ready.len() as u64, self.ended);
        for _ in workers..wanted {
            self.joining += 1;
            self.events.push(Event(self.now + settings.start_up, EventKind::Joined));
        }
        for _ in wanted..workers {
            for number in self.pool.remove_worker().into_iter().rev() {
                self.ready.push_front(number);
                self.queued += 1;
            }
        }
        self.outcome.workers.0 = self.outcome.workers.0.max(wanted);
        self.events.push(Event(self.now + settings.interval, EventKind::Look));
    }

    fn finish(mut self) -> Outcome {
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        self.outcome.busy = share(self.taken, self.places);
        self.outcome.leader_busy = share(self.leader_worked, self.now.max(self.leader_until));
        self.outcome.workers.0 = self.outcome.workers.0.max(self.pool.staying());
        self.outcome.workers.1 = share(self.worker_time, self.now);
        self.outcome
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
