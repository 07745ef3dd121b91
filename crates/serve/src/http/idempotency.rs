//! The header `Idempotency-Key`.

use axum::{extract::FromRequestParts, http::request::Parts};
use sha2::{Digest, Sha256};
use utoipa::IntoParams;

use crate::{field_error::FieldError, http::problem::Problem, jobs::Idempotency};

const LONGEST_KEY: usize = 255;

/// The key that makes the second of two equal requests get the response of the first.
#[derive(IntoParams)]
#[into_params(names("Idempotency-Key"), parameter_in = Header)]
pub(super) struct IdempotencyKey(
    /// The same key and body get the same response for 24 hours, and the jobs run once. Another body is a 409.
    #[param(value_type = String, required = false, min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    Option<String>,
);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(key) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let is_usable =
            |key: &&str| (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        let detail = || format!("Idempotency-Key: must have 1 to {LONGEST_KEY} visible ASCII characters");
        let key = key.to_str().ok().filter(is_usable);
        key.map(|key| Self(Some(key.to_owned()))).ok_or_else(|| Problem::invalid_field(FieldError::new("", detail())))
    }
}

impl IdempotencyKey {
    /// The identity of a request. `kind` distinguishes requests with equal bodies.
    pub(super) fn of(self, kind: &str, body: &[u8]) -> Option<Idempotency> {
        let hash = Sha256::new().chain_update(kind).chain_update([0]).chain_update(body).finalize();
        self.0.map(|key| Idempotency { key, body_hash: leveret::text::hex(&hash) })
    }
}
