//! A mail server for tests, which accepts every mail unless its script says otherwise.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// A reaction instead of the usual reply.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Do {
    Say(&'static str),
    /// Sends these bytes without a line end.
    SayBytes(&'static [u8]),
    SayBytesAndHangUp(&'static [u8]),
    /// Sends the usual reply after this many milliseconds.
    Late(u64),
    HangUp,
    KeepSilent,
}

/// The replies and extensions of the server.
#[derive(Default)]
pub(crate) struct Script {
    once: HashMap<&'static str, VecDeque<Do>>,
    always: HashMap<&'static str, &'static str>,
    features: Vec<&'static str>,
    acceptor: Option<TlsAcceptor>,
    implicit_tls: bool,
}

/// A running server, which stops when it is dropped.
pub(crate) struct Sink {
    port: u16,
    shared: Arc<Shared>,
    seen: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

struct Shared {
    script: Mutex<Script>,
    log: Mutex<Vec<String>>,
    mails: Mutex<Vec<Vec<u8>>>,
    count: watch::Sender<usize>,
}

impl Script {
    /// Sets the reaction to the next command of this verb (`CONNECT`, `EHLO`, `RCPT`, `BODY` for the end of a mail, ...).
    /// A second call sets the reaction to the command after it.
    pub(crate) fn on(mut self, verb: &'static str, reaction: Do) -> Self {
        self.once.entry(verb).or_default().push_back(reaction);
        self
    }

    /// Sets the reply to every command of this verb.
    pub(crate) fn always(mut self, verb: &'static str, answer: &'static str) -> Self {
        self.always.insert(verb, answer);
        self
    }

    pub(crate) fn feature(mut self, line: &'static str) -> Self {
        self.features.push(line);
        self
    }

    pub(crate) fn tls(mut self, acceptor: TlsAcceptor, implicit: bool) -> Self {
        self.acceptor = Some(acceptor);
        self.implicit_tls = implicit;
        self
    }

    pub(crate) async fn start(self) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (count, seen) = watch::channel(0);
        let shared =
            Arc::new(Shared { script: Mutex::new(self), log: Mutex::default(), mails: Mutex::default(), count });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Sink { port, shared, seen, task }
    }
}

impl Sink {
    pub(crate) async fn start() -> Self {
        Script::default().start().await
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}/client.example", self.port)
    }

    /// Returns all commands as `<connection> <line>`, in order of arrival.
    pub(crate) fn log(&self) -> Vec<String> {
        self.shared.log.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, verb: &str) -> usize {
        self.log().iter().filter(|line| verb_of(line.split_once(' ').unwrap().1) == verb).count()
    }

    /// Returns the accepted mails, without the dots that SMTP adds.
    pub(crate) fn mails(&self) -> Vec<Vec<u8>> {
        self.shared.mails.lock().unwrap().clone()
    }

    /// Waits for a command of this verb.
    pub(crate) async fn saw(&self, verb: &str) {
        let mut seen = self.seen.clone();
        while self.count(verb) == 0 {
            seen.changed().await.unwrap();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    for number in 1.. {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { serve(stream, number, &shared).await });
    }
}

async fn serve(stream: TcpStream, number: usize, shared: &Shared) -> Option<()> {
    let (acceptor, implicit) = {
        let script = shared.script.lock().unwrap();
        (script.acceptor.clone(), script.implicit_tls)
    };
    if implicit {
        let stream = acceptor?.accept(stream).await.ok()?;
        shared.converse(stream, number, true).await?;
        return Some(());
    }
    let plain = shared.converse(stream, number, true).await?;
    let stream = acceptor?.accept(plain).await.ok()?;
    shared.converse(stream, number, false).await?;
    Some(())
}

impl Shared {
    /// Serves the client until it leaves (`None`) or starts TLS (the stream).
    async fn converse<S>(&self, stream: S, number: usize, greet: bool) -> Option<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = BufReader::new(stream);
        if greet {
            self.react(&mut stream, number, "CONNECT", &self.usual("CONNECT")).await?;
        }
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let verb = verb_of(&line);
            let usual = self.usual(&verb);
            let accepted = self.react(&mut stream, number, line.trim_end(), &usual).await?;
            match verb.as_str() {
                "STARTTLS" if accepted => return Some(stream.into_inner()),
                "DATA" if accepted => self.take_mail(&mut stream, number).await?,
                "QUIT" => return None,
                _ => {}
            }
        }
    }

    fn usual(&self, verb: &str) -> String {
        let script = self.script.lock().unwrap();
        if let Some(answer) = script.always.get(verb) {
            return (*answer).to_owned();
        }
        match verb {
            "EHLO" => {
                let features: String = script.features.iter().map(|f| format!("250-{f}\r\n")).collect();
                format!("250-sink.example\r\n{features}250 8BITMIME")
            }
            "CONNECT" => "220 sink.example".to_owned(),
            "BODY" => "250 queued".to_owned(),
            "AUTH" => "235 welcome".to_owned(),
            "STARTTLS" => "220 go ahead".to_owned(),
            "DATA" => "354 end with a dot".to_owned(),
            "QUIT" => "221 bye".to_owned(),
            _ => "250 fine".to_owned(),
        }
    }

    async fn take_mail<S>(&self, stream: &mut BufReader<S>, number: usize) -> Option<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut mail = Vec::new();
        while !mail.ends_with(b"\r\n.\r\n") {
            mail.push(stream.read_u8().await.ok()?);
        }
        mail.truncate(mail.len() - 3);
        let text = String::from_utf8(mail).unwrap().replace("\r\n..", "\r\n.");
        if self.react(stream, number, "BODY", &self.usual("BODY")).await? {
            self.mails.lock().unwrap().push(text.into_bytes());
        }
        Some(())
    }

    /// Sends the reply to a command, and returns whether it is positive; `None` at the end of the session.
    async fn react<S>(&self, stream: &mut BufReader<S>, number: usize, line: &str, usual: &str) -> Option<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.log.lock().unwrap().push(format!("{number} {line}"));
        self.count.send_modify(|count| *count += 1);
        let verb = verb_of(line);
        let scripted = self.script.lock().unwrap().once.get_mut(verb.as_str()).and_then(VecDeque::pop_front);
        let usual = format!("{usual}\r\n").into_bytes();
        let answer = match scripted {
            Some(Do::HangUp) => return None,
            Some(Do::KeepSilent) => std::future::pending().await,
            Some(Do::Say(answer)) => format!("{answer}\r\n").into_bytes(),
            Some(Do::SayBytes(answer)) => answer.to_vec(),
            Some(Do::SayBytesAndHangUp(answer)) => {
                stream.write_all(answer).await.ok()?;
                stream.flush().await.ok()?;
                return None;
            }
            Some(Do::Late(milliseconds)) => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                usual
            }
            None => usual,
        };
        stream.write_all(&answer).await.ok()?;
        stream.flush().await.ok()?;
        (!answer.starts_with(b"421")).then_some(!matches!(answer.first(), Some(b'4' | b'5')))
    }
}

fn verb_of(line: &str) -> String {
    line.split([' ', '\r', '\n']).next().unwrap_or_default().to_ascii_uppercase()
}
