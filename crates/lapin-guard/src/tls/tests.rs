use super::*;

fn refused(ca: Option<&str>, identity: Option<(&str, &str)>) -> String {
    let identity =
        identity.map(|(certificate, key)| ClientIdentity { certificate: certificate.into(), key: key.into() });
    let files = TlsFiles { ca: ca.map(Into::into), identity, names: SettingNames::default() };
    files.check().unwrap_err().to_string()
}

#[test]
fn an_error_names_the_setting_and_the_file_that_is_missing_or_has_no_pem() {
    let (missing, other) = ("/nowhere/at/all", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    assert!(refused(Some(missing), None).starts_with("the CA file: /nowhere/at/all: No such file"));
    assert!(refused(Some(other), None).ends_with("Cargo.toml: the file has no certificate in PEM"));
    assert!(refused(None, Some((other, missing))).starts_with("the client key: /nowhere/at/all: No such file"));
    assert!(refused(None, Some((missing, other))).contains("Cargo.toml: the file has no private key in PEM"));
    assert_eq!(TlsFiles::default().check(), Ok(()));
}
