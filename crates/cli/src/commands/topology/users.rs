//! The users of a broker with the least rights that each needs, as in docs/src/broker.md.

use super::scope::{ExportScope, Traits, Uses};

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
    let names = Names::of(scope);
    let Names { declared, consumed, dead, .. } = &names;
    let schedules: &[&str] = if scope.schedules.is_empty() { &[] } else { &[r"schedule(s|\..*)"] };
    // The publisher of a handler emits too.
    let topics: &[&str] = if scope.queues.values().any(|traits| !traits.topics.is_empty()) { &["topics"] } else { &[] };
    let Uses { requests, results, each_process } = scope.uses;
    let only = |used: bool, part: &'static str| used.then_some(part);
    let log = only(scope.event_log, "event-log");
    let (each, reply) = (only(each_process, r"each\..*"), only(requests, r"reply\..*"));
    let result = only(results, r"results\..*");
    let user = |name, configure, write, read| User { name, tags: &[], configure, write, read };
    let all = || ".*".to_owned();
    vec![
        User { tags: &["administrator"], ..user("operator", all(), all(), all()) },
        user("set-up", names.with_all(declared), names.with_all(declared), names.with_all(consumed)),
        user(
            "worker",
            names.pattern("", each),
            names.pattern(
                // A reply goes through the default exchange.
                if requests { r"amq\.default" } else { "" },
                ["jobs", "dead", r"delay\..*", "events", "catalogue"].iter().chain(topics).copied().chain(each),
            ),
            names.pattern(
                consumed,
                ["cancelled", "catalogue"].iter().chain(schedules).copied().chain(log).chain(each).chain(
                    // For the bindings of its queues.
                    only(each_process, "topics"),
                ),
            ),
        ),
        user(
            "server",
            NOTHING.to_owned(),
            names.pattern("", ["jobs", r"delay\..*", "cancelled"].iter().chain(topics).copied()),
            names.pattern(dead, ["status", "unrouted", "workflows", "cancelled", "catalogue"]),
        ),
        user(
            "publisher",
            names.pattern("", reply.into_iter().chain(result)),
            names.pattern("", ["jobs", r"delay\..*"].iter().chain(topics).copied().chain(result)),
            names.pattern("", reply.into_iter().chain(result).chain(only(results, "events"))),
        ),
        user(
            "foreign",
            NOTHING.to_owned(),
            names.pattern("", ["jobs"].iter().chain(topics).copied()),
            NOTHING.to_owned(),
        ),
        User { tags: &["monitoring"], ..user("scaler", NOTHING.to_owned(), NOTHING.to_owned(), NOTHING.to_owned()) },
    ]
}

/// Patterns of the names of queues.
struct Names {
    space: String,
    declared: String,
    consumed: String,
    dead: String,
}

impl Names {
    fn of(scope: &ExportScope) -> Self {
        let any = scope.queues.values().any(|Traits { lanes, .. }| *lanes);
        let lanes = if any { r"\.high|\.low|" } else { "" };
        let queues = one_of(&scope.queues.keys().map(|name| escaped(name)).collect::<Vec<_>>());
        Self {
            space: escaped(&scope.namespace),
            declared: format!(r"{queues}({lanes}\.suspect|\.dead)?"),
            consumed: format!(r"{queues}({lanes}\.suspect)?"),
            dead: format!(r"{queues}\.dead"),
        }
    }

    /// The pattern of `others` and of all names within the namespace.
    fn with_all(&self, others: &str) -> String {
        format!(r"^({}\..*|{others})$", self.space)
    }

