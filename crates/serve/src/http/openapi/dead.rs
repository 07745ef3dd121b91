//! The dead-letter desk in the document.

use serde_json::{Value, json};

use super::{Operation, operation, schema};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

pub(super) fn paths() -> Value {
    json!({
        "/api/dead": { "get": list() },
        "/api/dead/groups": { "get": groups() },
        "/api/dead/{id}": { "get": show() },
        "/api/dead/{id}/payload": { "get": payload(), "put": edit(), "delete": revert() },
        "/api/dead/replay": { "post": replay() },
        "/api/dead/replays": { "get": replays() },
        "/api/dead/replays/{id}": { "get": replay_shown() },
        "/api/dead/replays/{id}/resume": { "post": resume() },
        "/api/dead/replays/{id}/stop": { "post": stop() },
        "/api/dead/purge": { "post": purge() },
        "/api/dead/restore": { "post": restore() },
        "/api/dead/export": { "get": export() },
        "/api/dead/import": { "post": import() },
    })
}

fn list() -> Value {
    let page = json!({
        "type": "object",
        "required": ["dead_letters", "next"],
        "properties": {
            "dead_letters": { "type": "array", "items": schema("DeadLetter") },
            "next": { "type": ["string", "null"], "description": "For `after`; null on the last page." },
        },
    });
    let after = json!({ "type": "string" });
    filtered(dead("listDeadLetters", "List dead letters", "The one taken in last first; without their messages."))
        .parameter("query", "after", "The `next` of the page before.", &after)
        .parameter("query", "limit", "At most so many; 100.", &limit())
        .answer(200, "A page.", JSON, &page)
        .done()
}

fn groups() -> Value {
    let description = "What died of the same: the same job, class of error and error, numbers and ids aside. The largest \
        groups first.";
    filtered(dead("groupDeadLetters", "Gather dead letters by what they died of", description))
        .parameter("query", "limit", "At most so many groups; 100.", &limit())
        .answer(200, "The groups.", JSON, &named("groups", &schema("DeadGroup")))
        .done()
}

fn show() -> Value {
    let description =
        "With its headers, its history and its payload, in which values that look like secrets are `***`.";
    of_one("showDeadLetter", "Show a dead letter", description)
        .answer(200, "The dead letter.", JSON, &schema("DeadLetter"))
        .done()
}

fn payload() -> Value {
    let original = json!({ "type": "boolean" });
    let description =
        "Byte for byte, with all that is hidden elsewhere: what an edit begins with. It takes an operator's token.";
    of_one("showPayload", "Get the payload of a dead letter", description)
        .parameter("query", "original", "Rather the one that it died with, if it was edited.", &original)
        .answer(200, "The bytes.", "application/octet-stream", &json!({ "type": "string", "format": "binary" }))
        .done()
}

