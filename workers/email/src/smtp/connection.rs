//! The connection to the mail server as bytes: plain or TLS, and what has come but was not read.

use std::{
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::client::TlsStream;

use super::{
    reply::{REPLY_LIMIT, ReplyReader, SmtpReply, shown},
    url::ServerTls,
};

/// An address that swallows packets must leave time for the host's others.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// A server that hangs up has said why before, if at all.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(super) struct SmtpConnection {
    stream: Stream,
    buffer: Vec<u8>,
    local: IpAddr,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is no connection, or none any more.
#[derive(Debug)]
pub(super) enum ConnectionError {
    /// The certificate, the version or the lack of TLS: it stays so until somebody changes a setting.
    Tls(String),
    Lost(String),
}

impl SmtpConnection {
    pub(super) async fn connect(host: &str, port: u16, deadline: Instant) -> Result<Self, ConnectionError> {
        let mut failed = ConnectionError::Lost("its name has no address".to_owned());
        for address in lookup_host((host, port)).await? {
            match Self::connect_to(address, deadline).await {
                Ok(wire) => return Ok(wire),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn connect_to(address: SocketAddr, deadline: Instant) -> Result<Self, ConnectionError> {
        let now = Instant::now();
        let until = now + (deadline.saturating_duration_since(now) / 3).min(CONNECT_LIMIT);
        let Ok(stream) = timeout_at(until, TcpStream::connect(address)).await else {
            return Err(ConnectionError::Lost(format!("no connection to {address} within {:?}", until - now)));
        };
        let stream = stream?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?.ip();
        Ok(Self { stream: Stream::Plain(stream), buffer: Vec::new(), local })
    }

    /// Goes on in TLS. What came before could be anybody's: it must not be taken for an answer of the server.
    pub(super) async fn encrypt(self, connector: &ServerTls) -> Result<Self, ConnectionError> {
        if self.has_unread() {
            return Err(ConnectionError::Lost(
                "bytes came before the connection was encrypted: they may be injected".to_owned(),
            ));
        }
        let Stream::Plain(stream) = self.stream else {
            return Err(ConnectionError::Lost("the connection is encrypted already".to_owned()));
        };
        let stream = connector.tls.connect(connector.name.clone(), stream).await?;
        Ok(Self { stream: Stream::Tls(Box::new(stream)), buffer: Vec::new(), local: self.local })
    }

    /// The address that the server sees, unless it is translated on the way.
    pub(super) fn local(&self) -> IpAddr {
        self.local
    }

    /// Tells whether bytes have come that belong to no reply so far.
    pub(super) fn has_unread(&self) -> bool {
        !self.buffer.is_empty()
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let sent = async {
            match &mut self.stream {
                Stream::Plain(stream) => stream.write_all(bytes).await,
                Stream::Tls(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
            }
        };
        Ok(sent.await?)
    }

    /// Fails if the server has said what nothing asked for, or has hung up, as far as that has come by now.
    pub(super) async fn expect_silence(&mut self) -> Result<(), ConnectionError> {
        // What has not come yet is not waited for.
        let polled = {
            let mut read = pin!(self.read());
            poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await
        };
        if let Poll::Ready(read) = polled
            && read? == 0
        {
            return Err(ConnectionError::Lost("it closed the connection".to_owned()));
        }
        if self.has_unread() {
            return Err(ConnectionError::Lost("an answer came that no command had asked for".to_owned()));
        }
        Ok(())
    }

    /// Reads the next reply.
    pub(super) async fn reply(&mut self) -> Result<SmtpReply, ConnectionError> {
        let mut reader = ReplyReader::default();
        loop {
            while let Some(line) = self.line() {
                if let Some(reply) = reader.line(&line).map_err(|error| ConnectionError::Lost(shown(&error)))? {
                    return Ok(reply);
                }
            }
            if self.buffer.len() > REPLY_LIMIT {
                return Err(ConnectionError::Lost("a line of its answer has no end".to_owned()));
            }
            if self.read().await? == 0 {
                // A line that was cut off may have gone on otherwise; what refuses has done so.
                let rest = std::mem::take(&mut self.buffer);
                let last = reader.line(&rest).ok().flatten().filter(SmtpReply::is_refusal);
                return last.ok_or_else(|| ConnectionError::Lost("it closed the connection".to_owned()));
            }
        }
    }

    /// Sends, and if that fails reads what the server said before it hung up.
    pub(super) async fn exchange(&mut self, bytes: &[u8]) -> Result<SmtpReply, ConnectionError> {
        match self.send(bytes).await {
            Ok(()) => self.reply().await,
            Err(error) => self.last_words().await.ok_or(error),
        }
    }

    /// The reply that came, if one did, before the server hung up.
    pub(super) async fn last_words(&mut self) -> Option<SmtpReply> {
        timeout(LAST_WORDS, self.reply()).await.ok()?.ok()
    }

    async fn read(&mut self) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.read_buf(&mut self.buffer).await,
            Stream::Tls(stream) => match stream.read_buf(&mut self.buffer).await {
                // Many servers hang up without TLS's own goodbye; the reply's last line tells whether it is whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        let is_tls = error.get_ref().is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>());
        let text = shown(&error.to_string());
        if is_tls { Self::Tls(format!("TLS failed: {text}")) } else { Self::Lost(text) }
    }
}
