//! `leveret healthcheck`: the health of a process, for container images without a shell.

use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::json;
use tokio::task::spawn_blocking;
use ureq::Agent;

use crate::output::{Exit, Failure, Format, print, print_json};

/// The largest answer that is read, in bytes. A reason is one line.
const LARGEST_ANSWER: u64 = 4096;

/// Checks the health of a worker, a relay or a server
///
/// Use it as the HEALTHCHECK of a container image. It reads no broker settings and does not connect to the broker.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Address of the process: `LEVERET_HTTP_ADDR` of a worker or relay, `LEVERET_LISTEN` of a server; 0.0.0.0 is this machine
    #[arg(default_value = "127.0.0.1:9464", value_name = "HOST:PORT")]
    address: String,

    /// Check readiness (/readyz) instead of liveness (/livez)
    #[arg(long)]
    ready: bool,

    /// Maximum time to wait for the answer
    #[arg(long, value_parser = leveret::duration, default_value = "3s", value_name = "DURATION")]
    timeout: Duration,

    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  the process is healthy
  1  the process is unhealthy; the reason is printed
  2  wrong usage
  4  no process answers at the address

A process whose broker is unreachable is alive, but not ready. Restarting it does not help.

Examples:
  leveret healthcheck
  leveret healthcheck 127.0.0.1:8080 --ready";

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let output = arguments.output;
    let answer = spawn_blocking(move || arguments.ask()).await.context("asking the process")??;
    let reason = answer.reason.trim_end();
    match output {
        Format::Json => print_json(&json!({ "well": answer.well, "reason": reason }))?,
        Format::Table => print(&format!("{reason}\n"))?,
    }
    Ok(if answer.well { Exit::Success } else { Exit::Problems })
}

#[derive(Debug, PartialEq, Eq)]
struct HealthAnswer {
    well: bool,
    reason: String,
}

impl Arguments {
    fn url(&self) -> String {
        // 0.0.0.0 is an address to listen on. Not every system can connect to it.
        let address = self.address.replacen("0.0.0.0:", "127.0.0.1:", 1).replacen("[::]:", "[::1]:", 1);
        format!("http://{address}/{}", if self.ready { "readyz" } else { "livez" })
    }

    fn ask(&self) -> Result<HealthAnswer, anyhow::Error> {
        let url = self.url();
        let config = Agent::config_builder()
            .timeout_global(Some(self.timeout))
            .http_status_as_error(false)
            // No proxy: the process is on this machine or its network.
            .proxy(None)
            .build();
        let agent: Agent = config.into();
        let mut response = agent.get(&url).call().map_err(|error| anyhow!("{url} does not answer: {error}"))?;
        let well = response.status().is_success();
        let reason = response.body_mut().with_config().limit(LARGEST_ANSWER).read_to_string();
        Ok(HealthAnswer { well, reason: reason.with_context(|| format!("{url} does not answer with text"))? })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread::{self, JoinHandle},
    };

    use super::*;

    fn check(address: &str, ready: bool) -> Arguments {
        Arguments { address: address.to_owned(), ready, timeout: Duration::from_secs(5), output: Format::Table }
    }

    /// Answers one request. The thread returns the first line of the request.
    fn process(answer: &'static str) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).lines().next().unwrap().to_owned()
        });
        (address, served)
    }

    #[test]
    fn a_healthy_process_is_reported_as_such() {
        let (address, served) = process("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n");
        let answer = check(&address, false).ask().unwrap();
        assert_eq!(answer, HealthAnswer { well: true, reason: "ok\n".to_owned() });
        assert_eq!(served.join().unwrap(), "GET /livez HTTP/1.1");
    }

    #[test]
    fn a_process_that_is_not_ready_is_reported_with_its_reason() {
        let refusal = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\nconnection: close\r\n\r\ndraining\n";
        let (address, served) = process(refusal);
        let answer = check(&address, true).ask().unwrap();
        assert_eq!(answer, HealthAnswer { well: false, reason: "draining\n".to_owned() });
        assert_eq!(served.join().unwrap(), "GET /readyz HTTP/1.1");
    }

    #[test]
    fn no_answer_is_an_error_that_names_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = check(&address, false).ask().unwrap_err().to_string();
        assert!(error.contains(&address), "{error}");
    }

    #[test]
    fn an_address_that_all_can_reach_is_asked_on_this_machine() {
        assert_eq!(check("0.0.0.0:9464", false).url(), "http://127.0.0.1:9464/livez");
        assert_eq!(check("[::]:9464", true).url(), "http://[::1]:9464/readyz");
    }
}
