//! What exists, against what the workers want: names, then arguments one by one.

use leveret::{
    probe::Refusal,
    topology::{self, Argument, Plan, QueuePlan},
};
use serde_json::Value;

use super::super::{
    facts::Facts,
    finding::{Check, Finding, some_of},
};
use crate::management::{self, Table};

const MIGRATE: &str = "drain it, delete it and start a worker, which declares it anew";

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = missing(facts);
    findings.extend(failed(facts));
    let differing: Vec<_> = facts.plans().flat_map(|plan| different(facts, plan)).collect();
    let seen = facts.queues.values().all(Result::is_ok);
    if seen && findings.is_empty() && differing.is_empty() {
        let (exchanges, queues) = (facts.exchanges.len(), facts.queues.len());
        let message = format!("{exchanges} exchanges and {queues} queues exist");
        findings.push(Finding::ok(Check::Topology, subject(facts), message));
        if is_compared(facts) {
            findings.push(Finding::ok(
                Check::Arguments,
                subject(facts),
                "all arguments are as the workers declare them",
            ));
        }
    }
    findings.extend(differing);
    if facts.job_queues.is_empty() {
        findings.push(no_queues(facts));
    }
    findings
}

fn subject(facts: &Facts) -> String {
    let names: Vec<_> = facts.job_queues.iter().map(|queue| queue.name.as_str()).collect();
    if names.is_empty() { facts.config.namespace.clone() } else { some_of(names) }
}

fn no_queues(facts: &Facts) -> Finding {
    if facts.listing().is_some() {
        let message = format!("no job queue is bound to {}", facts.topology().jobs());
        return Finding::warning(Check::Topology, &facts.config.namespace, message)
            .remedy("start a worker, which declares its queues; or check vhost and LEVERET_NAMESPACE");
    }
    Finding::note(Check::Topology, &facts.config.namespace, "no job queue is named, so that none was checked")
        .remedy("name them with --queue, or let them be found with --management-url")
}

fn is_missing<T>(answer: Option<&Result<T, Refusal>>) -> bool {
    matches!(answer, None | Some(Err(Refusal::Missing)))
}

/// One finding for what all queues share, and one for each job queue.
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
    shared.into_iter().chain(queues).collect()
}

/// What exists and yet gave no answer.
fn failed(facts: &Facts) -> Vec<Finding> {
    let exchanges = facts.exchanges.iter().map(|(name, compared)| ("exchange", name, compared.as_ref().err()));
    let refusal = |name: &String| match &facts.queues[name] {
        Ok(seen) => seen.compared.as_ref().err(),
        Err(refusal) => Some(refusal),
    };
    let queues = facts.queues.keys().map(|name| ("queue", name, refusal(name)));
    let failed = exchanges.chain(queues).filter_map(|(what, name, refusal)| match refusal {
        Some(Refusal::Failed(words)) => Some((format!("{what} {name}"), words)),
        _ => None,
    });
    failed
        .map(|(subject, words)| {
            Finding::problem(Check::Topology, subject, format!("the broker gives no answer about it: {words}"))
                .remedy("see the broker's log; a quorum queue needs a majority of its members up")
        })
        .collect()
}

/// Whether every argument was compared, one way or the other.
fn is_compared(facts: &Facts) -> bool {
    facts.listing().is_some()
        || facts.exchanges.values().all(Result::is_ok)
            && facts.queues.values().all(|seen| seen.as_ref().is_ok_and(|seen| seen.compared.is_ok()))
}

