//! Checks that every binding of the plans exists, and that no other binding copies jobs.

use std::collections::{BTreeMap, HashSet};

use leveret::topology::{Binding, Destination, Plan};

use super::super::{
    facts::{Facts, Listing, Route, bound_queues, route, schedules},
    finding::{Check, Finding, counted, some_of},
};

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Some(listing) = facts.listing() else { return Vec::new() };
    let mut findings = missing(facts, listing);
    findings.extend(unbound(facts, listing));
    findings.extend(foreign(facts, listing));
    let mut wanted = facts.plans().flat_map(|plan| &plan.bindings);
    if findings.is_empty() && wanted.all(|binding| listing.bindings.contains(&route(binding))) {
        let count: usize = facts.plans().map(|plan| plan.bindings.len()).sum();
        let message = format!("{count} bindings route jobs, delays and dead letters to their queues");
        findings.push(Finding::ok(Check::Bindings, &facts.config.namespace, message));
    }
    findings
}

/// Missing bindings whose source and destination exist.
fn missing(facts: &Facts, listing: &Listing) -> Vec<Finding> {
    let problem = |subject: String, consequence: &str, plan: &Plan| {
        let absent = plan.bindings.iter().filter(|binding| !listing.bindings.contains(&route(binding)));
        let absent = absent.filter(|binding| has_ends(binding, listing));
        let absent: Vec<_> = absent.map(ToString::to_string).collect();
        let shown = some_of(absent.iter().map(String::as_str));
        (!absent.is_empty()).then(|| {
            Finding::problem(
                Check::Bindings,
                subject,
                format!("{} missing: {consequence}", counted(absent.len(), "binding")),
            )
            .differs(shown, "none")
            .remedy("start a worker once with LEVERET_TOPOLOGY=declare, which declares the bindings")
        })
    };
    let shared =
        problem(facts.config.namespace.clone(), "delayed jobs of all queues stop in the delay ladder", &facts.shared);
    let queues = facts.job_queues.iter().filter_map(|queue| {
        let consequence = "its jobs, retries or dead letters cannot be routed";
        problem(format!("queue {}", queue.name), consequence, &queue.plan)
    });
    let schedules = facts.schedules.iter().filter_map(|schedule| {
        let consequence = "its token cannot be published, or is not copied";
        problem(format!("schedule {}", schedule.schedule), consequence, &schedule.plan)
    });
    shared.into_iter().chain(queues).chain(schedules).collect()
}

/// Topics of subscriptions that are announced and not bound. A worker with `LEVERET_TOPOLOGY=verify` cannot see that: AMQP
/// shows no bindings. The catalogue keeps the topics of former handlers, so this may be intended.
fn unbound(facts: &Facts, listing: &Listing) -> Vec<Finding> {
    let exchange = facts.topology().topics();
    let mut absent: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in facts.announced.iter().filter(|entry| entry.event && listing.queues.contains_key(&entry.queue)) {
        let bound = (exchange.clone(), entry.job.clone(), Destination::Queue(entry.queue.clone()));
        if !listing.bindings.contains(&bound) {
            absent.entry(&entry.queue).or_default().push(&entry.job);
        }
    }
    let finding = |(queue, topics): (&str, Vec<&str>)| {
        let count = counted(topics.len(), "topic");
        let message = format!("{count} of its handlers not bound: events of them do not reach the subscription");
        Finding::warning(Check::Bindings, format!("queue {queue}"), message)
            .differs(format!("bindings of {} to {exchange}", some_of(topics)), "none")
            .remedy(
                "start a worker once with LEVERET_TOPOLOGY=declare, which declares the bindings, unless the handlers of these \
                 topics are gone",
            )
    };
    absent.into_iter().map(finding).collect()
}

/// Missing exchanges and queues have findings of their own.
fn has_ends(binding: &Binding, listing: &Listing) -> bool {
    let has_destination = match &binding.destination {
        Destination::Queue(name) => listing.queues.contains_key(name),
        Destination::Exchange(name) => listing.exchanges.contains_key(name),
    };
    has_destination && listing.exchanges.contains_key(&binding.source)
}

