//! A small mail server on the loopback interface: down at first, then it writes every mail into a file and refuses the
//! mailboxes that it does not know.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    fs,
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::{TcpSocket, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Mailboxes that are refused: their owners have left.
const CLOSED: [&str; 2] = ["olga@example.net", "former.colleague@example.com"];

const CONNECTIONS: u32 = 128;

/// A mail server; it stops when this is dropped.
#[derive(Debug)]
pub struct MailServer {
    /// The port as long as it only is taken: connections to it are refused.
    reserved: Option<TcpSocket>,
    address: SocketAddr,
    dir: PathBuf,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// What every connection needs.
#[derive(Debug)]
struct Inbox {
    dir: PathBuf,
    unnamed: AtomicUsize,
}

impl MailServer {
    /// Takes a free port for a server that will write mails to `dir`, and is down until it is started.
    ///
    /// # Errors
    ///
    /// No port is to be had.
    pub fn reserve(dir: PathBuf) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let (address, stop) = (socket.local_addr()?, CancellationToken::new());
        Ok(Self { reserved: Some(socket), address, dir, stop: stop.clone(), _stop_when_dropped: stop.drop_guard() })
    }

    /// Its address as `SMTP_URL` has it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Goes up, if it is not.
    ///
    /// # Errors
    ///
    /// The port cannot be listened on.
    pub fn start(&mut self) -> io::Result<()> {
        let Some(socket) = self.reserved.take() else { return Ok(()) };
        let listener = socket.listen(CONNECTIONS)?;
        let inbox = Arc::new(Inbox { dir: self.dir.clone(), unnamed: AtomicUsize::new(1) });
        let stop = self.stop.clone();
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let conversation = converse(BufStream::new(stream), Arc::clone(&inbox));
                tokio::spawn(stop.clone().run_until_cancelled_owned(conversation));
            }
        }));
        Ok(())
    }
}

/// Answers a client until it leaves, or the connection breaks.
async fn converse(mut stream: BufStream<TcpStream>, inbox: Arc<Inbox>) -> io::Result<()> {
    say(&mut stream, "220 demo.example mail server").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match answer(line.trim_end()) {
            Answer::Say(words) => say(&mut stream, words).await?,
            Answer::TakeMail => {
                say(&mut stream, "354 end with a dot").await?;
                let mail = read_mail(&mut stream).await?;
                inbox.keep(&mail).await?;
                say(&mut stream, "250 2.0.0 kept").await?;
            }
            Answer::Leave => return say(&mut stream, "221 2.0.0 bye").await,
        }
    }
}

enum Answer {
    Say(&'static str),
    TakeMail,
    Leave,
}

fn answer(line: &str) -> Answer {
    let command = line.to_ascii_uppercase();
    let verb = command.split([' ', ':']).next().unwrap_or_default();
    let recipient = line.split(['<', '>']).nth(1).unwrap_or_default();
    match verb {
        "EHLO" => Answer::Say("250-demo.example\r\n250 8BITMIME"),
        "HELO" | "MAIL" | "RSET" | "NOOP" => Answer::Say("250 2.0.0 fine"),
        "RCPT" if CLOSED.contains(&recipient) => Answer::Say("550 5.1.1 this mailbox has been closed"),
        "RCPT" => Answer::Say("250 2.1.5 fine"),
        "DATA" => Answer::TakeMail,
        "QUIT" => Answer::Leave,
        _ => Answer::Say("502 5.5.1 not known here"),
    }
}

async fn say(stream: &mut BufStream<TcpStream>, words: &str) -> io::Result<()> {
    stream.write_all(format!("{words}\r\n").as_bytes()).await?;
    stream.flush().await
}

/// Reads up to the final dot, and takes away the dots that SMTP adds.
async fn read_mail(stream: &mut BufStream<TcpStream>) -> io::Result<Vec<u8>> {
    let mut mail = Vec::new();
    loop {
        let start = mail.len();
        if stream.read_until(b'\n', &mut mail).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if &mail[start..] == b".\r\n" {
            mail.truncate(start);
            return Ok(mail);
        }
        if mail[start..].starts_with(b"..") {
            mail.remove(start);
        }
    }
}

impl Inbox {
    /// Writes the mail into a file named after its Message-ID, so that a mail that comes twice is there once.
    async fn keep(&self, mail: &[u8]) -> io::Result<()> {
        let name = match name_in(&String::from_utf8_lossy(mail)) {
            Some(name) => name,
            None => format!("unnamed-{}", self.unnamed.fetch_add(1, Ordering::Relaxed)),
        };
        fs::write(self.path(&name), mail).await
    }

    fn path(&self, name: &str) -> PathBuf {
        path_of(&self.dir, name)
    }
}

/// The file of the mail with this label.
#[must_use]
pub fn path_of(dir: &Path, label: &str) -> PathBuf {
    dir.join(format!("{label}.eml"))
}

/// The job's label: what follows the run's id in the left part of the Message-ID.
fn name_in(mail: &str) -> Option<String> {
    let header = mail.lines().take_while(|line| !line.is_empty());
    let id = header.filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case("Message-ID"))?.1;
    let (_, label) = id.trim_start_matches('<').split_once('@')?.0.split_once('.')?;
    let plain = label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    (plain && !label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_named_after_its_job_whatever_its_words() {
        let mail = "From: a\r\nMessage-ID: <1f2e3d4c.t-2026-00001@localhost>\r\n\r\nMessage-ID: <x.y@z>\r\n";
        assert_eq!(name_in(mail).as_deref(), Some("t-2026-00001"));
        for other in
            ["Message-ID: <run.../etc/passwd@localhost>\r\n\r\n", "Message-ID: <alone@localhost>\r\n", "a: b\r\n"]
        {
            assert_eq!(name_in(other), None, "{other}");
        }
    }

    #[test]
    fn closed_mailboxes_are_refused_and_others_are_not() {
        assert!(matches!(answer("RCPT TO:<olga@example.net>"), Answer::Say(words) if words.starts_with("550")));
        assert!(matches!(answer("RCPT TO:<olga@example.com>"), Answer::Say(words) if words.starts_with("250")));
    }
}
