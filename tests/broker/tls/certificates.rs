//! Authorities of a test's own, and what they certify.

use std::path::PathBuf;

use leveret::Config;
use leveret_harness::NodeTls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, date_time_ymd,
};

pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(super) struct Certified {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(super) fn certify(&self, name: &str) -> Certified {
        self.issue(name, |_| {})
    }

    pub(super) fn certify_until_2001(&self, name: &str) -> Certified {
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

    /// For a node with this certificate, which takes those of this authority from clients.
    pub(super) fn node(&self, certified: &Certified, mutual: bool) -> NodeTls {
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
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn of(authority: &Authority) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        std::fs::write(files.path("ca.crt"), authority.pem()).unwrap();
        files
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Lays the client's certificate there, in the place of the one before.
    pub(super) fn lay(&self, certified: &Certified) {
        std::fs::write(self.path("tls.key"), &certified.key).unwrap();
        std::fs::write(self.path("tls.crt"), &certified.certificate).unwrap();
    }

    /// Without a certificate of the client's own.
    pub(super) fn config(&self, url: &str) -> Config {
        Config { amqp_url: vec![url.to_owned()], tls_ca: Some(self.path("ca.crt")), ..Config::default() }
    }

    pub(super) fn mutual(&self, url: &str) -> Config {
        let (cert, key) = (self.path("tls.crt"), self.path("tls.key"));
        Config { tls_cert: Some(cert), tls_key: Some(key), ..self.config(url) }
    }
}
