#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu machine lacks to build Meridian and to test it under faults, and nothing that is
# already there.
# Needs: a Rust toolchain, a C++ compiler, apt-get. Leaves no trace outside of apt's own.
set -euo pipefail

say() { printf 'setup: %s\n' "$*"; }

# bindgen reads RocksDB's header with libclang and needs clang's own headers (stddef.h) beside it.
have_libclang() {
    [[ -n "${LIBCLANG_PATH:-}" ]] && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null || return 1
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null || compgen -G '/usr/lib/clang/*/include/stddef.h' >/dev/null
}

if ! command -v cargo >/dev/null; then
    echo 'setup: no cargo found. Install Rust first (https://rustup.rs), then run this again.' >&2
    exit 1
fi

missing=()
have_libclang || missing+=(libclang-dev)
command -v mold >/dev/null || missing+=(mold)
command -v make >/dev/null || missing+=(make)
command -v c++ >/dev/null || missing+=(g++)
# Faults on real processes: network namespaces, cut links, small disks, clocks that step.
command -v ip >/dev/null || missing+=(iproute2)
command -v nft >/dev/null || [[ -x /usr/sbin/nft ]] || missing+=(nftables)
command -v mkfs.ext4 >/dev/null || [[ -x /usr/sbin/mkfs.ext4 ]] || missing+=(e2fsprogs)
compgen -G '/usr/lib/*/faketime/libfaketime.so*' >/dev/null || missing+=(libfaketime)

if ((${#missing[@]} == 0)); then
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "setup: these are missing: ${missing[*]}. This machine has no apt-get: install them by its own means." >&2
    exit 1
fi

as_root=()
if [[ "$(id -u)" != 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: run as root: apt-get install -y ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# The lists may be stale or absent on a fresh machine: refresh them only if the first try fails.
if ! "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
    "${as_root[@]}" apt-get update
    "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"
fi
have_libclang || { echo 'setup: libclang is installed but not where it was looked for; set LIBCLANG_PATH' >&2; exit 1; }
