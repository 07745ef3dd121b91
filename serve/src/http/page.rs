//! The document of the API for people.

pub(super) async fn page() -> &'static str {
    ""
}
