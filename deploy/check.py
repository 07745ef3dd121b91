"""Compares the files of deploy/ with the book, each other and their schemas. `check.py --write` generates rules.yaml."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).parent
# The pages of the book with the settings, the metrics and the broker's configuration.
BOOK = "".join((DEPLOY.parent / f"docs/src/{page}.md").read_text() for page in ("settings", "metrics", "broker"))
CORE = ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1")
RULES = DEPLOY / "kubernetes/overlays/monitoring/rules.yaml"

# Seen at /metrics and /metrics/detailed of RabbitMQ 3.10.8.
BROKER = {
    *(f"rabbitmq_detailed_queue_{of}" for of in ("consumers", "messages", "messages_ready", "messages_unacked")),
    *(f"rabbitmq_global_messages_{of}_total" for of in ("received", "delivered", "redelivered", "dead_lettered_expired")),
    "rabbitmq_process_resident_memory_bytes", "rabbitmq_resident_memory_limit_bytes", "rabbitmq_disk_space_available_bytes",
    "rabbitmq_alarms_memory_used_watermark", "rabbitmq_alarms_free_disk_space_watermark",
}
problems = []


def check(holds, problem):
    if not holds:
        problems.append(problem)


def rules():
    for name in ("recording", "alerts"):
        for group in yaml.safe_load((DEPLOY / f"prometheus/{name}.yml").read_text())["groups"]:
            yield from group["rules"]


def boards():
    for file in sorted((DEPLOY / "grafana/boards").glob("*.json")):
        yield file.name, json.loads(file.read_text())


def expressions():
    """Every PromQL expression, with its place."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for name, board in boards():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{name}, {panel['title']}", target["expr"]
        for variable in board["templating"]["list"]:
            yield f"{name}, ${variable['name']}", variable["query"]
    for resource in yaml.safe_load((DEPLOY / "kubernetes/overlays/keda/scaling.yaml").read_text())["items"]:
        for trigger in resource["spec"].get("triggers", []):
            if trigger["type"] == "prometheus":
                yield "scaling.yaml", trigger["metadata"]["query"]


def metrics():
    """The book's metrics, each with its row of the table."""
    rows = [line for line in BOOK.splitlines() if line.startswith("| `leveret_")]
    return {name: row for row in rows for name in re.findall(r"`(leveret_\w+)`", row.split(" | ")[0])}


def check_metrics():
    known, recorded, used = metrics(), {rule.get("record") for rule in rules()}, set()
    check(len(known) > 30, f"the book has only {len(known)} metrics")
    texts = [*expressions(), *((file.name, file.read_text()) for file in sorted((DEPLOY.parent / "docs/src/runbooks").glob("*.md")))]
    for where, text in texts:
        for name in re.findall(r"\b(?:queue:)?(?:leveret|rabbitmq)_[\w:]+", text):
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            check(name in recorded or plain in known or plain in BROKER, f"{where}: no metric is called {name}")
            used.add(plain)
        for name, selector in re.findall(r"(leveret_\w+)\{([^}]*)\}", text):
            for label, values in re.findall(r'(outcome|kind|reason|redelivered)=~?"([^"]+)"', selector):
                for value in values.split("|"):
                    row = known.get(re.sub(r"_(bucket|sum|count)$", "", name), "")
                    check(re.search(rf"`{label}`.*\b{value}\b", row), f"{where}: {name} has no {label} {value}")
    for name in known.keys() - used:
        check(False, f"{name} is on no board and in no rule")
    for file in sorted((DEPLOY.parent / "docs/src").glob("**/*.md")):
        for name in re.findall(r"\b(?<!:)leveret_\w+_(?:total|seconds)\b", file.read_text()):
            check(name in known, f"{file.name}: no metric is called {name}")
    sources = "".join((DEPLOY.parent / file).read_text() for file in ("crates/sql/src/outbox/metrics.rs", "crates/sql/src/projection/metrics.rs", "crates/serve/src/http/trace.rs", "crates/serve/src/workflow_metrics.rs"))
    for name in known:
        if name.startswith(("leveret_outbox_", "leveret_projection_", "leveret_http_", "leveret_workflow")):  # The others are compared by tests/broker/readme.rs.
            check(f'"{name.removeprefix("leveret_").removeprefix("http_")}"' in sources, f"the code has no {name}")


