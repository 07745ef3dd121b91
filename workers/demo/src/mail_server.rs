//! A small mail server on the loopback interface. It is down at first, then writes every mail into a file and refuses
//! closed mailboxes.

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

/// Closed mailboxes, which the server refuses.
const CLOSED: [&str; 2] = ["olga@example.net", "former.colleague@example.com"];

const CONNECTIONS: u32 = 128;

/// A mail server, which stops when it is dropped.
#[derive(Debug)]
pub struct MailServer {
    /// The reserved port before the start; connections to it are refused.
    reserved: Option<TcpSocket>,
    address: SocketAddr,
    dir: PathBuf,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// State that all connections share.
#[derive(Debug)]
struct MailStore {
    dir: PathBuf,
    unnamed: AtomicUsize,
}

impl MailServer {
    /// Reserves a free port for a server that writes mails to `dir`. The server is down until [`MailServer::start`].
    ///
    /// # Errors
    ///
    /// No port is free.
    pub fn reserve(dir: PathBuf) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let (address, stop) = (socket.local_addr()?, CancellationToken::new());
        Ok(Self { reserved: Some(socket), address, dir, stop: stop.clone(), _stop_when_dropped: stop.drop_guard() })
    }

    /// Returns the address as an `SMTP_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Starts the server if it is down.
    ///
    /// # Errors
    ///
    /// The server cannot listen on the port.
    pub fn start(&mut self) -> io::Result<()> {
        let Some(socket) = self.reserved.take() else { return Ok(()) };
        let listener = socket.listen(CONNECTIONS)?;
        let mails = Arc::new(MailStore { dir: self.dir.clone(), unnamed: AtomicUsize::new(1) });
        let stop = self.stop.clone();
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let session = serve(BufStream::new(stream), Arc::clone(&mails));
                tokio::spawn(stop.clone().run_until_cancelled_owned(session));
            }
        }));
        Ok(())
    }
}

/// Serves a client until it leaves or the connection fails.
async fn serve(mut stream: BufStream<TcpStream>, mails: Arc<MailStore>) -> io::Result<()> {
    send_line(&mut stream, "220 demo.example mail server").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match reply_to(line.trim_end()) {
            ServerReply::Text(words) => send_line(&mut stream, words).await?,
            ServerReply::ReceiveMail => {
                send_line(&mut stream, "354 end with a dot").await?;
                let mail = read_mail(&mut stream).await?;
                mails.store(&mail).await?;
                send_line(&mut stream, "250 2.0.0 kept").await?;
            }
            ServerReply::Quit => return send_line(&mut stream, "221 2.0.0 bye").await,
        }
    }
}

enum ServerReply {
    Text(&'static str),
    ReceiveMail,
    Quit,
}

fn reply_to(line: &str) -> ServerReply {
    let command = line.to_ascii_uppercase();
    let verb = command.split([' ', ':']).next().unwrap_or_default();
    let recipient = line.split(['<', '>']).nth(1).unwrap_or_default();
    match verb {
        "EHLO" => ServerReply::Text("250-demo.example\r\n250 8BITMIME"),
        "HELO" | "MAIL" | "RSET" | "NOOP" => ServerReply::Text("250 2.0.0 fine"),
        "RCPT" if CLOSED.contains(&recipient) => ServerReply::Text("550 5.1.1 this mailbox has been closed"),
        "RCPT" => ServerReply::Text("250 2.1.5 fine"),
        "DATA" => ServerReply::ReceiveMail,
        "QUIT" => ServerReply::Quit,
        _ => ServerReply::Text("502 5.5.1 not known here"),
    }
}

async fn send_line(stream: &mut BufStream<TcpStream>, words: &str) -> io::Result<()> {
    stream.write_all(format!("{words}\r\n").as_bytes()).await?;
    stream.flush().await
}

/// Reads a mail up to the final dot, and removes the dots that SMTP adds.
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

impl MailStore {
    /// Writes the mail into a file named after its Message-ID, so that a second copy replaces the first.
    async fn store(&self, mail: &[u8]) -> io::Result<()> {
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

/// Returns the file of the mail with this label, such as `mail-1` or `checkout1:confirm`.
#[must_use]
pub fn path_of(dir: &Path, label: &str) -> PathBuf {
    dir.join(format!("{}.eml", label.replace(':', "_")))
}

/// Returns the label of the job, which follows the id of the run in the Message-ID. The mail of a step of a workflow has
/// `run_label=hash` there.
fn name_in(mail: &str) -> Option<String> {
    let header = mail.lines().take_while(|line| !line.is_empty());
    let id = header.filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case("Message-ID"))?.1;
    let name = id.trim_start_matches('<').split_once('@')?.0;
    let (_, label) = match name.split_once('=') {
        Some((readable, _)) => readable.split_once('_')?,
        None => name.split_once('.')?,
    };
    let plain = label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    (plain && !label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_named_after_its_job_whatever_its_text() {
        let mail = "From: a\r\nMessage-ID: <1f2e3d4c.t-2026-00001@localhost>\r\n\r\nMessage-ID: <x.y@z>\r\n";
        assert_eq!(name_in(mail).as_deref(), Some("t-2026-00001"));
        let step = "Message-ID: <1f2e3d4c_checkout1_confirm=0123456789abcdef@localhost>\r\n\r\n";
        let label = name_in(step).unwrap();
        assert_eq!(path_of(Path::new("m"), &label), path_of(Path::new("m"), "checkout1:confirm"));
        for other in
            ["Message-ID: <run.../etc/passwd@localhost>\r\n\r\n", "Message-ID: <alone@localhost>\r\n", "a: b\r\n"]
        {
            assert_eq!(name_in(other), None, "{other}");
        }
    }

    #[test]
    fn closed_mailboxes_are_refused_and_others_are_not() {
        assert!(matches!(reply_to("RCPT TO:<olga@example.net>"), ServerReply::Text(words) if words.starts_with("550")));
        assert!(matches!(reply_to("RCPT TO:<olga@example.com>"), ServerReply::Text(words) if words.starts_with("250")));
    }
}
