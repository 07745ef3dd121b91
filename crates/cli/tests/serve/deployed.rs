//! The users of `deploy/rabbitmq/definitions.json`, with the passwords of `deploy/secrets.sh`: each may do its work, and
//! nothing else.

use std::{fs, path::Path, process::Command, sync::atomic::Ordering, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use lapin::{
    Channel, Connection, ConnectionProperties, Result,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::FieldTable,
};
use leveret::{Broker, Config, TopologyMode};
use leveret_harness::{Node, NodeOptions, Postgres, eventually};
use tokio::sync::OnceCell;

use crate::{
    readme::takes_tasks,
    stage::{LONG, Moment, ServerSetup, work_on},
};

/// A node that has imported these definitions.
struct Deployment {
    node: Node,
    secrets: tempfile::TempDir,
}

impl Deployment {
    /// The one of all these tests.
    async fn get() -> &'static Self {
        static DEPLOYMENT: OnceCell<Deployment> = OnceCell::const_new();
        DEPLOYMENT.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let (source, secrets) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy"), tempfile::tempdir().unwrap());
        fs::create_dir(secrets.path().join("rabbitmq")).unwrap();
        for file in ["secrets.sh", "rabbitmq/definitions.json"] {
            fs::copy(source.join(file), secrets.path().join(file)).unwrap();
        }
        let made = Command::new("bash").arg(secrets.path().join("secrets.sh")).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let node = Node::start(NodeOptions::default()).await;
        let definitions = fs::read(secrets.path().join("secrets/definitions.json")).unwrap();
        let definitions = BASE64_STANDARD.encode(definitions);
        let import = format!("ok = rabbit_definitions:import_raw(base64:decode(\"{definitions}\")).");
        node.eval(&import).await.unwrap();
        Self { node, secrets }
    }

    /// The address for one of its users: from the file that its program gets, or else with the password in its own.
    fn url(&self, user: &str) -> String {
        let file = |name: String| fs::read_to_string(self.secrets.path().join("secrets").join(name));
        let (_, place) =
            self.node.url_for("", "", "/").rsplit_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let password = file(format!("{user}.password")).unwrap_or_else(|_| {
            let settings = file(format!("{user}.env")).unwrap();
            let (_, login) = settings.split_once(&format!("AMQP_URL=amqp://{user}:")).unwrap();
            login.split_once('@').unwrap().0.to_owned()
        });
        format!("amqp://{user}:{password}@{place}")
    }

    /// The result of one request of this user.
    async fn ask(&self, user: &str, request: Request) -> Result<()> {
        let connection = Connection::connect(&self.url(user), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let asked = request.ask(&channel).await;
        connection.close(200, "asked".into()).await?;
        asked
    }
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Publish(&'static str),
    Consume(&'static str),
    Get(&'static str),
    Declare(&'static str),
    Delete(&'static str),
    Bind(&'static str, &'static str),
}

impl Request {
    async fn ask(self, channel: &Channel) -> Result<()> {
        let none = FieldTable::default();
        match self {
            Self::Publish(exchange) => {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                let (key, options) = ("nowhere".into(), BasicPublishOptions::default());
                channel.basic_publish(exchange.into(), key, options, b"{}", <_>::default()).await?.await.map(drop)
            }
            Self::Consume(queue) => {
                channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), none).await.map(drop)
            }
            Self::Get(queue) => channel.basic_get(queue.into(), BasicGetOptions::default()).await.map(drop),
            Self::Declare(queue) => {
                channel.queue_declare(queue.into(), QueueDeclareOptions::default(), none).await.map(drop)
            }
            Self::Delete(queue) => channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop),
            Self::Bind(queue, exchange) => {
                let (key, options) = ("stolen".into(), QueueBindOptions::default());
                channel.queue_bind(queue.into(), exchange.into(), key, options, none).await
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_definitions_each_program_works_as_its_own_user() {
    let (deployment, folder) = (Deployment::get().await, tempfile::tempdir().unwrap());
    let (running, done) = work_on("email", &deployment.url("worker"), TopologyMode::Verify).await;
    let mut place = ServerSetup::new(deployment.url("server"), folder.path().join("leveret.db").display().to_string());
    place.topology = TopologyMode::Verify;
    let _server = place.serve().await;
    takes_tasks(&place.client()).await;

    let before = done.load(Ordering::SeqCst);
    let amqp_url = vec![deployment.url("publisher")];
    let broker = Broker::amqp(Config { amqp_url, topology: TopologyMode::Verify, ..Config::default() }).unwrap();
    let publisher = broker.publisher();
    publisher.publish(&Moment::default()).queue("email").await.unwrap();
    publisher.publish(&Moment::default()).queue("email").delay(Duration::from_millis(300)).await.unwrap();
    eventually("both are done", LONG, async || done.load(Ordering::SeqCst) == before + 2).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_definitions_each_user_is_refused_what_is_not_its_work() {
    use Request::{Bind, Consume, Declare, Delete, Get, Publish};
    let deployment = Deployment::get().await;
    let refused: [(&str, &[Request]); 6] = [
        (
            "worker",
            &[
                Delete("email"),
                Declare("mine"),
                Publish(""),
                Publish("amq.direct"),
                Get("email.dead"),
                Get("leveret.v1.status"),
            ],
        ),
        ("worker", &[Publish("leveret.v1.cancelled"), Bind("email", "leveret.v1.jobs"), Get("leveret.v1.delay.00")]),
        (
            "publisher",
            &[Consume("email"), Get("email.dead"), Delete("email"), Declare("mine"), Publish("leveret.v1.dead")],
        ),
        (
            "server",
            &[
                Consume("email"),
                Delete("email.dead"),
                Declare("mine"),
                Publish("leveret.v1.dead"),
                Publish("leveret.v1.events"),
            ],
        ),
        ("foreign", &[Publish("leveret.v1.delay.00.in"), Publish("leveret.v1.events"), Get("email"), Declare("mine")]),
        ("scaler", &[Publish("leveret.v1.jobs"), Get("email"), Declare("mine"), Delete("email")]),
    ];
    for (user, requests) in refused {
        for request in requests {
            let answer = deployment.ask(user, *request).await.map_err(|error| error.to_string());
            let words = answer.expect_err(&format!("{user} may {request:?}"));
            assert!(words.contains("ACCESS_REFUSED") || words.contains("access to"), "{user}, {request:?}: {words}");
        }
    }
    for user in ["worker", "server", "publisher", "foreign"] {
        deployment.ask(user, Publish("leveret.v1.topics")).await.unwrap();
    }
    // The user is the reason: the operator may do each.
    for request in
        [Publish("leveret.v1.jobs"), Publish("leveret.v1.events"), Get("email.dead"), Bind("email", "amq.direct")]
    {
        deployment.ask("operator", request).await.unwrap();
    }
    deployment.ask("set-up", Get("email.dead")).await.unwrap_err();
    deployment.ask("set-up", Declare("mine")).await.unwrap_err();
}

#[tokio::test]
async fn each_service_has_a_database_of_its_own_and_none_is_the_superuser() {
    let (deployment, postgres) = (Deployment::get().await, Postgres::start().await);
    let secrets = deployment.secrets.path().join("secrets");
    let url = postgres.database().await;
    let (place, _) = url.split_once('@').unwrap().1.split_once('/').unwrap();
    let (host, port) = place.split_once(':').unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/postgres/roles.sh");
    let mut command = Command::new("sh");
    command
        .arg(script)
        .env("SECRETS", &secrets)
        .env("POSTGRES_USER", "postgres")
        .env("PGHOST", host)
        .env("PGPORT", port);
    let made = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(made.status.success(), "{made:?}");
    for program in ["server", "orders", "publisher"] {
        let settings = fs::read_to_string(secrets.join(format!("{program}.env"))).unwrap();
        let own = settings.lines().find_map(|line| line.strip_prefix("DATABASE_URL=")).unwrap();
        let own = own.replace("@postgres/", &format!("@{place}/"));
        assert!(!own.contains(fs::read_to_string(secrets.join("database.password")).unwrap().trim()));
        leveret_sql::Outbox::migrate(&leveret_sql::Outbox::open(&own).await.unwrap()).await.unwrap();
        let other = if program == "server" { "orders" } else { "server" };
        let foreign = own.rsplit_once('/').unwrap().0.to_owned() + "/" + other;
        let refused = leveret_sql::Outbox::open(&foreign).await.unwrap_err().to_string();
        assert!(refused.contains("lacks a privilege"), "{refused}");
    }
    let supers = "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper AND rolcanlogin";
    assert_eq!(postgres.psql(supers).await.unwrap(), "postgres");
}
