# just build | test | fast | chaos SECONDS SEED | bench | docs
# Each recipe is one or two commands that can be typed as well.

build:
    cargo build --release --locked

# Everything: format, lints, documentation, and all tests. 15 to 25 minutes on two cores.
test:
    tests/all.sh

# Before each commit: the core, the configuration, the rules of the sources, and a few real masters.
fast:
    tests/all.sh --quick

# Does to a master whatever operators, deploys, strangers and disks do; prints a table, fails if there is a violation.
chaos SECONDS="60" SEED="1":
    ROTAD_CHAOS_SECONDS={{SECONDS}} ROTAD_CHAOS_SEED={{SEED}} cargo test --locked --test chaos

# Start, respawn, roll, stop, memory, logs beside the floor and other masters: bench/README.md. Half an hour.
bench: build
    bench/run

# The documentation of the modules, in target/doc. tests/all.sh lets no warning pass.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
