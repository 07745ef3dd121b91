//! The extractors of all handlers: axum's own, with every rejection as a [`Problem`].

use std::{
    fmt::{self, Display},
    marker::PhantomData,
    str::FromStr,
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{CONTENT_ENCODING, CONTENT_TYPE},
        request::Parts,
    },
};
use leveret_store::Cursor;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use tokio::time::timeout;
use utoipa::{IntoParams, openapi::path::Parameter};

use super::problem::Problem;
use crate::{field_error::FieldError, services::Services};

const READ_WITHIN: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The parameters of a path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(crate) struct Path<T>(pub(crate) T);

/// The parameters of a query. An unknown parameter is an error, because a filter that is ignored selects too much.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + IntoParams> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        check_names(&parts.uri, &T::into_params(|| None))?;
        Ok(Self(read_query(&parts.uri)?))
    }
}

/// The parameters of a query, of two types.
pub(crate) struct Queries<A, B>(pub(crate) A, pub(crate) B);

impl<S, A, B> FromRequestParts<S> for Queries<A, B>
where
    S: Send + Sync,
    A: DeserializeOwned + IntoParams,
    B: DeserializeOwned + IntoParams,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        check_names(&parts.uri, &[A::into_params(|| None), B::into_params(|| None)].concat())?;
        Ok(Self(read_query(&parts.uri)?, read_query(&parts.uri)?))
    }
}

fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    Ok(axum::extract::Query::try_from_uri(uri)?.0)
}

fn check_names(uri: &Uri, known: &[Parameter]) -> Result<(), Problem> {
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let unusable = pairs.into_iter().find_map(|(name, value)| unusable(known, &name, &value));
    unusable.map_or(Ok(()), |error| Err(Problem::invalid_field(error)))
}

fn unusable(known: &[Parameter], name: &str, value: &str) -> Option<FieldError> {
    let names = || known.iter().map(|parameter| parameter.name.as_str());
    if !names().any(|known| known == name) {
        return Some(FieldError::unknown("", "no such parameter:", name, names()));
    }
    // A text of PostgreSQL cannot have this character.
    value.contains('\0').then(|| FieldError::new("", format!("{name}: may not contain U+0000")))
}

/// The page of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<String>)]
    pub(crate) after: Option<Cursor>,
    /// The greatest number of items; 100 unless set.
    #[serde(default = "default_page_limit", deserialize_with = "page_limit")]
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: u32,
}

/// A wait for an end.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Waits until the end, but not longer than this; at most 60s.
    #[serde(default, deserialize_with = "wait")]
    #[param(value_type = Option<String>, pattern = "^[0-9]+(us|ms|s|m|h)?$", example = "10s")]
    pub(crate) wait: Option<Duration>,
}

fn wait<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let wait = leveret::duration(&String::deserialize(from)?).map_err(D::Error::custom)?;
    if wait > LONGEST_WAIT { Err(D::Error::custom("must be at most 60s")) } else { Ok(Some(wait)) }
}

/// An operation without parameters in its query.
#[derive(Deserialize)]
pub(crate) struct NoQuery {}

impl IntoParams for NoQuery {
    fn into_params(_: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>) -> Vec<Parameter> {
        Vec::new()
    }
}

/// Reads a parameter that is a text. An empty one counts as absent.
pub(crate) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(from)?).filter(|text| !text.is_empty()))
}

/// Reads a parameter by its `FromStr`.
pub(crate) fn parsed<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    String::deserialize(from)?.parse().map(Some).map_err(D::Error::custom)
}

/// Reads the length of a page.
pub(crate) fn page_limit<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let limit = String::deserialize(from)?.parse().ok().filter(|limit| (1..=1000).contains(limit));
    limit.ok_or_else(|| D::Error::custom("must be a whole number from 1 to 1000"))
}

/// The length of a page unless the query sets one.
pub(crate) fn default_page_limit() -> u32 {
    100
}

/// The greatest size of a body in bytes.
pub(crate) trait BodyLimit {
    fn bytes(config: &leveret::Config) -> usize;
}

/// A JSON body: its value, and the bytes that were sent.
pub(crate) struct Json<T, L> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
    limit: PhantomData<L>,
}

impl<T: DeserializeOwned, L: BodyLimit> FromRequest<Services> for Json<T, L> {
    type Rejection = Problem;

    async fn from_request(mut request: Request, services: &Services) -> Result<Self, Problem> {
        check_type(request.headers())?;
        let limit = L::bytes(services.broker.config());
        DefaultBodyLimit::max(limit).apply(&mut request);
        let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long to come");
        let bytes = timeout(READ_WITHIN, Bytes::from_request(request, services)).await.map_err(slow)?;
        let bytes = bytes.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(limit),
            _ => Problem::new(StatusCode::BAD_REQUEST, "bad-request", "the body ended before its time"),
        })?;
        let axum::Json(value) = axum::Json::from_bytes(&bytes)?;
        Ok(Self { value, bytes, limit: PhantomData })
    }
}

/// A body is JSON without a content encoding, whatever its kind of JSON is called.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let kind = text(CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    let is_plain = text(CONTENT_ENCODING).is_none_or(|encoding| encoding.eq_ignore_ascii_case("identity"));
    if is_json && is_plain {
        return Ok(());
    }
    Err(Problem::unsupported_media_type("the body must be application/json, without a content encoding"))
}

/// A struct that is read from a JSON object only. Serde would also take its fields in order from an array.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        from.deserialize_map(ObjectVisitor(PhantomData))
    }
}
