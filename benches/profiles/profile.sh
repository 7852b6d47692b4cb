#!/usr/bin/env bash
# A flame graph of all servers of a case while its load runs: profile.sh ROW CASE SVG
# Needs perf, and inferno-collapse-perf and inferno-flamegraph (cargo install inferno) on the PATH; MERIDIAN_BIN and BENCHES name the
# release builds of `meridian` and `meridian-benches`.
set -euo pipefail
if [ $# -ne 3 ]; then
    echo "usage: profile.sh ROW CASE SVG, for example: profile.sh mirror-single meridian single-now.svg" >&2
    exit 2
fi
row=$1 case=$2 svg=$3
: "${MERIDIAN_BIN:?names the meridian to run}" "${BENCHES:?names the meridian-benches to run}"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$BENCHES" --quick --only "$row" --case "$case" --data "$dir/data" --out "$dir/page.md" >"$dir/log" 2>&1 &
bench=$!

servers() { pgrep -f "serve --config $dir/data/" || true; }
stopped() { for pid in $(servers); do grep -q '^State:.T' "/proc/$pid/status" 2>/dev/null && return 0; done; return 1; }
wait_until() { while kill -0 $bench 2>/dev/null && ! "$@"; do sleep 0.02; done; }
publishing() { [ -n "$(servers)" ]; }
running() { ! stopped; }

wait_until publishing
if [ "$row" = catch-up ]; then
    # The second region stands still while the backlog is written.
    wait_until stopped
    wait_until running
    span=1
else
    # Elections and the warm-up are not what is looked for.
    sleep 1
    span=1.2
fi
pids=$(servers | paste -sd,)
perf record -q -e cpu-clock --call-graph dwarf,16384 -F 299 -p "$pids" -o "$dir/perf" sleep $span || true # it ends with the servers
wait $bench || { cat "$dir/log" >&2; exit 1; }
commit=$(git -C "$(dirname "$0")" rev-parse --short HEAD)
perf script -i "$dir/perf" 2>/dev/null | inferno-collapse-perf 2>/dev/null >"$dir/folded"
inferno-flamegraph --minwidth 1 <"$dir/folded" --title "$row, $case: all servers ($commit)" >"$svg"
echo "$svg: $(awk '{ ns += $NF } END { print int(ns / 1e6) }' "$dir/folded") ms of CPU"
