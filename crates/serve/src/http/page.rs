//! The API document for people: Swagger UI, served from the binary under a policy that allows no other host and no
//! inline script.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Bytes,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::{Html, IntoResponse},
};
use utoipa_swagger_ui::Config;

use super::{extract::Path, problem::Problem};

const POLICY: (axum::http::HeaderName, &str) = (
    CONTENT_SECURITY_POLICY,
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Leveret job API</title>
<link rel="stylesheet" href="/api/ui/swagger-ui.css">
<link rel="icon" type="image/png" href="/api/ui/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>The same document for programs: <a href="/api/openapi.json">/api/openapi.json</a></noscript>
<script src="/api/ui/swagger-ui-bundle.js"></script>
<script src="/api/ui/swagger-ui-standalone-preset.js"></script>
<script src="/api/ui/swagger-initializer.js"></script>
</body>
</html>
"#;

pub(super) async fn page() -> impl IntoResponse {
    ([POLICY], Html(PAGE))
}

/// A file of Swagger UI.
pub(super) async fn asset(Path(file): Path<String>) -> Result<impl IntoResponse, Problem> {
    // Without the bar on top, which loads documents from elsewhere, and without the online validator.
    let config = Config::from("/api/openapi.json").use_base_layout().validator_url("none");
    let Ok(Some(asset)) = utoipa_swagger_ui::serve(&file, Arc::new(config)) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", format!("the page has no file {file:?}")));
    };
    let mut headers = HeaderMap::new();
    if let Ok(kind) = HeaderValue::from_str(&asset.content_type) {
        headers.insert(CONTENT_TYPE, kind);
    }
    if asset.gzpipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let bytes = match asset.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    Ok(([POLICY], headers, bytes))
}
