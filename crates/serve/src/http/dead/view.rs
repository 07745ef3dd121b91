//! Dead letters and replays in responses.

use leveret::reader::RawMessage;
use leveret_store::{
    DeadGroup, DeadLetter, DeadSource, DeadState, HistoryEntry, Replay, StoredDeadLetter, time::to_rfc3339,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::selection::states;
use crate::{
    dead::redact::RedactionRules,
    http::{access::Caller, openapi::one_of},
};

/// A dead letter. Lists are without `headers`, `history`, `payload` and `original`.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(super) struct LetterView {
    id: i64,
    #[schema(schema_with = sources)]
    source: DeadSource,
    queue: String,
    #[schema(required)]
    job_id: Option<String>,
    job: String,
    /// The class of the error.
    kind: String,
    /// The error with its sources.
    error: String,
    attempt: u32,
    hop: u32,
    #[schema(format = DateTime)]
    failed_at: String,
    #[schema(format = DateTime)]
    taken_at: String,
    #[schema(schema_with = states)]
    state: DeadState,
    #[schema(format = DateTime)]
    state_at: String,
    group: String,
    replay_id: Option<i64>,
    payload_bytes: u64,
    edited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<HeaderView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<HistoryView>>,
    /// The payload as it was written, apart from hidden values; cut after 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The original payload, if the letter was edited.
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterHeader)]
struct HeaderView {
    name: String,
    value: String,
}

/// One operation on a dead letter.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterHistory)]
struct HistoryView {
    #[schema(format = DateTime)]
    at: String,
    actor: String,
    action: String,
    detail: Option<Value>,
}

/// Dead letters of the same job with the same error.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadGroup)]
pub(super) struct GroupView {
    group: String,
    job: String,
    kind: String,
    /// The error, without the numbers and ids in which the errors differ.
    error: String,
    count: u64,
    #[schema(format = DateTime)]
    first_at: String,
    #[schema(format = DateTime)]
    last_at: String,
    /// The dead letter that was ingested last.
    sample: i64,
}

/// A replay and its progress.
#[derive(Serialize, ToSchema)]
#[schema(as = Replay)]
pub(super) struct ReplayView {
    pub(super) id: i64,
    actor: String,
    /// The options that it was started with.
    options: Value,
    /// The number of letters that it selected.
    total: u64,
    /// The number of letters that were published and confirmed.
    replayed: u64,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(required, format = DateTime)]
    finished_at: Option<String>,
    /// `done`, or the reason why some letters were not published.
    #[schema(required)]
    outcome: Option<String>,
}

impl From<DeadLetter> for LetterView {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.id,
            source: letter.source,
            queue: letter.queue,
            job_id: letter.job_id,
            job: letter.job,
            kind: letter.kind,
            error: letter.error,
            attempt: letter.attempt,
            hop: letter.hop,
            failed_at: to_rfc3339(letter.failed_at),
            taken_at: to_rfc3339(letter.taken_at),
            state: letter.state,
            state_at: to_rfc3339(letter.state_at),
            group: letter.fingerprint,
            replay_id: letter.replay_id,
            payload_bytes: letter.payload_bytes,
            edited: letter.edited,
            headers: None,
            history: None,
            payload: None,
            original: None,
        }
    }
}

impl LetterView {
    /// A letter with its message and history, without what the rules hide.
    pub(super) fn whole(
        found: StoredDeadLetter,
        history: Vec<HistoryEntry>,
        rules: &RedactionRules,
        caller: &Caller,
    ) -> Self {
        let rules = rules.of_job(&found.about.job);
        let text = |payload: &[u8]| {
            if caller.is_operator() {
                return rules.text(payload);
            }
            // A secret cannot be found in a payload that is not JSON.
            let hidden = || format!("no JSON, {} bytes: shown to operators", payload.len());
            rules.json_text(payload).unwrap_or_else(hidden)
        };
        let message = RawMessage::from_parts(&found.properties, Vec::new());
        let headers = message.map(|message| rules.fields(&message)).unwrap_or_default();
        Self {
            headers: Some(headers.into_iter().map(|(name, value)| HeaderView { name, value }).collect()),
            history: Some(history.into_iter().map(HistoryView::from).collect()),
            payload: Some(text(&found.payload)),
            original: found.original.as_deref().map(text),
            ..Self::from(found.about)
        }
    }
}

impl From<HistoryEntry> for HistoryView {
    fn from(HistoryEntry { at, actor, action, detail }: HistoryEntry) -> Self {
        Self { at: to_rfc3339(at), actor, action, detail }
    }
}

impl From<DeadGroup> for GroupView {
    fn from(group: DeadGroup) -> Self {
        Self {
            group: group.fingerprint,
            job: group.job,
            kind: group.kind,
            error: group.error,
            count: group.count,
            first_at: to_rfc3339(group.first_at),
            last_at: to_rfc3339(group.last_at),
            sample: group.sample,
        }
    }
}

impl From<&Replay> for ReplayView {
    fn from(replay: &Replay) -> Self {
        Self {
            id: replay.id,
            actor: replay.actor.clone(),
            options: replay.options.clone(),
            total: replay.total,
            replayed: replay.replayed,
            started_at: to_rfc3339(replay.started_at),
            finished_at: replay.finished_at.map(to_rfc3339),
            // A replay that is being stopped has an outcome before it has finished.
            outcome: replay.outcome.clone().filter(|_| replay.finished_at.is_some()),
        }
    }
}

fn sources() -> utoipa::openapi::Object {
    one_of(&["dead", "unrouted"], "`unrouted`: its queue did not exist.")
}
