//! Checks the queues: consumers, schedules, dead letters, unrouted messages, the delay ladder and replicas.

use leveret::schedule::Token;

use super::super::{
    facts::{DeadLetters, Facts, JobQueue, Listing, QueueState, ScheduleQueue},
    finding::{Check, Finding, Level, counted, some_of},
};

/// The default prefetch of a queue's dead-letter worker. As many undeliverable messages stop it.
const DEAD_LETTER_PREFETCH: u64 = 32;
/// Its prefetch with the setting that a single node should have. More messages than this are stuck in any case.
const ADVISED_DEAD_LETTER_PREFETCH: u64 = 256;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<_> = facts.job_queues.iter().flat_map(|queue| consumers(facts, queue)).collect();
    findings.extend(facts.schedules.iter().filter_map(|schedule| Some(led(schedule, facts.seen(&schedule.name)?))));
    findings.extend(rivals(facts));
    findings.extend(facts.job_queues.iter().filter_map(|queue| dead_letters(facts, queue)));
    findings.extend(unrouted(facts));
    findings.extend(workflows(facts));
    if let Some(listing) = facts.listing() {
        findings.extend(ladder(facts, listing));
        findings.extend(replicas(facts, listing));
    }
    findings
}

/// The consumers of a queue, its priority lanes and its suspect queue. A suspect queue without a consumer is reported only
/// if jobs wait in it.
fn consumers(facts: &Facts, queue: &JobQueue) -> Vec<Finding> {
    let suspect = queue.suspect();
    let main = facts.seen(&queue.name);
    let lane = facts
        .seen(&suspect)
        .filter(|lane| lane.consumers == 0 && (lane.ready > 0 || main.is_some_and(|main| main.consumers > 0)));
    [(queue.name.as_str(), main), (suspect.as_str(), lane)]
        .into_iter()
        .chain(queue.lanes().map(|lane| (lane, facts.seen(lane))))
        .filter_map(|(name, seen)| seen.map(|seen| consumed(name, seen)))
        .map(|finding| match queue.topics(&facts.topology()).as_slice() {
            topics if topics.is_empty() || finding.level == Level::Ok => finding,
            topics => finding.remedy(format!(
                "start a worker with this subscription to {}. If its service is gone, the queue grows until it is deleted: \
                 leveret events unsubscribe {}",
                some_of(topics.iter().copied()),
                queue.name
            )),
        })
        .collect()
}

fn consumed(name: &str, seen: &QueueState) -> Finding {
    let QueueState { ready, consumers, .. } = seen;
    let subject = format!("queue {name}");
    let remedy =
        "start a worker with a handler for this queue; the /readyz of a running worker states why it does not consume";
    match (consumers, ready) {
        (0, 0) => Finding::warning(Check::Consumers, subject, "has no consumer; jobs waiting: 0").remedy(remedy),
        (0, _) => {
            let message = format!("has no consumer; jobs waiting: {ready}");
            Finding::problem(Check::Consumers, subject, message).remedy(remedy)
        }
        _ => Finding::ok(Check::Consumers, subject, format!("consumers: {consumers}; jobs waiting: {ready}")),
    }
}

fn led(schedule: &ScheduleQueue, seen: &QueueState) -> Finding {
    let subject = format!("schedule {}", schedule.schedule);
    if seen.consumers == 0 {
        return Finding::warning(Check::Consumers, subject, "no worker has it, so its job is not published")
            .remedy(format!("start a worker with this schedule, or delete the queue {}", schedule.name));
    }
    Finding::ok(Check::Consumers, subject, format!("workers: {}, of which one leads", seen.consumers))
}

