//! Checks the broker itself: connection, version, management API and alarms.

use leveret::TopologyMode;

use super::super::{
    facts::{Facts, Listing, View},
    finding::{Check, Finding, counted, some_of},
};
use crate::management::Node;

/// Message TTL on quorum queues and dead-lettering at least once start here.
const OLDEST: [u32; 3] = [3, 10, 0];
/// From here to [`FIXED`], dead-lettering at least once can stop for good after a change of a queue's members.
const FAULTY: [u32; 3] = [4, 3, 0];
const FIXED: [u32; 3] = [4, 3, 3];
/// These versions require the configure right for a passive declaration.
const STRICT: [[u32; 3]; 2] = [[4, 2, 6], [4, 3, 0]];

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![connection(facts)];
    findings.extend(facts.dead_ends.iter().map(|reason| {
        Finding::warning(Check::Connection, "AMQP_URL", format!("one of its addresses does not work: {reason}"))
            .remedy("fix or remove the address: a worker that tries it cannot connect")
    }));
    findings.push(version(facts));
    match &facts.view {
        View::NotAsked => findings.push(
            Finding::note(Check::Management, "management API", "not configured: bindings, policies, alarms and replicas are not checked")
                .remedy("set --management-url http://host:15672"),
        ),
        View::Failed(reason) => findings.push(
            Finding::problem(Check::Management, "management API", reason)
                .remedy("check LEVERET_MANAGEMENT_URL; the user requires the tag monitoring: rabbitmqctl set_user_tags USER monitoring"),
        ),
        View::Listed(listing) => {
            findings.push(Finding::ok(Check::Management, "management API", format!("answers at {}", listing.address)));
            findings.extend(figures(facts));
            findings.extend(nodes(listing));
        }
    }
    findings
}

/// Queues without statistics: those of a new queue appear after some seconds, those of a lost node never.
fn figures(facts: &Facts) -> Option<Finding> {
    let unknown = facts.without_figures();
    let message = format!(
        "has no statistics yet of {}: their policies and levels are not checked",
        some_of(unknown.iter().copied())
    );
    (!unknown.is_empty()).then(|| {
        Finding::note(Check::Management, "management API", message).remedy("run the doctor again in some seconds")
    })
}

fn connection(facts: &Facts) -> Finding {
    let place = &facts.broker;
    let message = format!("user {} is logged in to vhost {}", place.user, place.vhost);
    Finding::ok(Check::Connection, &place.address, message)
}

fn version(facts: &Facts) -> Finding {
    let server = &facts.broker.server;
    let subject = format!("{} {}", server.product, server.version);
    let subject = subject.trim();
    let Some(version) = numbers(&server.version).filter(|_| server.product == "RabbitMQ") else {
        return Finding::warning(
            Check::Version,
            subject,
            "is not a RabbitMQ with a known version: its guarantees are unknown",
        );
    };
    if version < OLDEST {
        return Finding::problem(Check::Version, subject, "cannot dead-letter at least once: delayed jobs may be lost")
            .differs("3.10 or later", &server.version)
            .remedy("upgrade RabbitMQ");
    }
    if (FAULTY..FIXED).contains(&version) {
        return Finding::warning(
            Check::Version,
            subject,
            "may stop dead-lettering, and with it all delays, when a queue's members change",
        )
        .differs("4.3.3 or later", &server.version)
        .remedy("upgrade RabbitMQ");
    }
    if STRICT.contains(&version) && facts.config.topology == TopologyMode::Verify {
        return Finding::warning(
            Check::Version,
            subject,
            "requires the configure right even to check whether a queue exists",
        )
        .remedy("upgrade RabbitMQ, or start the workers with LEVERET_TOPOLOGY=declare");
    }
    Finding::ok(Check::Version, subject, "is supported")
}

/// The first three numbers of a version: `4.1.0-rc.1` is 4, 1 and 0.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let mut next = || parts.next().flatten();
    Some([next()?, next()?, next().unwrap_or(0)])
}

fn nodes(listing: &Listing) -> Vec<Finding> {
    let nodes = match &listing.nodes {
        Ok(nodes) => nodes,
        Err(reason) => {
            let message = format!("alarms and nodes are not visible: {reason}");
            let remedy = "give the user the tag monitoring: rabbitmqctl set_user_tags USER monitoring";
            return vec![Finding::note(Check::Alarms, "alarms", message).remedy(remedy)];
        }
    };
    let mut findings: Vec<_> = nodes.iter().flat_map(alarms).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(Check::Alarms, counted(nodes.len(), "node"), "running, without an alarm"));
    }
    if nodes.len() == 1 {
        let message = "is the only node: after a restart it delays due jobs for minutes, unless its advanced.config has two \
                       settings that are not visible to the doctor";
        findings.push(Finding::note(Check::Alarms, format!("node {}", nodes[0].name), message).remedy(
            "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}, \
             {dead_letter_worker_consumer_prefetch, 256}]}].",
        ));
    }
    findings
}

