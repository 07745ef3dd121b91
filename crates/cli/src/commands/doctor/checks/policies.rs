//! Checks for policies that break the promises of the queues' arguments.
//!
//! RabbitMQ combines policies and arguments: the `overflow` of a policy overrides the argument, of two limits or times the
//! smaller one counts, and the dead-letter settings of the argument win. So only the first two kinds can do harm.

use std::collections::BTreeMap;

use leveret::topology::{Argument, QueuePlan};
use serde_json::Value;

use super::super::{
    facts::{Facts, Listing},
    finding::{Check, Finding, Level, some_of},
};
use crate::management;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Some(listing) = facts.listing() else { return Vec::new() };
    let mut findings: Vec<_> =
        harms(facts, listing).into_iter().map(|(harm, queues)| finding(facts, harm, &queues)).collect();
    if findings.is_empty() && facts.without_figures().is_empty() {
        findings.push(Finding::ok(
            Check::Policies,
            &facts.config.namespace,
            "no policy breaks the promises of the queues",
        ));
    }
    findings
}

/// The harm that a policy does. A policy that affects many queues is reported once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Harm {
    policy: String,
    key: &'static str,
    value: String,
    level: Level,
    consequence: &'static str,
}

fn harms(facts: &Facts, listing: &Listing) -> BTreeMap<Harm, Vec<String>> {
    let mut harms: BTreeMap<Harm, Vec<String>> = BTreeMap::new();
    let plans = facts.job_queues.iter().map(|queue| &queue.plan).chain([&facts.shared]);
    let plans = plans.chain(facts.schedules.iter().map(|schedule| &schedule.plan));
    for plan in plans.flat_map(|plan| &plan.queues) {
        let Some(listed) = listing.queues.get(&plan.name) else { continue };
        for (key, value) in listed.policy_keys.iter().flatten() {
            if let Some((key, level, consequence)) = harm(plan, key, value) {
                let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let harm = Harm { policy: policies(listed), key, value: shown, level, consequence };
                harms.entry(harm).or_default().push(plan.name.clone());
            }
        }
    }
    harms
}

/// The names of a queue's policies. The broker merges the two and does not report which of them set a key.
fn policies(queue: &management::Queue) -> String {
    let name = |what: &str, name: &Option<String>| {
        name.as_ref().filter(|name| !name.is_empty()).map(|name| format!("{what} {name}"))
    };
    let names: Vec<_> = [name("policy", &queue.policy), name("operator policy", &queue.operator_policy)]
        .into_iter()
        .flatten()
        .collect();
    names.join(" or ")
}

/// The harm that a policy does to a queue by setting `key` to `value`.
fn harm(plan: &QueuePlan, key: &str, value: &Value) -> Option<(&'static str, Level, &'static str)> {
    const FULL: &str = "a full job queue or delay level blocks the delays of all queues, and a full dead-letter queue deletes dead letters";
    let is_less = |argument| match plan.argument(argument) {
        Some(Argument::Integer(planned)) => value.as_i64().is_some_and(|actual| actual < *planned),
        _ => true,
    };
    let is_kept = plan.argument("x-overflow").is_none();
    match key {
        "overflow" if !is_kept && value != "reject-publish" => Some((
            "overflow",
            Level::Problem,
            "it overrides the queue's own reject-publish and turns off dead-lettering at least once: delayed jobs and dead \
             letters can be deleted",
        )),
        "max-length" => Some(("max-length", Level::Problem, FULL)),
        "max-length-bytes" => Some(("max-length-bytes", Level::Problem, FULL)),
        "message-ttl" if is_less("x-message-ttl") => Some((
            "message-ttl",
            Level::Problem,
            "jobs expire before they run or return before their time, and dead letters are deleted",
        )),
        "expires" => Some(("expires", Level::Problem, "an unused queue is deleted with all its messages")),
        "delivery-limit" if is_less("x-delivery-limit") && is_kept => {
            Some(("delivery-limit", Level::Problem, "a dead letter that is read more often than this is deleted"))
        }
        "delivery-limit" if is_less("x-delivery-limit") && plan.argument("x-delivery-limit").is_some() => Some((
            "delivery-limit",
            Level::Warning,
            "jobs that were requeued this often, also by lost connections, become dead letters",
        )),
        _ => None,
    }
}

fn finding(facts: &Facts, harm: Harm, queues: &[String]) -> Finding {
    let Harm { policy, key, value, level, consequence } = harm;
    let shown = some_of(queues.iter().map(String::as_str));
    let message = format!("sets {key} to {value} on {shown}: {consequence}");
    let remedy = format!(
        "narrow its pattern to exclude these queues, or remove it: rabbitmqctl clear_policy -p {} NAME",
        facts.broker.vhost
    );
    Finding::new(level, Check::Policies, policy, message).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            super::facts::healthy,
            spoiled::{assert_says, finding, findings},
        },
        *,
    };

    fn set(facts: &mut Facts, queue: &str, key: &str, value: Value) {
        let queue = healthy::listed(facts, queue);
        queue.policy = Some("broad".into());
        queue.policy_keys.get_or_insert_default().insert(key.into(), value);
    }

    #[test]
    fn a_policy_is_judged_by_what_it_does_to_each_kind_of_queue() {
        let (job, level, dead) = ("email", "leveret.v1.delay.03", "email.dead");
        let table = [
            (job, "overflow", json!("drop-head"), Some(Level::Problem)),
            (level, "overflow", json!("drop-head"), Some(Level::Problem)),
            (job, "overflow", json!("reject-publish"), None),
            (dead, "overflow", json!("drop-head"), None),
            (job, "max-length", json!(1_000), Some(Level::Problem)),
            (dead, "max-length-bytes", json!(1_000), Some(Level::Problem)),
            (job, "message-ttl", json!(1_000), Some(Level::Problem)),
            (level, "message-ttl", json!(799), Some(Level::Problem)),
            (level, "message-ttl", json!(800), None),
            (dead, "expires", json!(1_000), Some(Level::Problem)),
            (job, "delivery-limit", json!(20), Some(Level::Warning)),
            (job, "delivery-limit", json!(100), None),
            (dead, "delivery-limit", json!(20), Some(Level::Problem)),
            (level, "delivery-limit", json!(20), None),
            (job, "dead-letter-exchange", json!("elsewhere"), None),
            (job, "queue-leader-locator", json!("balanced"), None),
        ];
        for (queue, key, value, wanted) in table {
            let found = findings(check, |facts| set(facts, queue, key, value.clone()));
            assert_eq!(found.first().map(|finding| finding.level), wanted, "{key} = {value} on {queue}: {found:?}");
        }
    }

    #[test]
    fn a_policy_that_harms_many_queues_is_reported_once() {
        let (level, said) = finding(check, |facts| {
            for level in facts.topology().levels().collect::<Vec<_>>() {
                set(facts, &level, "overflow", json!("drop-head"));
            }
        });
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["policy broad", "sets overflow to drop-head on leveret.v1.delay.00,", "and 25 more"]);
    }
}
