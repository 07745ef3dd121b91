//! Reads the files that a mail attaches from a directory that other workers write, such as invoices.
//!
//! A job names the files. Only plain names of allowed types are read, so that no job can mail another file of the machine. A
//! pdf, picture or workbook must begin as its type does. A link may lead to a file in the directory.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::error::MailError;

/// Maximum files of one mail.
const COUNT_LIMIT: usize = 10;

/// Maximum time to read the files of one mail, within the ten seconds that a job has beside those of its mail server.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

/// The types of files that may be attached: extension, MIME type, and the first bytes of each such file.
const TYPES: [(&str, &str, &[u8]); 7] = [
    ("csv", "text/csv; charset=utf-8", b""),
    ("jpeg", "image/jpeg", b"\xff\xd8\xff"),
    ("jpg", "image/jpeg", b"\xff\xd8\xff"),
    ("pdf", "application/pdf", b"%PDF-"),
    ("png", "image/png", b"\x89PNG\r\n\x1a\n"),
    ("txt", "text/plain; charset=utf-8", b""),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", b"PK\x03\x04"),
];

/// A file that a mail attaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its name, also in the mail.
    pub name: String,
    /// Its MIME type.
    pub content_type: &'static str,
    /// Its content.
    pub content: Vec<u8>,
}

/// The directory of the files, and the bytes that one mail may attach.
#[derive(Debug, Clone)]
pub(crate) struct AttachmentStore {
    /// `None` if the setting is not set.
    pub(crate) dir: Option<PathBuf>,
    /// Maximum bytes of all files of one mail.
    pub(crate) limit: u64,
}

impl AttachmentStore {
    /// Reads the files on the blocking pool.
    pub(crate) async fn read(&self, names: Vec<String>) -> Result<Vec<Attachment>, MailError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.clone();
        let reading = tokio::task::spawn_blocking(move || store.read_all(names));
        // A network volume may hang. The circuit of the mail server is not to blame for it.
        match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => Err(MailError::AttachmentsUnread),
        }
    }

    fn read_all(&self, names: Vec<String>) -> Result<Vec<Attachment>, MailError> {
        let count = names.len();
        if count > COUNT_LIMIT {
            return Err(MailError::TooManyAttachments { count, limit: COUNT_LIMIT });
        }
        let dir = self.dir.as_deref().ok_or(MailError::NoAttachmentDir)?;
        let root = dir.canonicalize().map_err(|source| MailError::AttachmentDir { path: dir.to_owned(), source })?;
        let (mut files, mut room) = (Vec::new(), self.limit);
        for name in names {
            let file = self.read_one(&root, name, room)?;
            room -= file.content.len() as u64;
            files.push(file);
        }
        Ok(files)
    }

    fn read_one(&self, root: &Path, name: String, room: u64) -> Result<Attachment, MailError> {
        let refused = |name: &str, reason| MailError::AttachmentName { name: name.to_owned(), reason };
        let failed = |name: &str, source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => MailError::AttachmentMissing { name: name.to_owned() },
            io::ErrorKind::InvalidFilename => refused(name, "it is too long"),
            _ => MailError::AttachmentUnreadable { name: name.to_owned(), source },
        };
        let (content_type, beginning) = check_name(&name).map_err(|reason| refused(&name, reason))?;
        let path = root.join(&name).canonicalize().map_err(|source| failed(&name, source))?;
        if !path.starts_with(root) {
            return Err(refused(&name, "it is a link that leads out of MAIL_ATTACHMENT_DIR"));
        }
        // Checked before the file is opened, because opening a pipe waits for its writer.
        let checked = fs::symlink_metadata(&path).map_err(|source| failed(&name, source))?;
        if !checked.is_file() {
            return Err(refused(&name, "it is not a file"));
        }
        let mut content = Vec::new();
        let file = File::open(&path).map_err(|source| failed(&name, source))?;
        let opened = file.metadata().map_err(|source| failed(&name, source))?;
        // Another program that writes the directory may have put a link there in between.
        if (opened.dev(), opened.ino()) != (checked.dev(), checked.ino()) {
            return Err(MailError::AttachmentsUnread);
        }
        // One byte more than there is room for shows a file that is too large, also one that grows meanwhile.
        file.take(room + 1).read_to_end(&mut content).map_err(|source| failed(&name, source))?;
        if content.len() as u64 > room {
            return Err(MailError::AttachmentsTooLarge { name, limit: self.limit });
        }
        if !content.starts_with(beginning) {
            return Err(refused(&name, "its content is not of the type that its name says"));
        }
        Ok(Attachment { name, content_type, content })
    }
}

