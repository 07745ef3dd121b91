//! The forms of what is sent and answered.

use serde_json::{Value, json};

use super::schema;
use crate::jobs::Status;

pub(super) fn schemas() -> Value {
    json!({
        "Submission": submission(),
        "TaskId": {
            "type": "object",
            "required": ["task_id"],
            "properties": { "task_id": { "type": "string" } },
        },
        "Status": {
            "type": "string",
            "enum": Status::ALL.map(|status| status.to_string()),
            "description": "Pending: in its queue. Scheduled: waits for its time. Processing: runs. Retrying: an attempt \
                failed, there will be another. Completed, Failed: at its end. Cancelled: will not start, or was stopped.",
        },
        "Task": task(),
        "Step": step(),
        "Job": {
            "type": "object",
            "required": ["job", "queue", "timeout_ms", "max_attempts", "announced_at"],
            "properties": {
                "job": { "type": "string" },
                "queue": { "type": "string" },
                "schema": { "description": "The JSON Schema of its payload." },
                "timeout_ms": { "type": "integer" },
                "max_attempts": { "type": "integer" },
                "announced_at": time(),
            },
        },
        "Problem": problem(),
    })
}

fn submission() -> Value {
    let duration = |what: &str| {
        let description = format!("{what}: a number and us, ms, s, m or h; or whole seconds. Less than ten years.");
        json!({ "type": ["string", "integer", "null"], "minimum": 0, "pattern": "^[0-9]+(us|ms|s|m|h)?$", "description": description })
    };
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "name": {
                "type": ["string", "null"], "minLength": 1, "maxLength": 1024,
                "description": "A text to be shown with it, at most 1024 bytes; the job's name if there is none.",
            },
            "job": {
                "type": ["string", "null"], "minLength": 1, "maxLength": 128,
                "description": "The job that runs, one of GET /api/jobs; the server's default job if there is none.",
            },
            "payload": { "description": "Any JSON that fits the schema of the job; {} if there is none." },
            "queue": {
                "type": ["string", "null"], "minLength": 1, "maxLength": 255,
                "description": "Another queue than the job's own; a worker must have announced the job for it.",
            },
            "priority": {
                "type": ["integer", "null"], "minimum": 0, "maximum": 31,
                "description": "Higher ones first; one without counts as 4. Which levels a broker tells apart depends on \
                    its version.",
            },
            "delay": duration("Run it after this time"),
            "run_at": {
                "type": ["string", "null"], "format": "date-time",
                "description": "Run it then (RFC 3339), or at once if that is over; not together with delay.",
            },
            "expires_in": duration("Give it up if it has not started within this time, which must be longer than the delay"),
        },
    })
}

fn task() -> Value {
    json!({
        "type": "object",
        "required": ["id", "name", "priority", "status", "job", "queue", "attempt", "created_at", "updated_at"],
        "properties": {
            "id": { "type": "string" },
            "name": { "type": "string", "description": "As submitted; the job's name if there was none." },
            "priority": { "type": ["integer", "null"] },
            "status": schema("Status"),
            "error": { "type": "string", "description": "Why it failed, or is retried." },
            "error_kind": { "type": "string" },
            "job": { "type": "string" },
            "queue": { "type": "string" },
            "attempt": { "type": "integer", "minimum": 1 },
            "created_at": time(),
            "due_at": time(),
            "expires_at": time(),
            "started_at": time(),
            "finished_at": time(),
            "updated_at": time(),
            "cancel_requested_at": time(),
            "worker": { "type": "string", "description": "Host and process id." },
            "progress": {
                "type": "object",
                "required": ["fraction"],
                "properties": {
                    "fraction": { "type": "number", "minimum": 0, "maximum": 1 },
                    "note": { "type": "string" },
                },
            },
            "result": { "description": "What its handler returned, up to 64 KiB." },
            "result_too_large": { "type": "integer", "description": "The bytes of a result that was not kept." },
            "stale": { "type": "boolean", "description": "News of it may have been missed." },
            "timeline": { "type": "array", "items": schema("Step") },
        },
    })
}

fn step() -> Value {
    json!({
        "type": "object",
        "required": ["at", "step", "attempt"],
        "properties": {
            "at": time(),
            "step": { "enum": [
                "queued", "received", "started", "retrying", "snoozed", "cancel_requested", "succeeded", "duplicate", "dead", "cancelled",
            ] },
            "attempt": { "type": "integer", "minimum": 1 },
            "worker": { "type": "string" },
            "due": time(),
            "expires": time(),
            "kind": { "type": "string" },
            "error": { "type": "string" },
            "too_large": { "type": "integer" },
        },
    })
}

fn problem() -> Value {
    let field_error = json!({
        "type": "object",
        "required": ["detail"],
        "properties": {
            "index": { "type": "integer", "description": "Which item of a batch, from 0." },
            "pointer": { "type": "string", "description": "Where in the submission (RFC 6901)." },
            "detail": { "type": "string" },
            "nearest": { "type": "string", "description": "The name that was meant, perhaps." },
        },
    });
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "description": "urn:leveret:problem:KIND." },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "errors": { "type": "array", "items": field_error },
            "task_id": { "type": "string", "description": "Of the kind `uncertain`: the job may have been published." },
            "task_status": schema("Status"),
            "limit": { "type": "integer" },
        },
    })
}

fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}
