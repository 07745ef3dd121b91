//! Reads the query of a URL: known parameters, each once.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use axum::http::{StatusCode, Uri};
use serde_json::json;

use super::Problem;
use crate::jobs::FieldError;

/// The parameters of a request.
#[derive(Debug)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads a query that may have these parameters.
    pub(crate) fn read(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let mut values = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let field_error = FieldError::unknown("", "no such parameter:", &name, known.iter().copied());
                return Err(refuse(&field_error.detail));
            }
            // PostgreSQL's texts cannot have it.
            if value.contains('\0') {
                return Err(refuse(&format!("{name}: may not contain U+0000")));
            }
            if values.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(refuse(&format!("{name}: it may be given once")));
            }
        }
        Ok(Self(values))
    }

    /// A parameter as it is; an empty text is as good as none.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// A parameter that is to be parsed.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.with(name, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// How long a page is to be: 100 unless it is said.
    pub(crate) fn limit(&self) -> Result<u32, Problem> {
        let limit = self.with("limit", |text| match text.parse::<u32>() {
            Ok(limit @ 1..=1000) => Ok(limit),
            _ => Err("must be a whole number from 1 to 1000".to_owned()),
        })?;
        Ok(limit.unwrap_or(100))
    }

    /// As [`parsed`](Self::parsed), by a function.
    pub(crate) fn with<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        let parsed = self.0.get(name).map(|text| parse(text)).transpose();
        parsed.map_err(|error| refuse(&format!("{name}: {error}")))
    }
}

fn refuse(detail: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail).with("errors", json!([{ "detail": detail }]))
}
