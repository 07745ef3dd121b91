//! Checks that the workers of several queues announce a job in the same form.

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use leveret::catalogue::CatalogueEntry;

use super::super::{
    facts::Facts,
    finding::{Check, Finding, some_of},
};

/// A finding for each job that several queues announce in different forms.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut jobs: BTreeMap<&str, Vec<&CatalogueEntry>> = BTreeMap::new();
    // Subscriptions to one topic may differ.
    for entry in facts.announced.iter().filter(|entry| !entry.event) {
        jobs.entry(&entry.job).or_default().push(entry);
    }
    let contested = jobs.into_iter().filter(|(_, entries)| {
        let form =
            |entry: &CatalogueEntry| CatalogueEntry { queue: String::new(), announced_at: UNIX_EPOCH, ..entry.clone() };
        entries.iter().any(|entry| form(entry) != form(entries[0]))
    });
    let finding = |(job, entries): (&str, Vec<&CatalogueEntry>)| {
        let queues = some_of(entries.iter().map(|entry| entry.queue.as_str()));
        let message = "workers of several queues announce this job in different forms";
        Finding::warning(Check::Catalogue, format!("job {job}"), message)
            .differs("the same schema, timeout and attempts everywhere", format!("different ones on the queues {queues}"))
            .remedy(
                "deploy the same version of the job to all its workers, or rename one of the jobs: a submission that names \
                 no queue goes to the queue that announced the job last",
            )
    };
    contested.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            super::{facts::healthy, finding::Level},
            spoiled::{assert_says, finding},
        },
        *,
    };

    fn entry(queue: &str, timeout_ms: u64) -> Arc<CatalogueEntry> {
        let entry = serde_json::json!({
            "job": "email.send", "queue": queue, "timeout_ms": timeout_ms, "max_attempts": 20, "announced_at": 0,
        });
        Arc::new(serde_json::from_value(entry).unwrap())
    }

    #[test]
    fn two_announcers_of_one_job_that_differ_are_shown_with_their_queues() {
        let (level, said) = finding(check, |facts| facts.announced = vec![entry("email", 1), entry("evil", 2)]);
        assert_eq!(level, Level::Warning);
        assert_says(&said, &["job email.send", "queues email, evil", "rename"]);
        let mut facts = healthy::facts();
        facts.announced = vec![entry("email", 1), entry("bulk", 1)];
        assert_eq!(check(&facts), []);
    }
}
