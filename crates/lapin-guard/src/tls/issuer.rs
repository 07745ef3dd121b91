//! The name of a certificate's issuer.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The issuer, such as `CN=Shop CA, O=Shop`. `None` if the certificate cannot be parsed or its issuer is empty.
pub(super) fn issuer(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    // The certificate may come from any server: control characters must not reach a log.
    let name = certificate.issuer().to_string().escape_debug().to_string();
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(names: &[(DnType, &str)]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn the_issuer_is_named_as_people_write_it() {
        let named = certificate(&[(DnType::CommonName, "Shop\nCA"), (DnType::OrganizationName, "Shop")]);
        assert_eq!(issuer(&named).as_deref(), Some(r"CN=Shop\nCA, O=Shop"));
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_issuer() {
        let whole = certificate(&[(DnType::CommonName, "CA")]);
        assert!(issuer(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(issuer(&whole[..end].into()), None, "{end}");
        }
        assert_eq!(issuer(&certificate(&[])), None);
    }
}
