//! Payloads against the JSON Schemas that workers announced. Nothing is ever fetched for a schema.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jsonschema::Validator;
use leveret::catalogue::Entry;
use serde_json::Value;

use super::Flaw;

/// More flaws of one payload help nobody.
const MOST_FLAWS: usize = 20;

/// Compiled schemas, by job and queue; each is made anew when its entry is announced anew.
#[derive(Debug, Default)]
pub(crate) struct Schemas(Mutex<HashMap<(String, String), Compiled>>);

#[derive(Clone, Debug)]
struct Compiled {
    of: Arc<Entry>,
    /// None: it cannot be compiled, or there is none.
    validator: Option<Arc<Validator>>,
}

impl Schemas {
    /// What is wrong with a payload, each with its place under `/payload`.
    pub(crate) fn check(&self, entry: &Arc<Entry>, payload: &str) -> Vec<Flaw> {
        let Some(validator) = self.validator(entry) else { return Vec::new() };
        let payload: Value = match serde_json::from_str(payload) {
            Ok(payload) => payload,
            Err(error) => return vec![Flaw::new("/payload", error.to_string())],
        };
        let flaw = |error: jsonschema::ValidationError<'_>| {
            let place = format!("/payload{}", error.instance_path());
            Flaw::new(place, error.masked().to_string())
        };
        validator.iter_errors(&payload).take(MOST_FLAWS).map(flaw).collect()
    }

    fn validator(&self, entry: &Arc<Entry>) -> Option<Arc<Validator>> {
        let key = (entry.job.clone(), entry.queue.clone());
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match compiled.get(&key) {
            Some(known) if Arc::ptr_eq(&known.of, entry) => known.validator.clone(),
            _ => {
                let validator = compile(entry);
                compiled.insert(key, Compiled { of: Arc::clone(entry), validator: validator.clone() });
                validator
            }
        }
    }
}

fn compile(entry: &Entry) -> Option<Arc<Validator>> {
    match jsonschema::validator_for(entry.schema.as_ref()?) {
        Ok(validator) => Some(Arc::new(validator)),
        Err(error) => {
            tracing::warn!(job = entry.job, %error, "the schema of this job cannot be used: its payloads are not checked");
            None
        }
    }
}
