//! TLS: a reason that is lost, and a broker that is its own CA.

use std::{io::Write, sync::Arc};

use async_rs::{Runtime, Tokio};
use lapin::{
    Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt, OwnedTLSConfig},
    uri::AMQPUri,
};
use lapin_guard::{ConnectError, Options, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::NamedTempFile;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::WebPkiClientVerifier,
    },
};

use crate::uri;

/// A certificate for `localhost` that is its own CA, as `openssl req -x509` makes it.
struct SelfSigned {
    pem: String,
    der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl SelfSigned {
    fn new() -> Self {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        Self { pem: issuer.pem(), der: issuer.der().clone(), key: der }
    }

    fn options(&self) -> (Options, NamedTempFile) {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(self.pem.as_bytes()).unwrap();
        let tls = TlsFiles { ca: Some(file.path().to_owned()), ..TlsFiles::default() };
        (Options { tls, ..Options::default() }, file)
    }

    fn of_lapin(&self) -> OwnedTLSConfig {
        OwnedTLSConfig { identity: None, cert_chain: Some(self.pem.clone()) }
    }
}

/// Starts a TLS server that requires client certificates if `mutual`, and resets each connection after its handshake. It adds a
/// permit for each reset.
async fn start(certificate: &SelfSigned, mutual: bool) -> (AMQPUri, Arc<Semaphore>) {
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = if mutual {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        config.with_client_cert_verifier(verifier)
    } else {
        config.with_no_client_auth()
    };
    let config = config.with_single_cert(vec![certificate.der.clone()], certificate.key.clone_key()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let resets = Arc::new(Semaphore::new(0));
    let counting = Arc::clone(&resets);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_zero_linger().unwrap();
            // A refusal is written before the error is returned, so that the alert is on its way before the reset.
            drop(acceptor.accept(stream).into_fallible().await);
            counting.add_permits(1);
        }
    });
    (uri(&format!("amqps://localhost:{port}")), resets)
}

async fn refused_by_guard(uri: &AMQPUri, options: &Options) -> ConnectError {
    lapin_guard::connect(uri, ConnectionProperties::default(), options).await.map(drop).unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn lapin_alone_loses_the_reason_of_a_broker_that_refuses_the_client_and_resets_the_connection() {
    let certificate = SelfSigned::new();
    let (uri, _) = start(&certificate, true).await;
    // Without a file of CAs the handshake would end before the broker's refusal.
    let (options, _file) = certificate.options();
    for _ in 0..5 {
        let error = refused_by_guard(&uri, &options).await;
        let wanted = "the broker requires a client certificate: set the client certificate and the client key";
        assert!(matches!(error, ConnectError::Tls(_)) && error.to_string().starts_with(wanted), "{error}");
    }
    // lapin's own TLS refuses such a broker for its certificate (next test), so this one has another.
    let ca = SelfSigned::new();
    let (issued, key) = issued();
    let (uri, resets) = start(&SelfSigned { pem: ca.pem, der: issued.1, key }, true).await;
    let tls = OwnedTLSConfig { identity: None, cert_chain: Some(issued.0) };
    // A client that comes to write only after the reset.
    let slowly = async move |uri: AMQPUri, runtime: Runtime<Tokio>| {
        let stream = uri.connect_with_config_async(tls.as_ref(), &runtime).await?;
        drop(resets.acquire().await);
        Ok(stream)
    };
    let alone = Connection::connector(uri, Runtime::tokio_current(), slowly, ConnectionProperties::default()).await;
    let error = alone.map(drop).unwrap_err().to_string();
    assert!(error.contains("reset") || error.contains("roken pipe"), "{error}");
    assert!(!error.contains("CertificateRequired"), "lapin alone now keeps the reason: {error}");
}

/// The PEM of a CA with a certificate that it issued for `localhost`, and the key of that.
fn issued() -> ((String, CertificateDer<'static>), PrivateKeyDer<'static>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    ((ca.pem(), certificate.der().clone()), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn lapin_alone_cannot_trust_a_broker_whose_certificate_is_its_own_ca() {
    let certificate = SelfSigned::new();
    let (uri, _) = start(&certificate, false).await;
    let (properties, runtime) = (ConnectionProperties::default(), Runtime::tokio_current());
    let alone = Connection::connect_uri_with_config(uri.clone(), properties, certificate.of_lapin(), runtime).await;
    let error = alone.map(drop).unwrap_err().to_string();
    assert!(error.contains("CaUsedAsEndEntity"), "lapin alone now trusts it: {error}");
    let (options, _file) = certificate.options();
    // The server speaks no AMQP: what fails is the step after the handshake.
    let error = refused_by_guard(&uri, &options).await;
    assert!(matches!(error, ConnectError::Amqp(_)), "{error:?}");
    let (other, _file) = SelfSigned::new().options();
    let error = refused_by_guard(&uri, &other).await;
    assert!(matches!(error, ConnectError::Tls(_)), "{error:?}");
}
