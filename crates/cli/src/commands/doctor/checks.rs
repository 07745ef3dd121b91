//! The checks: pure functions from facts to findings, one module for each subject.

mod arguments;
mod bindings;
mod broker;
mod catalogue;
mod permissions;
mod policies;
mod queues;
mod times;
mod topology;

use super::{facts::Facts, finding::Finding};

/// All findings, in the order in which an operator fixes them.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = broker::check(facts);
    findings.extend(permissions::check(facts));
    findings.extend(topology::check(facts));
    findings.extend(arguments::check(facts));
    findings.extend(bindings::check(facts));
    findings.extend(policies::check(facts));
    findings.extend(queues::check(facts));
    findings.extend(catalogue::check(facts));
    findings.extend(times::check(facts));
    findings
}

#[cfg(test)]
mod tests {
    use super::{
        super::{facts::healthy, finding::Level},
        *,
    };

    #[test]
    fn a_healthy_broker_has_only_good_findings() {
        let findings = check(&healthy::facts());
        assert!(findings.len() >= 10, "{findings:#?}");
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    }
}

#[cfg(test)]
mod spoiled {
    //! Helpers of the checks' tests: the findings after one fact of a healthy broker was spoiled.

    use super::super::{
        facts::{Facts, healthy},
        finding::{Finding, Level},
    };

    /// The findings of `check` above `ok` after `spoil`.
    pub(super) fn findings(check: fn(&Facts) -> Vec<Finding>, spoil: impl FnOnce(&mut Facts)) -> Vec<Finding> {
        let mut facts = healthy::facts();
        spoil(&mut facts);
        check(&facts).into_iter().filter(|finding| finding.level > Level::Ok).collect()
    }

    /// The only finding of `check` after `spoil`: its level, and its text in one line.
    pub(super) fn finding(check: fn(&Facts) -> Vec<Finding>, spoil: impl FnOnce(&mut Facts)) -> (Level, String) {
        let findings = findings(check, spoil);
        let [Finding { level, subject, message, expected, found, remedy, .. }] = findings.as_slice() else {
            panic!("not one finding: {findings:#?}")
        };
        let parts = [Some(subject), Some(message), expected.as_ref(), found.as_ref(), remedy.as_ref()];
        (*level, parts.map(|part| part.map_or("-", String::as_str)).join(" | "))
    }

    pub(super) fn assert_says(said: &str, parts: &[&str]) {
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}
