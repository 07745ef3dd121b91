//! `/api/audit`: the operations of operators. For operators only, because an entry shows search texts.

use axum::{Json, extract::State};
use leveret_store::{AuditEntry, Cursor, Page, time::to_rfc3339};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    access::Operator,
    extract::{PageQuery, Query},
    problem::Problem,
};
use crate::services::Services;

#[derive(Serialize, ToSchema)]
pub(super) struct AuditPage {
    entries: Vec<AuditItem>,
    /// The value of `after` for the next page; null on the last page.
    #[schema(required, value_type = Option<String>)]
    next: Option<Cursor>,
}

/// One operation of an operator.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(super) struct AuditItem {
    id: i64,
    #[schema(format = DateTime)]
    at: String,
    /// `api:` and the name of the token, or a user of the command line.
    actor: String,
    /// Such as `cancel`, `replay`, `edit`, `purge`.
    action: String,
    /// The objects of the operation.
    detail: Value,
}

/// List the operations of operators
///
/// The latest entry first. Requires an operator's token.
#[utoipa::path(
    get, path = "/api/audit", operation_id = "listAudit", tag = "audit",
    params(PageQuery),
    responses((status = 200, description = "A page.", body = AuditPage), (status = 503))
)]
pub(super) async fn list(
    State(services): State<Services>,
    Operator(_): Operator,
    Query(query): Query<PageQuery>,
) -> Result<Json<AuditPage>, Problem> {
    let Page { items, next } = services.store.audit_log(query.after.as_ref(), query.limit).await?;
    Ok(Json(AuditPage { entries: items.into_iter().map(AuditItem::from).collect(), next }))
}

impl From<AuditEntry> for AuditItem {
    fn from(AuditEntry { id, at, actor, action, detail }: AuditEntry) -> Self {
        Self { id, at: to_rfc3339(at), actor, action, detail }
    }
}
