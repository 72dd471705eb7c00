#!/bin/sh
# Plants the defects of mutants.txt in a copy of the engine, one at a time, and expects the simulator to find each: in
# its first seeds, or in the runs that failed once.
# usage: src/core/tests/mutants.sh [SEEDS [NAME-PART]]     (default 20000 seeds; about five seconds a defect)
# Bounded: each defect has two minutes, and five for its build. Exit code 1: some were not found; they are named.
set -eu
seeds=${1:-20000}
only=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
mkdir "$work/core"
cp -r "$here"/../*.rs "$here"/../tests "$here"/../Cargo.toml "$work/core/"
rm -f "$work"/core/tests/*.rs
cp "$here/../../../Cargo.lock" "$work/core/" # the versions that are there already
sed -i 's/^version.workspace.*/version = "0.0.0"/; s/^edition.workspace.*/edition = "2024"/; /workspace = true/d; /^\[lints\]/d' \
    "$work/core/Cargo.toml"
printf '\n[workspace]\n[profile.test]\nopt-level = 2\n' >>"$work/core/Cargo.toml"
missed=0
while IFS= read -r line; do
    case $line in '' | '#'*) continue ;; esac
    name=${line%% | *}
    case $name in *"$only"*) ;; *) continue ;; esac
    file=$(LINE=$line perl -e 'print((split / \| /, $ENV{LINE})[1])')
    cp "$here/../$file" "$work/core/$file"
    # Spaces, line ends and trailing commas do not count, so that formatting the sources breaks no text.
    LINE=$line perl -0pi -e '
        BEGIN {
            (undef, undef, $from, $to) = split / \| /, $ENV{LINE};
            for ($from, $to) { s/\\\|/|/g; s/\\n/\n/g }
            $pattern = join "\\s*", map { /^[])}]$/ ? ",?\\s*\Q$_\E" : "\Q$_\E" } $from =~ /\w+|\S/g;
        }
        s/$pattern/$to/ or die "text not found: $from\n";' \
        "$work/core/$file"
    # The build has a time limit of its own: a slow build must not look like a defect that was found.
    out=$(cd "$work/core" && CARGO_TARGET_DIR="$work/target" timeout 300 cargo test -q --no-run --test sim 2>&1 &&
        RUST_BACKTRACE=0 ROTAD_SIM_TAIL=0 ROTAD_SIM_SEEDS=$seeds CARGO_TARGET_DIR="$work/target" \
            timeout 120 cargo test -q --test sim -- --exact promises_hold_in_seeded_runs promises_hold_in_runs_that_failed_once \
                promises_hold_when_the_master_dies 2>&1) && found=no || found=yes
    cp "$here/../$file" "$work/core/$file"
    seed=$(printf '%s\n' "$out" | sed -n 's/^seed \([0-9]*\), oracle "\([^"]*\)".*/seed \1 (\2)/p' | head -1)
    if [ "$found" = yes ] && [ -n "$seed" ]; then
        printf '%-45s %s\n' "$name" "$seed"
    elif [ "$found" = yes ]; then
        printf '%-45s does not build, or no seed was named:\n%s\n' "$name" "$(printf '%s\n' "$out" | grep -m3 -A6 '^error')"
        missed=1
    else
        printf '%-45s NOT FOUND in %s seeds\n' "$name" "$seeds"
        missed=1
    fi
done <"$here/mutants.txt"
exit $missed