fn different(facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let exchanges = plan.exchanges.iter().flat_map(|exchange| {
        let listed = facts.listing().and_then(|listing| listing.exchanges.get(&exchange.name));
        let differences = listed.map(|listed| exchange_differences(exchange, listed)).unwrap_or_default();
        let compared = facts.exchanges.get(&exchange.name).and_then(|compared| compared.as_ref().err());
        differing(&format!("exchange {}", exchange.name), differences, compared)
    });
    let queues = plan.queues.iter().filter(|queue| !queue.adopted).flat_map(|queue| {
        let listed = facts.listing().and_then(|listing| listing.queues.get(&queue.name));
        let differences = listed.map(|listed| queue_differences(queue, listed)).unwrap_or_default();
        let compared = facts.seen(&queue.name).and_then(|seen| seen.compared.as_ref().err());
        differing(&format!("queue {}", queue.name), differences, compared)
    });
    exchanges.chain(queues).collect()
}

/// One thing that is not as it was declared.
struct Difference {
    name: String,
    expected: String,
    found: String,
}

/// What the API showed; else what the broker said when it was asked to declare the same again.
fn differing(subject: &str, mut differences: Vec<Difference>, compared: Option<&Refusal>) -> Vec<Finding> {
    if let (true, Some(Refusal::Mismatch(words))) = (differences.is_empty(), compared) {
        differences.push(inequivalent(words).unwrap_or_else(|| Difference {
            name: "its declaration".to_owned(),
            expected: "the workers'".to_owned(),
            found: words.clone(),
        }));
    }
    let mut remedy = MIGRATE.to_owned();
    if subject.starts_with("queue") {
        remedy.push_str("; or adopt it as it is with Queue::existing, and tell the doctor so with --existing");
    }
    let finding = |Difference { name, expected, found }| {
        let message = format!("{name} differs from what the workers declare");
        Finding::problem(Check::Arguments, subject, message).differs(expected, found).remedy(remedy.clone())
    };
    differences.into_iter().map(finding).collect()
}

/// Reads `inequivalent arg 'x' for queue 'q' in vhost 'v': received … but current is …`.
fn inequivalent(words: &str) -> Option<Difference> {
    let (_, rest) = words.split_once("inequivalent arg '")?;
    let (name, rest) = rest.split_once('\'')?;
    let (_, values) = rest.split_once("received ")?;
    let (expected, found) = values.split_once(" but current is ")?;
    Some(Difference { name: name.to_owned(), expected: plain(expected), found: plain(found) })
}

/// `the value '5' of type 'long'` as `5`, and `'true'` as `true`.
fn plain(value: &str) -> String {
    value.split('\'').nth(1).unwrap_or(value).to_owned()
}

fn exchange_differences(plan: &topology::Exchange, listed: &management::Exchange) -> Vec<Difference> {
    let flags = [
        ("type", plan.kind.as_str().to_owned(), listed.kind.clone()),
        ("durable", true.to_string(), listed.durable.to_string()),
        ("auto_delete", false.to_string(), listed.auto_delete.to_string()),
        ("internal", false.to_string(), listed.internal.to_string()),
    ];
    let alternate = plan.alternate.iter().map(|name| ("alternate-exchange", name.clone()));
    unequal(flags).chain(table_differences(alternate.collect(), &listed.arguments)).collect()
}

fn queue_differences(plan: &QueuePlan, listed: &management::Queue) -> Vec<Difference> {
    let flags = [
        ("durable", true.to_string(), listed.durable.to_string()),
        ("auto_delete", false.to_string(), listed.auto_delete.to_string()),
    ];
    let arguments = plan.arguments.iter().map(|(name, value): &(_, Argument)| (*name, value.to_string()));
    unequal(flags).chain(table_differences(arguments.collect(), &listed.arguments)).collect()
}

fn unequal<const N: usize>(values: [(&str, String, String); N]) -> impl Iterator<Item = Difference> {
    let values = values.into_iter().filter(|(_, expected, found)| expected != found);
    values.map(|(name, expected, found)| Difference { name: name.to_owned(), expected, found })
}

