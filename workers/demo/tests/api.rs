//! Tests of the job API with the commands of the README.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{process::Command, time::Duration};

use leveret_harness::Process;

const README: &str = include_str!("../../../README.md");
const LONG: Duration = Duration::from_secs(60);

/// A running demo, which is killed when it is dropped.
struct Demo {
    api: String,
    _process: Process,
    _output: tempfile::TempDir,
}

impl Demo {
    async fn start() -> Self {
        let output = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command.args(["--keep-running", "--http-addr", "127.0.0.1:0", "--api-addr", "127.0.0.1:0", "--output"]);
        let process = Process::spawn(command.arg(output.path()).env_remove("AMQP_URL").env_remove("RUST_LOG"));
        let said = process.wait_line("Job API: ", LONG).await;
        process.wait_line("Still running", LONG).await;
        let (_, api) = said.split_once("Job API: ").unwrap();
        Self { api: api.trim().to_owned(), _process: process, _output: output }
    }

    /// Runs a shell script of the README against this demo.
    fn run(&self, script: &str) -> String {
        let script = script.replace("http://127.0.0.1:8080/api", &self.api);
        let output = Command::new("sh").args(["-euc", &script]).output().unwrap();
        let written = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{written}\n{}", String::from_utf8_lossy(&output.stderr));
        written
    }
}

/// Returns the shell block of the README that has this word.
fn block(word: &str) -> &'static str {
    let blocks = README.split("```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    blocks.into_iter().find(|block| block.contains(word)).expect("the README has such a block")
}

#[tokio::test]
async fn the_curl_commands_of_the_readme_do_what_it_says() {
    let demo = Demo::start().await;
    let written = demo.run(block("Important Task"));
    for said in [
        "{\"task_id\":\"",
        "\"name\":\"mine\"",
        "event: status\nid: ",
        "\"status\":\"Completed\"",
        "\"seconds\":0.5",
        "\"name\":\"later\"",
        "\"status\":\"Cancelled\"",
        "\"job\":\"email.send\"",
    ] {
        assert!(written.contains(said), "{said} is not in:\n{written}");
    }
}

#[tokio::test]
async fn the_original_task_api_works_verbatim() {
    let demo = Demo::start().await;
    let script = r#"
        api=http://127.0.0.1:8080/api
        curl -sS -o /dev/null -w '%{http_code}\n' -H 'content-type: application/json' \
            -X POST $api/tasks -d '{"name": "Important Task", "priority": 1}'
        id=$(curl -sS -H 'content-type: application/json' -d '{"name": "Important Task", "priority": 1}' $api/tasks |
            cut -d '"' -f 4)
        curl -sS $api/tasks/$id; echo
        curl -sS "$api/tasks/$id?wait=30s"; echo
        bad=$(curl -sS -H 'content-type: application/json' -d '{"payload": {"seconds": 0, "fail": "jam"}}' $api/tasks |
            cut -d '"' -f 4)
        curl -sS "$api/tasks/$bad?wait=30s"; echo
        curl -sS -o /dev/null -w '%{http_code}\n' $api/tasks/00000000-0000-0000-0000-000000000000
        curl -sS -H 'content-type: application/json' -d '[{"name": "a"}, {"name": "b"}, {"name": "c"}]' $api/tasks/batch"#;
    let written = demo.run(script);
    let lines: Vec<_> = written.lines().collect();
    assert_eq!((lines[0], lines[4]), ("202", "404"), "{written}");
    assert!(lines[1].contains(r#""name":"Important Task","priority":1,"status":"P"#), "{}", lines[1]);
    assert!(lines[2].contains(r#""status":"Completed""#), "{}", lines[2]);
    assert!(lines[3].contains(r#""status":"Failed""#) && lines[3].contains("jam"), "{}", lines[3]);
    assert_eq!(lines[5].matches('"').count(), 6, "three ids: {}", lines[5]);
}
