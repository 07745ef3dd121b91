//! Exports traces to a collector in batches, on a thread of the SDK that no job waits for.

use std::{
    env,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::{InstrumentationScope, trace::TracerProvider};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData},
};
use tracing::{Level, Metadata};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};
#[cfg(feature = "tls")]
use ureq::tls::{PemItem, RootCerts, parse_pem};

#[cfg(feature = "tls")]
use crate::config::without_bom;
use crate::error::Error;
use crate::observe::telemetry::setting;

/// Schema of the semantic conventions that name the spans.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.44.0";
/// Longest wait for a collector at the end of a process; shorter than what the default drain leaves of the grace
/// period.
const FLUSHED_WITHIN: Duration = Duration::from_secs(2);
const LARGEST_ANSWER: u64 = 64 * 1024;

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
#[cfg(feature = "tls")]
const CERTIFICATES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];

/// Exports the remaining traces when it is dropped.
pub(super) struct Traces(SdkTracerProvider);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSHED_WITHIN) {
            tracing::warn!(%error, "the last traces are not exported");
        }
    }
}

/// Returns the first of these variables that is set, with its value.
fn first(names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, env::var(name).ok().filter(|value| !value.is_empty())?)))
}

fn is(name: &str, value: &str) -> bool {
    env::var(name).is_ok_and(|found| found.eq_ignore_ascii_case(value))
}

/// Returns whether a span or an event is exported: all from level `info` on. Excluded are the libraries that carry jobs
/// and traces, and the span that logs have for an attempt.
fn is_exported(of: &Metadata<'_>) -> bool {
    const CARRIERS: [&str; 6] = ["lapin", "opentelemetry", "ureq", "hyper", "h2", "rustls"];
    let is_carrier = CARRIERS.iter().any(|name| of.target().starts_with(name));
    let is_for_logs = of.is_span() && of.target() == "leveret::attempt::task";
    *of.level() <= Level::INFO && !is_carrier && !is_for_logs
}

/// Returns the layer that turns spans into traces, and their exporter; `None` if no collector is set.
pub(super) fn start<S>(service: &str) -> Result<Option<(impl Layer<S> + Send + Sync, Traces)>, Error>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let Some((variable, endpoint)) = first(ENDPOINTS) else { return Ok(None) };
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return Ok(None);
    }
    if let Some((variable, protocol)) = first(PROTOCOLS)
        && protocol != "http/protobuf"
    {
        return Err(setting(variable, &format!("{protocol:?} is not supported: use http/protobuf")));
    }
    if endpoint.starts_with("https://") && !cfg!(feature = "tls") {
        return Err(setting(variable, &"https requires the feature tls"));
    }
    let client = client()?;
    let reason = Arc::clone(&client.reason);
    let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).with_http_client(client);
    let exporter = exporter.build().map_err(|error| setting(variable, &error))?;
    let exporter = Exporter { inner: exporter, reason, fails: AtomicBool::new(false) };
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(service)).build();
    let version = env!("CARGO_PKG_VERSION");
    let scope = InstrumentationScope::builder("leveret").with_version(version).with_schema_url(SCHEMA).build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer_with_scope(scope))
        .with_error_events_to_status(false)
        .with_error_events_to_exceptions(false)
        .with_location(false)
        .with_tracked_inactivity(false)
        .with_threads(false)
        .with_level(false)
        .with_target(false)
        .with_filter(filter_fn(is_exported).with_max_level_hint(tracing::level_filters::LevelFilter::INFO));
    Ok(Some((layer, Traces(provider))))
}

fn resource(service: &str) -> Resource {
    // The SDK would invent a service name; a name from the environment has priority.
    let is_named = env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
    let resource = Resource::builder();
    if is_named { resource.build() } else { resource.with_service_name(service.to_owned()).build() }
}

/// Exporter that logs its first failure and its recovery.
#[derive(Debug)]
struct Exporter {
    inner: SpanExporter,
    reason: Reason,
    fails: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.inner.export(batch).await;
        let failed_before = self.fails.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !failed_before => {
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).take();
                let error = reason.unwrap_or_else(|| error.to_string());
                tracing::warn!(error, "traces cannot be exported: they are lost until the collector answers");
            }
            Ok(()) if failed_before => tracing::info!("traces are exported again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Blocking client, which its own thread allows. It creates no spans.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    reason: Reason,
}

/// Error of the last failed export; the SDK reports only that it failed.
type Reason = Arc<Mutex<Option<String>>>;

fn client() -> Result<Client, Error> {
    let timeout = first(TIMEOUTS).and_then(|(_, ms)| ms.parse().ok()).unwrap_or(10_000);
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_millis(timeout)))
        .http_status_as_error(false)
        .user_agent(concat!("leveret/", env!("CARGO_PKG_VERSION")));
    #[cfg(feature = "tls")]
    let config = config.tls_config(
        ureq::tls::TlsConfig::builder()
            .root_certs(roots()?)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build(),
    );
    Ok(Client { agent: config.build().into(), reason: Reason::default() })
}

/// Returns the trusted CAs of the collector: those of the configured file, or else those that the system trusts.
#[cfg(feature = "tls")]
fn roots() -> Result<RootCerts, Error> {
    let Some((variable, file)) = first(CERTIFICATES) else { return Ok(RootCerts::PlatformVerifier) };
    let wrong = |reason: &dyn std::fmt::Display| setting(variable, &format!("{file:?}: {reason}"));
    let pem = std::fs::read(&file).map_err(|error| wrong(&error))?;
    let mut found = Vec::new();
    for item in parse_pem(without_bom(&pem)) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(&error))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(wrong(&"it contains no certificate")) } else { Ok(found.into()) }
}

impl HttpClient for Client {
    fn send_bytes<'this, 'future>(
        &'this self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'this: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let answer = self.agent.run(request.map(|body| body.to_vec())).inspect_err(|error| {
                *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            })?;
            let (parts, mut body) = answer.into_parts();
            let body = body.with_config().limit(LARGEST_ANSWER).read_to_vec()?;
            Ok(Response::from_parts(parts, body.into()))
        })
    }
}