/// Arguments that are wanted and not so, and those that are there and not wanted.
fn table_differences(wanted: Vec<(&str, String)>, listed: &Table) -> Vec<Difference> {
    const NONE: &str = "none";
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let found = |name: &str| listed.get(name).map_or_else(|| NONE.to_owned(), shown);
    let foreign = listed.keys().filter(|name| wanted.iter().all(|(wanted, _)| wanted != name));
    let foreign: Vec<_> = foreign.map(|name| (name.as_str(), NONE.to_owned())).collect();
    let all = wanted.into_iter().chain(foreign).map(|(name, expected)| (name, expected, found(name)));
    all.filter(|(_, expected, found)| expected != found)
        .map(|(name, expected, found)| Difference { name: name.to_owned(), expected, found })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{
                facts::{Seen, View, healthy},
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
            ("leveret.v1", "2 of 89 parts missing: exchange leveret.v1.due, queue leveret.v1.delay.03"),
            ("queue email", "2 of 3 parts missing: queue email.dead, queue email"),
        ];
        assert_eq!(shown, wanted);
        assert!(found.iter().all(|finding| finding.level == Level::Problem));
    }

    #[test]
    fn arguments_are_compared_one_by_one_with_both_values() {
        let found = findings(check, |facts| {
            let queue = healthy::listed(facts, "email");
            queue.arguments.insert("x-delivery-limit".into(), 5.into());
            queue.arguments.insert("x-max-length".into(), 10.into());
            queue.arguments.remove("x-dead-letter-strategy");
            healthy::listing(facts).exchanges.get_mut("leveret.v1.dead").unwrap().arguments.clear();
        });
        let values = |finding: &Finding| {
            let name = finding.message.split(' ').next().unwrap().to_owned();
            (finding.subject.clone(), name, finding.expected.clone().unwrap(), finding.found.clone().unwrap())
        };
        let mut shown: Vec<_> = found.iter().map(values).collect();
        shown.sort();
        let row = |subject: &str, name: &str, expected: &str, found: &str| {
            (subject.to_owned(), name.to_owned(), expected.to_owned(), found.to_owned())
        };
        let wanted = [
            row("exchange leveret.v1.dead", "alternate-exchange", "leveret.v1.unrouted", "none"),
            row("queue email", "x-dead-letter-strategy", "at-least-once", "none"),
            row("queue email", "x-delivery-limit", "100", "5"),
            row("queue email", "x-max-length", "none", "10"),
        ];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn without_the_api_the_brokers_own_words_name_the_argument() {
        for (words, wanted) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'email' in vhost '/': received the \
                 value '100' of type 'signedint' but current is the value '5' of type 'long'",
                "x-delivery-limit differs from what the workers declare | 100 | 5",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'email' in vhost '/': received 'true' but \
                 current is 'false'",
                "durable differs from what the workers declare | true | false",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'email' in vhost '/': received the value \
                 'reject-publish' of type 'longstr' but current is none",
                "x-overflow differs from what the workers declare | reject-publish | none",
            ),
            ("PRECONDITION_FAILED - other words", "its declaration differs from what the workers declare"),
        ] {
            let compared = Err(Refusal::Mismatch(words.into()));
            let (level, said) = finding(check, |facts| {
                facts.view = View::NotAsked;
                facts.queues.insert("email".into(), Ok(Seen { ready: 0, consumers: 1, compared }));
            });
            assert_eq!(level, Level::Problem);
            assert_says(&said, &["queue email", wanted, "Queue::existing"]);
        }
    }

    #[test]
    fn an_adopted_queue_may_have_any_arguments() {
        let found = findings(check, |facts| {
            healthy::listed(facts, "email").arguments.clear();
            facts.job_queues[0].plan.queues.iter_mut().for_each(|queue| queue.adopted = true);
        });
        assert_eq!(found, []);
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
    fn a_queue_that_gives_no_answer_is_a_problem() {
        let (level, said) =
            finding(check, |facts| drop(facts.queues.insert("email".into(), Err(Refusal::Failed("silence".into())))));
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["queue email", "silence", "majority"]);
    }
}
