#!/usr/bin/env bash
# Builds the nats-server that go.mod pins, once, and prints the path of the binary as its last line.
# Usage: fetch.sh [FOLDER]; without one it goes to $MERIDIAN_BUILD/peers/jetstream-VERSION.
# Needs: Go, and its module proxy or a filled module cache. go.sum holds what is fetched to its checksums.
set -euo pipefail

if (($# > 0)); then
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
fi
cd "$(dirname "$0")"

module=github.com/nats-io/nats-server/v2
version=$(awk -v module="$module" '$1 == module { print $2; exit }' go.mod)
[[ -n "$version" ]] || { echo "jetstream: go.mod does not name $module" >&2; exit 1; }
: "${folder:=${MERIDIAN_BUILD:-$HOME/.cache/meridian}/peers/jetstream-${version#v}}"
binary=$folder/nats-server

if [[ ! -x "$binary" ]] || [[ "$("$binary" --version)" != "nats-server: $version" ]]; then
    if ! command -v go >/dev/null; then
        echo 'jetstream: no go found; install it, or name a folder with a nats-server in it' >&2
        exit 1
    fi
    mkdir -p "$folder"
    # As its own releases are built: without cgo.
    CGO_ENABLED=0 go build -trimpath -o "$binary.new" "$module" >&2
    mv "$binary.new" "$binary"
fi
echo "$binary"