/// Bindings of the workers' exchanges that neither a worker nor the server declared. Those of other job queues and schedules
/// are not checked.
fn foreign(facts: &Facts, listing: &Listing) -> Vec<Finding> {
    let topology = facts.topology();
    let (status, schedules) = (topology.of_status(), schedules(listing, &topology));
    let known: HashSet<Route> = bound_queues(listing, &topology)
        .iter()
        .map(|queue| &queue.plan)
        .chain(schedules.iter().map(|schedule| &schedule.plan))
        .chain(facts.plans())
        .chain([&status])
        .flat_map(|plan| plan.bindings.iter().map(route))
        .collect();
    // Any service may bind a queue to the exchange of events.
    let topics = topology.topics();
    let planned = facts.shared.exchanges.iter().map(|exchange| exchange.name.as_str());
    let planned: HashSet<_> = planned.filter(|name| *name != topics).collect();
    let is_of_publisher = |to: &Destination| matches!(to, Destination::Queue(name) if topology.is_results_queue(name));
    let is_foreign =
        |route: &&Route| planned.contains(route.0.as_str()) && !known.contains(*route) && !is_of_publisher(&route.2);
    let mut foreign: Vec<_> = listing.bindings.iter().filter(is_foreign).collect();
    foreign.sort_by_key(|(source, key, destination)| (source, key, destination.to_string()));
    let finding = |(source, key, destination): &Route| {
        let message =
            format!("{source} -[{key}]-> {destination} is not a binding of a worker: messages are copied there too");
        Finding::warning(Check::Bindings, format!("exchange {source}"), message)
            .remedy("delete the binding, unless the copies are intended")
    };
    foreign.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leveret::{catalogue::CatalogueEntry, topology::Topology};

    use super::{
        super::{
            super::{
                facts::{View, healthy},
                finding::Level,
            },
            spoiled::{assert_says, finding, findings},
        },
        *,
    };

    fn bound(source: &str, key: &str, queue: &str) -> Route {
        (source.into(), key.into(), Destination::Queue(queue.into()))
    }

    #[test]
    fn a_missing_binding_is_named_with_both_its_ends() {
        for (source, key, queue, subject) in [
            ("leveret.v1.jobs", "email", "email", "queue email"),
            ("leveret.v1.due", "#.email", "email", "queue email"),
            ("leveret.v1.dead", "email", "email.dead", "queue email"),
            ("leveret.v1.delay.03.in", "", "leveret.v1.delay.03", "leveret.v1 |"),
        ] {
            let (level, said) = finding(check, |facts| {
                assert!(healthy::listing(facts).bindings.remove(&bound(source, key, queue)));
            });
            assert_eq!(level, Level::Problem);
            assert_says(&said, &[subject, &format!("{source} -[{key}]-> queue {queue}"), "LEVERET_TOPOLOGY=declare"]);
        }
    }

    #[test]
    fn a_binding_whose_queue_is_missing_is_left_to_the_finding_about_that() {
        let found = findings(check, |facts| {
            let listing = healthy::listing(facts);
            listing.queues.remove("email.dead");
            listing.bindings.remove(&bound("leveret.v1.dead", "email", "email.dead"));
        });
        assert_eq!(found, []);
    }

    #[test]
    fn a_binding_that_copies_jobs_elsewhere_is_a_warning() {
        let (level, said) = finding(check, |facts| {
            healthy::listing(facts).bindings.insert(bound("leveret.v1.jobs", "email", "audit"));
        });
        assert_eq!(level, Level::Warning);
        assert_says(&said, &["leveret.v1.jobs -[email]-> queue audit", "delete the binding"]);
    }

    #[test]
    fn bindings_of_other_job_queues_and_other_exchanges_and_the_servers_are_left_alone() {
        let found = findings(check, |facts| {
            let bindings = &mut healthy::listing(facts).bindings;
            bindings.insert(bound("leveret.v1.jobs", "reports", "reports"));
            bindings.insert(bound("leveret.v1.due", "#.reports", "reports"));
            bindings.insert(bound("amq.topic", "#", "audit"));
            bindings.insert(bound("leveret.v1.events", "job.dead.#", "leveret.v1.results.0190a5c6"));
            bindings.insert(bound("leveret.v1.topics", "order.*", "a-client-of-its-own"));
            let topology = Topology::new("leveret.v1");
            bindings.extend(topology.of_status().bindings.iter().map(route));
            bindings.extend(topology.of_schedule("other").bindings.iter().map(route));
            let queue = healthy::listing(facts).queues["email"].clone();
            healthy::listing(facts).queues.insert(topology.schedule("other"), queue);
        });
        assert_eq!(found, []);
    }

    #[test]
    fn a_topic_that_a_subscription_handles_and_that_is_not_bound_is_a_warning() {
        let entry = |topic: &str, queue: &str| {
            let entry = serde_json::json!({
                "job": topic, "queue": queue, "event": true, "timeout_ms": 1, "max_attempts": 20, "announced_at": 0,
            });
            Arc::new(serde_json::from_value::<CatalogueEntry>(entry).unwrap())
        };
        let announced = || vec![entry("order.*", "email"), entry("mail.sent", "email"), entry("order.*", "deleted")];
        let (level, said) = finding(check, |facts| {
            facts.announced = announced();
            healthy::listing(facts).bindings.insert(bound("leveret.v1.topics", "mail.sent", "email"));
        });
        assert_eq!(level, Level::Warning);
        assert_says(
            &said,
            &["queue email", "1 topic of its handlers not bound", "order.*", "LEVERET_TOPOLOGY=declare"],
        );
        assert!(!said.contains("mail.sent"), "{said}");
    }

    #[test]
    fn bindings_cannot_be_seen_without_the_api() {
        let mut facts = healthy::facts();
        facts.view = View::NotAsked;
        assert_eq!(check(&facts), []);
    }
}
