//! The document of the API for people: one page that needs nothing else, and runs no script.

use axum::{
    http::{
        HeaderName,
        header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::openapi::openapi;

const STYLE: &str = "\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 3rem; border-top: 1px solid #8886; padding-top: 1rem }
code, pre { font: 0.9em ui-monospace, monospace }
pre { background: #8882; padding: 0.75rem; overflow-x: auto; border-radius: 4px }
table { border-collapse: collapse; width: 100% }
td { vertical-align: top; padding: 0.2rem 1rem 0.2rem 0; border-bottom: 1px solid #8883 }
td:first-child { white-space: nowrap }
.method { display: inline-block; min-width: 4.5rem; font-weight: 600 }";

pub(super) async fn page() -> Response {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers: [(HeaderName, String); 2] =
        [(CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (CONTENT_SECURITY_POLICY, policy)];
    (headers, html(&openapi())).into_response()
}

fn html(document: &Value) -> String {
    let info = &document["info"];
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\
         <body><h1>{title}</h1><p>{about}</p><p><a href=\"/api/openapi.json\">/api/openapi.json</a> is this page for \
         programs.</p>",
        title = text(&info["title"]),
        about = text(&info["description"]),
    );
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            add_operation(&mut page, path, method, operation);
        }
    }
    page.push_str("<h2>Forms</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        add(&mut page, format_args!("<h3 id=\"{0}\">{0}</h3>", escape(name)));
        add(&mut page, format_args!("<p>{}</p>", text(&schema["description"])));
        let fields = schema["properties"].as_object().into_iter().flatten();
        add_rows(
            &mut page,
            fields.map(|(name, field)| (name.clone(), format!("{} {}", kind(field), text(&field["description"])))),
        );
    }
    page.push_str("</body></html>\n");
    page
}

fn add_operation(page: &mut String, path: &str, method: &str, operation: &Value) {
    let method = method.to_uppercase();
    add(page, format_args!("<h2><span class=\"method\">{method}</span> <code>{}</code></h2>", escape(path)));
    add(page, format_args!("<p><b>{}.</b> {}</p>", text(&operation["summary"]), text(&operation["description"])));
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    add_rows(
        page,
        parameters.map(|parameter| {
            let name = parameter["name"].as_str().unwrap_or_default().to_owned();
            (name, format!("{}: {}", text(&parameter["in"]), text(&parameter["description"])))
        }),
    );
    let content = &operation["requestBody"]["content"]["application/json"];
    if !content.is_null() {
        add(page, format_args!("<p>Body: {}. For example:</p>", kind(&content["schema"])));
    }
    for example in content["examples"].as_object().into_iter().flat_map(|examples| examples.values()) {
        let command = format!(
            "curl -X {method} http://localhost:8080{path} -H 'content-type: application/json' -d '{}'",
            example["value"]
        );
        add(page, format_args!("<pre>{}</pre>", escape(&command)));
    }
    let responses = operation["responses"].as_object().into_iter().flatten();
    add_rows(
        page,
        responses.map(|(status, response)| {
            let body = response["content"].as_object().and_then(|content| content.values().next());
            let body = body.map(|body| kind(&body["schema"])).unwrap_or_default();
            (status.clone(), format!("{} {body}", text(&response["description"])))
        }),
    );
}

/// Rows of a name and what is to be said of it, which is HTML.
fn add_rows(page: &mut String, rows: impl Iterator<Item = (String, String)>) {
    page.push_str("<table>");
    for (name, about) in rows {
        add(page, format_args!("<tr><td><code>{}</code></td><td>{about}</td></tr>", escape(&name)));
    }
    page.push_str("</table>");
}

fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href=\"#{0}\">{0}</a>", escape(name));
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("array of {}", kind(&schema["items"])),
        Value::String(name) => format!("<i>{}</i>", escape(name)),
        Value::Array(names) => {
            let names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
            format!("<i>{}</i>", escape(&names.join(" or ")))
        }
        _ => String::new(),
    }
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn add(page: &mut String, html: std::fmt::Arguments<'_>) {
    page.push_str(&html.to_string());
}