    /// The pattern of `others`, if there are any, and of these names within the namespace.
    fn pattern<'a>(&self, others: &str, within: impl IntoIterator<Item = &'a str>) -> String {
        let within: Vec<_> = within.into_iter().collect();
        let within = match within.as_slice() {
            [] => None,
            [name] => Some(format!(r"{}\.{name}", self.space)),
            names => Some(format!(r"{}\.({})", self.space, names.join("|"))),
        };
        match (others, within) {
            ("", None) => NOTHING.to_owned(),
            ("", Some(within)) => format!("^{within}$"),
            (others, None) => format!("^{others}$"),
            (others, Some(within)) => format!("^({others}|{within})$"),
        }
    }
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

    fn scope(queues: &[(&str, Traits)]) -> ExportScope {
        ExportScope {
            namespace: "leveret.v1".to_owned(),
            queues: queues.iter().map(|(name, traits)| ((*name).to_owned(), traits.clone())).collect(),
            ..ExportScope::default()
        }
    }

    fn rights<'a>(users: &'a [User], name: &str) -> [&'a str; 3] {
        let user = users.iter().find(|user| user.name == name).unwrap();
        [&user.configure, &user.write, &user.read]
    }

    #[test]
    fn rights_name_the_queues_their_lanes_and_the_schedules_and_no_more() {
        let lanes = Traits { lanes: true, ..Traits::default() };
        let mut scope_of = scope(&[("a.b", Traits::default()), ("c", lanes)]);
        scope_of.schedules.insert("digest".to_owned());
        let read = r"^((a\.b|c)(\.high|\.low|\.suspect)?|leveret\.v1\.(cancelled|catalogue|schedule(s|\..*)))$";
        let write = r"^leveret\.v1\.(jobs|dead|delay\..*|events|catalogue)$";
        assert_eq!(rights(&users(&scope_of), "worker"), ["^$", write, read]);
        let plain = users(&scope(&[("email", Traits::default())]));
        let read = r"^(email(\.suspect)?|leveret\.v1\.(cancelled|catalogue))$";
        assert_eq!(rights(&plain, "worker"), ["^$", write, read]);
        assert_eq!(rights(&plain, "publisher"), ["^$", r"^leveret\.v1\.(jobs|delay\..*)$", "^$"]);
        assert_eq!(rights(&plain, "foreign"), ["^$", r"^leveret\.v1\.jobs$", "^$"]);
    }

    #[test]
    fn each_use_adds_its_rights_alone() {
        let email = || scope(&[("email", Traits::default())]);
        let plain = users(&email());
        let added = |scope: ExportScope| -> Vec<String> {
            let users = users(&scope);
            let pairs = plain.iter().zip(&users);
            let changed = pairs.flat_map(|(before, user)| {
                let [before, rights] = [before, user].map(|user| [&user.configure, &user.write, &user.read]);
                let kinds = ["configure", "write", "read"].into_iter().zip(before.into_iter().zip(rights));
                let changed = kinds.filter(|(_, (before, right))| before != right);
                changed.map(|(kind, (_, right))| format!("{} {kind} {right}", user.name))
            });
            changed.collect()
        };
        let uses = |uses: Uses| ExportScope { uses, ..email() };
        assert_eq!(
            added(uses(Uses { requests: true, ..Uses::default() })),
            [
                r"worker write ^(amq\.default|leveret\.v1\.(jobs|dead|delay\..*|events|catalogue))$",
                r"publisher configure ^leveret\.v1\.reply\..*$",
                r"publisher read ^leveret\.v1\.reply\..*$",
            ]
        );
        assert_eq!(
            added(uses(Uses { results: true, ..Uses::default() })),
            [
                r"publisher configure ^leveret\.v1\.results\..*$",
                r"publisher write ^leveret\.v1\.(jobs|delay\..*|results\..*)$",
                r"publisher read ^leveret\.v1\.(results\..*|events)$",
            ]
        );
        assert_eq!(
            added(uses(Uses { each_process: true, ..Uses::default() })),
            [
                r"worker configure ^leveret\.v1\.each\..*$",
                r"worker write ^leveret\.v1\.(jobs|dead|delay\..*|events|catalogue|each\..*)$",
                r"worker read ^(email(\.suspect)?|leveret\.v1\.(cancelled|catalogue|each\..*|topics))$",
            ]
        );
        assert_eq!(
            added(ExportScope { event_log: true, ..email() }),
            [r"worker read ^(email(\.suspect)?|leveret\.v1\.(cancelled|catalogue|event-log))$"]
        );
        let subscribed = Traits { topics: ["order.*".to_owned()].into(), ..Traits::default() };
        assert_eq!(
            added(scope(&[("email", subscribed)])),
            [
                r"worker write ^leveret\.v1\.(jobs|dead|delay\..*|events|catalogue|topics)$",
                r"server write ^leveret\.v1\.(jobs|delay\..*|cancelled|topics)$",
                r"publisher write ^leveret\.v1\.(jobs|delay\..*|topics)$",
                r"foreign write ^leveret\.v1\.(jobs|topics)$",
            ]
        );
    }
}
