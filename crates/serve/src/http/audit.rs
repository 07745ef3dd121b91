//! `/api/audit`: who did what. For operators, because it tells what they searched for.

use axum::{
    Extension,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use leveret_store::{AuditEntry, Cursor, Page};
use serde_json::{Value, json};

use super::{Problem, access::Caller, json as answer, query::Query};
use crate::{services::Services, time::rfc3339};

pub(super) async fn list(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, Problem> {
    let query = Query::read(&uri, &["after", "limit"])?;
    caller.must_be_operator()?;
    let (after, limit) = (query.parsed::<Cursor>("after")?, query.limit()?);
    let Page { items, next } = services.store.audit_log(after.as_ref(), limit).await?;
    let entries: Vec<_> = items.iter().map(shown).collect();
    Ok(answer(StatusCode::OK, &json!({ "entries": entries, "next": next })))
}

fn shown(entry: &AuditEntry) -> Value {
    let AuditEntry { id, at, actor, action, detail } = entry;
    json!({ "id": id, "at": rfc3339(*at), "actor": actor, "action": action, "detail": detail })
}
