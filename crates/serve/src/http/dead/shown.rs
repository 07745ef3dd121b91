//! Dead letters in answers: as the store writes them.

use leveret::feed::RawMessage;
use leveret_store::{DeadLetter, Group, HistoryEntry, Letter, Replay};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{dead::redact::RedactionRules, http::access::Caller};

/// What the store calls a fingerprint is the name of a group outside.
fn grouped(shown: &impl Serialize) -> Value {
    let mut shown = value(shown);
    if let Some(fields) = shown.as_object_mut()
        && let Some(group) = fields.remove("fingerprint")
    {
        fields.insert("group".to_owned(), group);
    }
    shown
}

fn value(shown: &impl Serialize) -> Value {
    serde_json::to_value(shown).unwrap_or_default()
}

pub(super) fn letter(letter: &DeadLetter) -> Value {
    grouped(letter)
}

/// With all that its message says, but what is not to be shown.
pub(super) fn whole(found: &Letter, history: Vec<Value>, rules: &RedactionRules, caller: &Caller) -> Value {
    let mut shown = letter(&found.about);
    let message = RawMessage::from_parts(&found.properties, Vec::new());
    let headers = message.map(|message| rules.fields(&message)).unwrap_or_default();
    shown["headers"] = headers.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    shown["history"] = history.into();
    let text = |payload: &[u8]| {
        if caller.is_operator() {
            return rules.text(payload);
        }
        // Secrets cannot be found in what is not understood.
        let hidden = || format!("no JSON, {} bytes: shown to operators", payload.len());
        rules.json_text(payload).unwrap_or_else(hidden)
    };
    shown["payload"] = text(&found.payload).into();
    if let Some(original) = &found.original {
        shown["original"] = text(original).into();
    }
    shown
}

pub(super) fn entry(entry: &HistoryEntry) -> Value {
    value(entry)
}

pub(super) fn group(group: &Group) -> Value {
    grouped(group)
}

pub(super) fn replay(replay: &Replay) -> Value {
    // While a replay is being stopped it has an outcome, but not yet ended.
    let outcome = replay.outcome.clone().filter(|_| replay.finished_at.is_some());
    value(&Replay { outcome, ..replay.clone() })
}