fn revert() -> Value {
    let answer = json!({ "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } } });
    let description = "What it was edited to is forgotten.";
    of_one("revertDeadLetter", "Give a dead letter the payload back that it died with", description)
        .answer(200, "It has the payload.", JSON, &answer)
        .problems(&[409])
        .done()
}

fn edit() -> Value {
    let answer = json!({
        "type": "object",
        "required": ["id", "checked"],
        "properties": {
            "id": { "type": "integer" },
            "checked": { "enum": ["schema", "nothing"], "description": "`nothing`: the job's workers announced no schema." },
        },
    });
    let description = "Checked against the schema of its job, and published byte for byte. The payload that it died with is \
        kept. Where a value was shown as `***`, the value itself must stand.";
    of_one("editDeadLetter", "Give a dead letter another payload", description)
        .body(&json!({ "description": "Any JSON that fits the schema of the job." }), &json!({}))
        .answer(200, "It has the payload.", JSON, &answer)
        .done()
}

fn replay() -> Value {
    let mut body = selection();
    let more = json!({
        "payload": { "description": "Another payload, for one of `ids`; checked against the schema of its job." },
        "rate": { "type": ["number", "null"], "minimum": 0.001, "maximum": 1_000_000, "description": "So many a second." },
        "canary": {
            "type": ["integer", "null"], "minimum": 0, "maximum": 1000,
            "description": "First so many, tracked: if one of them fails as before, the rest stays.",
        },
        "canary_timeout": {
            "type": ["integer", "null"], "minimum": 0, "maximum": 86400,
            "description": "How long to wait for what becomes of them, in seconds; 300.",
        },
        "to": { "type": ["string", "null"], "description": "Another queue than the one that each came from." },
        "track": { "type": "boolean", "description": "Has their jobs tracked." },
    });
    if let (Some(properties), Value::Object(more)) = (body["properties"].as_object_mut(), more) {
        properties.extend(more);
    }
    let examples = json!({
        "a group, carefully": { "value": { "filter": { "group": "5d41402abc4b2a76" }, "canary": 5, "rate": 100 } },
    });
    let description = "They keep their ids and begin with their first attempt. Each is published and confirmed before it \
        is marked. The answer comes when the replay is begun; where it is, tells its own address.";
    dead("replayDeadLetters", "Publish dead letters again", description)
        .body(&body, &examples)
        .answer(202, "It is begun.", JSON, &schema("Replay"))
        .header(202, "Location", "Where the replay is.")
        .problems(&[404])
        .done()
}

fn replays() -> Value {
    dead("listReplays", "List replays that are not finished", "Those under way, and those that were interrupted.")
        .answer(200, "The replays.", JSON, &named("replays", &schema("Replay")))
        .done()
}

fn replay_shown() -> Value {
    of_one("showReplay", "Show how far a replay is", "").answer(200, "The replay.", JSON, &schema("Replay")).done()
}

fn resume() -> Value {
    let description = "One that was interrupted, because the server ended or the broker was away for long. It goes on as \
        it was started. Servers do so by themselves, once nobody has run it for 20 s.";
    of_one("resumeReplay", "Go on with a replay", description)
        .answer(202, "It goes on.", JSON, &schema("Replay"))
        .header(202, "Location", "Where the replay is.")
        .problems(&[409])
        .done()
}

fn stop() -> Value {
    let description = "What is not published by then lies there again. It ends some seconds later, when what is under way is \
        marked. If the server is killed meanwhile the replay goes on: stop it again.";
    of_one("stopReplay", "Stop a replay", description)
        .answer(202, "It is ending.", JSON, &schema("Replay"))
        .header(202, "Location", "Where the replay is.")
        .problems(&[409])
        .done()
}

fn purge() -> Value {
    let yes = json!({ "type": "boolean" });
    dead("purgeDeadLetters", "Put dead letters away", "They can be restored until retention ends.")
        .parameter("query", "yes", "Nothing is done unless this is true.", &yes)
        .body(&selection(), &json!({ "all": { "value": { "all": true } } }))
        .answer(200, "They are put away.", JSON, &counted("purged"))
        .done()
}

fn restore() -> Value {
    dead("restoreDeadLetters", "Take purged dead letters back", "Those of the selection that were purged.")
        .body(&selection(), &json!({ "two": { "value": { "ids": [17, 18] } } }))
        .answer(200, "They lie there again.", JSON, &counted("restored"))
        .done()
}

fn export() -> Value {
    let description = "A line of JSON each, with its message byte for byte in base64. It shows payloads as they are, and \
        takes an operator's token.";
    filtered(dead("exportDeadLetters", "Export dead letters", description))
        .answer(200, "The lines.", NDJSON, &json!({ "type": "string" }))
        .done()
}

fn import() -> Value {
    let answer = json!({
        "type": "object",
        "required": ["imported", "known", "bad", "bad_lines"],
        "properties": {
            "imported": { "type": "integer" },
            "known": { "type": "integer", "description": "They were here already." },
            "bad": { "type": "integer" },
            "bad_lines": { "type": "array", "maxItems": 100, "items": {
                "type": "object",
                "required": ["line", "reason"],
                "properties": { "line": { "type": "integer", "minimum": 1 }, "reason": { "type": "string" } },
            } },
        },
    });
    dead("importDeadLetters", "Import dead letters", "What was exported. Lines that are no letters are told by number.")
        .body_of([NDJSON, "application/octet-stream"], &json!({ "type": "string" }))
        .answer(200, "What was taken in.", JSON, &answer)
        .done()
}

fn dead(id: &str, summary: &str, description: &str) -> Operation {
    operation(id, "dead letters", summary, description).problems(&[503])
}

fn of_one(id: &str, summary: &str, description: &str) -> Operation {
    let number = json!({ "type": "integer", "minimum": 0 });
    dead(id, summary, description).parameter("path", "id", "Its number.", &number).problems(&[404])
}

fn filtered(operation: Operation) -> Operation {
    let (text, time) = (json!({ "type": "string" }), json!({ "type": "string", "format": "date-time" }));
    let state = json!({ "type": "string", "enum": ["dead", "replaying", "replayed", "purged"] });
    operation
        .parameter("query", "state", "Only in this state; dead.", &state)
        .parameter("query", "queue", "Only of exactly this job queue.", &text)
        .parameter("query", "job", "Only of the job with exactly this name.", &text)
        .parameter("query", "job_id", "Only of the job with this id.", &text)
        .parameter("query", "kind", "Only with an error of this class.", &text)
        .parameter(
            "query",
            "text",
            "Only with this text in the error or the payload; for viewers, in the error.",
            &text,
        )
        .parameter("query", "group", "Only of this group.", &text)
        .parameter("query", "since", "Only those given up then or later (RFC 3339).", &time)
        .parameter("query", "until", "Only those given up before then (RFC 3339).", &time)
}

/// Which letters: one of three.
fn selection() -> Value {
    let text = |what: &str| json!({ "type": ["string", "null"], "description": what });
    let time = json!({ "type": ["string", "null"], "format": "date-time" });
    json!({
        "type": "object",
        "additionalProperties": false,
        "description": "Which: exactly one of `ids`, `filter` and `\"all\": true`.",
        "properties": {
            "ids": {
                "type": ["array", "null"],
                "items": { "type": "integer", "minimum": 0, "maximum": i64::MAX },
            },
            "filter": {
                "type": ["object", "null"],
                "additionalProperties": false,
                "properties": {
                    "queue": text("Exactly this job queue."),
                    "job": text("The job with exactly this name."),
                    "job_id": text("The job with this id."),
                    "kind": text("This class of errors."),
                    "text": text("Somewhere in the error or the payload."),
                    "group": text("This group."),
                    "since": time,
                    "until": time,
                },
            },
            "all": { "type": "boolean" },
        },
    })
}

fn limit() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": 1000 })
}

fn named(name: &str, items: &Value) -> Value {
    json!({ "type": "object", "required": [name], "properties": { name: { "type": "array", "items": items } } })
}

fn counted(name: &str) -> Value {
    json!({ "type": "object", "required": [name], "properties": { name: { "type": "integer" } } })
}

/// The forms of what is answered.
pub(super) fn schemas() -> [(&'static str, Value); 3] {
    [("DeadLetter", letter()), ("DeadGroup", group()), ("Replay", replay_schema())]
}

fn letter() -> Value {
    let pair = json!({
        "type": "object",
        "required": ["name", "value"],
        "properties": { "name": { "type": "string" }, "value": { "type": "string" } },
    });
    let done = json!({
        "type": "object",
        "required": ["at", "actor", "action"],
        "properties": { "at": time(), "actor": { "type": "string" }, "action": { "type": "string" }, "detail": {} },
    });
    json!({
        "type": "object",
        "required": [
            "id", "source", "queue", "job_id", "job", "kind", "error", "attempt", "failed_at", "taken_at", "state", "state_at",
            "group", "edited",
        ],
        "properties": {
            "id": { "type": "integer" },
            "source": { "enum": ["dead", "unrouted"], "description": "`unrouted`: it fitted no queue." },
            "queue": { "type": "string" },
            "job_id": { "type": ["string", "null"] },
            "job": { "type": "string" },
            "kind": { "type": "string", "description": "The class of the error." },
            "error": { "type": "string", "description": "With its sources." },
            "attempt": { "type": "integer" },
            "hop": { "type": "integer" },
            "failed_at": time(),
            "taken_at": time(),
            "state": { "enum": ["dead", "replaying", "replayed", "purged"] },
            "state_at": time(),
            "group": { "type": "string" },
            "replay_id": { "type": ["integer", "null"] },
            "payload_bytes": { "type": "integer" },
            "edited": { "type": "boolean" },
            "headers": { "type": "array", "items": pair },
            "history": { "type": "array", "items": done },
            "payload": { "type": "string", "description": "As it was written, but for the values that are hidden; cut after 64 KiB." },
            "original": { "type": "string", "description": "The payload that it died with, if it was edited." },
        },
    })
}

fn group() -> Value {
    json!({
        "type": "object",
        "required": ["group", "job", "kind", "error", "count", "first_at", "last_at", "sample"],
        "properties": {
            "group": { "type": "string" },
            "job": { "type": "string" },
            "kind": { "type": "string" },
            "error": { "type": "string", "description": "With all masked in which they may differ." },
            "count": { "type": "integer" },
            "first_at": time(),
            "last_at": time(),
            "sample": { "type": "integer", "description": "The dead letter that was taken in last." },
        },
    })
}

fn replay_schema() -> Value {
    json!({
        "type": "object",
        "required": ["id", "actor", "total", "replayed", "started_at", "finished_at", "outcome"],
        "properties": {
            "id": { "type": "integer" },
            "actor": { "type": "string" },
            "options": { "description": "As it was started." },
            "total": { "type": "integer", "description": "So many letters it took." },
            "replayed": { "type": "integer", "description": "So many were published and confirmed." },
            "started_at": time(),
            "finished_at": { "type": ["string", "null"], "format": "date-time" },
            "outcome": { "type": ["string", "null"], "description": "`done`, or why some lie there again." },
        },
    })
}

fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}
