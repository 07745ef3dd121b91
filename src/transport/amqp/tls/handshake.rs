//! The handshake, with the files as they are at that moment.

use std::{
    fmt::Display,
    fs, io,
    path::Path,
    sync::{Arc, OnceLock},
};

use lapin::tcp::RustlsConnector;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio::task::spawn_blocking;

use crate::transport::amqp::tls::{CA, CERT, Identity, KEY, Problem, Tls, authority};
use crate::{config::without_bom, error::Error, transport::amqp::shield::Socket};

impl Tls {
    /// Makes a fresh connection to `host` a private one.
    pub(in super::super) async fn shake_hands(&self, stream: Socket, host: &str) -> io::Result<Socket> {
        let unknown = Arc::new(OnceLock::new());
        let (files, seen) = (self.clone(), Arc::clone(&unknown));
        let client = spawn_blocking(move || files.client(seen)).await?;
        let client = client.map_err(|error| io::Error::other(Problem(error.to_string())))?;
        let shaken = stream.into_rustls(&RustlsConnector::from(client), host).await;
        shaken.map_err(|error| self.failed(error, host, unknown.get().map(String::as_str)))
    }

    /// Whether the files can be read and fit each other.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.ca.is_some() || self.identity.is_some() { self.client(Arc::default()).map(drop) } else { Ok(()) }
    }

    /// `unknown` gets the name of an authority that is not one of ours.
    fn client(&self, unknown: Arc<OnceLock<String>>) -> Result<ClientConfig, Error> {
        // What the program has chosen, such as one that is certified, goes before ours.
        let provider = CryptoProvider::get_default().cloned();
        let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
        let (roots, named) = self.roots()?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let inner = inner.map_err(|error| unusable(CA, error))?;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| unusable(CA, error))?;
        let builder =
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { inner, named, unknown }));
        let Some(identity) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let (chain, key) = identity.read()?;
        let wrong = |error| unusable(CERT, format!("{error}; is {KEY} the key of this certificate?"));
        builder.with_client_auth_cert(chain, key).map_err(wrong)
    }

    /// Those that may certify the broker, and the same as they are in the file of the settings.
    fn roots(&self) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Error> {
        let mut roots = RootCertStore::empty();
        let Some(file) = &self.ca else {
            // Those of the system that cannot be read are as if they were not there.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let none = "this system knows no authority at all: name a file of those that may certify the broker";
            return if roots.is_empty() { Err(unusable(CA, none)) } else { Ok((roots, Vec::new())) };
        };
        let named = certificates(CA, file)?;
        for certificate in &named {
            roots.add(certificate.clone()).map_err(|error| in_file(CA, file, error))?;
        }
        Ok((roots, named))
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let pem = fs::read(&self.key).map_err(|error| in_file(KEY, &self.key, error))?;
        let key = PrivateKeyDer::from_pem_slice(without_bom(&pem));
        let key = key.map_err(|error| in_file(KEY, &self.key, format!("no PEM of a private key: {error}")))?;
        Ok((certificates(CERT, &self.cert)?, key))
    }
}

fn certificates(setting: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = fs::read(file).map_err(|error| in_file(setting, file, error))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(without_bom(&pem)).collect();
    let certificates = read.map_err(|error| in_file(setting, file, error))?;
    if certificates.is_empty() {
        return Err(in_file(setting, file, "no PEM of a certificate is in it"));
    }
    Ok(certificates)
}

fn in_file(setting: &'static str, file: &Path, reason: impl Display) -> Error {
    unusable(setting, format!("{}: {reason}", file.display()))
}

fn unusable(setting: &'static str, reason: impl Display) -> Error {
    Error::Setting { setting, reason: reason.to_string() }
}

/// As rustls verifies, and notes whose certificate is refused for its authority.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    /// The certificates in the file of the settings.
    named: Vec<CertificateDer<'static>>,
    unknown: Arc<OnceLock<String>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if matches!(verified, Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)))
            && let Some(name) = authority::issuer(intermediates.last().unwrap_or(end_entity))
        {
            self.unknown.get_or_init(|| name);
        }
        // A broker may show the very certificate that the settings name, as one that certified itself does. webpki takes no
        // CA for a server, and says so only of one whose time is right. What is left to verify is the name; the handshake
        // proves that the key belongs to the certificate.
        if matches!(verified, Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))))
            && self.named.contains(end_entity)
        {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
