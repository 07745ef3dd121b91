#!/usr/bin/env bash
# Installs what the tests need and the machine lacks, from Debian's packages. Changes nothing where all is there.
set -euo pipefail

missing=()
need() { # a program, and the package that has it
    command -v "$1" >/dev/null || missing+=("$2")
}
[ -n "${AMQP_URL:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)
need promtool prometheus
need python3 python3-venv
need node nodejs
need npm npm
need cc gcc
need amqp-publish amqp-tools
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)

[ ${#missing[@]} -gt 0 ] || exit 0

echo "installing: ${missing[*]}" >&2
if [ "$(id -u)" = 0 ]; then
    as_root=()
elif command -v sudo >/dev/null; then
    as_root=(sudo)
else
    echo "error: ${missing[*]} must be installed, and this is neither root nor has sudo" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
# Debian starts no service where policy-rc.d says no; the tests start private nodes themselves.
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
