#!/usr/bin/env bash
# Compiles RocksDB once, for all cargo profiles: leaves $MERIDIAN_BUILD/rocksdb/librocksdb.a, which the environment
# variables ROCKSDB_LIB_DIR and ROCKSDB_STATIC (see the Makefile) name to the crate librocksdb-sys.
# A stamp beside it names what it was built from; it is built again only when that changes.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${MERIDIAN_BUILD:-$HOME/.cache/meridian}
lib=$build/rocksdb

version=$(awk '/^name = "librocksdb-sys"$/ { getline; gsub(/version = |"/, ""); print; exit }' Cargo.lock)
[[ -n "$version" ]] || { echo 'rocksdb: Cargo.lock does not name librocksdb-sys' >&2; exit 1; }
flags=$(grep -h '^rustflags' .cargo/config.toml | sort)
stamp="librocksdb-sys $version; $flags; ${RUSTFLAGS:-}; $(c++ -dumpfullversion -dumpversion); without debug information"

if [[ -f "$lib/librocksdb.a" && "$(cat "$lib/stamp" 2>/dev/null)" == "$stamp" ]]; then
    exit 0
fi

mkdir -p "$lib"
exec 9>"$lib/lock"
flock 9
if [[ -f "$lib/librocksdb.a" && "$(cat "$lib/stamp" 2>/dev/null)" == "$stamp" ]]; then
    exit 0
fi

echo "rocksdb: compiling librocksdb-sys $version once; this takes some nine minutes on two cores"
# Without debug information: with it the archive is 1.5 GB instead of some 30 MB, and every test binary carries 0.4 GB of it.
env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_PROFILE_RELEASE_DEBUG=false \
    cargo build --locked --release -p librocksdb-sys --target-dir "$build/rocksdb-build"

# The newest: another version's may be left in the folder.
archive=$(find "$build/rocksdb-build" -path '*librocksdb-sys-*/out/librocksdb.a' -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d' ' -f2-)
[[ -n "$archive" ]] || { echo 'rocksdb: the build left no librocksdb.a' >&2; exit 1; }
cp "$archive" "$lib/librocksdb.a.new"
mv "$lib/librocksdb.a.new" "$lib/librocksdb.a"
printf '%s' "$stamp" >"$lib/stamp"
# Only the archive is needed from here on.
rm -rf "$build/rocksdb-build"
