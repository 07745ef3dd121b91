//! Name lookup and TCP connection.
//!
//! Each part has its own time limit, and an error names the part that failed. lapin's connector has no limits, tries one
//! address after the other, and ignores `connection_timeout` of the URI.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

/// The limit of a lookup. A resolver waits five seconds for its first server before it asks the second.
const LOOKUP_LIMIT: Duration = Duration::from_secs(15);
/// The pause before the next address is tried beside earlier ones without an answer (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Looks up the addresses of a host.
pub(super) async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let endpoint = (host.to_owned(), port);
    let found = resolved(LOOKUP_LIMIT, move || Ok(endpoint.to_socket_addrs()?.collect())).await;
    match found {
        Ok(addresses) if addresses.is_empty() => Err(format!("lookup of {host:?}: the name has no address")),
        Ok(addresses) => Ok(addresses),
        Err(reason) => Err(format!("lookup of {host:?}: {reason}")),
    }
}

/// The running lookups of all connections. Each has a thread.
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
const MOST_LOOKUPS: usize = 16;

/// Counts as one of [`LOOKUPS`] until it is dropped.
struct Lookup;

impl Lookup {
    fn begin() -> Self {
        LOOKUPS.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs the system's resolver, which cannot be interrupted, in its own thread. In Tokio's pool a hanging lookup would keep
/// the runtime from shutting down.
async fn resolved(
    limit: Duration,
    resolve: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>, String> {
    if LOOKUPS.load(Ordering::Relaxed) >= MOST_LOOKUPS {
        return Err(format!("{MOST_LOOKUPS} earlier lookups have no answer yet"));
    }
    let lookup = Lookup::begin();
    let (answer, answered) = oneshot::channel();
    let thread = thread::Builder::new().name("name-lookup".to_owned());
    // After the limit the answer has no receiver.
    let started = thread.spawn(move || {
        let _lookup = lookup;
        drop(answer.send(resolve()));
    });
    started.map_err(|error| error.to_string())?;
    match timeout(limit, answered).await {
        Ok(Ok(found)) => found.map_err(|error| error.to_string()),
        Ok(Err(_)) => Err("the resolver panicked".to_owned()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

/// Connects to the first of these addresses that answers, with `limit` for each of them.
pub(super) async fn first<T, F: Future<Output = io::Result<T>>>(
    addresses: &[SocketAddr],
    limit: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(T, SocketAddr), String> {
    let mut waiting = addresses.iter().copied().enumerate();
    let (mut trying, mut failed) = (FuturesUnordered::new(), Vec::new());
    loop {
        if let Some((number, address)) = waiting.next() {
            let connected = timeout(limit, connect(address));
            trying.push(async move { (number, address, connected.await) });
        }
        let answer = tokio::select! {
            answer = trying.next() => answer,
            () = sleep(STAGGER), if waiting.len() > 0 => continue,
        };
        match answer {
            Some((_, address, Ok(Ok(connected)))) => return Ok((connected, address)),
            Some((number, address, Ok(Err(error)))) => failed.push((number, format!("{address}: {error}"))),
            Some((number, address, Err(_))) => failed.push((number, format!("{address}: no answer within {limit:?}"))),
            None => break,
        }
    }
    // A repeated failure must read the same each time, whichever address failed first.
    failed.sort();
    let failed: Vec<_> = failed.into_iter().map(|(_, reason)| reason).collect();
    Err(format!("TCP connection to {}", failed.join(", to ")))
}

#[cfg(test)]
mod tests {
    use std::{future, sync::mpsc};

    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|n| SocketAddr::from(([192, 0, 2, n], 5672))).collect()
    }

    #[tokio::test]
    async fn a_lookup_may_take_longer_than_a_tcp_connection() {
        let slow = || {
            thread::sleep(Duration::from_millis(1_500));
            Ok(addresses(1))
        };
        assert_eq!(resolved(LOOKUP_LIMIT, slow).await, Ok(addresses(1)));
    }

    #[tokio::test]
    async fn the_error_of_a_lookup_that_hangs_or_fails_names_the_lookup() {
        let (end, ended) = mpsc::channel::<()>();
        let hangs = move || {
            assert!(ended.recv().is_err());
            Ok(Vec::new())
        };
        let reason = resolved(Duration::from_millis(10), hangs).await.unwrap_err();
        assert_eq!(reason, "no answer within 10ms");
        drop(end);
        let reason = lookup("no-such-host.invalid", 5672).await.unwrap_err();
        assert!(reason.starts_with("lookup of \"no-such-host.invalid\": "), "{reason}");
        assert_eq!(lookup("2001:db8::1", 1).await.unwrap()[0].to_string(), "[2001:db8::1]:1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_does_not_delay_the_next() {
        let (started, addresses) = (Instant::now(), addresses(3));
        let answers = |address: SocketAddr| async move {
            if address.ip().to_string().ends_with(".3") { Ok(()) } else { future::pending().await }
        };
        let ((), connected) = first(&addresses, LIMIT, answers).await.unwrap();
        assert_eq!((connected, started.elapsed()), (addresses[2], 2 * STAGGER));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_refusal_the_next_address_is_tried_at_once_and_has_the_whole_limit() {
        let (started, addresses) = (Instant::now(), addresses(2));
        let slow = Duration::from_millis(1_900);
        let answers = |address: SocketAddr| async move {
            if address.ip().to_string().ends_with(".1") {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            sleep(slow).await;
            Ok(())
        };
        let ((), connected) = first(&addresses, LIMIT, answers).await.unwrap();
        assert_eq!((connected, started.elapsed()), (addresses[1], slow));
    }

    #[tokio::test(start_paused = true)]
    async fn if_no_address_answers_the_error_has_each_with_its_reason() {
        let answers = |address: SocketAddr| async move {
            if address.ip().to_string().ends_with(".2") {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            future::pending::<io::Result<()>>().await
        };
        let reason = first(&addresses(2), LIMIT, answers).await.unwrap_err();
        let wanted = "TCP connection to 192.0.2.1:5672: no answer within 2s, to 192.0.2.2:5672: connection refused";
        assert_eq!(reason, wanted);
        assert_eq!(first(&[], LIMIT, answers).await.unwrap_err(), "TCP connection to ");
    }
}
