//! The connection to the broker, and the rights of the user.

use leveret_harness::{Permissions, free_port, unique};

use crate::clinic::{Clinic, assert_says, node, visit};

#[tokio::test]
async fn a_broker_that_cannot_be_reached_ends_in_code_3_with_its_address() {
    let port = free_port();
    let visit = visit(&format!("amqp://guest:hunter2@127.0.0.1:{port}"), &[]).await;
    assert_eq!(visit.code, 3, "{visit:#?}");
    let said = visit.says("problem", "connection", "AMQP_URL");
    assert_says(&said, &[&format!("127.0.0.1:{port} cannot be reached"), "host and port"]);
    assert!(!visit.stdout.contains("hunter2") && !visit.stderr.contains("hunter2"), "{visit:#?}");
}

#[tokio::test]
async fn a_broker_that_accepts_and_stays_silent_is_unreachable() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let visit = visit(&format!("amqp://{address}"), &[]).await;
    assert_eq!(visit.code, 3, "{visit:#?}");
    assert_says(
        &visit.says("problem", "connection", "AMQP_URL"),
        &[&format!("{address} cannot be reached"), "no answer within"],
    );
}

#[tokio::test]
async fn a_wrong_password_is_named_as_the_cause_and_not_shown() {
    let visit = visit(&node().await.url_for("guest", "hunter2", "/"), &[]).await;
    assert_eq!(visit.code, 3, "{visit:#?}");
    let said = visit.says("problem", "connection", "AMQP_URL");
    assert_says(&said, &["refuses the login of user \"guest\"", "check user and password"]);
    assert!(!visit.stdout.contains("hunter2") && !visit.stderr.contains("hunter2"), "{visit:#?}");
}

#[tokio::test]
async fn an_unknown_vhost_is_named_as_the_cause() {
    let visit = visit(&node().await.url_for("guest", "guest", "nowhere"), &[]).await;
    assert_eq!(visit.code, 3, "{visit:#?}");
    let said = visit.says("problem", "connection", "AMQP_URL");
    assert_says(&said, &["vhost \"nowhere\"", "not found", "rabbitmqctl add_vhost nowhere"]);
}

#[tokio::test]
async fn a_user_without_any_permission_in_the_vhost_gets_the_command_that_grants_it() {
    let clinic = Clinic::open().await;
    let stranger = unique("stranger");
    clinic.node.ctl(&["add_user", &stranger, "secret"]).await.unwrap();
    let visit = visit(&clinic.url_for(&stranger, "secret"), &[]).await;
    assert_eq!(visit.code, 3, "{visit:#?}");
    let said = visit.says("problem", "connection", "AMQP_URL");
    assert_says(&said, &["refused", &format!("set_permissions -p {} {stranger}", clinic.vhost)]);
}

#[tokio::test]
async fn an_invalid_address_is_wrong_usage() {
    let visit = visit("http://guest:hunter2@h", &[]).await;
    assert_eq!((visit.code, visit.stdout.as_str()), (2, ""), "{visit:#?}");
    assert_says(&visit.stderr, &["AMQP_URL", "expected amqp://"]);
    assert!(!visit.stderr.contains("hunter2"), "{visit:#?}");
}

#[tokio::test]
async fn a_report_that_cannot_be_written_is_not_wrong_usage() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_leveret"));
    doctor.args(["doctor", "--amqp-url", &format!("amqp://127.0.0.1:{}", free_port())]).stdout(full);
    let output = tokio::task::spawn_blocking(move || doctor.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:#?}");
    assert_says(&String::from_utf8(output.stderr).unwrap(), &["writing to standard output", "No space left"]);
}

#[tokio::test]
async fn one_address_of_several_that_does_not_work_is_a_warning() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    let dead_end = format!("127.0.0.1:{}", free_port());
    let visit = visit(&format!("amqp://{dead_end},{}", clinic.url()), &[]).await;
    visit.problems(&[]);
    assert_says(&visit.says("warning", "connection", "AMQP_URL"), &[&dead_end]);
}

#[tokio::test]
async fn rights_that_a_worker_needs_and_the_user_lacks_are_named() {
    let clinic = Clinic::open().await;
    let running = clinic.work(|queue| queue).await;
    let weak = unique("weak");
    clinic.raw().await.publish("leveret.v1.dead", "email", <_>::default(), b"{}").await.unwrap();
    let permissions = Permissions {
        configure: r"^(email|leveret\.v1\.unrouted)",
        write: r"^leveret\.v1\.delay",
        read: r"^email\.suspect$",
    };
    clinic.node.add_user(&weak, "secret", &clinic.vhost, permissions).await.unwrap();
    let visit = visit(&clinic.url_for(&weak, "secret"), &["--queue", "email"]).await;
    let subject = format!("user {weak}");
    let said = visit.problems(&[("permissions", &subject), ("permissions", &subject), ("permissions", &subject)]);
    assert_says(&said[0], &["lacks the configure right", "leveret.v1.dead", "LEVERET_TOPOLOGY=verify"]);
    assert_says(&said[1], &["lacks the read right and cannot consume from email ", "set_permissions"]);
    assert_says(&said[2], &["lacks the write right", "to leveret.v1.jobs, leveret.v1.dead "]);
    assert_says(&visit.says("note", "dead-letters", "queue email"), &["the read right on email.dead"]);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_with_least_privileges_has_the_rights_it_requires() {
    let clinic = Clinic::open().await;
    let running = clinic.work(|queue| queue).await;
    let user = unique("least");
    let permissions =
        Permissions { configure: "^$", write: r"^(leveret\.v1\..*|email\.dead)$", read: r"^email(\.suspect)?$" };
    clinic.node.add_user(&user, "secret", &clinic.vhost, permissions).await.unwrap();
    let visit = visit(&clinic.url_for(&user, "secret"), &["--queue", "email", "--topology", "verify"]).await;
    visit.problems(&[]);
    assert_says(&visit.says("note", "permissions", &format!("user {user}")), &["could not be compared"]);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_login_that_the_management_api_refuses_is_a_problem() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    let management = format!("http://guest:hunter2@127.0.0.1:{}", clinic.node.http_port());
    let visit = clinic.visit(&["--queue", "email", "--management-url", &management]).await;
    let said = visit.problems(&[("management", "management API")]);
    assert_says(&said[0], &["401", "set_user_tags"]);
    assert!(!visit.stdout.contains("hunter2") && !visit.stderr.contains("hunter2"), "{visit:#?}");
}
