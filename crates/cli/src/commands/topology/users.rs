//! The users of a broker with the least rights that each needs, as in docs/src/broker.md.

use super::scope::{ExportScope, Traits};

/// A user with the patterns of the names that it may configure, write and read.
pub(super) struct User {
    pub(super) name: &'static str,
    /// The tags that grant access to the management API.
    pub(super) tags: &'static [&'static str],
    pub(super) configure: String,
    pub(super) write: String,
    pub(super) read: String,
}

const NOTHING: &str = "^$";

/// All users of these queues.
pub(super) fn users(scope: &ExportScope) -> Vec<User> {
    let space = escaped(&scope.namespace);
    let (lanes, schedules) = (lanes(scope), if scope.schedules.is_empty() { "" } else { r"|schedule(s|\..*)" });
    // Workers emit through an outbox, publishers and the server directly.
    let topics = if scope.queues.values().any(|queue| !queue.topics.is_empty()) { "|topics" } else { "" };
    let queues = one_of(&scope.queues.keys().map(|name| escaped(name)).collect::<Vec<_>>());
    let declared = format!(r"^({space}\..*|{queues}({lanes}\.suspect|\.dead)?)$");
    let user = |name, configure: &str, write: String, read: String| {
        let configure = configure.to_owned();
        User { name, tags: &[], configure, write, read }
    };
    let all = || ".*".to_owned();
    vec![
        User { tags: &["administrator"], ..user("operator", ".*", all(), all()) },
        user("set-up", &declared, declared.clone(), format!(r"^({space}\..*|{queues}({lanes}\.suspect)?)$")),
        user(
            "worker",
            NOTHING,
            format!(r"^{space}\.(jobs|dead|delay\..*|events|catalogue{topics})$"),
            format!(r"^({queues}({lanes}\.suspect)?|{space}\.(cancelled|catalogue{schedules}))$"),
        ),
        user(
            "server",
            NOTHING,
            format!(r"^{space}\.(jobs|delay\..*|cancelled{topics})$"),
            format!(r"^({queues}\.dead|{space}\.(status|unrouted|workflows|cancelled|catalogue))$"),
        ),
        user("publisher", NOTHING, format!(r"^{space}\.(jobs|delay\..*{topics})$"), NOTHING.to_owned()),
        user("foreign", NOTHING, format!(r"^{space}\.jobs$"), NOTHING.to_owned()),
        User { tags: &["monitoring"], ..user("scaler", NOTHING, NOTHING.to_owned(), NOTHING.to_owned()) },
    ]
}

fn lanes(scope: &ExportScope) -> &'static str {
    let any = scope.queues.values().any(|Traits { lanes, .. }| *lanes);
    if any { r"\.high|\.low|" } else { "" }
}

fn one_of(names: &[String]) -> String {
    match names {
        [name] => name.clone(),
        names => format!("({})", names.join("|")),
    }
}

/// A pattern that matches only this name.
fn escaped(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for letter in name.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(queues: &[(&str, Traits)], schedules: &[&str]) -> Vec<User> {
        users(&ExportScope {
            namespace: "leveret.v1".to_owned(),
            queues: queues.iter().map(|(name, traits)| ((*name).to_owned(), traits.clone())).collect(),
            schedules: schedules.iter().map(|&name| name.to_owned()).collect(),
            ..ExportScope::default()
        })
    }

    #[test]
    fn rights_name_the_queues_their_lanes_and_the_schedules_and_no_more() {
        let lanes = Traits { lanes: true, ..Traits::default() };
        let users = of(&[("a.b", Traits::default()), ("c", lanes)], &["digest"]);
        let worker = users.iter().find(|user| user.name == "worker").unwrap();
        let scope = r"^((a\.b|c)(\.high|\.low|\.suspect)?|leveret\.v1\.(cancelled|catalogue|schedule(s|\..*)))$";
        assert_eq!((worker.configure.as_str(), worker.read.as_str()), ("^$", scope));
        let plain = of(&[("email", Traits::default())], &[]);
        let worker = plain.iter().find(|user| user.name == "worker").unwrap();
        assert_eq!(worker.read, r"^(email(\.suspect)?|leveret\.v1\.(cancelled|catalogue))$");
        assert!(plain.iter().all(|user| !user.write.contains("topics")));
    }

    #[test]
    fn where_events_have_subscriptions_all_publishers_may_emit() {
        let topics = std::collections::BTreeSet::from(["order.placed".to_owned()]);
        let users = of(&[("warehouse", Traits { topics, ..Traits::default() })], &[]);
        let emits = |user: &&User| user.write.ends_with("|topics)$");
        let names: Vec<_> = users.iter().filter(emits).map(|user| user.name).collect();
        assert_eq!(names, ["worker", "server", "publisher"]);
    }
}
