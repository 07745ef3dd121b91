//! Checks that all exchanges and queues of the workers exist.

use std::collections::BTreeMap;

use leveret::{probe::Refusal, topology::Plan};

use super::super::{
    facts::Facts,
    finding::{Check, Finding, some_of},
};

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = missing(facts);
    findings.extend(failed(facts));
    if findings.is_empty() && facts.queues.values().all(Result::is_ok) {
        let message = format!("{} exchanges and {} queues exist", facts.exchanges.len(), facts.queues.len());
        findings.push(Finding::ok(Check::Topology, facts.subject(), message));
    }
    if facts.job_queues.is_empty() {
        findings.push(no_queues(facts));
    }
    findings
}

fn no_queues(facts: &Facts) -> Finding {
    if facts.listing().is_some() {
        let message = format!("no job queue is bound to {}", facts.topology().jobs());
        return Finding::warning(Check::Topology, &facts.config.namespace, message)
            .remedy("start a worker, which declares its queues, or check the vhost and LEVERET_NAMESPACE");
    }
    Finding::note(Check::Topology, &facts.config.namespace, "no job queue is named, so none was checked")
        .remedy("name them with --queue, or set --management-url to find them")
}

fn is_missing<T>(answer: Option<&Result<T, Refusal>>) -> bool {
    matches!(answer, None | Some(Err(Refusal::Missing)))
}

/// A finding for the shared topology, and one for each job queue.
fn missing(facts: &Facts) -> Vec<Finding> {
    let absent = |plan: &Plan| -> Vec<String> {
        let exchanges = plan.exchanges.iter().map(|exchange| &exchange.name);
        let exchanges = exchanges.filter(|name| is_missing(facts.exchanges.get(*name)));
        let queues = plan.queues.iter().map(|queue| &queue.name).filter(|name| is_missing(facts.queues.get(*name)));
        exchanges.map(|name| format!("exchange {name}")).chain(queues.map(|name| format!("queue {name}"))).collect()
    };
    let problem = |subject: String, names: Vec<String>, of: usize| {
        let message = format!("{} of {of} parts missing: {}", names.len(), some_of(names.iter().map(String::as_str)));
        let remedy = "start a worker once with LEVERET_TOPOLOGY=declare, as a user with the configure right";
        (!names.is_empty()).then(|| Finding::problem(Check::Topology, subject, message).remedy(remedy))
    };
    let parts = |plan: &Plan| plan.exchanges.len() + plan.queues.len();
    let shared = problem(facts.config.namespace.clone(), absent(&facts.shared), parts(&facts.shared));
    let queues = facts
        .job_queues
        .iter()
        .filter_map(|queue| problem(format!("queue {}", queue.name), absent(&queue.plan), parts(&queue.plan)));
    let schedules = facts.schedules.iter().filter_map(|schedule| {
        problem(format!("schedule {}", schedule.schedule), absent(&schedule.plan), parts(&schedule.plan))
    });
    shared.into_iter().chain(queues).chain(schedules).collect()
}

/// Queues and exchanges whose check got no answer, grouped by reason.
fn failed(facts: &Facts) -> Vec<Finding> {
    let exchanges = facts.exchanges.iter().map(|(name, compared)| (name, compared.as_ref().err()));
    let queues = facts.queues.iter().map(|(name, seen)| match seen {
        Ok(seen) => (name, seen.compared.as_ref().err()),
        Err(refusal) => (name, Some(refusal)),
    });
    let mut failed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, refusal) in exchanges.chain(queues) {
        if let Some(Refusal::Failed(words)) = refusal {
            failed.entry(words).or_default().push(name);
        }
    }
    let finding = |(words, names): (&str, Vec<&str>)| {
        let message = format!("the broker does not answer about them: {words}");
        Finding::problem(Check::Topology, some_of(names), message).remedy(
            "run the doctor again and read the broker's log; a quorum queue requires a running majority of its members",
        )
    };
    failed.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{
                facts::{QueueState, ScheduleQueue, View},
                finding::Level,
            },
            spoiled::{assert_says, finding, findings},
        },
        *,
    };

    #[test]
    fn what_is_missing_is_one_finding_for_each_queue_and_one_for_what_they_share() {
        let found = findings(check, |facts| {
            for name in ["email", "email.dead", "leveret.v1.delay.03"] {
                facts.queues.insert(name.into(), Err(Refusal::Missing));
            }
            facts.exchanges.insert("leveret.v1.due".into(), Err(Refusal::Missing));
        });
        let shown: Vec<_> = found.iter().map(|finding| (finding.subject.as_str(), finding.message.as_str())).collect();
        let wanted = [
            ("leveret.v1", "2 of 96 parts missing: exchange leveret.v1.due, queue leveret.v1.delay.03"),
            ("queue email", "2 of 3 parts missing: queue email.dead, queue email"),
        ];
        assert_eq!(shown, wanted);
        assert!(found.iter().all(|finding| finding.level == Level::Problem));
    }

    #[test]
    fn missing_parts_of_a_schedule_are_reported_with_its_name() {
        let (level, said) = finding(check, |facts| {
            facts.schedules.push(ScheduleQueue::new("digest", &facts.topology()));
            facts
                .queues
                .insert("leveret.v1.schedules".into(), Ok(QueueState { ready: 0, consumers: 0, compared: Ok(()) }));
            facts.queues.insert("leveret.v1.schedule.digest".into(), Err(Refusal::Missing));
        });
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["schedule digest", "1 of 2 parts missing: queue leveret.v1.schedule.digest"]);
    }

    #[test]
    fn no_queue_to_check_is_said() {
        let (level, said) = finding(check, |facts| facts.job_queues.clear());
        assert_eq!(level, Level::Warning);
        assert_says(&said, &["no job queue is bound to leveret.v1.jobs"]);
        let (level, said) = finding(check, |facts| {
            facts.job_queues.clear();
            facts.view = View::NotAsked;
        });
        assert_eq!(level, Level::Note);
        assert_says(&said, &["--queue"]);
    }

    #[test]
    fn queues_that_give_no_answer_are_one_problem() {
        let (level, said) = finding(check, |facts| {
            let lost = || Refusal::Failed("the connection is lost".into());
            facts.queues.values_mut().for_each(|seen| *seen = Err(lost()));
            facts.exchanges.values_mut().for_each(|compared| *compared = Err(lost()));
        });
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["and 96 more | ", "the connection is lost", "majority"]);
    }
}
