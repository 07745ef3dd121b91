//! Dead letters in answers: as the store has them, but times as RFC 3339.

use leveret::feed::RawMessage;
use leveret_store::{DeadLetter, Group, HistoryEntry, Letter, Replay};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{desk::redact::Rules, http::access::Caller, time::rfc3339};

fn timed(shown: &impl Serialize, times: &[&str]) -> Value {
    let mut shown = serde_json::to_value(shown).unwrap_or_default();
    for name in times {
        if let Some(time) = shown.get_mut(name)
            && let Some(ms) = time.as_u64()
        {
            *time = rfc3339(ms).into();
        }
    }
    shown
}

pub(super) fn letter(letter: &DeadLetter) -> Value {
    let mut shown = timed(letter, &["failed_at", "taken_at", "state_at"]);
    if let Some(fields) = shown.as_object_mut()
        && let Some(group) = fields.remove("fingerprint")
    {
        fields.insert("group".to_owned(), group);
    }
    shown
}

/// With all that its message says, but what is not to be shown.
pub(super) fn whole(found: &Letter, history: Vec<Value>, rules: &Rules, caller: &Caller) -> Value {
    let mut shown = letter(&found.about);
    let message = RawMessage::from_parts(&found.properties, Vec::new());
    let headers = message.map(|message| message.fields()).unwrap_or_default().into_iter().map(|(name, value)| {
        let value = if rules.is_secret(&name) { "***".to_owned() } else { value };
        json!({ "name": name, "value": value })
    });
    shown["headers"] = headers.collect();
    shown["history"] = history.into();
    let payload = if caller.is_operator() {
        rules.show(&found.payload)
    } else {
        // Secrets cannot be found in what is not understood.
        let hidden = || format!("no JSON, {} bytes: shown to operators", found.payload.len());
        rules.show_json(&found.payload).unwrap_or_else(hidden)
    };
    shown["payload"] = payload.into();
    shown
}

pub(super) fn entry(entry: &HistoryEntry) -> Value {
    timed(entry, &["at"])
}

pub(super) fn group(group: &Group) -> Value {
    let mut shown = timed(group, &["first_at", "last_at"]);
    if let Some(fields) = shown.as_object_mut()
        && let Some(name) = fields.remove("fingerprint")
    {
        fields.insert("group".to_owned(), name);
    }
    shown
}

pub(super) fn replay(replay: &Replay) -> Value {
    timed(replay, &["started_at", "finished_at"])
}
