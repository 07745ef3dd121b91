//! Checks payloads against the JSON Schemas that workers announced. A schema cannot refer to another document.
//!
//! Schema and payload come from clients: together they must exhaust neither the server's threads nor its memory. The cost
//! of a check is counted beforehand ([`budget`]), and the check runs on its own thread. Beyond the schema, a handler must
//! be able to decode the payload ([`type_keyword`]).

mod budget;
mod type_keyword;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use jsonschema::{PatternOptions, Validator};
use leveret::catalogue::CatalogueEntry;
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

pub(crate) use self::budget::CheckBudget;
use crate::{field_error::FieldError, json};

/// The greatest number of reported errors for one payload.
pub(crate) const MAX_FIELD_ERRORS: usize = 20;
/// Budget above which a payload gets only its first error, because the validator builds all errors before the first is
/// read.
const ALL_ERRORS_BUDGET: u64 = 20_000;
/// The greatest size of a compiled regular expression.
const PATTERN_BYTES: usize = 256 * 1024;
/// Enough for the deepest schema that [`budget`] accepts, also in a debug build.
const STACK: usize = 64 << 20;

/// The greatest number of checks at once.
static CHECKS: Semaphore = Semaphore::const_new(4);

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SchemaCheck {
    /// The payload fits the schema, or the job has no schema.
    Valid,
    /// The payload could not be checked.
    Unchecked,
    /// The errors of the payload, each with its place under `/payload`.
    Invalid(Vec<FieldError>),
}

/// Makes checks on a thread of their own; none if the machine has no thread left.
pub(crate) async fn checked<T: Send + 'static>(checks: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    // The semaphore is never closed.
    let permit = CHECKS.acquire().await.ok()?;
    let (done, result) = oneshot::channel();
    let thread = thread::Builder::new().name("schema".to_owned()).stack_size(STACK);
    let run = move || {
        let result = checks();
        // The thread holds the permit, because it continues when its caller is dropped.
        drop(permit);
        // A dropped caller needs no result.
        drop(done.send(result));
    };
    thread.spawn(run).ok()?;
    result.await.ok()
}

/// Compiled schemas by job and queue. A new announcement replaces the schema.
#[derive(Debug, Default)]
pub(crate) struct Schemas(Mutex<HashMap<(String, String), Compiled>>);

#[derive(Clone, Debug)]
struct Compiled {
    of: Arc<CatalogueEntry>,
    /// `None` if the schema cannot be compiled, or there is none.
    validator: Option<Arc<Validator>>,
    /// True if it is logged that the schema is too expensive for a payload.
    logged: Arc<AtomicBool>,
}

impl Schemas {
    /// Checks a JSON payload. This may take long: see [`checked`].
    pub(crate) fn check(&self, entry: &Arc<CatalogueEntry>, payload: &str, budget: &mut CheckBudget) -> SchemaCheck {
        let Some(schema) = &entry.schema else { return SchemaCheck::Valid };
        let Compiled { validator, logged, .. } = self.compiled(entry);
        let Some(validator) = validator else { return SchemaCheck::Unchecked };
        let repeated = json::repeated_keys(payload, MAX_FIELD_ERRORS);
        if !repeated.is_empty() {
            let field_error =
                |pointer| FieldError::new(format!("/payload{pointer}"), "this key stands twice in one object");
            return SchemaCheck::Invalid(repeated.into_iter().map(field_error).collect());
        }
        let value: Value = match serde_json::from_str(payload) {
            Ok(value) => value,
            Err(error) => return SchemaCheck::Invalid(vec![FieldError::new("/payload", error.to_string())]),
        };
        budget.grant(payload.len());
        let before = budget.left();
        if !budget.spend(schema, &value) {
            if !logged.swap(true, Ordering::Relaxed) {
                let (job, queue) = (&entry.job, &entry.queue);
                tracing::warn!(job, queue, "a payload is not checked: its schema would take too long");
            }
            return SchemaCheck::Unchecked;
        }
        let field_errors = field_errors(&validator, &value, before - budget.left() <= ALL_ERRORS_BUDGET);
        if field_errors.is_empty() { SchemaCheck::Valid } else { SchemaCheck::Invalid(field_errors) }
    }

