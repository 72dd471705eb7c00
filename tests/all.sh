#!/usr/bin/env bash
# Installs what the tests need and the machine lacks, where it may, then runs everything.
# With CI=true a missing component fails; otherwise the tests that need it say so and fail too,
# unless ROTAD_ALLOW_MISSING=1 passes over them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# Program, and the Debian package that brings it.
programs=(php:php-cli nginx:nginx strace:strace prlimit:util-linux setpriv:util-linux ss:iproute2 ps:procps bash:bash cc:gcc python3:python3)

missing_packages() {
    local pair
    for pair in "${programs[@]}"; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
    # Debian's python3 has no pip of its own for a venv; others bring it.
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

install_packages() {
    local packages
    mapfile -t packages < <(missing_packages | sort -u)
    [ "${#packages[@]}" = 0 ] && return
    if may_install; then
        say "apt-get install ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        # RUNLEVEL: the tests want nginx's program, not a service that takes port 80 (invoke-rc.d(8)).
        as_root env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${packages[@]}" ||
            { as_root apt-get update -qq && as_root env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${packages[@]}"; } || true
    fi
}

install_gunicorn() {
    [ -x target/venv/bin/gunicorn ] && return
    say "gunicorn in target/venv"
    rm -rf target/venv # half made, or moved
    python3 -m venv target/venv && target/venv/bin/python -m pip install --quiet --disable-pip-version-check gunicorn ||
        echo "gunicorn could not be installed"
}

check_components() {
    local packages
    mapfile -t packages < <(missing_packages | sort -u)
    [ -x target/venv/bin/gunicorn ] || packages+=("gunicorn (pip)")
    [ "${#packages[@]}" = 0 ] && return
    echo "missing: ${packages[*]}" >&2
    if [ "${CI:-}" = true ]; then exit 1; fi
    echo "the tests that need them fail (ROTAD_ALLOW_MISSING=1 passes over them)" >&2
}

install_packages
install_gunicorn
check_components

say "cargo fmt --check"
cargo fmt --check
say "cargo clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings
say "cargo test"
# A shell's `&` leaves INT ignored for good, and Ctrl-C is something that is tested.
defaults=()
if env --default-signal=INT true 2>/dev/null; then defaults=(env --default-signal=INT,QUIT); fi
# Two at a time in a test binary, whatever the machine: the load tests lock among themselves.
exec "${defaults[@]}" cargo test --workspace --locked --no-fail-fast -- --test-threads=2
