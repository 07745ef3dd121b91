//! Clients of other languages.

use std::process::Command;

use leveret_harness::{javascript, python};

fn answer(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_python_program_has_pika() {
    let script = "import pika; print(pika.BasicProperties.__name__)";
    assert_eq!(answer(python().await.args(["-c", script])), "BasicProperties");
}

#[tokio::test]
async fn a_javascript_program_has_amqplib() {
    let script = "console.log(typeof require('amqplib').connect)";
    assert_eq!(answer(javascript().await.args(["-e", script])), "function");
}