    fn compiled(&self, entry: &Arc<CatalogueEntry>) -> Compiled {
        let key = (entry.job.clone(), entry.queue.clone());
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match compiled.get(&key) {
            Some(known) if Arc::ptr_eq(&known.of, entry) => known.clone(),
            _ => {
                let new = Compiled { of: Arc::clone(entry), validator: compile(entry), logged: Arc::default() };
                compiled.insert(key, new.clone());
                new
            }
        }
    }
}

fn field_errors(validator: &Validator, value: &Value, all: bool) -> Vec<FieldError> {
    let field_error = |error: jsonschema::ValidationError<'_>| {
        let place = format!("/payload{}", error.instance_path());
        FieldError::new(place, error.masked().to_string())
    };
    if all {
        return validator.iter_errors(value).take(MAX_FIELD_ERRORS).map(field_error).collect();
    }
    validator.validate(value).err().map(field_error).into_iter().collect()
}

fn compile(entry: &CatalogueEntry) -> Option<Arc<Validator>> {
    let schema = entry.schema.as_ref()?;
    let compiled = budget::accept(schema).map_err(str::to_owned).and_then(|()| {
        let options = jsonschema::options()
            .with_keyword("type", type_keyword::keyword)
            .should_validate_formats(true)
            // This engine takes linear time for every pattern.
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES));
        options.build(schema).map_err(|error| error.to_string())
    });
    match compiled {
        Ok(validator) => Some(Arc::new(validator)),
        Err(error) => {
            tracing::warn!(job = entry.job, error, "cannot use the schema of this job: its payloads are not checked");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(schema: &Value) -> Arc<CatalogueEntry> {
        let entry = json!({ "job": "j", "queue": "q", "timeout_ms": 1, "max_attempts": 1, "announced_at": 0, "schema": schema });
        Arc::new(serde_json::from_value(entry).unwrap())
    }

    async fn check(schema: Value, payload: &str) -> SchemaCheck {
        let payload = payload.to_owned();
        checked(move || Schemas::default().check(&entry(&schema), &payload, &mut CheckBudget::default())).await.unwrap()
    }

    fn pointers(checking: SchemaCheck) -> Vec<String> {
        let SchemaCheck::Invalid(field_errors) = checking else { return Vec::new() };
        field_errors.into_iter().map(|field_error| field_error.pointer).collect()
    }

    #[tokio::test]
    async fn a_payload_that_a_handler_cannot_decode_is_refused_if_its_schema_is_known() {
        let count =
            |format: &str| json!({ "properties": { "n": { "type": "integer", "format": format, "minimum": 0 } } });
        for (format, payload, is_fine) in [
            ("uint64", r#"{"n": 18446744073709551615}"#, true),
            ("uint64", r#"{"n": 18446744073709551616}"#, false),
            ("uint64", r#"{"n": 1.0}"#, false),
            ("uint64", r#"{"n": 1e2}"#, false),
            ("uint64", r#"{"n": 1, "n": 2}"#, false),
            ("uint64", r#"{"a": 1, "n": 2, "a": 3}"#, false),
            ("uint32", r#"{"n": 4294967295}"#, true),
            ("uint32", r#"{"n": 4294967296}"#, false),
            ("uint8", r#"{"n": 256}"#, false),
            ("int64", r#"{"n": 9223372036854775808}"#, false),
            ("int64", r#"{"n": 9223372036854775807}"#, true),
            ("uint128", r#"{"n": 18446744073709551616}"#, true),
            ("uint128", r#"{"n": 1.0}"#, false),
            ("own", r#"{"n": 1}"#, true),
            ("own", r#"{"n": 1e400}"#, false),
            ("own", r#"{"n": "\ud800"}"#, false),
        ] {
            let checking = check(count(format), payload).await;
            assert_eq!(checking == SchemaCheck::Valid, is_fine, "{format} {payload}: {checking:?}");
        }
        let either = json!({ "type": ["integer", "null"] });
        assert_eq!(check(either.clone(), "null").await, SchemaCheck::Valid);
        let SchemaCheck::Invalid(field_errors) = check(either, "1.5").await else { panic!("it is none of them") };
        assert_eq!(field_errors[0].detail, r#"value is not of types "integer", "null""#);
        assert_eq!(check(json!({ "type": "number" }), "1.0").await, SchemaCheck::Valid);
        let id = json!({ "type": "string", "format": "uuid" });
        assert_eq!(pointers(check(id.clone(), r#""17""#).await), ["/payload"]);
        assert_eq!(check(id, r#""0190163d-8694-739b-aea5-966c26f8ad91""#).await, SchemaCheck::Valid);
    }

    #[tokio::test]
    async fn a_repeated_key_is_reported_with_its_place() {
        let schema = json!({ "type": "object" });
        assert_eq!(pointers(check(schema, r#"{"a": {"b": 1, "b": 1}, "c": 1}"#).await), ["/payload/a/b"]);
    }

    /// Each level applies the next one twice.
    fn doubling(levels: usize, through: impl Fn(Value) -> Value) -> Value {
        let mut definitions = serde_json::Map::new();
        for level in 0..levels {
            let next = json!({ "$ref": format!("#/$defs/d{}", level + 1) });
            definitions.insert(format!("d{level}"), through(next));
        }
        definitions.insert(format!("d{levels}"), json!({ "type": "integer" }));
        json!({ "$ref": "#/$defs/d0", "$defs": definitions })
    }

    #[tokio::test]
    async fn a_schema_of_exponential_cost_is_not_used() {
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let schema = doubling(60, |next| json!({ keyword: [next, next] }));
            assert!(schema.to_string().len() < 5_000);
            assert_eq!(check(schema, "1.5").await, SchemaCheck::Unchecked, "{keyword}");
        }
        let nested = json!({ "$defs": { "list": { "allOf": [
            { "items": { "$ref": "#/$defs/list" } }, { "items": { "$ref": "#/$defs/list" } }
        ] } }, "$ref": "#/$defs/list" });
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert_eq!(check(nested.clone(), "[[[]]]").await, SchemaCheck::Valid);
        assert_eq!(
            check(nested, &deep).await,
            SchemaCheck::Unchecked,
            "each level is checked twice as often as the one before"
        );
        let same = json!({ "$defs": { "a": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" });
        assert_eq!(check(same, "1").await, SchemaCheck::Unchecked);
        let both = json!({ "not": { "not": doubling(60, |next| json!({ "if": next, "then": next, "else": next }))["$defs"]["d0"] } });
        assert_eq!(check(both, "1").await, SchemaCheck::Unchecked, "it refers to nothing");
    }

    #[tokio::test]
    async fn a_schema_that_is_too_large_or_reaches_elsewhere_is_not_used() {
        let chain = doubling(5_000, |next| next);
        assert_eq!(check(chain, "1").await, SchemaCheck::Unchecked);
        for schema in [
            json!({ "$ref": "http://127.0.0.1:1/schema.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "properties": { "a": { "$dynamicRef": "#a", "$dynamicAnchor": "a" } } }),
            json!({ "$dynamicRef": "#a", "$dynamicAnchor": "a" }),
            json!({ "$dynamicRef": "#/$defs/a", "$defs": { "a": { "type": "string" } } }),
            json!({
                "$schema": "https://json-schema.org/draft/2019-09/schema",
                "$recursiveRef": "#", "$recursiveAnchor": true
            }),
            json!({ "pattern": "(?:(?:a{1000}){1000}){1000}" }),
            json!({ "pattern": "(?=a)b" }),
            json!({ "description": "x".repeat(300_000) }),
        ] {
            let shown = schema.to_string().chars().take(80).collect::<String>();
            assert_eq!(check(schema, r#""aaaa""#).await, SchemaCheck::Unchecked, "{shown}");
        }
    }

    #[tokio::test]
    async fn work_that_is_repeated_for_each_item_is_counted_whatever_the_keyword_is() {
        let names: Vec<_> = (0..5_000).map(|name| format!("n{name}")).collect();
        let each = |value: Value| names.iter().map(|name| (name.clone(), value.clone())).collect::<Value>();
        let (list, text) = (json!((0..5_000).collect::<Vec<_>>()), "x".repeat(50_000));
        let objects = format!("[{}{{}}]", "{},".repeat(20_000));
        let applied = |keyword: &str, part: Value| {
            let schema =
                json!({ "$defs": { "s": { keyword: part } }, "allOf": vec![json!({ "$ref": "#/$defs/s" }); 900] });
            json!({ "$defs": schema["$defs"], "allOf": schema["allOf"] })
        };
        let (number, long) = (list.to_string(), format!("\"{text}\""));
        let members = each(json!(1)).to_string();
        for (schema, payload) in [
            (applied("const", list.clone()), &number),
            (applied("enum", json!([list])), &number),
            (applied("uniqueItems", json!(true)), &format!("[{number}]")),
            (applied("minLength", json!(1)), &long),
            (applied("maxLength", json!(1_000_000)), &long),
            (applied("format", json!("email")), &long),
            (applied("contentEncoding", json!("base64")), &long),
            (applied("propertyNames", json!({ "enum": names })), &members),
            (applied("additionalProperties", json!(true)), &members),
            (json!({ "items": { "required": names } }), &objects),
            (json!({ "items": { "properties": each(json!(true)) } }), &objects),
            (json!({ "items": { "dependentRequired": each(json!([])) } }), &objects),
            (json!({ "items": each(json!(1)) }), &objects),
        ] {
            let shown = schema.to_string().chars().take(80).collect::<String>();
            let value = serde_json::from_str(payload).unwrap();
            let mut budget = CheckBudget::default();
            budget.grant(payload.len());
            assert!(budget::accept(&schema).is_ok(), "{shown}");
            assert!(!budget.spend(&schema, &value), "{shown}");
        }
    }

    #[tokio::test]
    async fn a_check_counts_as_one_until_it_is_over_though_its_caller_is_gone() {
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let mut ends = Vec::new();
        for _ in 0..4 {
            let (started, (end, ended)) = (started.clone(), std::sync::mpsc::channel::<()>());
            let check = tokio::spawn(checked(move || {
                started.send(()).unwrap();
                ended.recv().is_ok()
            }));
            starts.recv().await.unwrap();
            check.abort();
            assert!(check.await.unwrap_err().is_cancelled());
            ends.push(end);
        }
        assert!(CHECKS.try_acquire().is_err(), "four run on");
        drop(ends);
        assert_eq!(checked(|| 1).await, Some(1));
    }

    #[tokio::test]
    async fn long_chains_and_long_payloads_are_checked_all_the_same() {
        let chain = doubling(budget::MOST_REFERENCES - 2, |next| next);
        assert_eq!(check(chain.clone(), "1").await, SchemaCheck::Unchecked, "deeper than it may go");
        let chain = doubling(100, |next| next);
        assert_eq!(check(chain.clone(), "1").await, SchemaCheck::Valid);
        assert_eq!(pointers(check(chain, "1.5").await), ["/payload"]);
        let list =
            json!({ "items": { "$ref": "#/$defs/n" }, "$defs": { "n": { "type": "integer", "format": "uint8" } } });
        let many = |end: &str| format!("[{}{end}]", "1,".repeat(200_000));
        assert_eq!(check(list.clone(), &many("1")).await, SchemaCheck::Valid);
        assert_eq!(pointers(check(list.clone(), &many("\"\"")).await), ["/payload/200000"]);
        let wrong = format!("[{}1]", "\"\",".repeat(100_000));
        assert_eq!(pointers(check(list, &wrong).await).len(), 1, "the others are not even made");
    }

    #[tokio::test]
    async fn a_catastrophic_pattern_takes_no_time() {
        let schema = json!({ "pattern": "^(a+)+$" });
        let payload = format!("\"{}!\"", "a".repeat(100_000));
        assert_eq!(pointers(check(schema, &payload).await), ["/payload"]);
    }
}
