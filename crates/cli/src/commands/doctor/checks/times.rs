//! Checks the timeouts: handler timeout < consumer timeout, drain timeout < grace period, a heartbeat that detects losses.

use std::time::Duration;

use serde_json::Value;

use super::super::{
    facts::{Facts, JobQueue},
    finding::{Check, Finding, some_of},
};
use crate::management;

/// The sensible range of heartbeats. Below it a busy network looks like a loss, above it a loss is detected late.
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(20);
/// Clocks that differ by fewer seconds count as equal, as in workers.
const TOLERATED_SKEW: i64 = 2;
/// The broker's default consumer timeout.
const BROKERS_DEFAULT: Duration = Duration::from_secs(30 * 60);

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for checked in [
        facts.config.check_drain(),
        facts.config.check_timeout("the longest timeout of a handler (--handler-timeout)", facts.handler_timeout),
    ] {
        if let Err(error) = checked {
            let remedy = "change one of the two: a worker with these settings does not start";
            findings.push(Finding::problem(Check::Times, "settings", error.to_string()).remedy(remedy));
        }
    }
    findings.extend(heartbeat(facts));
    findings.extend(consumer_timeouts(facts));
    findings.extend(clocks(facts));
    if findings.is_empty() {
        let message = format!(
            "heartbeat {}, handlers {} < consumer timeout {}, drain {} < grace period {}",
            shown(facts.config.heartbeat),
            shown(facts.handler_timeout),
            shown(facts.config.consumer_timeout),
            shown(facts.config.drain_timeout),
            shown(facts.config.grace_period),
        );
        findings.push(Finding::ok(Check::Times, "settings", message));
    }
    findings
}

fn heartbeat(facts: &Facts) -> Option<Finding> {
    let heartbeat = facts.config.heartbeat;
    if HEARTBEAT.contains(&heartbeat) {
        return None;
    }
    let message = if heartbeat < *HEARTBEAT.start() {
        "is so short that a busy network looks like a loss"
    } else {
        "is so long that a silent loss of the broker is detected late"
    };
    Some(
        Finding::warning(Check::Times, "LEVERET_HEARTBEAT", message)
            .differs("5s to 20s", shown(heartbeat))
            .remedy("remove the setting: the default is 10s"),
    )
}

fn clocks(facts: &Facts) -> Option<Finding> {
    let ahead = facts.listing()?.broker_ahead.filter(|ahead| ahead.abs() > TOLERATED_SKEW)?;
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let message =
        format!("is {} s {direction} this machine's: delays and expirations are computed wrongly", ahead.abs());
    Some(
        Finding::problem(Check::Times, "the broker's clock", message)
            .remedy("synchronise the clocks of the broker, of workers and of publishers (NTP)"),
    )
}

/// The consumer timeout of policies and arguments. `rabbitmq.conf` is not visible to the doctor.
fn consumer_timeouts(facts: &Facts) -> Vec<Finding> {
    let configured = facts.config.consumer_timeout;
    let listed = |name: &String| facts.listing()?.queues.get(name);
    let lanes = facts.job_queues.iter().flat_map(JobQueue::consumed);
    let effective: Vec<_> = lanes.filter_map(|name| Some((listed(&name).and_then(effective_timeout)?, name))).collect();
    let mut findings = Vec::new();
    let shortest = effective.iter().map(|(timeout, _)| *timeout).min();
    if let Some(shortest) = shortest.filter(|shortest| *shortest < configured) {
        let names = effective.iter().filter(|(timeout, _)| *timeout == shortest).map(|(_, name)| name.as_str());
        let subject = format!("queue {}", some_of(names));
        let remedy =
            "raise the queue's consumer timeout, or set LEVERET_CONSUMER_TIMEOUT and the handlers' timeouts to fit";
        let finding = if shortest <= facts.handler_timeout {
            let message = "the broker requeues jobs whose handlers are within their timeout, and they run twice";
            Finding::problem(Check::Times, subject, message)
                .differs(format!("more than {}", shown(facts.handler_timeout)), shown(shortest))
        } else {
            let message = "the broker's consumer timeout is shorter than LEVERET_CONSUMER_TIMEOUT";
            Finding::warning(Check::Times, subject, message).differs(shown(configured), shown(shortest))
        };
        findings.push(finding.remedy(remedy));
    }
    if shortest.is_none() && configured > BROKERS_DEFAULT {
        let message = "is longer than the broker's default, and no visible policy or argument raises that";
        findings.push(
            Finding::warning(Check::Times, "LEVERET_CONSUMER_TIMEOUT", message)
                .differs(format!("at most {}", shown(BROKERS_DEFAULT)), shown(configured))
                .remedy(format!("make sure that rabbitmq.conf has consumer_timeout = {}", configured.as_millis())),
        );
    }
    findings
}

