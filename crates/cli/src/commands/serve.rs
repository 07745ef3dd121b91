//! `leveret serve`: the server. What it does is in `leveret-serve`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use leveret::{Broker, Config, telemetry::Telemetry};
use leveret_serve::{Options, Server, Services, Tokens, desk::redact::Rules};
use leveret_store::Retention;

use super::shared::{StoreArguments, hidden_if_of_workers};
use crate::output::{Exit, Failure, print};

/// Serves the job API, follows tracked jobs, and takes dead letters in
///
/// Other services submit jobs over HTTP and ask how they are; operators find out why jobs died and bring them back. The
/// API describes itself at /api. Without tokens it listens on this machine only.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_of_workers), mut_args(leveret::setting))]
pub(crate) struct Arguments {
    /// Where to listen; off loopback it takes tokens
    #[arg(long, env = "LEVERET_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,

    #[command(flatten)]
    store: StoreArguments,

    /// Bearer tokens, `viewer:TOKEN` or `operator:TOKEN`, or `operator:NAME=TOKEN` for the audit log, separated by commas;
    /// better from the environment, because arguments can be seen by all on this machine
    #[arg(long, env = "LEVERET_API_TOKENS", hide_env_values = true, value_name = "TOKENS")]
    // Read later: what cannot be read is repeated by clap, and these are secrets.
    tokens: Option<String>,

    /// A file of tokens, one a line
    #[arg(long, env = "LEVERET_API_TOKENS_FILE", value_name = "FILE", conflicts_with = "tokens")]
    tokens_file: Option<PathBuf>,

    /// The job of submissions that name none; without one these are refused
    #[arg(long, env = "LEVERET_DEFAULT_JOB", value_name = "JOB")]
    default_job: Option<String>,

    /// A queue whose dead letters are taken in, besides those that workers announced
    #[arg(long = "queue", env = "LEVERET_QUEUES", value_delimiter = ',', value_name = "NAME")]
    queues: Vec<String>,

    /// Hides more of payloads than passwords, tokens and the like: a JSON pointer such as /customer/name, or how a key ends
    #[arg(long, env = "LEVERET_REDACT", value_delimiter = ',', value_name = "RULE")]
    redact: Vec<String>,

    #[command(flatten)]
    kept: Kept,

    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
}

/// How long what is kept.
#[derive(Args)]
#[command(mut_args(leveret::setting))]
struct Kept {
    /// How long jobs that are done are kept
    #[arg(long, env = "LEVERET_KEEP_SUCCEEDED", value_parser = leveret::duration, default_value = "24h", value_name = "DURATION")]
    keep_succeeded: Duration,

    /// How long jobs that were given up are kept
    #[arg(long, env = "LEVERET_KEEP_FAILED", value_parser = leveret::duration, default_value = "168h", value_name = "DURATION")]
    keep_failed: Duration,

    /// How long cancelled jobs are kept
    #[arg(long, env = "LEVERET_KEEP_CANCELLED", value_parser = leveret::duration, default_value = "24h", value_name = "DURATION")]
    keep_cancelled: Duration,

    /// How long dead letters are kept that were replayed or purged; others are kept for ever
    #[arg(long, env = "LEVERET_KEEP_LETTERS", value_parser = leveret::duration, default_value = "168h", value_name = "DURATION")]
    keep_letters: Duration,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  it was told to stop, and did
  2  wrong usage, such as an address off loopback without tokens
  4  an error of the program or its surroundings, such as an address in use or a store that cannot be opened

It starts without the broker, and connects when that is there. What it logs is set by RUST_LOG, such as \
leveret_serve=debug.

Examples:
  leveret serve
  DATABASE_URL=postgres://leveret@db/leveret leveret serve --default-job demo.sleep
  LEVERET_API_TOKENS=operator:$(openssl rand -hex 32) leveret serve --listen 0.0.0.0:8080

  curl -X POST localhost:8080/api/tasks -H 'content-type: application/json' -d '{\"name\": \"Important Task\", \"priority\": 1}'";

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let tokens = tokens(arguments.tokens_file.as_deref(), arguments.tokens.as_deref())?;
    let Kept { keep_succeeded, keep_failed, keep_cancelled, keep_letters } = arguments.kept;
    let retention = Retention {
        succeeded: keep_succeeded,
        dead: keep_failed,
        cancelled: keep_cancelled,
        letters: keep_letters,
        ..Retention::default()
    };
    let options = Options {
        listen: arguments.listen,
        default_job: arguments.default_job,
        tokens,
        retention,
        queues: named(arguments.queues),
        redact: Rules::new(arguments.redact),
        ..Options::default()
    };
    let store = arguments.store.create().await?;
    let broker = Broker::amqp(arguments.config).map_err(|error| Failure::Usage(error.into()))?;
    let server = Server::bind(Services::new(&broker, store.clone()), options).await.map_err(failure)?;
    print(&format!("http://{}/api\n", server.address()))?;
    server.run(leveret::shutdown_signal()).await.map_err(failure)?;
    broker.close().await;
    store.close().await;
    Ok(Exit::Success)
}

/// The list without empty names, as a comma after the last one makes.
fn named(list: Vec<String>) -> Vec<String> {
    list.into_iter().filter(|name| !name.trim().is_empty()).collect()
}

/// Of nothing at all there are none; a file or a variable that is there must have some.
fn tokens(file: Option<&Path>, text: Option<&str>) -> Result<Tokens, Failure> {
    let (tokens, place) = match (file, text) {
        (Some(file), _) => (Tokens::read(file), file.display().to_string()),
        (None, Some(text)) => (text.parse(), "LEVERET_API_TOKENS or --tokens".to_owned()),
        (None, None) => return Ok(Tokens::default()),
    };
    tokens.map_err(|error| Failure::Usage(anyhow::Error::from(error).context(place)))
}

fn failure(error: leveret_serve::Error) -> Failure {
    match error {
        leveret_serve::Error::TokensNeeded { .. } => Failure::Usage(error.into()),
        _ => Failure::Other(error.into()),
    }
}
