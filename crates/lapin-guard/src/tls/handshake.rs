//! The TLS handshake, with the files as they are at that moment.

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

use super::{ClientIdentity, SettingNames, TlsFileError, TlsFiles, issuer::issuer};
use crate::{error::Explained, guard::Socket};

impl TlsFiles {
    /// Checks whether the files can be read and fit each other.
    ///
    /// # Errors
    ///
    /// [`TlsFileError`] for the first file that cannot be used.
    pub fn check(&self) -> Result<(), TlsFileError> {
        if self.ca.is_some() || self.identity.is_some() { self.client(Arc::default()).map(drop) } else { Ok(()) }
    }

    /// Makes a fresh connection to `host` private.
    pub(crate) async fn shake_hands(&self, stream: Socket, host: &str) -> io::Result<Socket> {
        let untrusted = Arc::new(OnceLock::new());
        let (files, seen) = (self.clone(), Arc::clone(&untrusted));
        let client = spawn_blocking(move || files.client(seen)).await?;
        let client = client.map_err(|error| io::Error::other(Explained(error.to_string())))?;
        let secured = stream.into_rustls(&RustlsConnector::from(client), host).await;
        secured.map_err(|error| self.explained(error, host, untrusted.get().map(String::as_str)))
    }

    /// Reads the files. The configuration stores the issuer of an untrusted certificate in `untrusted`.
    fn client(&self, untrusted: Arc<OnceLock<String>>) -> Result<ClientConfig, TlsFileError> {
        // The program's choice of a provider, such as a certified one, goes first.
        let provider = CryptoProvider::get_default().cloned();
        let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
        let SettingNames { ca, certificate, key, .. } = self.names;
        let (roots, named) = self.roots()?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let inner = inner.map_err(|error| unusable(ca, error))?;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| unusable(ca, error))?;
        let verifier = Verifier { inner, named, untrusted };
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let Some(identity) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let (chain, private) = identity.read(self.names)?;
        let wrong = |error| unusable(certificate, format!("{error}; is {key} the key of this certificate?"));
        builder.with_client_auth_cert(chain, private).map_err(wrong)
    }

    /// The CAs that may certify the broker, and the certificates of the CA file.
    fn roots(&self) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsFileError> {
        let ca = self.names.ca;
        let mut roots = RootCertStore::empty();
        let Some(file) = &self.ca else {
            // A CA of the system that cannot be read does not keep the others from being used.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let none = "this system has no CA at all: name a file of the CAs that may certify the broker";
            return if roots.is_empty() { Err(unusable(ca, none)) } else { Ok((roots, Vec::new())) };
        };
        let named = certificates(ca, file)?;
        for certificate in &named {
            roots.add(certificate.clone()).map_err(|error| in_file(ca, file, error))?;
        }
        Ok((roots, named))
    }
}

impl ClientIdentity {
    fn read(
        &self,
        names: SettingNames,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsFileError> {
        let pem = read(names.key, &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&pem);
        let none = |error| in_file(names.key, &self.key, format!("the file has no private key in PEM: {error}"));
        let key = key.map_err(none)?;
        Ok((certificates(names.certificate, &self.certificate)?, key))
    }
}

fn certificates(setting: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let pem = read(setting, file)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = read.map_err(|error| in_file(setting, file, error))?;
    if certificates.is_empty() {
        return Err(in_file(setting, file, "the file has no certificate in PEM"));
    }
    Ok(certificates)
}

/// The content of a file without a byte order mark, which some editors write.
fn read(setting: &'static str, file: &Path) -> Result<Vec<u8>, TlsFileError> {
    let mut content = fs::read(file).map_err(|error| in_file(setting, file, error))?;
    if content.starts_with(b"\xEF\xBB\xBF") {
        content.drain(..3);
    }
    Ok(content)
}

fn in_file(setting: &'static str, file: &Path, reason: impl Display) -> TlsFileError {
    unusable(setting, format!("{}: {reason}", file.display()))
}

fn unusable(setting: &'static str, reason: impl Display) -> TlsFileError {
    TlsFileError { setting, reason: reason.to_string() }
}

/// Verifies as rustls does, stores the issuer of an untrusted certificate, and trusts the very certificates of the CA
/// file.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    /// The certificates of the CA file.
    named: Vec<CertificateDer<'static>>,
    untrusted: Arc<OnceLock<String>>,
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
            && let Some(name) = issuer(intermediates.last().unwrap_or(end_entity))
        {
            self.untrusted.get_or_init(|| name);
        }
        // The broker may present the very certificate of the CA file, as a self-signed one does. webpki accepts no CA as
        // a server and reports that only within the certificate's validity. What is left to verify is the name. The
        // handshake proves that the key belongs to the certificate.
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
