//! The findings about requests.

use lapin::types::FieldTable;
use leveret_harness::{Permissions, lapin, unique};

use crate::clinic::{Clinic, Visit, assert_says, visit};

const WORKER: &str = r"leveret\.v1\.(jobs|dead|delay\..*|events|catalogue)";
const REPLIES: &str = r"leveret\.v1\.reply\..*";

#[tokio::test]
async fn the_rights_for_requests_are_checked_on_request_or_once_a_process_waits_for_replies() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    let visited = async |configure: &str, write: &str, arguments: &[&str]| -> (Visit, String) {
        let user = unique("user");
        let read = format!(r"^(email(\.suspect|\.dead)?|{configure}|leveret\.v1\.catalogue)$");
        let (configure, write) = (format!("^({configure})$"), format!("^({write})$"));
        let permissions = Permissions { configure: &configure, write: &write, read: &read };
        clinic.node.add_user(&user, "secret", &clinic.vhost, permissions).await.unwrap();
        let arguments = [&["--queue", "email", "--topology", "verify"], arguments].concat();
        (visit(&clinic.url_for(&user, "secret"), &arguments).await, format!("user {user}"))
    };
    let says = |(visit, user): &(Visit, String), level| {
        let findings = visit.findings(level);
        let of_requests = |finding: &&(String, String, String)| finding.1 == *user && finding.2.contains("requests");
        findings.iter().find(of_requests).map(|finding| finding.2.clone())
    };
    let worker = visited("x", WORKER, &["--requests"]).await;
    let said = says(&worker, "problem").unwrap();
    assert_says(&said, &["write right on amq.default", "leveret.v1.reply.*", "topology export --users --requests"]);
    let replying = format!(r"{WORKER}|amq\.default");
    let said = says(&visited("x", &replying, &["--requests"]).await, "note").unwrap();
    assert!(said.contains("leveret.v1.reply.*") && !said.contains("amq.default"), "{said}");
    let said = says(&visited(REPLIES, WORKER, &["--requests"]).await, "note").unwrap();
    assert!(said.contains("amq.default") && !said.contains("leveret.v1.reply.*"), "{said}");
    let both = visited(REPLIES, &replying, &["--requests"]).await;
    assert_eq!((says(&both, "note"), says(&both, "problem")), (None, None), "{both:?}");

    let unasked = visited("x", WORKER, &[]).await;
    assert_eq!(says(&unasked, "problem"), None);
    let raw = clinic.raw().await;
    let exclusive = lapin::options::QueueDeclareOptions { exclusive: true, ..<_>::default() };
    raw.channel().queue_declare("leveret.v1.reply.a".into(), exclusive, FieldTable::default()).await.unwrap();
    let management = format!("http://guest:guest@127.0.0.1:{}", clinic.node.http_port());
    let found = visited("x", WORKER, &["--management-url", &management]).await;
    assert!(says(&found, "problem").is_some(), "{found:?}");
}
