//! A connection to the mail server, plain or TLS, with a buffer of unread bytes.

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

/// Time limit of one address, which leaves time for the other addresses of the host.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Time limit of the final reply, which a server sends before it closes the connection.
const FINAL_REPLY: Duration = Duration::from_secs(2);

pub(super) struct SmtpConnection {
    stream: MailStream,
    buffer: Vec<u8>,
    local: IpAddr,
}

enum MailStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Reason why a connection failed.
#[derive(Debug)]
pub(super) enum ConnectionError {
    /// The certificate or the version of TLS is wrong until a setting changes.
    Tls(String),
    Lost(String),
}

impl SmtpConnection {
    pub(super) async fn connect(host: &str, port: u16, deadline: Instant) -> Result<Self, ConnectionError> {
        let mut failed = ConnectionError::Lost("the host name has no address".to_owned());
        for address in lookup_host((host, port)).await? {
            match Self::connect_to(address, deadline).await {
                Ok(connection) => return Ok(connection),
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
        Ok(Self { stream: MailStream::Plain(stream), buffer: Vec::new(), local })
    }

    /// Starts TLS. An attacker can inject bytes before TLS, so unread bytes are an error.
    pub(super) async fn encrypt(self, connector: &ServerTls) -> Result<Self, ConnectionError> {
        if self.has_unread() {
            return Err(ConnectionError::Lost(
                "the server sent data before TLS started: it may be injected".to_owned(),
            ));
        }
        let MailStream::Plain(stream) = self.stream else {
            return Err(ConnectionError::Lost("the connection already uses TLS".to_owned()));
        };
        let stream = connector.tls.connect(connector.name.clone(), stream).await?;
        Ok(Self { stream: MailStream::Tls(Box::new(stream)), buffer: Vec::new(), local: self.local })
    }

    /// Returns the local address, which the server sees unless NAT translates it.
    pub(super) fn local(&self) -> IpAddr {
        self.local
    }

    /// Returns whether received bytes belong to no reply.
    pub(super) fn has_unread(&self) -> bool {
        !self.buffer.is_empty()
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let sent = async {
            match &mut self.stream {
                MailStream::Plain(stream) => stream.write_all(bytes).await,
                MailStream::Tls(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
            }
        };
        Ok(sent.await?)
    }

    /// Returns an error if the server has sent data without a command, or has closed the connection.
    pub(super) async fn expect_no_data(&mut self) -> Result<(), ConnectionError> {
        // One poll, so that the check does not wait for data.
        let polled = {
            let mut read = pin!(self.read());
            poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await
        };
        if let Poll::Ready(read) = polled
            && read? == 0
        {
            return Err(ConnectionError::Lost("the server closed the connection".to_owned()));
        }
        if self.has_unread() {
            return Err(ConnectionError::Lost("the server sent a reply without a command".to_owned()));
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
                return Err(ConnectionError::Lost("a line of the reply has no end".to_owned()));
            }
            if self.read().await? == 0 {
                // A cut line may be the beginning of another reply, but a refusal is certain.
                let rest = std::mem::take(&mut self.buffer);
                let last = reader.line(&rest).ok().flatten().filter(SmtpReply::is_refusal);
                return last.ok_or_else(|| ConnectionError::Lost("the server closed the connection".to_owned()));
            }
        }
    }

    /// Sends a command and reads the reply. If sending fails, reads the final reply of the server.
    pub(super) async fn exchange(&mut self, bytes: &[u8]) -> Result<SmtpReply, ConnectionError> {
        match self.send(bytes).await {
            Ok(()) => self.reply().await,
            Err(error) => self.final_reply().await.ok_or(error),
        }
    }

    /// Returns the reply that the server sent before it closed the connection.
    pub(super) async fn final_reply(&mut self) -> Option<SmtpReply> {
        timeout(FINAL_REPLY, self.reply()).await.ok()?.ok()
    }

    async fn read(&mut self) -> io::Result<usize> {
        match &mut self.stream {
            MailStream::Plain(stream) => stream.read_buf(&mut self.buffer).await,
            MailStream::Tls(stream) => match stream.read_buf(&mut self.buffer).await {
                // Many servers close without `close_notify` of TLS. The last line of the reply shows whether it is complete.
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
