#!/usr/bin/env bash
# Creates deploy/secrets/, once: random passwords, the broker's definitions with their hashes, and an env file for each
# process. To change a password, delete its folder, run this again and restart everything.
set -euo pipefail
cd "$(dirname "$0")"
umask 077

[ ! -e secrets ] || exit 0
unfinished=$(mktemp -d secrets.XXXXXX)
trap 'rm -rf "$unfinished"' EXIT

random() { openssl rand -hex 24; }

# RabbitMQ's salted SHA-256: base64(salt + sha256(salt + password)), with a salt of four bytes.
hash() { # password
    local salt=$unfinished/salt
    openssl rand 4 >"$salt"
    { cat "$salt"; { cat "$salt"; printf '%s' "$1"; } | openssl dgst -sha256 -binary; } | openssl base64 -A
    rm "$salt"
}

definitions=$(cat rabbitmq/definitions.json)
for user in operator set-up worker server publisher foreign scaler; do
    password=$(random)
    entry="\"name\":\"$user\",\"password_hash\":\""
    definitions=${definitions/"$entry"/"$entry$(hash "$password")"}
    printf '%s' "$password" >"$unfinished/$user.password"
    case $user in
    worker | server | publisher) echo "AMQP_URL=amqp://$user:$password@rabbitmq:5672/%2f" >"$unfinished/$user.env" ;;
    esac
done
printf '%s\n' "$definitions" >"$unfinished/definitions.json"

api=$(random) viewer=$(random)
# The password of the superuser, which no service has.
printf '%s' "$(random)" >"$unfinished/database.password"
printf '%s' "$(random)" >"$unfinished/grafana.password"
printf '%s' "$viewer" >"$unfinished/viewer.token"
printf 'operator:%s\nviewer:%s\n' "$api" "$viewer" >"$unfinished/api.tokens"
cp "$unfinished/worker.env" "$unfinished/orders.env"
# The outbox is in the database of its service, and the relay logs in as that service.
for login in server:server orders:orders orders:publisher; do
    service=${login%:*} program=${login#*:} password=$unfinished/${login%:*}.database
    [ -e "$password" ] || printf '%s' "$(random)" >"$password"
    echo "DATABASE_URL=postgres://$service:$(cat "$password")@postgres/$service" >>"$unfinished/$program.env"
done

# Containers read the files as users of their own; only a user with access to this folder can reach them.
chmod 644 "$unfinished"/*
# For keys that cannot be generated: prometheus/alertmanager.yml names them.
mkdir --mode=755 "$unfinished/alertmanager"
mv "$unfinished" secrets