/// Returns the MIME type of a file with this name, and the bytes with which it begins.
fn check_name(name: &str) -> Result<(&'static str, &'static [u8]), &'static str> {
    let invisible =
        |letter: char| letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    match name {
        "" => return Err("it is empty"),
        _ if name.contains(['/', '\\']) => return Err("it must be a name without directories"),
        _ if name.starts_with('.') => return Err("it begins with a dot"),
        _ if name.chars().any(invisible) => return Err("it has a control character"),
        _ => {}
    }
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let found = TYPES.iter().find(|(of, ..)| of.eq_ignore_ascii_case(extension));
    let (_, content_type, beginning) = found.ok_or("its extension is none of csv, jpeg, jpg, pdf, png, txt, xlsx")?;
    Ok((content_type, beginning))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn store(dir: &Path, limit: u64) -> AttachmentStore {
        AttachmentStore { dir: Some(dir.to_owned()), limit }
    }

    async fn read(store: &AttachmentStore, names: &[&str]) -> Result<Vec<Attachment>, MailError> {
        store.read(names.iter().map(|name| (*name).to_owned()).collect()).await
    }

    #[tokio::test]
    async fn files_of_the_allowed_types_are_read_with_their_type() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Rechnung für Ann.PDF"), "%PDF-1.7 …").unwrap();
        fs::write(dir.path().join("a.csv"), "a,b\n").unwrap();
        symlink("a.csv", dir.path().join("latest.csv")).unwrap();
        let store = store(dir.path(), 1_000);
        let files = read(&store, &["Rechnung für Ann.PDF", "latest.csv"]).await.unwrap();
        let types: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.content_type)).collect();
        assert_eq!(types, [("Rechnung für Ann.PDF", "application/pdf"), ("latest.csv", "text/csv; charset=utf-8")]);
        assert_eq!(files[1].content, b"a,b\n");
    }

    #[tokio::test]
    async fn no_name_leads_to_another_file_of_the_machine() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("files");
        fs::create_dir_all(dir.join("folder.txt")).unwrap();
        fs::write(root.path().join("secret.txt"), "secret").unwrap();
        fs::write(dir.join(".hidden.txt"), "").unwrap();
        fs::write(dir.join("program.sh"), "").unwrap();
        fs::write(dir.join("none"), "").unwrap();
        fs::write(dir.join("false.pdf"), "<html>").unwrap();
        symlink(root.path().join("secret.txt"), dir.join("escape.txt")).unwrap();
        let (absolute, long) = (root.path().join("secret.txt").display().to_string(), "x".repeat(5_000) + ".txt");
        let store = store(&dir, 1_000);
        for (name, reason) in [
            ("", "empty"),
            ("../secret.txt", "without directories"),
            (&absolute, "without directories"),
            ("..\\secret.txt", "without directories"),
            (".hidden.txt", "begins with a dot"),
            ("a\r\nBcc: eve@example.org.txt", "control character"),
            ("a\0.txt", "control character"),
            ("fdp.\u{202e}txt", "control character"),
            ("program.sh", "extension"),
            ("none", "extension"),
            ("escape.txt", "leads out of MAIL_ATTACHMENT_DIR"),
            ("folder.txt", "not a file"),
            ("false.pdf", "not of the type"),
            (&long, "too long"),
        ] {
            let error = read(&store, &[name]).await.unwrap_err();
            assert!(matches!(error, MailError::AttachmentName { .. }), "{name:?}: {error}");
            assert!(error.to_string().contains(reason), "{name:?}: {error}");
        }
        let error = read(&store, &["missing.txt"]).await.unwrap_err();
        assert!(matches!(error, MailError::AttachmentMissing { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_files_of_a_mail_share_one_limit() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.txt"), "123456").unwrap();
        fs::write(dir.path().join("b.txt"), "1234").unwrap();
        assert_eq!(read(&store(dir.path(), 10), &["a.txt", "b.txt"]).await.unwrap().len(), 2);
        let error = read(&store(dir.path(), 9), &["a.txt", "b.txt"]).await.unwrap_err();
        assert!(matches!(&error, MailError::AttachmentsTooLarge { name, limit: 9 } if name == "b.txt"), "{error}");
        let error = read(&store(dir.path(), 9), &["a.txt"; 11]).await.unwrap_err();
        assert!(matches!(error, MailError::TooManyAttachments { count: 11, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_directory_that_is_not_set_or_not_there_is_the_fault_of_the_settings() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(&store(&dir.path().join("unmounted"), 9), &["a.txt"]).await.unwrap_err();
        assert!(matches!(error, MailError::AttachmentDir { .. }), "{error}");
        let unset = AttachmentStore { dir: None, limit: 9 };
        let error = read(&unset, &["a.txt"]).await.unwrap_err();
        assert!(matches!(error, MailError::NoAttachmentDir), "{error}");
        assert!(read(&unset, &[]).await.unwrap().is_empty());
    }
}