/// Schedules that share a name. Only the leader's job is published.
fn rivals(facts: &Facts) -> Vec<Finding> {
    let tokens = match &facts.tokens {
        Ok(tokens) => tokens,
        Err(reason) => {
            let stream = facts.topology().schedules();
            let message = format!("two schedules may share a name; the check failed: {reason}");
            let remedy = format!("connect as a user with the read right on {stream}");
            return vec![Finding::note(Check::Consumers, "schedules", message).remedy(remedy)];
        }
    };
    let rival = |schedule: &ScheduleQueue| {
        let led = facts.seen(&schedule.name)?.consumers > 0;
        let token = tokens.iter().find(|token| led && token.schedule == schedule.schedule)?;
        let rival = token.rival.as_ref()?;
        let shown = |token: &Token| {
            let Token { leader, job, queue, expression, zone, .. } = token;
            format!("job {job} to queue {queue} at {expression} {zone}, of worker {leader}")
        };
        let message = "two schedules have this name: only the job of the leader is published";
        let finding = Finding::problem(Check::Consumers, format!("schedule {}", schedule.schedule), message)
            .differs(shown(token), shown(rival))
            .remedy("rename one of them with Schedule::new; during a deploy that changes the schedule this finding disappears by itself");
        Some(finding)
    };
    facts.schedules.iter().filter_map(rival).collect()
}

fn dead_letters(facts: &Facts, queue: &JobQueue) -> Option<Finding> {
    let dead = queue.dead();
    let subject = format!("queue {}", queue.name);
    let letters = match facts.dead_letters.get(&queue.name)? {
        Ok(letters) => letters,
        Err(refusal) => {
            let waiting = facts.seen(&dead).map_or(0, |seen| seen.ready);
            let message = format!("dead letters: {waiting}, which could not be read: {refusal}");
            let remedy = format!("connect as a user with the read right on {dead}");
            return Some(Finding::note(Check::DeadLetters, subject, message).remedy(remedy));
        }
    };
    if letters.total == 0 {
        return Some(Finding::ok(Check::DeadLetters, subject, "dead letters: 0"));
    }
    let remedy = format!(
        "the header leveret-error of each message in {dead} contains the error; fix its cause, then replay or delete them"
    );
    Some(Finding::warning(Check::DeadLetters, subject, by_kind(letters)).remedy(remedy))
}

/// The counts by error kind: `dead letters: 120; of the oldest 100: permanent 80, timeout 20`.
fn by_kind(letters: &DeadLetters) -> String {
    let DeadLetters { total, read, kinds } = letters;
    let mut kinds: Vec<_> = kinds.iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let kinds: Vec<_> = kinds.into_iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    match read {
        0 => format!("dead letters: {total}, none read"),
        read if read < total => format!("dead letters: {total}; of the oldest {read}: {}", kinds.join(", ")),
        _ => format!("dead letters: {total}, all read: {}", kinds.join(", ")),
    }
}

fn unrouted(facts: &Facts) -> Option<Finding> {
    let name = facts.topology().unrouted();
    let subject = format!("queue {name}");
    Some(match facts.seen(&name)?.ready {
        0 => Finding::ok(Check::Unrouted, subject, "is empty"),
        ready => {
            let message = format!(
                "contains messages whose queue did not exist when they were due, delayed jobs and dead letters: {ready}"
            );
            Finding::problem(Check::Unrouted, subject, message)
                .remedy("start the workers of those queues, then move each message to the queue that its header leveret-queue names")
        }
    })
}

/// The queue of workflows. Without workflows it needs no server.
fn workflows(facts: &Facts) -> Option<Finding> {
    let name = facts.topology().workflows();
    let subject = format!("queue {name}");
    let QueueState { ready, consumers, .. } = facts.seen(&name)?;
    Some(match (ready, consumers) {
        (0, 0) => Finding::ok(Check::Workflows, subject, "is empty, and no server runs workflows"),
        (ready, 0) => {
            let message = format!("no server reads it: workflows to start and ends of steps that wait: {ready}");
            Finding::problem(Check::Workflows, subject, message).remedy("start leveret serve")
        }
        (ready, servers) => {
            Finding::ok(Check::Workflows, subject, format!("servers: {servers}; messages waiting: {ready}"))
        }
    })
}

