//! The OpenAPI document.

use axum::http::StatusCode;
use axum::response::Response;

pub(super) async fn document() -> Response {
    super::json(StatusCode::OK, &serde_json::json!({}))
}