def check_alerts():
    pages = {file.stem for file in (DEPLOY.parent / "docs/src/runbooks").glob("*.md")}
    tests = "".join(file.read_text() for file in (DEPLOY / "prometheus/tests").glob("*.yml"))
    alerts = [rule for rule in rules() if "alert" in rule]
    for rule in alerts:
        name, page = rule["alert"], rule["annotations"]["runbook_url"].rsplit("/", 1)[1]
        check(page in pages, f"{name}: docs/src/runbooks/{page}.md is not there")
        check(name == page.title().replace("-", ""), f"{name}: its page is that of another alert, {page}")
        check(f'alertname="{name}"' in tests, f"{name}: no test sees it fire")
        check(rule["labels"]["severity"] in ("page", "ticket"), f"{name}: an unknown severity")
    check(len(alerts) == len(pages), f"{len(alerts)} alerts and {len(pages)} runbooks")
    scrapes = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    for scrape in scrapes:
        if scrape["job_name"].startswith("leveret"):
            check(scrape.get("honor_labels"), f"{scrape['job_name']} hides the label job")


def check_alertmanager():
    """Each alert reaches the receiver of its severity, every named alert exists, and the file has no secret."""
    config = DEPLOY / "prometheus/alertmanager.yml"
    alerts = {rule["alert"]: rule["labels"]["severity"] for rule in rules() if "alert" in rule}
    test = ["amtool", "config", "routes", "test", f"--config.file={config}"]
    for name, severity in alerts.items():
        receiver = {"page": "pager", "ticket": "tickets"}[severity]
        tested = subprocess.run([*test, f"--verify.receivers={receiver}", f"alertname={name}", f"severity={severity}"], capture_output=True)
        check(tested.returncode == 0, f"{config.name}: {name} does not go to {receiver}")
    settings = yaml.safe_load(config.read_text())
    for rule in settings["inhibit_rules"]:
        sources, targets = (re.findall(r"Leveret\w+", " ".join(rule[f"{end}_matchers"])) for end in ("source", "target"))
        for name in {*sources, *targets} - alerts.keys():
            check(False, f"{config.name}: no alert is called {name}")
        hides_page = any(alerts.get(name) == "page" for name in targets)
        check(not hides_page or all(alerts.get(name) == "page" for name in sources), f"{config.name}: a ticket hides a page: {targets}")
    for receiver in settings["receivers"]:
        for entry in sum((value for key, value in receiver.items() if key.endswith("_configs")), []):
            secrets = {key for key in entry if re.search("key|url|token|password", key)}
            check(all(key.endswith("_file") for key in secrets), f"{config.name}: {receiver['name']} has a secret in it")


def check_scaling():
    """KEDA scales each worker on its waiting jobs and their predicted wait, with an expression that the tests cover."""
    tests = (DEPLOY / "prometheus/tests/recording.yml").read_text()
    for resource in yaml.safe_load_all((DEPLOY / "kubernetes/overlays/keda/scaling.yaml").read_text()):
        if resource["kind"] != "ScaledObject":
            continue
        triggers = {trigger["type"]: trigger["metadata"] for trigger in resource["spec"]["triggers"]}
        check(triggers.keys() == {"rabbitmq", "prometheus"}, f"scaling.yaml: {resource['metadata']['name']} lacks a trigger")
        query = re.sub(r'queue="\w+"', 'queue="email"', triggers["prometheus"]["query"])
        check(query in tests, f"scaling.yaml: no test asks for {query}")
    for rule in rules():
        check("record" not in rule or rule["record"] in tests, f"recording.yml: no test of {rule.get('record')}")