/// The smaller of argument and policy. The broker's unit is milliseconds.
fn effective_timeout(queue: &management::Queue) -> Option<Duration> {
    let argument = queue.arguments.get("x-consumer-timeout").and_then(Value::as_u64);
    let policy = queue.policy_keys.as_ref().and_then(|keys| keys.get("consumer-timeout")).and_then(Value::as_u64);
    argument.into_iter().chain(policy).min().map(Duration::from_millis)
}

/// A duration in the format of flags: `90s` is 90 seconds, `30m` half an hour.
fn shown(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{facts::healthy, finding::Level},
            spoiled::{assert_says, finding, findings},
        },
        *,
    };

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn settings_that_contradict_each_other_are_reported_with_both_values() {
        let (level, said) = finding(check, |facts| facts.handler_timeout = secs(3_600));
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["--handler-timeout", "3600s", "LEVERET_CONSUMER_TIMEOUT", "1800s"]);
        let (level, said) = finding(check, |facts| facts.config.drain_timeout = secs(60));
        assert_eq!(level, Level::Problem);
        assert_says(&said, &["LEVERET_DRAIN_TIMEOUT", "LEVERET_GRACE_PERIOD", "30s"]);
        for heartbeat in [1, 60] {
            let (level, said) = finding(check, |facts| facts.config.heartbeat = secs(heartbeat));
            assert_eq!(level, Level::Warning);
            assert_says(&said, &["LEVERET_HEARTBEAT", "5s to 20s"]);
        }
    }

    #[test]
    fn the_brokers_consumer_timeout_is_compared_with_the_setting_of_workers() {
        // Argument and policy of the queue in ms, the workers' setting in s, and what is found.
        let table = [
            (None, None, 1_800, None),
            (None, None, 3_600, Some((Level::Warning, "consumer_timeout = 3600000"))),
            (None, Some(3_600_000), 3_600, None),
            (None, Some(600_000), 1_800, Some((Level::Warning, "30m | 10m"))),
            (Some(240_000), Some(600_000), 1_800, Some((Level::Problem, "more than 5m | 4m"))),
            (None, Some(300_000), 1_800, Some((Level::Problem, "more than 5m | 5m"))),
        ];
        for (argument, policy, configured, wanted) in table {
            let spoil = |facts: &mut Facts| {
                facts.config.consumer_timeout = secs(configured);
                let queue = healthy::listed(facts, "email");
                queue.arguments.extend(argument.map(|ms: u64| ("x-consumer-timeout".to_owned(), ms.into())));
                queue
                    .policy_keys
                    .get_or_insert_default()
                    .extend(policy.map(|ms: u64| ("consumer-timeout".to_owned(), ms.into())));
            };
            let Some((level, part)) = wanted else {
                assert_eq!(findings(check, spoil), []);
                continue;
            };
            let (found, said) = finding(check, spoil);
            assert_eq!(found, level, "{said}");
            assert_says(&said, &[part]);
        }
    }

    #[test]
    fn clocks_that_differ_are_reported_with_the_direction() {
        let spoil = |ahead| move |facts: &mut Facts| healthy::listing(facts).broker_ahead = ahead;
        for agreeing in [None, Some(2), Some(-2)] {
            assert_eq!(findings(check, spoil(agreeing)), []);
        }
        for (ahead, part) in [(600, "600 s ahead of this machine's"), (-3, "3 s behind this machine's")] {
            let (level, said) = finding(check, spoil(Some(ahead)));
            assert_eq!(level, Level::Problem);
            assert_says(&said, &["the broker's clock", part, "NTP"]);
        }
    }

    #[test]
    fn durations_are_shown_as_flags_take_them() {
        for text in ["0ms", "250ms", "90s", "5m", "2h"] {
            assert_eq!(shown(leveret::duration(text).unwrap()), text);
        }
    }
}
