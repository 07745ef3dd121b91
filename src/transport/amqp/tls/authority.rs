//! The name of the authority that a certificate is of, for whoever has to find it.

/// An object identifier of X.520, and how it is written.
const PARTS: [(&[u8], &str); 3] = [(&[0x55, 4, 3], "CN"), (&[0x55, 4, 0x0b], "OU"), (&[0x55, 4, 0x0a], "O")];

/// `CN=Shop CA, O=Shop`; none if the certificate cannot be read, or its authority has none of these names.
///
/// The certificate may be anybody's, so nothing is taken on trust but its end.
pub(super) fn issuer(certificate: &[u8]) -> Option<String> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if let (VERSION, _, rest) = element(fields)? {
        fields = rest;
    }
    let (_, _serial, rest) = element(fields)?;
    let (_, _algorithm, rest) = element(rest)?;
    let (_, mut name, _) = element(rest)?;
    let mut parts = Vec::new();
    while let Some((_, set, rest)) = element(name) {
        parts.extend(part(set));
        name = rest;
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

const VERSION: u8 = 0xa0;

fn part(set: &[u8]) -> Option<String> {
    let (_, pair, _) = element(set)?;
    let (_, kind, rest) = element(pair)?;
    let (_, text, _) = element(rest)?;
    let (_, kind) = PARTS.iter().find(|(identifier, _)| *identifier == kind)?;
    Some(format!("{kind}={}", String::from_utf8_lossy(text).escape_debug()))
}

/// The first element of some DER: its tag, its content, and what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, length, rest @ ..] = der else { return None };
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], length.as_slice(), content].concat()
    }

    fn name(parts: &[(&[u8], &str)]) -> Vec<u8> {
        let part =
            |(kind, text): &(&[u8], &str)| der(0x31, &der(0x30, &[der(6, kind), der(0x0c, text.as_bytes())].concat()));
        der(0x30, &parts.iter().flat_map(part).collect::<Vec<_>>())
    }

    fn certificate(version: &[u8], name: &[u8]) -> Vec<u8> {
        let fields = [version, &der(2, b"1"), &der(0x30, b""), name, &der(0x30, b"validity")].concat();
        der(0x30, &[der(0x30, &fields), b"signature".to_vec()].concat())
    }

    #[test]
    fn the_authority_is_called_by_the_names_that_people_know() {
        let name = name(&[(&[0x55, 4, 6], "DE"), (&[0x55, 4, 3], "Shop\nCA"), (&[0x55, 4, 0x0a], "Shop")]);
        for version in [der(VERSION, &der(2, &[2])), Vec::new()] {
            assert_eq!(issuer(&certificate(&version, &name)).as_deref(), Some(r"CN=Shop\nCA, O=Shop"));
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_authority() {
        let whole = certificate(&der(VERSION, &der(2, &[2])), &name(&[(&[0x55, 4, 3], "CA")]));
        assert!(issuer(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(issuer(&whole[..end]), None, "{end}");
        }
        assert_eq!(issuer(&certificate(&[], &name(&[]))), None);
        assert_eq!(issuer(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