fn alarms(node: &Node) -> Vec<Finding> {
    let subject = format!("node {}", node.name);
    let problem = |message: &str, remedy: &str| Finding::problem(Check::Alarms, &subject, message).remedy(remedy);
    if !node.running {
        return vec![problem("is down", "start it; queues with a running majority of members work without it")];
    }
    let mut findings = Vec::new();
    if node.mem_alarm {
        findings.push(problem(
            "has a memory alarm: the cluster accepts no publishes, so no retries and no dead letters",
            "find the cause: rabbitmq-diagnostics memory_breakdown",
        ));
    }
    if node.disk_free_alarm {
        findings.push(problem(
            "has a disk alarm: the cluster accepts no publishes, so no retries and no dead letters",
            "free disk space on the node, or lower disk_free_limit",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{facts::healthy, finding::Level},
            spoiled::{assert_says, finding},
        },
        *,
    };

    #[test]
    fn a_version_is_judged_by_what_it_lacks() {
        for (version, level, part) in [
            ("3.9.29", Level::Problem, "3.10 or later"),
            ("4.3.2", Level::Warning, "4.3.3 or later"),
            ("4.3.0-rc.1", Level::Warning, "4.3.3 or later"),
            ("unknown", Level::Warning, "is not a RabbitMQ"),
        ] {
            let (found, said) = finding(check, |facts| facts.broker.server = healthy::server(version));
            assert_eq!(found, level, "{said}");
            assert_says(&said, &[part, version]);
        }
        for version in ["3.10.0", "3.10.8", "4.0.5", "4.2.6", "4.3.3", "5.0.0"] {
            let mut facts = healthy::facts();
            facts.broker.server = healthy::server(version);
            assert_eq!(super::version(&facts).level, Level::Ok, "{version}");
        }
        let (level, said) = finding(check, |facts| {
            facts.broker.server = healthy::server("4.2.6");
            facts.config.topology = TopologyMode::Verify;
        });
        assert_eq!(level, Level::Warning);
        assert_says(&said, &["LEVERET_TOPOLOGY=declare"]);
    }

    #[test]
    fn every_alarm_and_every_node_that_is_down_is_a_problem() {
        type Spoil = fn(&mut Node);
        let table: [(Spoil, &str); 3] = [
            (|node| node.running = false, "is down"),
            (|node| node.mem_alarm = true, "memory alarm"),
            (|node| node.disk_free_alarm = true, "disk alarm"),
        ];
        for (spoil, part) in table {
            let (level, said) = finding(check, |facts| spoil(&mut healthy::listing(facts).nodes.as_mut().unwrap()[1]));
            assert_eq!(level, Level::Problem);
            assert_says(&said, &["node b", part]);
        }
    }

    #[test]
    fn what_could_not_be_looked_at_is_said() {
        let (level, said) = finding(check, |facts| facts.view = View::NotAsked);
        assert_eq!(level, Level::Note);
        assert_says(&said, &["bindings, policies", "--management-url"]);
        let (level, said) = finding(check, |facts| facts.view = View::Failed("status 401".into()));
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["status 401", "set_user_tags"]);
        let (level, said) = finding(check, |facts| healthy::listing(facts).nodes = Err("status 401".into()));
        assert_eq!(level, Level::Note);
        assert_says(&said, &["alarms", "status 401"]);
        let (level, said) = finding(check, |facts| healthy::listed(facts, "email").policy_keys = None);
        assert_eq!(level, Level::Note);
        assert_says(&said, &["no statistics yet of email", "again"]);
        let (level, _) = finding(check, |facts| facts.dead_ends.push("other:5672 cannot be reached".into()));
        assert_eq!(level, Level::Warning);
    }

    #[test]
    fn a_single_node_gets_the_advice_that_cannot_be_checked() {
        let (level, said) = finding(check, |facts| healthy::listing(facts).nodes.as_mut().unwrap().truncate(1));
        assert_eq!(level, Level::Note);
        assert_says(&said, &["node a", "dead_letter_worker_publisher_confirm_timeout, 5000"]);
    }
}
