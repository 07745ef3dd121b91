#!/usr/bin/env bash
# Installs missing tools of the tests from Debian's packages. Changes nothing if none is missing.
set -euo pipefail

missing=()
need() { # a program, and the package that has it
    command -v "$1" >/dev/null || missing+=("$2")
}
# Required even if AMQP_URL is set: tests that kill or configure a broker start their own.
need "${LEVERET_RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}/rabbitmq-server" rabbitmq-server
need promtool prometheus
need amtool prometheus-alertmanager
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
[ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
need python3 python3-venv
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
need node nodejs
need npm npm
need go golang-go
[ -d /usr/share/gocode/src/github.com/rabbitmq/amqp091-go ] || missing+=(golang-github-rabbitmq-amqp091-go-dev)
need cc gcc
need curl curl
need ip iproute2
need amqp-publish amqp-tools
need valgrind valgrind
need faketime faketime

for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 || rustup component add "${component/#fmt/rustfmt}"
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "error: missing: ${missing[*]}; and this is not Debian. In a container:" >&2
    echo "       docker compose --file tests/compose.yaml run --rm tests" >&2
    exit 1
elif [ "$(id -u)" = 0 ]; then
    as_root=()
elif command -v sudo >/dev/null; then
    as_root=(sudo)
else
    echo "error: missing: ${missing[*]}; and this is neither root nor has sudo" >&2
    exit 1
fi
echo "installing ${missing[*]}" >&2

# Debian starts the services that it installs. The tests start private nodes instead.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
"${apt[@]}" update
"${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null
