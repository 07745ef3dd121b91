//! A stand-in for an OpenTelemetry collector: it receives spans over HTTP as protobuf, and keeps them.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post, serve::Listener};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span, status::StatusCode as Status},
};
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
    server::TlsStream,
};

use crate::node::NodeTls;

type Kept = Arc<Mutex<Vec<Exported>>>;

/// A collector on a free port. Dropped, it is gone.
#[derive(Debug)]
pub struct Collector {
    endpoint: String,
    kept: Kept,
    server: JoinHandle<()>,
}

/// A span as it was exported; ids are hexadecimal, and empty where there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// `publish leveret.v1.jobs:email`.
    pub name: String,
    /// `Producer`, `Consumer`, `Client`, `Internal`, `Server`.
    pub kind: String,
    /// The trace.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// Its parent's id.
    pub parent: String,
    /// Its attributes, all as text.
    pub attributes: BTreeMap<String, String>,
    /// The message of its error status, if it has one.
    pub error: Option<String>,
    /// The names of its events.
    pub events: Vec<String>,
    /// The attribute `service.name` of its resource.
    pub service: String,
    /// The start, in nanoseconds since the epoch.
    pub began: u64,
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// When no port can be had.
    pub async fn start() -> Self {
        let (listener, port) = listen().await;
        Self::serve(listener, format!("http://127.0.0.1:{port}"))
    }

    /// Starts one that speaks TLS, as `localhost`.
    ///
    /// # Panics
    ///
    /// When no port can be had, or the certificate is none.
    pub async fn start_tls(tls: &NodeTls) -> Self {
        let (listener, port) = listen().await;
        Self::serve(TlsListener { listener, acceptor: acceptor(tls) }, format!("https://localhost:{port}"))
    }

    fn serve<L: Listener>(listener: L, endpoint: String) -> Self
    where
        L::Addr: std::fmt::Debug,
    {
        let kept = Kept::default();
        let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&kept));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.expect("it serves to the end") });
        Self { endpoint, kept, server }
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// The spans received so far, ordered by start.
    pub fn spans(&self) -> Vec<Exported> {
        let mut spans = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        spans.sort_by_key(|span| span.began);
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port must be free");
    let port = listener.local_addr().expect("a listener has an address").port();
    (listener, port)
}

fn acceptor(tls: &NodeTls) -> TlsAcceptor {
    let certificates = CertificateDer::pem_slice_iter(tls.certificate.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(certificates.expect("certificates"), key)
        .expect("they belong together");
    TlsAcceptor::from(Arc::new(config))
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // A client that does not trust the certificate disconnects.
            if let Ok((stream, address)) = self.listener.accept().await
                && let Ok(stream) = self.acceptor.accept(stream).await
            {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn take(State(kept): State<Kept>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let spans = request.resource_spans.into_iter().flat_map(of_resource);
    kept.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
    StatusCode::OK
}

fn of_resource(spans: ResourceSpans) -> Vec<Exported> {
    let resource = table(spans.resource.unwrap_or_default().attributes);
    let service = resource.get("service.name").cloned().unwrap_or_default();
    let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans.map(|span| exported(span, &service)).collect()
}

fn exported(span: Span, service: &str) -> Exported {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let status = span.status.clone().unwrap_or_default();
    Exported {
        kind: format!("{:?}", span.kind()),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        attributes: table(span.attributes),
        error: (status.code() == Status::Error).then_some(status.message),
        events: span.events.into_iter().map(|event| event.name).collect(),
        service: service.to_owned(),
        began: span.start_time_unix_nano,
        name: span.name,
    }
}

fn table(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|KeyValue { key, value, .. }| (key, text(value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}
