//! A finding of the doctor: a sentence about one subject, with a level and a remedy.

use serde::Serialize;

/// The level of a finding, the least severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Checked and correct.
    Ok,
    /// Could not be checked, or advice that cannot be checked.
    Note,
    /// Works, but worse than it should, or not for long.
    Warning,
    /// Breaks a promise.
    Problem,
}

impl Level {
    pub(super) const ALL: [Self; 4] = [Self::Problem, Self::Warning, Self::Note, Self::Ok];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// The check that made a finding. The names are part of the JSON output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Check {
    Connection,
    Version,
    Management,
    Alarms,
    Permissions,
    Topology,
    Arguments,
    Bindings,
    Policies,
    Ladder,
    Replicas,
    Consumers,
    DeadLetters,
    Unrouted,
    Workflows,
    Catalogue,
    Times,
}

impl Check {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Version => "version",
            Self::Management => "management",
            Self::Alarms => "alarms",
            Self::Permissions => "permissions",
            Self::Topology => "topology",
            Self::Arguments => "arguments",
            Self::Bindings => "bindings",
            Self::Policies => "policies",
            Self::Ladder => "ladder",
            Self::Replicas => "replicas",
            Self::Consumers => "consumers",
            Self::DeadLetters => "dead-letters",
            Self::Unrouted => "unrouted",
            Self::Workflows => "workflows",
            Self::Catalogue => "catalogue",
            Self::Times => "times",
        }
    }
}

/// The result of one check of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) check: Check,
    /// The subject, such as `queue email`.
    pub(super) subject: String,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) found: Option<String>,
    /// The action that fixes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn new(level: Level, check: Check, subject: impl Into<String>, message: impl Into<String>) -> Self {
        let (subject, message) = (subject.into(), message.into());
        Self { level, check, subject, message, expected: None, found: None, remedy: None }
    }

    pub(super) fn ok(check: Check, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, subject, message)
    }

    pub(super) fn note(check: Check, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Note, check, subject, message)
    }

    pub(super) fn warning(check: Check, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Warning, check, subject, message)
    }

    pub(super) fn problem(check: Check, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Problem, check, subject, message)
    }

    /// Adds the expected and the found value.
    pub(super) fn differs(mut self, expected: impl Into<String>, found: impl Into<String>) -> Self {
        (self.expected, self.found) = (Some(expected.into()), Some(found.into()));
        self
    }

    /// Adds the action that fixes it.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// A count with its noun: `1 node`, `3 nodes`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The first names of a long list: `a, b, c and 25 more`.
pub(super) fn some_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 4;
    let names: Vec<_> = names.into_iter().collect();
    if names.len() <= SHOWN {
        return names.join(", ");
    }
    format!("{} and {} more", names[..SHOWN - 1].join(", "), names.len() - SHOWN + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_names_is_cut() {
        assert_eq!(some_of(["a", "b", "c", "d"]), "a, b, c, d");
        assert_eq!(some_of(["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
    }
}
