//! Compares the rights of the user with those that a worker requires.

use leveret::{TopologyMode, probe::Refusal};

use super::super::{
    facts::{Facts, RequestRights, RightKind},
    finding::{Check, Finding, some_of},
};

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(look(facts));
    findings.extend(configure(facts));
    for (kind, what) in [
        (RightKind::Read, "lacks the read right and cannot consume from"),
        (RightKind::Write, "lacks the write right and cannot publish jobs, retries or dead letters to"),
    ] {
        let denied = facts.rights.iter().filter(|right| right.kind == kind && is_denied(&right.had));
        findings.extend(lacking(facts, what, denied.map(|right| right.name.as_str())));
    }
    findings.extend(requests(facts));
    if findings.is_empty() {
        let message = "has all rights of a worker on the existing topology";
        findings.push(Finding::ok(Check::Permissions, user(facts), message));
    }
    findings
}

/// Queues without any right. From RabbitMQ 4.3.1 on a user must have a right on a name to see that it exists.
fn look(facts: &Facts) -> Option<Finding> {
    let queues = facts.queues.iter().filter(|(_, seen)| is_denied(seen)).map(|(name, _)| name.as_str());
    lacking(facts, "lacks every right and cannot even see", queues)
}

fn configure(facts: &Facts) -> Option<Finding> {
    let exchanges = facts.exchanges.iter().filter(|(_, compared)| is_denied(compared)).map(|(name, _)| name.as_str());
    let is_unequal = |name: &&String| facts.seen(name).is_some_and(|seen| is_denied(&seen.compared));
    let queues = facts.queues.keys().filter(is_unequal).map(String::as_str);
    let names: Vec<_> = exchanges.chain(queues).collect();
    if names.is_empty() {
        return None;
    }
    if facts.config.topology == TopologyMode::Declare {
        return lacking(facts, "lacks the configure right and cannot declare", names).map(|finding| {
            finding.remedy(
                "grant it, or declare the topology as another user and start the workers with LEVERET_TOPOLOGY=verify",
            )
        });
    }
    if facts.listing().is_some() {
        return None;
    }
    let message =
        format!("lacks the configure right, so that the arguments of {} could not be compared", some_of(names));
    Some(
        Finding::note(Check::Permissions, user(facts), message)
            .remedy("set --management-url, or connect as a user with that right"),
    )
}

/// The rights for requests. One of both is enough for a user that is only a worker or only a publisher.
fn requests(facts: &Facts) -> Option<Finding> {
    let RequestRights { answer, send } = facts.requests.as_ref()?;
    let replies = format!("{}*", facts.topology().reply_prefix());
    let cannot_answer = "a worker of this user cannot answer requests: it lacks the write right on amq.default";
    let cannot_send =
        format!("a publisher of this user cannot send requests: it lacks the configure or read right on {replies}");
    let finding = match (is_denied(answer), is_denied(send)) {
        (false, false) => return None,
        (true, false) => Finding::note(Check::Permissions, user(facts), cannot_answer),
        (false, true) => Finding::note(Check::Permissions, user(facts), cannot_send),
        (true, true) => Finding::problem(Check::Permissions, user(facts), format!("{cannot_answer}; {cannot_send}")),
    };
    Some(finding.remedy("leveret topology export --users --requests writes the rights of both users"))
}

fn lacking<'a>(facts: &Facts, what: &str, names: impl IntoIterator<Item = &'a str>) -> Option<Finding> {
    let names: Vec<_> = names.into_iter().collect();
    if names.is_empty() {
        return None;
    }
    let message = format!("{what} {}", some_of(names));
    let place = &facts.broker;
    let remedy = format!("rabbitmqctl set_permissions -p {} {} CONFIGURE WRITE READ", place.vhost, place.user);
    Some(Finding::problem(Check::Permissions, user(facts), message).remedy(remedy))
}

fn user(facts: &Facts) -> String {
    format!("user {}", facts.broker.user)
}

fn is_denied<T>(answer: &Result<T, Refusal>) -> bool {
    matches!(answer, Err(Refusal::Denied(_)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{
                facts::{Right, View},
                finding::Level,
            },
            spoiled::{assert_says, finding, findings},
        },
        *,
    };

    fn denied<T>() -> Result<T, Refusal> {
        Err(Refusal::Denied("access refused".into()))
    }

    #[test]
    fn a_right_that_a_worker_needs_and_the_user_lacks_is_a_problem() {
        type Spoil = fn(&mut Facts);
        let table: [(Spoil, &str); 4] = [
            (|facts| facts.rights[0].had = denied(), "the read right and cannot consume from email"),
            (
                |facts| {
                    let name = "leveret.v1.jobs".to_owned();
                    facts.rights.push(Right { kind: RightKind::Write, name, had: denied() });
                },
                "the write right and cannot publish jobs, retries or dead letters to leveret.v1.jobs",
            ),
            (
                |facts| drop(facts.exchanges.insert("leveret.v1.due".into(), denied())),
                "the configure right and cannot declare leveret.v1.due",
            ),
            (|facts| drop(facts.queues.insert("email".into(), denied())), "cannot even see email"),
        ];
        for (spoil, part) in table {
            let (level, said) = finding(check, spoil);
            assert_eq!(level, Level::Problem, "{said}");
            assert_says(&said, &["user app", part]);
        }
    }

    #[test]
    fn a_user_that_can_neither_answer_nor_send_requests_is_a_problem_and_one_right_is_enough() {
        let found = |answer, send| findings(check, |facts| facts.requests = Some(RequestRights { answer, send }));
        assert_eq!(found(Ok(()), Ok(())), []);
        let (write, reply) = ("write right on amq.default", "leveret.v1.reply.*");
        for (answer, send, level, says, not) in [
            (denied(), Ok(()), Level::Note, [write, "--requests"], reply),
            (Ok(()), denied(), Level::Note, [reply, "--requests"], write),
            (denied(), denied(), Level::Problem, [write, reply], "has all rights"),
        ] {
            let (of, said) = finding(check, |facts| facts.requests = Some(RequestRights { answer, send }));
            assert_eq!(of, level, "{said}");
            assert_says(&said, &says);
            assert!(!said.contains(not), "{said}");
        }
    }

    #[test]
    fn workers_that_only_verify_need_no_configure_right() {
        let spoil = |facts: &mut Facts| {
            facts.config.topology = TopologyMode::Verify;
            facts.exchanges.insert("leveret.v1.due".into(), denied());
        };
        assert_eq!(findings(check, spoil), []);
        let (level, said) = finding(check, |facts| {
            spoil(facts);
            facts.view = View::NotAsked;
        });
        assert_eq!(level, Level::Note);
        assert_says(&said, &["could not be compared", "--management-url"]);
    }
}
