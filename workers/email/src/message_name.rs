//! The name of a mail, derived from the job's id: the left part of its Message-ID, and its file name in `MAIL_DIR`.
//!
//! The same id gives the same name. A job that runs twice therefore sends the same Message-ID, by which mail servers and
//! readers drop copies, and overwrites its file. Different ids give different names.

use sha2::{Digest, Sha256};

const PLAIN_LIMIT: usize = 64;
const READABLE: usize = 40;

/// Returns the name of a job's mail: a plain id (such as a UUID) unchanged, any other id as `readable=hash`.
///
/// A plain id has lower-case ASCII letters, digits and `_`, with `-` and single dots inside. It has no `=`, so a hashed
/// name never equals a plain id. Upper case is hashed because some file systems ignore case. A leading `-` is hashed because
/// a shell would pass it as an option.
#[must_use]
pub fn message_name(job_id: &str) -> String {
    if is_plain(job_id) {
        return job_id.to_owned();
    }
    let digest = Sha256::digest(job_id.as_bytes());
    format!("{}={}", readable(job_id), leveret::text::hex(&digest[..16]))
}

fn is_plain(id: &str) -> bool {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    (1..=PLAIN_LIMIT).contains(&id.len())
        && id.bytes().all(allowed)
        && !id.starts_with(['.', '-'])
        && !id.ends_with('.')
        && !id.contains("..")
}

fn readable(id: &str) -> String {
    id.chars().take(READABLE).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::message_name;

    #[test]
    fn a_uuid_names_its_mail_as_it_is() {
        let id = "01937c3e-8d5b-7c11-b0a4-3f6d2c1e9a70";
        assert_eq!(message_name(id), id);
        assert_eq!(message_name("order.1001_b"), "order.1001_b");
    }

    #[test]
    fn hostile_ids_get_names_that_are_safe_short_and_different() {
        let long = "x".repeat(255);
        let wide = "é".repeat(127);
        let ids = [
            "",
            ".",
            "..",
            "a..b",
            ".hidden",
            "dot.",
            "../../etc/passwd",
            "/etc/passwd",
            "a/b",
            "a\\b",
            "a\0b",
            "A",
            "a b",
            "a\r\nBcc: x",
            "<a@b>",
            "\"",
            "%00",
            "ORD-1",
            "ord-1",
            &long,
            &wide,
            "日本",
            "a=b",
            "-rf",
        ];
        let mut names = HashSet::new();
        for id in ids {
            let name = message_name(id);
            assert!(name.len() <= 80, "{id:?} -> {name}");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=".contains(&b)), "{id:?} -> {name}");
            assert!(!name.starts_with(['.', '-']) && !name.ends_with('.') && !name.contains(".."), "{id:?} -> {name}");
            assert_eq!(name, message_name(id));
            assert!(names.insert(name.to_lowercase()), "{id:?} -> {name} is taken");
        }
    }

    #[test]
    fn no_id_can_take_the_name_of_another() {
        let victim = message_name("Order 7");
        assert_ne!(message_name(&victim), victim);
    }
}