/// Checks the delay ladder. Messages on the way to the next queue are counted only in the total of their queue.
fn ladder(facts: &Facts, listing: &Listing) -> Vec<Finding> {
    let stuck = |level: &String| {
        let queue = listing.queues.get(level)?;
        let on_the_way =
            queue.messages.saturating_sub(queue.messages_ready).saturating_sub(queue.messages_unacknowledged);
        let (weight, message) = if on_the_way > ADVISED_DEAD_LETTER_PREFETCH {
            (Level::Problem, "is stuck: due messages cannot move on, and all messages behind them wait")
        } else if on_the_way > DEAD_LETTER_PREFETCH {
            (Level::Warning, "has many messages on the way to the next level: if that lasts, it is stuck")
        } else {
            return None;
        };
        let finding = Finding::new(weight, Check::Ladder, format!("queue {level}"), message)
            .differs(format!("at most {DEAD_LETTER_PREFETCH} on the way"), on_the_way.to_string())
            .remedy("a queue below is full, missing or without a leader: fix what the other findings report about it");
        Some(finding)
    };
    let mut findings: Vec<_> = facts.topology().levels().filter_map(|level| stuck(&level)).collect();
    if findings.is_empty() && facts.without_figures().is_empty() {
        findings.push(Finding::ok(Check::Ladder, &facts.config.namespace, "the delay ladder is not stuck"));
    }
    findings
}

