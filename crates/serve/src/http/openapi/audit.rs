//! The audit log in the document.

use serde_json::{Value, json};

use super::operation;

pub(super) fn paths() -> Value {
    let entry = json!({
        "type": "object",
        "required": ["id", "at", "actor", "action", "detail"],
        "properties": {
            "id": { "type": "integer" },
            "at": { "type": "string", "format": "date-time" },
            "actor": { "type": "string", "description": "`api:` and the name of the token; or a user of the command line." },
            "action": { "type": "string", "description": "Such as `cancel`, `replay`, `edit`, `purge`." },
            "detail": { "description": "On what." },
        },
    });
    let page = json!({
        "type": "object",
        "required": ["entries", "next"],
        "properties": {
            "entries": { "type": "array", "items": entry },
            "next": { "type": ["string", "null"], "description": "For `after`; null on the last page." },
        },
    });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": 1000 });
    let list = operation("listAudit", "audit", "List who did what", "The latest first. For operators.")
        .parameter("query", "after", "The `next` of the page before.", &json!({ "type": "string" }))
        .parameter("query", "limit", "At most so many; 100.", &limit)
        .answer(200, "A page.", "application/json", &page)
        .problems(&[503])
        .done();
    json!({ "/api/audit": { "get": list } })
}
