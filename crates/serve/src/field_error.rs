//! An error in one field of a request, with its place.

use serde::Serialize;
use utoipa::ToSchema;

/// An error in one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The item of a batch, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The place in the request, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// The error, for people.
    pub detail: String,
    /// The known name that is most similar to the given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

impl FieldError {
    pub(crate) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { index: None, pointer: pointer.into(), detail: detail.into(), nearest: None }
    }

    /// The same error, in one item of a batch.
    pub(crate) fn of_item(self, index: usize) -> Self {
        Self { index: Some(index), ..self }
    }

    /// An unknown name, with the most similar known one.
    pub(crate) fn unknown<'a>(
        pointer: impl Into<String>,
        what: &str,
        name: &str,
        known: impl Iterator<Item = &'a str>,
    ) -> Self {
        let nearest = nearest(name, known);
        let meant = nearest.as_ref().map(|nearest| format!(": did you mean {nearest:?}?")).unwrap_or_default();
        Self { index: None, pointer: pointer.into(), detail: format!("{what} {name:?}{meant}"), nearest }
    }
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known.min_by_key(|known| strsim::damerau_levenshtein(name, known)).map(str::to_owned)
}