fn replicas(facts: &Facts, listing: &Listing) -> Vec<Finding> {
    let planned = || facts.plans().flat_map(|plan| &plan.queues).filter_map(|queue| listing.queues.get(&queue.name));
    let leaderless: Vec<_> =
        planned().filter(|queue| queue.leader.as_deref() == Some("")).map(|queue| queue.name.as_str()).collect();
    let short = |queue: &&crate::management::Queue| queue.online.len() < queue.members.len();
    let short: Vec<_> = planned().filter(short).map(|queue| queue.name.as_str()).collect();
    let mut findings = Vec::new();
    if !leaderless.is_empty() {
        let message =
            format!("without a leader, so they accept and deliver nothing: {}", some_of(leaderless.iter().copied()));
        findings.push(
            Finding::problem(Check::Replicas, counted(leaderless.len(), "queue"), message)
                .remedy("start enough nodes: a quorum queue requires a majority of its members"),
        );
    }
    if !short.is_empty() {
        let message = format!("with offline members: {}", some_of(short.iter().copied()));
        findings.push(
            Finding::warning(Check::Replicas, counted(short.len(), "queue"), message)
                .remedy("start the nodes, or remove lost members: rabbitmq-queues shrink NODE"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            Check::Replicas,
            counted(planned().count(), "queue"),
            "leaders and members are online",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use leveret::probe::Refusal;

    use super::{
        super::{
            super::facts::healthy,
            spoiled::{assert_says, finding, findings},
        },
        *,
    };

    fn see(facts: &mut Facts, queue: &str, ready: u32, consumers: u32) {
        facts.queues.insert(queue.into(), Ok(QueueState { ready, consumers, compared: Ok(()) }));
    }

    #[test]
    fn a_queue_without_consumers_is_worse_when_jobs_wait() {
        // Ready and consumers of both lanes, and what is found of each.
        let (main, lane) = (Some("queue email"), Some("queue email.suspect"));
        let table = [
            ((0, 1), (0, 1), vec![]),
            ((0, 0), (0, 0), vec![(Level::Warning, main)]),
            ((7, 0), (0, 0), vec![(Level::Problem, main)]),
            ((7, 0), (1, 0), vec![(Level::Problem, main), (Level::Problem, lane)]),
            ((7, 2), (0, 0), vec![(Level::Warning, lane)]),
            ((0, 2), (1, 0), vec![(Level::Problem, lane)]),
        ];
        for (email, suspect, wanted) in table {
            let found = findings(check, |facts| {
                see(facts, "email", email.0, email.1);
                see(facts, "email.suspect", suspect.0, suspect.1);
            });
            let found: Vec<_> = found.iter().map(|finding| (finding.level, Some(finding.subject.as_str()))).collect();
            assert_eq!(found, wanted, "{email:?} {suspect:?}");
        }
    }

    #[test]
    fn a_subscription_whose_service_is_gone_is_named_with_its_topics_and_the_way_out() {
        for (ready, wanted) in [(0, Level::Warning), (7, Level::Problem)] {
            let (level, said) = finding(check, |facts| {
                let topology = facts.topology();
                facts.job_queues.push(JobQueue::new("warehouse", &topology, |queue| queue.topic("order.*")));
                see(facts, "warehouse", ready, 0);
            });
            assert_eq!(level, wanted);
            let waiting = format!("jobs waiting: {ready}");
            assert_says(&said, &["queue warehouse", &waiting, "order.*", "leveret events unsubscribe warehouse"]);
        }
    }

    #[test]
    fn dead_letters_are_counted_by_kind_and_a_sample_is_called_one() {
        let kinds = || BTreeMap::from([("timeout".to_owned(), 1), ("permanent".to_owned(), 2)]);
        for (total, read, kinds, wanted) in [
            (3, 3, kinds(), "dead letters: 3, all read: permanent 2, timeout 1"),
            (9, 3, kinds(), "dead letters: 9; of the oldest 3: permanent 2, timeout 1"),
            (9, 0, BTreeMap::new(), "dead letters: 9, none read"),
        ] {
            let letters = DeadLetters { total, read, kinds };
            let (level, said) = finding(check, |facts| drop(facts.dead_letters.insert("email".into(), Ok(letters))));
            assert_eq!(level, Level::Warning);
            assert_says(&said, &["queue email", wanted, "leveret-error", "email.dead"]);
        }
        let refusal = Refusal::Denied("access to queue 'email.dead' refused".into());
        let (level, said) = finding(check, |facts| drop(facts.dead_letters.insert("email".into(), Err(refusal))));
        assert_eq!(level, Level::Note);
        assert_says(&said, &["could not be read", "refused", "the read right on email.dead"]);
    }

    #[test]
    fn workflows_that_no_server_reads_are_a_problem() {
        let (level, said) = finding(check, |facts| see(facts, "leveret.v1.workflows", 7, 0));
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["leveret.v1.workflows", "that wait: 7", "leveret serve"]);
        assert!(findings(check, |facts| see(facts, "leveret.v1.workflows", 7, 1)).is_empty());
        assert!(findings(check, |facts| see(facts, "leveret.v1.workflows", 0, 0)).is_empty());
    }

    #[test]
    fn what_has_no_queue_any_more_is_a_problem() {
        let (level, said) = finding(check, |facts| see(facts, "leveret.v1.unrouted", 5, 0));
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["leveret.v1.unrouted", "dead letters: 5", "leveret-queue"]);
    }

    #[test]
    fn a_level_is_stuck_when_more_is_on_the_way_than_is_ever_in_hand() {
        for (on_the_way, wanted) in [
            (0, None),
            (32, None),
            (33, Some(Level::Warning)),
            (256, Some(Level::Warning)),
            (257, Some(Level::Problem)),
        ] {
            let found = findings(check, |facts| {
                let level = healthy::listed(facts, "leveret.v1.delay.03");
                (level.messages, level.messages_ready, level.messages_unacknowledged) = (10 + on_the_way, 7, 3);
            });
            let found = found.first().map(|finding| (finding.level, finding.subject.as_str(), finding.found.clone()));
            let wanted = wanted.map(|level| (level, "queue leveret.v1.delay.03", Some(on_the_way.to_string())));
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_lost_leader_is_a_problem_and_a_lost_member_a_warning() {
        let (level, said) = finding(check, |facts| healthy::listed(facts, "email").leader = Some(String::new()));
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["email", "without a leader", "majority"]);
        let (level, said) = finding(check, |facts| healthy::listed(facts, "email").online.truncate(2));
        assert_eq!(level, Level::Warning);
        assert_says(&said, &["email", "offline members"]);
    }
}
