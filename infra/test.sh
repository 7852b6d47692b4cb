#!/usr/bin/env bash
# All checks and all tests, in the order in which they fail fastest. `infra/test.sh lint` stops before the tests.
# A check or test that cannot run here prints `SKIPPED: name: reason`; these are counted, and with CI=true they fail.
# Run it by `make test`, which sets the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${MERIDIAN_BUILD:?run this by make}"

log=$MERIDIAN_BUILD/test.log
skips=$MERIDIAN_BUILD/skips.log
: >"$log"
: >"$skips"

step() {
    local name=$1
    shift
    printf '\n== %s (after %s s)\n' "$name" "$SECONDS"
    # Tests write their SKIPPED lines past the harness's capture, straight to stderr.
    if ! "$@" 2>&1 | tee -a "$log"; then
        printf '\nFAILED: %s\n' "$name" >&2
        exit 1
    fi
}

skip() {
    printf 'SKIPPED: %s: %s\n' "$1" "$2" | tee -a "$log"
}

if cargo fmt --version >/dev/null 2>&1; then
    step format cargo fmt --all --check
else
    skip format 'this machine has no rustfmt'
fi

step layering cargo test --locked --quiet -p meridian-tidy

if cargo clippy --version >/dev/null 2>&1; then
    step clippy cargo clippy --locked --workspace --all-targets -- -D warnings
else
    skip clippy 'this machine has no clippy'
fi

# cargo-deny, and what it needs to stay offline, is brought along once.
export PATH=$PATH:$MERIDIAN_BUILD/tools/bin
if ! command -v cargo-deny >/dev/null; then
    env -u CARGO_TARGET_DIR cargo install cargo-deny@0.20.2 --locked --debug --root "$MERIDIAN_BUILD/tools" \
        --target-dir "$MERIDIAN_BUILD/tools-build" && rm -rf "$MERIDIAN_BUILD/tools-build"
fi
if ! command -v cargo-deny >/dev/null; then
    skip 'licences and bans' 'cargo-deny is not installed and could not be'
# It looks at every platform's crates, also at those that this one never builds.
elif ! cargo fetch --locked --quiet; then
    skip 'licences and bans' 'the registry is out of reach'
else
    step 'licences and bans' cargo deny --log-level error --offline check bans licenses sources
    # The advisories' database is a git repository elsewhere; where it is out of reach there is nothing to check against.
    if cargo deny --offline check advisories >"$MERIDIAN_BUILD/advisories.log" 2>&1; then
        echo 'advisories: none'
    elif grep -q 'error\[vulnerability\]\|error\[unmaintained\]\|error\[unsound\]\|error\[yanked\]' "$MERIDIAN_BUILD/advisories.log"; then
        step advisories cat "$MERIDIAN_BUILD/advisories.log"
        exit 1
    else
        printf 'skipped, not counted: advisories: the database is out of reach\n'
    fi
fi

if [[ "${1:-all}" != lint ]]; then
    # What the benchmark compares with is started for real by its tests. Without Go these say that they are skipped.
    if command -v go >/dev/null; then
        step 'NATS JetStream, for the benchmark' benches/peers/jetstream/fetch.sh
    fi
    step 'building the tests' cargo test --locked --workspace --exclude meridian-tidy --no-run
    # The binary of the command's own tests serves the chaos tests too: built alone it would need every dependency again,
    # with other features.
    export MERIDIAN_BIN=${MERIDIAN_BIN:-$CARGO_TARGET_DIR/debug/meridian}
    step tests cargo test --locked --workspace --exclude meridian-tidy
fi

grep -oh 'SKIPPED: .*' "$log" >"$skips" || true
# A test marked #[ignore] is a skip as well.
ignored=$(awk '/^test result: / { for (i = 2; i <= NF; i++) if ($i ~ /^ignored/) sum += $(i - 1) } END { print sum + 0 }' "$log")
passed=$(awk '/^test result: / { for (i = 2; i <= NF; i++) if ($i ~ /^passed/) sum += $(i - 1) } END { print sum + 0 }' "$log")
count=$(($(wc -l <"$skips") + ignored))

printf '\n== %s tests passed, %s skipped, after %s s\n' "$passed" "$count" "$SECONDS"
sed 's/^/   /' "$skips"
if ((ignored > 0)); then
    printf '   %s marked #[ignore]\n' "$ignored"
fi
if ((count > 0)) && [[ "${CI:-}" == true ]]; then
    echo 'FAILED: in CI nothing is skipped' >&2
    exit 1
fi
