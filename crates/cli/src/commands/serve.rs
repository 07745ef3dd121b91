//! `leveret serve`: the server, from the crate `leveret-serve`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use leveret::{Broker, Config, telemetry::Telemetry};
use leveret_serve::{Options, Server, Services, Tokens, dead::redact::RedactionRules};
use leveret_store::Retention;

use super::shared::{StoreArguments, hidden_if_of_workers};
use crate::output::{Exit, Failure, print};

/// Runs the server: job API, status of tracked jobs, workflows, dead letters
///
/// Other services submit jobs over HTTP and query their status. The server ingests dead letters into its store, where
/// operators inspect and replay them. The API documentation is at /api. Without tokens the server listens on loopback only.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_args(hidden_if_of_workers), mut_args(leveret::setting))]
pub(crate) struct Arguments {
    /// Address to listen on; an address other than loopback requires tokens
    #[arg(long, env = "LEVERET_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,

    #[command(flatten)]
    store: StoreArguments,

    /// Bearer tokens, separated by commas: `viewer:TOKEN`, `operator:TOKEN`, or `operator:NAME=TOKEN` with a name for the
    /// audit log. Prefer the environment: every user of this machine can see arguments
    #[arg(long, env = "LEVERET_API_TOKENS", hide_env_values = true, value_name = "TOKENS")]
    // Parsed later: clap repeats a value that it cannot parse, and these are secrets.
    tokens: Option<String>,

    /// File of tokens, one per line
    #[arg(long, env = "LEVERET_API_TOKENS_FILE", value_name = "FILE", conflicts_with = "tokens")]
    tokens_file: Option<PathBuf>,

    /// Job of submissions that name none; without it such submissions are rejected
    #[arg(long, env = "LEVERET_DEFAULT_JOB", value_name = "JOB")]
    default_job: Option<String>,

    /// Additional queue whose dead letters are ingested; those that workers announced are always ingested
    #[arg(long = "queue", env = "LEVERET_QUEUES", value_parser = leveret::comma_list(text), value_name = "NAME")]
    queues: Vec<Box<[String]>>,

    /// Redact more of payloads than passwords, tokens and the like: a JSON pointer such as /customer/name, or the end of a key
    #[arg(long, env = "LEVERET_REDACT", value_parser = leveret::comma_list(text), value_name = "RULE")]
    redact: Vec<Box<[String]>>,

    #[command(flatten)]
    kept: RetentionArguments,

    #[command(flatten)]
    config: Config,

    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
}

/// Retention times of the store.
#[derive(Args)]
#[command(mut_args(leveret::setting))]
struct RetentionArguments {
    /// Retention of completed jobs
    #[arg(long, env = "LEVERET_KEEP_SUCCEEDED", value_parser = leveret::duration, default_value = "24h", value_name = "DURATION")]
    keep_succeeded: Duration,

    /// Retention of failed jobs
    #[arg(long, env = "LEVERET_KEEP_FAILED", value_parser = leveret::duration, default_value = "168h", value_name = "DURATION")]
    keep_failed: Duration,

    /// Retention of cancelled jobs
    #[arg(long, env = "LEVERET_KEEP_CANCELLED", value_parser = leveret::duration, default_value = "24h", value_name = "DURATION")]
    keep_cancelled: Duration,

    /// Retention of replayed or purged dead letters; others are kept indefinitely
    #[arg(long, env = "LEVERET_KEEP_LETTERS", value_parser = leveret::duration, default_value = "168h", value_name = "DURATION")]
    keep_letters: Duration,

    /// Retention of workflows that have ended, with the results of their steps
    #[arg(long, env = "LEVERET_KEEP_WORKFLOWS", value_parser = leveret::duration, default_value = "168h", value_name = "DURATION")]
    keep_workflows: Duration,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  stopped by SIGTERM or SIGINT
  2  wrong usage, such as an address other than loopback without tokens
  4  an error of the program or its environment, such as an address in use or a store that cannot be opened

The server also starts while the broker is unreachable, and connects later. RUST_LOG sets the log level, such as \
leveret_serve=debug.

Examples:
  leveret serve
  DATABASE_URL=postgres://leveret@db/leveret leveret serve --default-job demo.sleep
  LEVERET_API_TOKENS=operator:$(openssl rand -hex 32) leveret serve --listen 0.0.0.0:8080

  curl -X POST localhost:8080/api/tasks -H 'content-type: application/json' -d '{\"name\": \"Important Task\", \"priority\": 1}'";

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let tokens = tokens(arguments.tokens_file.as_deref(), arguments.tokens.as_deref())?;
    let RetentionArguments { keep_succeeded, keep_failed, keep_cancelled, keep_letters, keep_workflows } =
        arguments.kept;
    let retention = Retention {
        succeeded: keep_succeeded,
        dead: keep_failed,
        cancelled: keep_cancelled,
        letters: keep_letters,
        workflows: keep_workflows,
        ..Retention::default()
    };
    let options = Options {
        listen: arguments.listen,
        default_job: arguments.default_job,
        tokens,
        retention,
        queues: arguments.queues.concat(),
        redact: RedactionRules::new(arguments.redact.concat()),
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

/// An item of a list that may be any text.
fn text(item: &str) -> Result<String, String> {
    Ok(item.to_owned())
}

/// Reads the tokens. Without a file and a variable there are none, but an existing one must contain a token.
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

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    #[test]
    fn the_items_of_a_list_have_no_spaces_around_them_and_none_is_empty() {
        let (redact, queues) = ("/customer/name, /customer/tax", " email,, legacy ,");
        let given = ["serve", "--redact", redact, "--queue", queues, "--queue", "mail"];
        let matches = Arguments::augment_args(Command::new("serve")).try_get_matches_from(given).unwrap();
        let arguments = Arguments::from_arg_matches(&matches).unwrap();
        assert_eq!(arguments.redact.concat(), ["/customer/name", "/customer/tax"]);
        assert_eq!(arguments.queues.concat(), ["email", "legacy", "mail"]);
    }
}
