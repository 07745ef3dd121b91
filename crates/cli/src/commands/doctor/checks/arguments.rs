//! Compares the arguments of existing exchanges and queues with those that workers declare.

use leveret::{
    probe::Refusal,
    topology::{self, Argument, Plan, QueuePlan},
};
use serde_json::Value;

use super::super::{
    facts::Facts,
    finding::{Check, Finding},
};
use crate::management::{self, Table};

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<_> = facts.plans().flat_map(|plan| different(facts, plan)).collect();
    if findings.is_empty() && is_compared(facts) {
        findings.push(Finding::ok(Check::Arguments, facts.subject(), "all match the declarations of the workers"));
    }
    findings
}

/// True if everything exists and its arguments were compared.
fn is_compared(facts: &Facts) -> bool {
    let is_there = facts.exchanges.values().all(|compared| *compared != Err(Refusal::Missing))
        && facts.queues.values().all(Result::is_ok);
    is_there && facts.listing().is_some()
        || facts.exchanges.values().all(Result::is_ok)
            && facts.queues.values().all(|seen| seen.as_ref().is_ok_and(|seen| seen.compared.is_ok()))
}

fn different(facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let exchanges = plan.exchanges.iter().map(|exchange| {
        let listed = facts.listing().and_then(|listing| listing.exchanges.get(&exchange.name));
        let listed = listed.map(|listed| exchange_differences(exchange, listed)).unwrap_or_default();
        let compared = facts.exchanges.get(&exchange.name).and_then(|compared| compared.as_ref().err());
        ("exchange", &exchange.name, differences(listed, compared))
    });
    let queues = plan.queues.iter().filter(|queue| !queue.adopted).map(|queue| {
        let listed = facts.listing().and_then(|listing| listing.queues.get(&queue.name));
        let listed = listed.map(|listed| queue_differences(queue, listed)).unwrap_or_default();
        let compared = facts.seen(&queue.name).and_then(|seen| seen.compared.as_ref().err());
        ("queue", &queue.name, differences(listed, compared))
    });
    let finding = |what: &str, name: &str, Difference { name: argument, expected, found }| {
        let message = format!("{argument} differs from what the workers declare");
        Finding::problem(Check::Arguments, format!("{what} {name}"), message)
            .differs(expected, found)
            .remedy(remedy(facts, name))
    };
    let all = exchanges.chain(queues);
    all.flat_map(|(what, name, differences)| {
        differences.into_iter().map(move |difference| finding(what, name, difference))
    })
    .collect()
}

fn remedy(facts: &Facts, name: &str) -> String {
    let instead = if facts.job_queues.iter().any(|queue| queue.name == name) {
        "; or consume it as it is with Queue::existing, and name it to the doctor with --existing"
    } else if facts.shared.queues.iter().any(|queue| queue.name == name) {
        "; or give the workers another LEVERET_NAMESPACE"
    } else {
        ""
    };
    format!("drain it, delete it and start a worker, which declares it again{instead}")
}

/// An argument that differs from its declaration.
struct Difference {
    name: String,
    expected: String,
    found: String,
}

/// The differences that the API shows, or else the one in the broker's refusal of the same declaration.
fn differences(mut listed: Vec<Difference>, compared: Option<&Refusal>) -> Vec<Difference> {
    if let (true, Some(Refusal::Mismatch(words))) = (listed.is_empty(), compared) {
        listed.push(inequivalent(words).unwrap_or_else(|| Difference {
            name: "its declaration".to_owned(),
            expected: "the workers'".to_owned(),
            found: words.clone(),
        }));
    }
    listed
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

/// Declared arguments with another value, and existing arguments that are not declared.
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
                facts::{QueueState, View, healthy},
                finding::Level,
            },
            spoiled::{assert_says, finding, findings},
        },
        *,
    };

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
                facts.queues.insert("email".into(), Ok(QueueState { ready: 0, consumers: 1, compared }));
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
}
