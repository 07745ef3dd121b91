//! What can be asked for.

use serde_json::{Value, json};

use super::{Operation, operation, schema};

const JSON: &str = "application/json";
const KEY: &str =
    "The same key and body get the same answer for 24 hours, and the jobs run once; another body is a 409.";

pub(super) fn paths() -> Value {
    json!({
        "/api/tasks": { "post": submit(), "get": list() },
        "/api/tasks/batch": { "post": batch() },
        "/api/tasks/{id}": { "get": show(), "delete": cancel() },
        "/api/tasks/{id}/events": { "get": events() },
        "/api/tasks/{id}/retry": { "post": retry() },
        "/api/jobs": { "get": jobs() },
    })
}

fn submit() -> Value {
    let examples = json!({
        "default job": { "value": { "name": "Important Task", "priority": 1 } },
        "a job in an hour": { "value": { "job": "email.send", "payload": { "to": "ada@example.com" }, "delay": "1h" } },
    });
    tasks("submitTask", "Submit a job", "202 means that the broker has confirmed it: it will run.")
        .parameter("header", "Idempotency-Key", KEY, &key())
        .body(&schema("Submission"), &examples)
        .answer(202, "Its id.", JSON, &schema("TaskId"))
        .header(202, "Location", "Where the task is.")
        .problems(&[409, 503])
        .done()
}

fn batch() -> Value {
    let description = "If an item is not valid, none is published: 422, with the index of each. If the broker fails in \
        the middle, the answer is 207, which tells of each item whether it was published; with an idempotency key the \
        request can be repeated then.";
    let examples = json!({ "two": { "value": [{ "name": "first" }, { "name": "second", "priority": 9 }] } });
    let items = json!({ "type": "array", "maxItems": 1000, "items": schema("Submission") });
    let ids = json!({ "type": "array", "items": { "type": "string" } });
    let fates = json!({ "type": "array", "items": { "oneOf": [
        schema("TaskId"),
        { "type": "object", "required": ["error"], "properties": { "error": schema("Problem") } },
    ] } });
    tasks("submitTasks", "Submit up to 1000 jobs", description)
        .parameter("header", "Idempotency-Key", KEY, &key())
        .body(&items, &examples)
        .answer(202, "Their ids, in order.", JSON, &ids)
        .answer(207, "Some were not published.", JSON, &fates)
        .problems(&[409, 503])
        .done()
}

fn list() -> Value {
    let text = json!({ "type": "string" });
    let page = json!({
        "type": "object",
        "required": ["tasks", "next"],
        "properties": {
            "tasks": { "type": "array", "items": schema("Task") },
            "next": { "type": ["string", "null"], "description": "For `after`; null on the last page." },
        },
    });
    tasks("listTasks", "List tasks", "Newest first, without results and timelines.")
        .parameter("query", "status", "Only these.", &schema("Status"))
        .parameter("query", "job", "Only of the job with exactly this name.", &text)
        .parameter("query", "queue", "Only of exactly this queue.", &text)
        .parameter("query", "label", "Only with this text somewhere in the name that they were given.", &text)
        .parameter("query", "after", "The `next` of the page before.", &text)
        .parameter(
            "query",
            "limit",
            "At most so many; 100.",
            &json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
        )
        .answer(200, "A page.", JSON, &page)
        .problems(&[503])
        .done()
}

fn show() -> Value {
    let wait = json!({ "type": "string", "pattern": "^[0-9]+(us|ms|s|m|h)?$", "examples": ["10s"] });
    of_task(
        "showTask",
        "Show a task",
        "With its result and its timeline: of very many copies, the first 50 and the last 50.",
    )
    .parameter("query", "wait", "Wait until it is at its end, but not longer; at most 60s.", &wait)
    .answer(200, "The task.", JSON, &schema("Task"))
    .problems(&[429])
    .done()
}

fn cancel() -> Value {
    let description = "Every worker will know, also after restarts. One that waits does not start; one that runs is told, \
        and may be done all the same.";
    let answer = json!({
        "type": "object",
        "required": ["task_id", "was"],
        "properties": {
            "task_id": { "type": "string" },
            "was": { "enum": ["queued", "running"], "description": "Where it was, as far as is known." },
        },
    });
    of_task("cancelTask", "Cancel a task", description)
        .answer(202, "It is cancelled.", JSON, &answer)
        .problems(&[409])
        .done()
}

fn retry() -> Value {
    let description = "Only what has failed. It keeps its id and its payload, and begins with its first attempt.";
    of_task("retryTask", "Retry a task", description)
        .answer(202, "It will run again.", JSON, &schema("TaskId"))
        .problems(&[409])
        .done()
}

fn events() -> Value {
    let description = "Server-sent events: first the task as it is, then after each change until its end. Each is of the \
        type `status` and has the task as its data. Changes in quick succession may be told as one. A client that comes back \
        with `Last-Event-ID` is not sent that event again; after the task's end it gets 204, which ends an EventSource.";
    let event = json!({
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": { "const": "status" },
            "id": { "type": "string" },
            "data": { "type": "string", "contentMediaType": JSON, "contentSchema": schema("Task") },
        },
    });
    of_task("followTask", "Follow a task", description)
        .parameter(
            "header",
            "Last-Event-ID",
            "The id of the last event that the client has.",
            &json!({ "type": "string" }),
        )
        .empty(204, "The task is at its end, and the client has its last event.")
        .answer(200, "The events.", "text/event-stream", &event)
        .problems(&[429])
        .done()
}

fn jobs() -> Value {
    let jobs = json!({
        "type": "object",
        "required": ["jobs"],
        "properties": { "jobs": { "type": "array", "items": schema("Job") } },
    });
    operation("listJobs", "jobs", "List the jobs that workers can run", "As the workers themselves announced them.")
        .answer(200, "The catalogue.", JSON, &jobs)
        .done()
}

fn tasks(id: &str, summary: &str, description: &str) -> Operation {
    operation(id, "tasks", summary, description)
}

fn of_task(id: &str, summary: &str, description: &str) -> Operation {
    let id_schema = json!({ "type": "string" });
    tasks(id, summary, description).parameter("path", "id", "The task's id.", &id_schema).problems(&[404, 503])
}

fn key() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" })
}
