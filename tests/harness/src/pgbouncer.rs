//! A private PgBouncer before a PostgreSQL server, in transaction mode: each transaction may get another connection.
//!
//! It needs Debian's package `pgbouncer` but nothing of its service. PgBouncer refuses to run as root, so for root it
//! runs as the user of PostgreSQL.

use std::fs::File;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::leash::{Folder, Leashed};
use crate::names::free_port;
use crate::postgres::{Postgres, as_server_user, server_user};

const START_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A pooler of one test. Dropped, it is killed; the same happens when the process ends.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    _server: Leashed,
    _folder: Folder,
}

impl PgBouncer {
    /// Starts a pooler that takes its connections in turn, so that no two transactions of a client follow each other on
    /// one of them by chance.
    ///
    /// # Panics
    ///
    /// When no PgBouncer is installed or it does not start.
    pub async fn start(postgres: &Postgres) -> Self {
        let folder = Folder::new(&std::env::temp_dir(), "leveret-pgbouncer").expect("a temporary folder");
        let port = free_port();
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 4\nmax_client_conn = 500\nserver_round_robin = 1\n\
             ignore_startup_parameters = extra_float_digits\n",
            postgres.port()
        );
        std::fs::write(&settings, text).expect("a file in its own folder");
        if let Some((user, group)) = server_user() {
            for path in [folder.path(), &settings] {
                chown(path, Some(user), Some(group)).expect("root may give a file away");
            }
        }
        let log = folder.path().join("pgbouncer.log");
        let output = File::create(&log).expect("a log in its own folder");
        // Debian keeps it off an ordinary user's search path.
        let mut command = as_server_user(Path::new("/usr/sbin/pgbouncer"));
        command.arg(&settings);
        let server = Leashed::spawn(&command, output.try_clone().expect("a second handle").into(), output.into());
        let pooler = Self { port, _server: server.expect("the pooler must start"), _folder: folder };
        let deadline = Instant::now() + START_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let written = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < deadline, "no PgBouncer (`make setup` installs it): {}", written());
            sleep(POLL).await;
        }
        pooler
    }

    /// The address through the pooler of a database whose own address is this.
    ///
    /// # Panics
    ///
    /// When that is no address.
    pub fn url(&self, database: &str) -> String {
        let (_, name) = database.rsplit_once('/').expect("an address with a database");
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// The state that the sessions of a database keep for their next client: channels with a listener, lock timeouts and
    /// prepared statements. `url` leads through this pooler.
    ///
    /// # Panics
    ///
    /// When the database does not answer.
    pub async fn left_behind(postgres: &Postgres, url: &str) -> (i64, i64, i64) {
        let sql =
            "SELECT (SELECT count(*) FROM pg_listening_channels()), (current_setting('lock_timeout') <> '0')::int,
                          (SELECT count(*) FROM pg_prepared_statements)";
        let mut left = (0, 0, 0);
        // Twice as often as the pooler has sessions, because it serves them in turn.
        for _ in 0..8 {
            let row = postgres.psql_at(url, sql).await.expect("an answer");
            let columns: Vec<_> = row.split('|').map(|column| column.parse::<i64>().expect("a number")).collect();
            left = (left.0 + columns[0], left.1 + columns[1], left.2 + columns[2]);
        }
        left
    }
}
