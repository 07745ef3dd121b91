#!/usr/bin/env bash
# Tests alertmanager.yml with a real Alertmanager: it gets alerts, and must suppress the right ones.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
prometheus-alertmanager --config.file=alertmanager.yml --storage.path="$folder" --web.listen-address="127.0.0.1:$port" \
    --cluster.listen-address= --log.level=error 2>"$folder/log" &
alertmanager=$!
trap 'kill $alertmanager; wait $alertmanager 2>/dev/null || true; rm -rf "$folder"' EXIT

for _ in $(seq 100); do
    amtool --alertmanager.url="$url" config show >/dev/null 2>&1 && break
    sleep 0.1
done

fires() { amtool --alertmanager.url="$url" alert add --annotation=summary=x "$@"; }
# Alerts arrive with a delay.
until_seen() { # how many
    for _ in $(seq 100); do
        [ "$(curl -sS "$url/api/v2/alerts" | grep -o '"fingerprint"' | wc -l)" = "$1" ] && return
        sleep 0.1
    done
    cat "$folder/log" >&2
    return 1
}
hidden() {
    amtool --alertmanager.url="$url" alert query --inhibited --output=json |
        python3 -c 'import json, sys; print(*sorted({alert["labels"]["alertname"] for alert in json.load(sys.stdin) if alert["status"]["inhibitedBy"]}))'
}
expect() { # title, alerts that fire, alerts that are suppressed
    [ "$(hidden)" = "$2" ] && return
    echo "error: $1: hidden are \"$(hidden)\" and not \"$2\"" >&2
    exit 1
}

fires LeveretConsumersMissing severity=page queue=email
fires LeveretQueueUnattended severity=page queue=email
fires LeveretQueueUnattended severity=page queue=reports
fires LeveretOutboxStalled severity=page
fires LeveretDeadLetters severity=ticket queue=email job=email.send
fires LeveretCrashLoop severity=page queue=email job=email.digest
fires LeveretScheduleLate severity=page schedule=digest
fires LeveretScheduleWithoutLeader severity=page schedule=other
fires LeveretDown severity=page instance=w:9464
until_seen 9
expect "one queue whose consumers are missing" "LeveretQueueUnattended"
[ "$(amtool --alertmanager.url="$url" alert query --output=simple queue=reports | grep -c Unattended)" = 1 ]

fires LeveretCrashLoop severity=page queue=email job=email.send
until_seen 10
expect "a job that crashes" "LeveretDeadLetters LeveretQueueUnattended"

fires LeveretBrokerUnreachable severity=page instance=w:9464
until_seen 11
expect "one process without the broker" "LeveretDeadLetters LeveretQueueUnattended"
[ "$(amtool --alertmanager.url="$url" alert query --output=simple queue=reports | grep -c Unattended)" = 1 ]

fires LeveretBrokerDown severity=page
until_seen 12
expect "no process has the broker" "LeveretBrokerUnreachable LeveretConsumersMissing LeveretDeadLetters LeveretOutboxStalled LeveretQueueUnattended LeveretScheduleLate LeveretScheduleWithoutLeader"
echo "Alertmanager hides what follows from something else"
