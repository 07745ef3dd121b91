//! CAs for tests, and their certificates.

use std::{fmt, path::PathBuf};

use leveret::Config;
use leveret_harness::NodeTls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, date_time_ymd,
};

/// Certifies brokers and clients.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
#[derive(Debug)]
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authority").field(&self.pem()).finish()
    }
}

impl Authority {
    /// A CA with this name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A CA that certifies hosts and is itself the certificate of a host, as `openssl req -x509` creates it.
    pub fn of_itself(host: &str, is_expired: bool) -> (Self, Certified) {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(host);
        if is_expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let pem = key.serialize_pem();
        let itself = Self(CertifiedIssuer::self_signed(params, key).unwrap());
        let certified = Certified { certificate: itself.pem(), key: pem };
        (itself, certified)
    }

    /// A certificate for a host, or a user, of this name.
    pub fn certify(&self, name: &str) -> Certified {
        self.issue(name, |_| {})
    }

    /// A certificate that expired long ago.
    pub fn certify_until_2001(&self, name: &str) -> Certified {
        self.issue(name, |params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        })
    }

    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name = named(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Certified { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }

    /// The TLS files of a node with this certificate, which accepts clients with certificates of this CA.
    pub fn node(&self, certified: &Certified, mutual: bool) -> NodeTls {
        let Certified { certificate, key } = certified;
        NodeTls { authority: self.pem(), certificate: certificate.clone(), key: key.clone(), mutual }
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// The files of a client's settings.
#[derive(Debug)]
pub struct Files(tempfile::TempDir);

impl Files {
    /// Files with this CA as `ca.crt`.
    pub fn of(authority: &Authority) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        std::fs::write(files.path("ca.crt"), authority.pem()).unwrap();
        files
    }

    /// The path of a file: `ca.crt`, `tls.crt`, `tls.key`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Lays the client's certificate there, in the place of the one before.
    pub fn lay(&self, certified: &Certified) {
        std::fs::write(self.path("tls.key"), &certified.key).unwrap();
        std::fs::write(self.path("tls.crt"), &certified.certificate).unwrap();
    }

    /// The settings for this address, without a certificate of the client's own.
    pub fn config(&self, url: &str) -> Config {
        Config { amqp_url: vec![url.to_owned()], tls_ca: Some(self.path("ca.crt")), ..Config::default() }
    }

    /// The settings for this address, with that certificate.
    pub fn mutual(&self, url: &str) -> Config {
        let (cert, key) = (self.path("tls.crt"), self.path("tls.key"));
        Config { tls_cert: Some(cert), tls_key: Some(key), ..self.config(url) }
    }
}
