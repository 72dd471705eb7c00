#!/usr/bin/env bash
# all.sh          installs what the tests need and the machine lacks, where it may, then runs everything.
# all.sh --quick  installs nothing and runs the tests that need nothing but Rust: the core, the configuration, the rules of
#                 the sources, and a few real masters.
# With CI=true a missing component fails; otherwise the tests that need it say so and fail too,
# unless ROTAD_ALLOW_MISSING=1 passes over them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Where servers are, for those who are not root.
export PATH="$PATH:/usr/sbin:/sbin"

case "${1:-}" in
    '' | --quick) ;;
    *)
        echo "usage: tests/all.sh [--quick]" >&2
        exit 2
        ;;
esac

say() { printf '\n== %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# The packages of tests/install/debian.txt that are not there.
missing_packages() {
    local check package
    while read -r check package; do
        case "$check" in
            '' | '#'*) ;;
            /*) compgen -G "$check" >/dev/null || echo "$package" ;;
            *) command -v "$check" >/dev/null || echo "$package" ;;
        esac
    done <tests/install/debian.txt
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
        # RUNLEVEL: the tests want programs, not services that take their ports (invoke-rc.d(8)).
        as_root env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${packages[@]}" ||
            { as_root apt-get update -qq && as_root env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${packages[@]}"; } || true
    fi
}

# The same list as last time is not installed again.
python_is_there() {
    cmp -s tests/install/python.txt target/venv/installed.txt
}

install_python() {
    python_is_there && return
    say "pip install -r tests/install/python.txt (target/venv)"
    rm -rf target/venv # half made, or moved
    python3 -m venv target/venv &&
        target/venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/install/python.txt &&
        cp tests/install/python.txt target/venv/installed.txt ||
        echo "not everything of tests/install/python.txt could be installed"
}

# The same list as last time is not installed again.
node_is_there() {
    cmp -s tests/install/node.txt target/node/installed.txt
}

# Each package of a version of Node brings `node` itself, which is not to be that of the others.
hide_versions() {
    rm -f target/node/node_modules/.bin/node
}

# The packages of Bun and Deno bring their programs by a script of their own; target/node/bin has them.
install_runtimes() {
    local modules=target/node/node_modules
    mkdir -p target/node/bin
    (cd "$modules/bun" && node install.js) && (cd "$modules/deno" && node install.cjs) &&
        ln -s ../node_modules/bun/bin/bun.exe target/node/bin/bun &&
        ln -s ../node_modules/deno/deno target/node/bin/deno
}

install_node() {
    local packages
    node_is_there && return
    mapfile -t packages < <(grep -v '^#' tests/install/node.txt | tr ' ' '@')
    say "npm install ${packages[*]} (target/node)"
    rm -rf target/node
    mkdir -p target/node
    npm install --prefix target/node --no-audit --no-fund --no-update-notifier --ignore-scripts --silent "${packages[@]}" &&
        hide_versions &&
        install_runtimes &&
        cp tests/install/node.txt target/node/installed.txt ||
        echo "not everything of tests/install/node.txt could be installed"
}

# NAME VERSION: with what they need at run time alone, and unoptimised, so that it is a matter of seconds.
install_cargo() {
    local name version
    while read -r name version; do
        case "$name" in '' | '#'*) continue ;; esac
        [ -x "target/tools/bin/$name" ] && continue
        say "cargo install $name (target/tools)"
        cargo install "$name" --version "$version" --locked --debug --no-default-features --quiet \
            --root target/tools --target-dir target/tools/build || echo "$name could not be installed"
    done <tests/install/cargo.txt
}

cargo_is_there() {
    local name version
    while read -r name version; do
        case "$name" in '' | '#'*) continue ;; esac
        [ -x "target/tools/bin/$name" ] || return 1
    done <tests/install/cargo.txt
}

check_components() {
    local packages
    mapfile -t packages < <(missing_packages | sort -u)
    python_is_there || packages+=("tests/install/python.txt (pip)")
    node_is_there || packages+=("tests/install/node.txt (npm)")
    cargo_is_there || packages+=("tests/install/cargo.txt (cargo install)")
    [ "${#packages[@]}" = 0 ] && return
    echo "missing: ${packages[*]}" >&2
    if [ "${CI:-}" = true ]; then exit 1; fi
    echo "the tests that need them fail (ROTAD_ALLOW_MISSING=1 passes over them)" >&2
}

# A shell's `&` leaves INT ignored for good, and Ctrl-C is something that is tested.
defaults=()
if env --default-signal=INT true 2>/dev/null; then defaults=(env --default-signal=INT,QUIT); fi

if [ "${1:-}" = --quick ]; then
    cargo build --locked --profile test --example testworker
    tests=()
    for name in stories sim tidy config config_errors manual command_line status verbs control scale; do tests+=(--test "$name"); done
    export ROTAD_SIM_SEEDS="${ROTAD_SIM_SEEDS:-2000}"
    exec "${defaults[@]}" cargo test --locked --workspace --lib "${tests[@]}" -- --test-threads=4
fi

install() {
    install_packages
    install_python
    install_node
    install_cargo
}

# It mostly waits for the network: the sources are checked meanwhile, where there is a C compiler already.
mkdir -p target
if command -v cc >/dev/null; then
    say "installing what is missing (target/install.log)"
    install >target/install.log 2>&1 &
    installing=$!
    trap 'kill "$installing" 2>/dev/null || true' EXIT
else
    install
fi

say "cargo fmt --check"
cargo fmt --check
say "cargo clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings
say "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
if [ -n "${installing:-}" ]; then
    wait "$installing" || true
    trap - EXIT
    cat target/install.log
fi
check_components
say "cargo test"
cargo test --workspace --locked --no-run
# In two parts at once, two tests at a time in each, whatever the machine: most tests wait, and those that put load on the
# machine wait for each other (`alone` in tests/support).
run_part() { exec "${defaults[@]}" cargo test --workspace --locked --no-fail-fast "$@" -- --test-threads=2; }
(run_part --test '[p-z]*') >target/second-part.log 2>&1 &
second=$!
failed=0
(run_part --lib --bins --test '[a-o]*') || failed=$?
wait "$second" || failed=$?
cat target/second-part.log
[ "$failed" = 0 ] || echo "tests failed: their names stand above, at the end of each part" >&2
exit "$failed"
