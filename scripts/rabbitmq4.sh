#!/usr/bin/env bash
# Prints the path of a root file system with RabbitMQ 4.x, created at the first call: scripts/rabbitmq4.sh trixie|sid
#
# Debian's trixie has RabbitMQ 4.0, sid 4.3 or later. debootstrap fetches about 100 MB from the mirror that apt uses and
# unpacks 400 MB into the target folder, in half a minute to two minutes; nothing else on the machine changes. Requires
# Debian and root. Remove the folder to recreate it, with the newest version from sid.
set -euo pipefail
cd "$(dirname "$0")/.."

release=${1:-}
case $release in
trixie | sid) ;;
*)
    echo "usage: scripts/rabbitmq4.sh trixie|sid" >&2
    exit 2
    ;;
esac

folder=${CARGO_TARGET_DIR:-$PWD/target}/rabbitmq
root=$folder/$release
if [ ! -e "$root" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "error: $root is not there, and making it needs root on a Debian" >&2
        exit 1
    fi
    if ! command -v debootstrap >/dev/null; then
        echo "installing debootstrap" >&2
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends debootstrap >/dev/null
    fi
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
    mkdir -p "$folder"
    # Built elsewhere and moved, so that an existing folder is complete.
    unfinished=$(mktemp -d "$folder/$release.XXXXXX")
    trap 'rm -rf "$unfinished"' EXIT
    echo "making $root with debootstrap from $mirror: up to two minutes, 400 MB" >&2
    debootstrap --variant=minbase --include=rabbitmq-server,ca-certificates "$release" "$unfinished" "$mirror" \
        >"$root.log" || {
        tail -n 20 "$root.log" >&2
        echo "error: debootstrap failed; the whole log is in $root.log" >&2
        exit 1
    }
    # Erlang resolves its own host's name; sid comes without this file.
    grep -qs '^127\.0\.0\.1.*localhost' "$unfinished/etc/hosts" || echo '127.0.0.1 localhost' >>"$unfinished/etc/hosts"
    chmod 755 "$unfinished"
    mv "$unfinished" "$root"
fi
ls "$root/usr/lib/rabbitmq/lib" >&2
echo "$root"