def check_broker():
    definitions = json.loads((DEPLOY / "rabbitmq/definitions.json").read_text())
    granted = {entry["user"]: entry for entry in definitions["permissions"]}
    for user, *rights in re.findall(r"set_permissions -p / (\S+) '(.*)' '(.*)' '(.*)'", BOOK):
        # The book has the rights for one queue, and names those for events besides.
        one_queue = lambda pattern: pattern.replace("(email|order-mails|orders|reports|warehouse)", "email")
        plain = lambda pattern: one_queue(pattern).replace("|topics", "").replace("(jobs)", "jobs")
        deployed = [plain(granted[user][right]) for right in ("configure", "write", "read")]
        check(deployed == rights, f"definitions.json: {user} has other rights than in the book")
    for user in definitions["users"]:
        check(user["password_hash"] == "", f"definitions.json: {user['name']} has a password")
    queues, exchanges = ({entry["name"] for entry in definitions[kind]} for kind in ("queues", "exchanges"))
    for binding in definitions["bindings"]:
        ends = queues if binding["destination_type"] == "queue" else exchanges
        check(binding["source"] in exchanges and binding["destination"] in ends, f"definitions.json: {binding} leads nowhere")
    settings = "".join(line for line in BOOK.split("```erlang\n")[1].split("```")[0].split())
    for name in ("rabbitmq/advanced.config", "kubernetes/overlays/operator/rabbitmq.yaml"):
        text = re.sub(r"%%.*", "", (DEPLOY / name).read_text())
        check(settings in "".join(text.split()), f"{name}: not the advanced.config of the book")


def check_settings():
    files = ["Dockerfile", "compose.yaml", "secrets.sh", "kubernetes/base/kustomization.yaml", "kubernetes/base/server.yaml"]
    files += ["kubernetes/overlays/tls/kustomization.yaml", *(f"rabbitmq/{name}.conf" for name in ("tls", "mtls", "external"))]
    for name in files:
        for setting in re.findall(r"\bLEVERET_\w+", (DEPLOY / name).read_text()):
            check(f"`{setting}`" in BOOK or setting == "LEVERET_VERSION", f"{name}: no setting is called {setting}")


def check_network():
    """The README lists every port that the network policies allow."""
    readme = (DEPLOY / "README.md").read_text()
    documented = set(re.findall(r"\d+", readme.split("- The network policies let")[1].split("on whatever host")[0]))
    policies = list(yaml.safe_load_all((DEPLOY / "kubernetes/base/network.yaml").read_text()))
    rules = sum((policy["spec"].get("egress", []) for policy in policies), [])
    allowed = {str(entry["port"]) for rule in rules for entry in rule["ports"]}
    check(documented == allowed, f"README.md and network.yaml differ in the ports that are open: {sorted(documented ^ allowed)}")


def check_overlay(overlay, schema):
    built = subprocess.run(["kubectl", "kustomize", overlay], check=True, capture_output=True, text=True).stdout
    resources = list(yaml.safe_load_all(built))
    settings = next(entry["data"] for entry in resources if entry["kind"] == "ConfigMap")
    for resource in resources:
        name = f"{overlay.name}: {resource['kind']} {resource['metadata']['name']}"
        try:
            if resource["apiVersion"] in CORE:
                kubernetes_validate.validate(resource, "1.37", strict=True)
            else:
                jsonschema.validate(resource, schema)
        except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
            check(False, f"{name}: {error.message}")
        if resource["kind"] == "Deployment":
            grace = resource["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            check(grace > int(settings["LEVERET_GRACE_PERIOD"].rstrip("s")), f"{name}: killed before it has drained")


def prometheus_rule():
    groups = [yaml.safe_load((DEPLOY / f"prometheus/{name}.yml").read_text())["groups"] for name in ("recording", "alerts")]
    resource = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "leveret"}}
    resource["spec"] = {"groups": sum(groups, [])}
    return "# Generated from deploy/prometheus by deploy/check.py --write.\n" + yaml.safe_dump(resource, sort_keys=False, width=120)


def main():
    if "--write" in sys.argv:
        RULES.write_text(prometheus_rule())
    check(RULES.read_text() == prometheus_rule(), f"{RULES.name} is old: deploy/check.py --write")
    check_metrics()
    check_alerts()
    check_alertmanager()
    check_scaling()
    check_broker()
    check_settings()
    check_network()
    schema = json.loads((DEPLOY / "crds.json").read_text())
    overlays = sorted(folder.parent for folder in (DEPLOY / "kubernetes/overlays").glob("*/kustomization.yaml"))
    for overlay in overlays:
        check_overlay(overlay, schema)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(metrics())} metrics, {len(list(rules()))} rules, {len(list(boards()))} boards, {len(overlays)} overlays")
    sys.exit(bool(problems))


main()
